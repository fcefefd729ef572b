//! Sorted ranges of bytes: what there is, what is wanted, what is left.

use std::ops::Range;

/// Ranges in order, none of which touches another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents(Vec<Range<u64>>);

impl Extents {
    /// Of ranges in any order.
    pub fn of(mut ranges: Vec<Range<u64>>) -> Self {
        ranges.sort_by_key(|r| r.start);
        let mut extents = Self::default();
        for range in ranges {
            extents.push(range, 0);
        }
        extents
    }

    /// Of one range.
    pub fn one(range: Range<u64>) -> Self {
        let mut extents = Self::default();
        extents.push(range, 0);
        extents
    }

    /// Adds a range that begins at or behind the start of the last one. Gaps of up to `bridge` bytes are closed.
    pub fn push(&mut self, range: Range<u64>, bridge: u64) {
        if range.is_empty() {
            return;
        }
        match self.0.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(bridge) => {
                last.end = last.end.max(range.end)
            }
            _ => self.0.push(range),
        }
    }

    /// Bytes in all of them.
    pub fn size(&self) -> u64 {
        self.0.iter().map(|r| r.end - r.start).sum()
    }

    /// What of these is not in others.
    pub fn without(&self, others: &Self) -> Self {
        let mut left = Self::default();
        let mut others = others.0.iter().peekable();
        for range in &self.0 {
            let mut at = range.start;
            while let Some(other) = others.peek() {
                if other.start >= range.end {
                    break;
                }
                left.push(at..other.start.max(at), 0);
                at = at.max(other.end);
                if other.end > range.end {
                    break;
                }
                others.next();
            }
            left.push(at.min(range.end)..range.end, 0);
        }
        left
    }

    /// Pieces of them, of `size` bytes at most.
    pub fn pieces(&self, size: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().flat_map(move |range| {
            let end = range.end;
            (range.start..end)
                .step_by(usize::try_from(size).unwrap_or(usize::MAX))
                .map(move |start| start..end.min(start.saturating_add(size)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "a list of ranges is meant")]
    fn ranges_are_subtracted_exactly() {
        for (from, what, left) in [
            (vec![0..10], vec![], vec![0..10]),
            (vec![0..10], vec![0..10], vec![]),
            (vec![0..10], vec![3..5], vec![0..3, 5..10]),
            (vec![2..10], vec![0..5], vec![5..10]),
            (vec![2..10], vec![5..20], vec![2..5]),
            (vec![0..4, 6..10], vec![2..8], vec![0..2, 8..10]),
            (vec![0..4, 6..10], vec![1..2, 3..7, 9..12], vec![0..1, 2..3, 7..9]),
            (vec![0..4, 6..10, 20..30], vec![0..25], vec![25..30]),
            (vec![5..6], vec![0..1, 2..3, 7..8], vec![5..6]),
            (vec![], vec![0..9], vec![]),
        ] {
            assert_eq!(
                Extents::of(from.clone()).without(&Extents::of(what.clone())).0,
                left,
                "{from:?} {what:?}"
            );
        }
    }

    #[test]
    fn ranges_are_joined_and_cut() {
        let extents = Extents::of(vec![8..9, 0..3, 3..5, 2..4, 7..7]);
        assert_eq!(extents.0, [0..5, 8..9]);
        assert_eq!(extents.size(), 6);
        assert_eq!(extents.pieces(2).collect::<Vec<_>>(), [0..2, 2..4, 4..5, 8..9]);
        let mut bridged = Extents::default();
        for range in [0..1, 3..4, 7..8] {
            bridged.push(range, 2);
        }
        assert_eq!(bridged.0, [0..4, 7..8]);
    }
}
