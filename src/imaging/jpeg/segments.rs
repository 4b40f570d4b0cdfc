//! The segments before the scan: tables, frame, scan header (ITU-T T.81, annex B).

use super::huffman::Table;
use crate::imaging::Format;
use crate::imaging::header::Cursor;

/// A baseline image of one interleaved scan, ready to be decoded.
pub(super) struct Baseline<'a> {
    pub width: usize,
    pub height: usize,
    /// One (gray) or three.
    pub components: Vec<Component>,
    /// Whether three components are YCbCr; else they are RGB.
    pub ycbcr: bool,
    /// MCUs between restart markers; 0 for none.
    pub restart: usize,
    /// Entropy-coded data and all that follows.
    pub data: &'a [u8],
}

/// A colour component with the tables of its scan.
pub(super) struct Component {
    /// Blocks of an MCU, horizontally and vertically.
    pub h: usize,
    pub v: usize,
    /// Quantisation steps, in natural order.
    pub quant: [i32; 64],
    pub dc: Table,
    pub ac: Table,
}

/// Natural position of the k-th coefficient; the 16 places beyond the block catch runs that lead out of it.
pub(super) const ZIGZAG: [u8; 80] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63,
];

/// What the segments have told so far.
#[derive(Default)]
struct Segments {
    quant: [Option<[i32; 64]>; 4],
    /// Tables as they are defined: bits of each length, symbols.
    dc: [Option<Table>; 4],
    ac: [Option<Table>; 4],
    frame: Option<Frame>,
    restart: usize,
    jfif: bool,
    adobe: Option<u8>,
}

#[derive(Clone)]
struct Frame {
    width: usize,
    height: usize,
    /// (id, h, v, quantisation table)
    components: Vec<(u8, usize, usize, usize)>,
}

/// Reads the segments of a JPEG; `None` when it is of a kind that is not decoded here, or out of order: another decoder is to
/// judge it then.
pub(super) fn baseline(bytes: &[u8]) -> Option<Baseline<'_>> {
    let mut at = Cursor::new(bytes, 2, Format::Jpeg);
    let mut segments = Segments::default();
    loop {
        let marker = at.marker().ok()?;
        if marker == 0x01 || (0xd0..=0xd8).contains(&marker) {
            continue;
        }
        let length = at.u16_be().ok()?.checked_sub(2)?;
        let body = at.take(length.into()).ok()?;
        match marker {
            0xc0 | 0xc1 => segments.frame(body)?,
            0xc4 => segments.huffman(body)?,
            0xdb => segments.quantisation(body)?,
            0xdd => segments.restart = usize::from(u16::from_be_bytes(body.try_into().ok()?)),
            0xe0 => segments.jfif |= body.starts_with(b"JFIF\0"),
            0xee if body.starts_with(b"Adobe") => segments.adobe = body.get(11).copied(),
            0xda => return segments.scan(body, at.rest()),
            0xe1..=0xef | 0xfe => {}
            _ => return None,
        }
    }
}

impl Segments {
    fn quantisation(&mut self, mut body: &[u8]) -> Option<()> {
        while let [kind, rest @ ..] = body {
            let wide = kind >> 4 != 0;
            let (values, rest) = rest.split_at_checked(if wide { 128 } else { 64 })?;
            let mut table = [0; 64];
            for (k, position) in ZIGZAG.iter().take(64).enumerate() {
                table[usize::from(*position)] = if wide {
                    i32::from(u16::from_be_bytes([values[2 * k], values[2 * k + 1]]))
                } else {
                    i32::from(values[k])
                };
            }
            *self.quant.get_mut(usize::from(kind & 15))? = Some(table);
            body = rest;
        }
        Some(())
    }

    fn huffman(&mut self, mut body: &[u8]) -> Option<()> {
        while let [kind, rest @ ..] = body {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let (symbols, rest) = rest.split_at_checked(counts.iter().map(|&count| usize::from(count)).sum())?;
            let tables = if kind >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            *tables.get_mut(usize::from(kind & 15))? = Some(Table::new(counts, symbols)?);
            body = rest;
        }
        Some(())
    }

    fn frame(&mut self, body: &[u8]) -> Option<()> {
        let ([precision, h1, h0, w1, w0, count], rest) = body.split_first_chunk::<6>()?;
        let (components, tail) = rest.as_chunks::<3>();
        if *precision != 8 || components.len() != usize::from(*count) || !tail.is_empty() || self.frame.is_some() {
            return None;
        }
        let component = |c: &[u8; 3]| (c[0], usize::from(c[1] >> 4), usize::from(c[1] & 15), usize::from(c[2]));
        self.frame = Some(Frame {
            width: usize::from(u16::from_be_bytes([*w1, *w0])),
            height: usize::from(u16::from_be_bytes([*h1, *h0])),
            components: components.iter().map(component).collect(),
        });
        Some(())
    }

    fn scan<'a>(mut self, body: &[u8], data: &'a [u8]) -> Option<Baseline<'a>> {
        let frame = self.frame.take()?;
        let (&count, rest) = body.split_first()?;
        let (selectors, tail) = rest.as_chunks::<2>();
        // All components in one scan, all coefficients, no successive approximation.
        if usize::from(count) != frame.components.len() || selectors.len() != frame.components.len() + 1 {
            return None;
        }
        if selectors.last()? != &[0, 63] || tail != [0] {
            return None;
        }
        let sampling: Vec<(usize, usize)> = frame.components.iter().map(|c| (c.1, c.2)).collect();
        let sampling = match sampling[..] {
            // Alone, a component has MCUs of one block, whatever its factors.
            [_] => vec![(1, 1)],
            [(1 | 2, 1 | 2), (1, 1), (1, 1)] => sampling,
            _ => return None,
        };
        let mut components = Vec::with_capacity(sampling.len());
        for ((&(id, _, _, quant), selector), (h, v)) in frame.components.iter().zip(selectors).zip(sampling) {
            if selector[0] != id {
                return None;
            }
            let dc = self.dc.get(usize::from(selector[1] >> 4))?.clone()?;
            let ac = self.ac.get(usize::from(selector[1] & 15))?.clone()?;
            components.push(Component { h, v, quant: (*self.quant.get(quant)?)?, dc, ac });
        }
        let ids: Vec<u8> = frame.components.iter().map(|c| c.0).collect();
        let ycbcr = self.ycbcr(&ids);
        let (width, height) = (frame.width, frame.height);
        Some(Baseline { width, height, components, ycbcr, restart: self.restart, data })
    }

    /// What three components are, by libjpeg's rules (jdapimin.c, `default_decompress_parms`).
    fn ycbcr(&self, ids: &[u8]) -> bool {
        match (self.jfif, self.adobe) {
            (true, _) => true,
            (false, Some(transform)) => transform != 0,
            (false, None) => ids != b"RGB",
        }
    }
}
