//! Entropy-coded data to coefficients (ITU-T T.81, annexes C and F).

use super::segments::{Component, ZIGZAG};
use std::ops::Range;

/// Bits looked up at once.
const LOOKUP: u32 = 11;

/// A Huffman table, laid out so that most coefficients cost one look-up.
#[derive(Clone)]
pub(super) struct Table {
    /// By the next `LOOKUP` bits. Where code and value fit: value (16 bits), run (8 bits), length of both (8 bits). Else the
    /// length is 0, and above it stand the symbol and the length of the code, or 0 where the code is longer.
    entries: Box<[u32; 1 << LOOKUP]>,
    /// For each code length, one more than its largest code, shifted to 16 bits; and what to add to a code to get the place of
    /// its symbol.
    limits: [u32; 17],
    offsets: [i32; 17],
    symbols: Vec<u8>,
}

impl Table {
    /// The table of a DHT segment; `None` when its codes overflow their lengths.
    pub fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Table> {
        let mut entries = Box::new([0; 1 << LOOKUP]);
        let (mut limits, mut offsets) = ([0; 17], [0; 17]);
        let (mut code, mut place) = (0u32, 0usize);
        for (length, &count) in (1u32..).zip(counts) {
            offsets[length as usize] = place as i32 - code as i32;
            for _ in 0..count {
                let symbol = *symbols.get(place)?;
                if code >= 1 << length {
                    return None;
                }
                if length <= LOOKUP {
                    let free = LOOKUP - length;
                    let first = (code << free) as usize;
                    for (tail, entry) in (0u32..).zip(entries.get_mut(first..first + (1 << free))?) {
                        *entry = entry_for(symbol, length, tail, free);
                    }
                }
                code += 1;
                place += 1;
            }
            limits[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(Table { entries, limits, offsets, symbols: symbols.to_vec() })
    }

    /// The symbol of a code that is longer than `LOOKUP`, and its length.
    #[cold]
    fn long(&self, next: u32) -> Option<(u8, u32)> {
        let length = (LOOKUP + 1..=16).find(|&length| next < self.limits[length as usize])?;
        let place = (next >> (16 - length)) as i32 + self.offsets[length as usize];
        self.symbols.get(usize::try_from(place).ok()?).map(|&symbol| (symbol, length))
    }
}

/// The entry of a code of `length` bits that is followed by `tail`, of `free` bits.
fn entry_for(symbol: u8, length: u32, tail: u32, free: u32) -> u32 {
    let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
    if size == 0 || size > free {
        return u32::from(symbol) << 8 | length << 16;
    }
    let value = extend(tail >> (free - size), size);
    (value as u16 as u32) << 16 | run << 8 | (length + size)
}

/// The value of `size` bits (T.81, figure F.12): the lower half of the range is negative.
#[inline(always)]
fn extend(bits: u32, size: u32) -> i32 {
    let bits = bits as i32;
    if bits < 1 << size >> 1 { bits - (1 << size) + 1 } else { bits }
}

/// Entropy-coded data without its stuffing bytes.
#[derive(Default)]
pub(super) struct Entropy {
    bytes: Vec<u8>,
    /// The parts between restart markers.
    pub intervals: Vec<Range<usize>>,
    /// Whether a marker ended the data, not the end of the file.
    pub ended: bool,
}

impl Entropy {
    /// Takes the entropy-coded data off the head of `data`.
    #[inline(always)]
    pub fn new(data: &[u8]) -> Entropy {
        const BLOCK: usize = 32;
        let mut entropy = Entropy { bytes: Vec::with_capacity(data.len() + Bits::PADDING), ..Entropy::default() };
        let (mut at, mut start) = (0, 0);
        while let Some(rest) = data.get(at..).filter(|rest| !rest.is_empty()) {
            let block = rest.first_chunk::<BLOCK>();
            if let Some(block) = block.filter(|block| !block.iter().fold(false, |found, &byte| found | (byte == 0xff)))
            {
                entropy.bytes.extend_from_slice(block);
                at += BLOCK;
                continue;
            }
            let plain = rest.iter().position(|&byte| byte == 0xff).unwrap_or(rest.len());
            entropy.bytes.extend_from_slice(&rest[..plain]);
            at += plain;
            // Fill bytes may come before a marker; a lone 0xff at the end of the file is none.
            let Some(code) = data.get(at..).and_then(|rest| rest.iter().find(|&&byte| byte != 0xff)) else { break };
            let fill = data[at..].iter().take_while(|&&byte| byte == 0xff).count();
            match code {
                0 => entropy.bytes.push(0xff),
                0xd0..=0xd7 => {
                    entropy.intervals.push(start..entropy.bytes.len());
                    start = entropy.bytes.len();
                }
                _ => {
                    entropy.ended = true;
                    break;
                }
            }
            at += fill + 1;
        }
        entropy.intervals.push(start..entropy.bytes.len());
        entropy.bytes.resize(entropy.bytes.len() + Bits::PADDING, 0);
        entropy
    }

    /// The bits of an interval; none where there is no such interval.
    pub fn bits(&self, interval: usize) -> Bits<'_> {
        let range = self.intervals.get(interval).cloned().unwrap_or(0..0);
        Bits { bytes: &self.bytes, at: range.start, end: range.end, bits: 0, count: 0 }
    }
}

/// Bits of an interval, most significant first.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
    /// The next bits, from the top.
    bits: u64,
    /// How many of them are valid.
    count: u32,
}

impl Bits<'_> {
    /// Bytes behind the data that may be loaded, though never used by an intact image.
    const PADDING: usize = 16;

    /// Makes at least 56 bits valid. Behind the end come other intervals' bits or zeros: see [`Bits::overrun`].
    #[inline(always)]
    fn refill(&mut self) {
        if let Some(next) = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<8>()) {
            self.bits |= u64::from_be_bytes(*next) >> self.count;
            self.at += (63 - self.count as usize) >> 3;
        } else {
            self.at = self.bytes.len() + 8;
        }
        self.count |= 56;
    }

    #[inline(always)]
    fn peek(&self, bits: u32) -> u32 {
        (self.bits >> (64 - bits)) as u32
    }

    #[inline(always)]
    fn skip(&mut self, bits: u32) {
        self.bits <<= bits;
        self.count = self.count.wrapping_sub(bits);
    }

    /// Whether more bits were used than the interval has.
    pub fn overrun(&self) -> bool {
        self.at * 8 > self.end * 8 + self.count as usize
    }

    /// Reads a code and the value that follows it: (run, size, value). `None` for bits that are no code.
    #[inline(always)]
    fn code(&mut self, table: &Table, entry: u32) -> Option<(u32, u32, i32)> {
        let (symbol, length) = match entry >> 16 {
            0 => table.long(self.peek(16))?,
            length => ((entry >> 8) as u8, length),
        };
        let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        self.skip(length);
        // In two shifts: with no bits to come, all 64 are dropped.
        let value = extend((self.bits >> 1 >> (63 - size)) as u32, size);
        self.skip(size);
        Some((run, size, value))
    }

    /// Decodes a block into `block`, which is zero, dequantised and in natural order. Returns whether any coefficient but the
    /// first was coded; `None` for bits that are no code or lead out of the block.
    #[inline(always)]
    pub fn block(&mut self, component: &Component, prediction: &mut i32, block: &mut [i32; 64]) -> Option<bool> {
        let quant = &component.quant;
        self.refill();
        let entry = component.dc.entries[self.peek(LOOKUP) as usize];
        let difference = if entry & 0xff != 0 {
            self.skip(entry & 0xff);
            entry as i32 >> 16
        } else {
            self.code(&component.dc, entry)?.2
        };
        *prediction = prediction.wrapping_add(difference);
        block[0] = prediction.wrapping_mul(quant[0]);
        let mut k = 1;
        while k < 64 {
            if self.count < 32 {
                self.refill();
            }
            let entry = component.ac.entries[self.peek(LOOKUP) as usize];
            let value = if entry & 0xff != 0 {
                self.skip(entry & 0xff);
                k += entry as usize >> 8 & 15;
                entry as i32 >> 16
            } else {
                let (run, size, value) = self.code(&component.ac, entry)?;
                if size == 0 && run != 15 {
                    return Some(k > 1);
                }
                k += run as usize;
                value
            };
            let position = usize::from(ZIGZAG[k]) & 63;
            block[position] = value.wrapping_mul(quant[position]);
            k += 1;
        }
        (k == 64).then_some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_extend_to_both_signs() {
        assert_eq!([extend(0, 1), extend(1, 1)], [-1, 1]);
        assert_eq!([extend(0, 3), extend(3, 3), extend(4, 3), extend(7, 3)], [-7, -4, 4, 7]);
        assert_eq!(extend(0, 0), 0);
    }

    #[test]
    fn stuffing_goes_and_markers_divide() {
        let data = [1, 2, 0xff, 0, 3, 0xff, 0xd0, 4, 0xff, 0xff, 0xd9, 9];
        let entropy = Entropy::new(&data);
        assert_eq!(entropy.intervals, [0..4, 4..5]);
        assert_eq!(entropy.bytes[..5], [1, 2, 0xff, 3, 4]);
        assert!(entropy.ended);
        assert!(!Entropy::new(&[7; 100]).ended);
        assert!(!Entropy::new(&[7, 0xff]).ended);
    }

    #[test]
    fn overflowing_codes_are_no_table() {
        let mut counts = [0; 16];
        counts[0] = 3;
        assert!(Table::new(&counts, &[1, 2, 3]).is_none());
    }

    #[test]
    fn long_codes_are_found() {
        // One code of each length: 0, 10, 110, ... up to 16 bits.
        let symbols: Vec<u8> = (1..=16).collect();
        let table = Table::new(&[1; 16], &symbols).unwrap();
        assert_eq!(table.long(0b1111_1111_1110_0000), Some((12, 12)));
        assert_eq!(table.long(0b1111_1111_1111_1110), Some((16, 16)));
        assert_eq!(table.long(0xffff), None);
    }
}
