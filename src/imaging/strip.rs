//! Strips of eight rows, turned so that the eight bytes of a column lie together.
//!
//! A horizontal filter reads neighbouring columns with changing weights, which vector units are bad at; on a strip the same
//! filter is one multiplication of eight rows by one weight. The code that works on strips is plain loops over arrays, compiled
//! once for each instruction set and chosen at run time by `fearless_simd`.

/// Rows of a strip.
pub(super) const ROWS: usize = 8;

/// Bytes of a column, one a row.
pub(super) type Column = [u8; ROWS];

/// Turns eight equally long rows into columns. Rows beyond `rows.len()` repeat the last.
#[inline(always)]
pub(super) fn from_rows(rows: &[&[u8]], columns: &mut Vec<Column>) {
    let Some(last) = rows.last() else { return columns.clear() };
    let row = |index: usize| *rows.get(index).unwrap_or(last);
    let rows: [&[u8]; ROWS] = std::array::from_fn(row);
    columns.clear();
    columns.resize(last.len(), [0; ROWS]);
    let (blocks, rest) = columns.as_chunks_mut::<{ LANES * 8 }>();
    for (index, block) in blocks.iter_mut().enumerate() {
        let mut words = [[0; LANES]; ROWS];
        for (words, row) in words.iter_mut().zip(rows) {
            let bytes = &row[index * LANES * 8..][..LANES * 8];
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *word = u64::from_le_bytes(*bytes);
            }
        }
        transpose(&mut words);
        for (lane, block) in block.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            for (column, words) in block.iter_mut().zip(&words) {
                *column = words[lane].to_le_bytes();
            }
        }
    }
    let done = blocks.len() * LANES * 8;
    for (at, column) in rest.iter_mut().enumerate() {
        *column = rows.map(|row| row[done + at]);
    }
}

/// Turns columns back into rows: `rows` is `[rows, columns.len()]`, of which at most eight rows are written.
#[inline(always)]
pub(super) fn to_rows(columns: &[Column], rows: &mut [u8]) {
    let length = columns.len();
    if length == 0 {
        return;
    }
    let count = (rows.len() / length).min(ROWS);
    let (blocks, rest) = columns.as_chunks::<{ LANES * 8 }>();
    for (index, block) in blocks.iter().enumerate() {
        let mut words = [[0; LANES]; ROWS];
        for (lane, block) in block.as_chunks::<8>().0.iter().enumerate() {
            for (words, column) in words.iter_mut().zip(block) {
                words[lane] = u64::from_le_bytes(*column);
            }
        }
        transpose(&mut words);
        for (words, row) in words.iter().zip(rows.chunks_exact_mut(length)).take(count) {
            for (word, bytes) in words.iter().zip(row[index * LANES * 8..][..LANES * 8].as_chunks_mut::<8>().0) {
                *bytes = word.to_le_bytes();
            }
        }
    }
    let done = blocks.len() * LANES * 8;
    for (at, column) in rest.iter().enumerate() {
        for (row, &byte) in rows.chunks_exact_mut(length).zip(column).take(count) {
            row[done + at] = byte;
        }
    }
}

/// Blocks of 8 x 8 bytes that are turned at once: four words fill a 256-bit register.
const LANES: usize = 4;

/// Transposes 8 x 8 blocks of bytes, one a lane: halves, then quarters, then bytes change places across the diagonal.
#[inline(always)]
fn transpose(words: &mut [[u64; LANES]; ROWS]) {
    swap::<4>(words, 0x0000_0000_ffff_ffff);
    swap::<2>(words, 0x0000_ffff_0000_ffff);
    swap::<1>(words, 0x00ff_00ff_00ff_00ff);
}

#[inline(always)]
fn swap<const STEP: usize>(words: &mut [[u64; LANES]; ROWS], mask: u64) {
    for upper in (0..ROWS).filter(|row| row & STEP == 0) {
        let (head, tail) = words.split_at_mut(upper + STEP);
        for (a, b) in head[upper].iter_mut().zip(&mut tail[0]) {
            let moved = ((*a >> (8 * STEP)) ^ *b) & mask;
            *b ^= moved;
            *a ^= moved << (8 * STEP);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_the_rows_turned_and_back() {
        for length in [1, 7, 32, 45, 100] {
            let rows: Vec<Vec<u8>> =
                (0..8).map(|row| (0..length).map(|at| (row * 31 + at * 7) as u8).collect()).collect();
            let borrowed: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
            let mut columns = Vec::new();
            from_rows(&borrowed, &mut columns);
            for (at, column) in columns.iter().enumerate() {
                assert!(column.iter().enumerate().all(|(row, &byte)| byte == rows[row][at]));
            }
            let mut back = vec![0; length * 5];
            to_rows(&columns, &mut back);
            assert_eq!(back, rows[..5].concat());
        }
    }
}
