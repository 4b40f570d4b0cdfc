//! The kinds of JPEG that are rare in data sets, by `zune-jpeg`.

use crate::imaging::decode::Area;
use crate::imaging::{Format, Header, ImageError, header};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

/// Decodes the whole image. Without its EOI marker it counts as truncated: the decoder fills what is missing with gray and does
/// not tell, and of a progressive image whole scans may be missing.
pub(super) fn decode(bytes: &[u8], head: &Header, pixels: &mut Vec<u8>) -> Result<Area, ImageError> {
    if !header::jpeg_has_end(bytes) {
        return Err(ImageError::truncated(Format::Jpeg, "its end marker is missing"));
    }
    let options = DecoderOptions::default()
        .set_max_width(head.width as usize)
        .set_max_height(head.height as usize)
        .set_strict_mode(true)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let result = decode_into(&mut decoder, head, pixels);
    result.map(|()| Area::whole(head.width, head.height)).map_err(|error| match error {
        DecodeErrors::Unsupported(_) => ImageError::Unsupported(format!("JPEG ({error})")),
        _ => ImageError::damaged(Format::Jpeg, error.to_string()),
    })
}

fn decode_into(
    decoder: &mut JpegDecoder<ZCursor<&[u8]>>,
    head: &Header,
    pixels: &mut Vec<u8>,
) -> Result<(), DecodeErrors> {
    decoder.decode_headers()?;
    pixels.clear();
    pixels.resize(head.pixels() as usize * 3, 0);
    decoder.decode_into(pixels)
}
