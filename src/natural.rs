//! Natural order of names: what a reader expects, `disk2` before `disk10`.

use std::cmp::Ordering;
use std::iter;

/// A piece of a name: a run of digits or one other byte. Blanks (bytes up to 0x20) only separate pieces.
#[derive(Clone, Copy)]
enum Piece<'a> {
    Digits(&'a [u8]),
    Byte(u8),
}

fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text.as_bytes();
    iter::from_fn(move || {
        let blank = |b: &u8| *b <= 0x20;
        let start = rest.iter().position(|b| !blank(b))?;
        rest = &rest[start..];
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let (piece, after) = rest.split_at(digits.max(1));
        rest = after;
        Some(if digits > 0 { Piece::Digits(piece) } else { Piece::Byte(piece[0]) })
    })
}

fn compare_pieces(a: Piece<'_>, b: Piece<'_>) -> Ordering {
    let first = |p: Piece<'_>| match p {
        Piece::Digits(run) => run[0],
        Piece::Byte(byte) => byte,
    };
    match (a, b) {
        // Without a leading zero the longer run is the larger number; equal lengths compare digit by digit.
        (Piece::Digits(a), Piece::Digits(b)) if a[0] != b'0' && b[0] != b'0' => {
            a.len().cmp(&b.len()).then_with(|| a.cmp(b))
        }
        // As the digits after a decimal point: 001 < 01 < 1.
        (Piece::Digits(a), Piece::Digits(b)) => a.cmp(b),
        _ => first(a).cmp(&first(b)),
    }
}

/// Compares two names in Martin Pool's natural order (strnatcmp): digit runs count as numbers, runs that start
/// with 0 as the digits of a fraction, blanks do not count. Names equal in that order are ordered bytewise.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (pieces(a), pieces(b));
    loop {
        match (left.next(), right.next()) {
            (Some(x), Some(y)) => match compare_pieces(x, y) {
                Ordering::Equal => {}
                other => return other,
            },
            (None, None) => return a.cmp(b),
            (x, y) => return x.is_some().cmp(&y.is_some()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_out_in_reading_order() {
        for sorted in [
            &["a", "a0", "a1", "a1a", "a1b", "a2", "a10", "a20"][..],
            &["1.001", "1.002", "1.010", "1.02", "1.1", "1.3"],
            &["01", "02", "2", "10"],
            &["100a", "120"],
            &["001a", "0012"],
            &["a 1", "a2"],
            &["a1", "a 2"],
            &["A", "a", "ä"],
            &["0", "00"],
            &["010", "10"],
            &["x01y", "x1y"],
            &["a-1", "a1"],
            &[
                "pic01",
                "pic02",
                "pic02a",
                "pic02000",
                "pic05",
                "pic2",
                "pic3",
                "pic4",
                "pic 4 else",
                "pic 5",
                "pic 5 ",
                "pic 5 something",
                "pic 6",
                "pic   7",
                "pic100",
                "pic100a",
                "pic120",
            ],
            &["1999-3-3", "1999-12-25", "2000-1-2", "2000-1-10", "2000-3-23"],
            &["a     a", "a    a", "a   a", "a  a", "a a", "aa"],
            &["a\u{1}1", "a\t1", "a 1", "a1", "a\u{1}2"], // all control characters are blanks
            &["rfc1.txt", "rfc822.txt", "rfc2086.txt"],
            &["x2-g8", "x2-y08", "x2-y7", "x8-y8"],
            &["cl.etcd-member.discovery", "cl.flannel.udp", "cl.install.cloudinit", "docker.base"],
            &[
                "",
                "0",
                "00",
                "001",
                "01",
                "1",
                "9",
                "10",
                "99999999999999999999999",
                "100000000000000000000000",
            ],
        ] {
            let mut mixed: Vec<&str> = sorted.to_vec();
            mixed.reverse();
            mixed.sort_by(|a, b| compare(a, b));
            assert_eq!(mixed, sorted);
        }
    }

    #[test]
    fn order_is_total() {
        assert_eq!(compare("a 1", "a 1"), Ordering::Equal);
        // Equal but for blanks: bytes decide, either way round.
        assert_eq!(compare("a 1", "a1"), Ordering::Less);
        assert_eq!(compare("a1", "a 1"), Ordering::Greater);
        let names =
            ["", " ", "0", "00", "01", "1", "10", "1 0", "a", "a0", "a 0", "a00", "-1", "1-", "01a", "1a"];
        for a in names {
            for b in names {
                assert_eq!(compare(a, b), compare(b, a).reverse(), "{a:?} {b:?}");
                for c in names {
                    if compare(a, b).is_le() && compare(b, c).is_le() {
                        assert!(compare(a, c).is_le(), "{a:?} {b:?} {c:?}");
                    }
                }
            }
        }
    }
}
