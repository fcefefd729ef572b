//! Where blocks begin and streams end: at marks of 48 bits, at any bit of any byte.

/// What a mark announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A block: the first digits of pi.
    Block,
    /// The end of a stream: the first digits of its square root.
    End,
}

/// Bits of a mark.
pub const BITS: u32 = 48;
const MASK: u64 = (1 << BITS) - 1;
const ALL: [Mark; 2] = [Mark::Block, Mark::End];

impl Mark {
    /// Its bits.
    pub const fn bits(self) -> u64 {
        match self {
            Self::Block => 0x3141_5926_5359,
            Self::End => 0x1772_4538_5090,
        }
    }
}

/// For each value of a byte, of which mark in which position it can be the last byte but one: bit `8 * mark + shift`
/// is set if the byte fits the mark when `shift` bits follow the mark in the last byte.
const LAST_BUT_ONE: [u16; 256] = fits(8);
/// The same for the byte before.
const LAST_BUT_TWO: [u16; 256] = fits(16);

const fn fits(below: u32) -> [u16; 256] {
    let mut table = [0; 256];
    let mut mark = 0;
    while mark < 2 {
        let mut shift = 0;
        while shift < 8 {
            let byte = (ALL[mark].bits() << shift >> below) & 0xff;
            table[byte as usize] |= 1 << (8 * mark + shift);
            shift += 1;
        }
        mark += 1;
    }
    table
}

/// Looks for marks in bytes that come piece by piece.
#[derive(Default)]
pub struct Finder {
    /// The last eight bytes.
    window: u64,
    /// Bytes seen.
    seen: u64,
}

impl Finder {
    /// Calls back for each mark that ends in these bytes, in order, with the number of its first bit.
    pub fn find(&mut self, data: &[u8], mut found: impl FnMut(Mark, u64)) {
        let mut window = self.window;
        for (at, byte) in data.iter().enumerate() {
            window = window << 8 | u64::from(*byte);
            // Two table look-ups for each byte: one byte in 4096 or so fits both.
            let fits =
                LAST_BUT_ONE[(window >> 8) as usize & 0xff] & LAST_BUT_TWO[(window >> 16) as usize & 0xff];
            if fits != 0 {
                let end = (self.seen + at as u64 + 1) * 8;
                for shift in (0..8).rev() {
                    for (index, mark) in ALL.into_iter().enumerate() {
                        let is_there =
                            window >> shift & MASK == mark.bits() && end >= u64::from(BITS + shift);
                        if fits >> (8 * index as u32 + shift) & 1 == 1 && is_there {
                            found(mark, end - u64::from(BITS + shift));
                        }
                    }
                }
            }
        }
        self.window = window;
        self.seen += data.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_at_every_bit_and_across_pieces() {
        for mark in ALL {
            for bit in 0..130_usize {
                let mut bits = vec![bit % 3 == 0; bit];
                bits.extend((0..BITS).rev().map(|i| mark.bits() >> i & 1 == 1));
                bits.extend([true; 13]);
                bits.resize(bits.len().next_multiple_of(8), false);
                let bytes: Vec<u8> =
                    bits.chunks(8).map(|c| c.iter().fold(0, |b, bit| b << 1 | u8::from(*bit))).collect();
                for piece in [1, 3, 1000] {
                    let (mut finder, mut all) = (Finder::default(), Vec::new());
                    for part in bytes.chunks(piece) {
                        finder.find(part, |m, at| all.push((m, at)));
                    }
                    assert_eq!(all, [(mark, bit as u64)], "piece {piece}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_found_in_too_few_bits() {
        let mut finder = Finder::default();
        // the end mark without its three leading zero bits
        finder.find(&[0xbb, 0x92, 0x29, 0xc2, 0x84, 0x80], |m, at| panic!("{m:?} at {at}"));
    }
}
