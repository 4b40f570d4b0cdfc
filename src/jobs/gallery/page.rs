//! The gallery as one HTML file: images inside, no scripts, nothing fetched.

use super::{GalleryError, Original, Tile};
use crate::imaging::{self, Rgb};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write;

/// Images with a longer side are shown as JPEG: 64 pairs of 256×256 PNGs would make a page of 20 MB.
const LARGEST_PNG: u32 = 128;
const JPEG_QUALITY: u8 = 92;
/// Images up to this side are enlarged with hard pixel edges.
const PIXELATED: u32 = 128;

/// What the page says above its pictures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub title: String,
    /// One sentence under the title.
    pub summary: String,
    /// What the reader must know, such as why originals are missing.
    pub notes: Vec<String>,
    /// Provenance: name and value.
    pub facts: Vec<(String, String)>,
}

/// Writes the page. Every text is escaped: keys, sources and captions come from the dataset and are not to be trusted.
pub fn render(header: &Header, tiles: &[Tile]) -> Result<String, GalleryError> {
    let mut page = String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    // Nothing but inline styles and inline images may load or run, whatever a caption holds.
    page.push_str("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; ");
    page.push_str("style-src 'unsafe-inline'; img-src data:\">\n");
    let title = escape(&header.title);
    push(&mut page, format_args!("<title>{title}</title>\n<style>\n{}</style>\n</head>\n", include_str!("page.css")));
    push(&mut page, format_args!("<body>\n<h1>{title}</h1>\n<p>{}</p>\n", escape(&header.summary)));
    for note in &header.notes {
        push(&mut page, format_args!("<p class=\"note\">{}</p>\n", escape(note)));
    }
    page.push_str("<details open><summary>Provenance</summary>\n<dl>\n");
    for (name, value) in &header.facts {
        push(&mut page, format_args!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(value)));
    }
    page.push_str("</dl>\n</details>\n<main>\n");
    for tile in tiles {
        figure(&mut page, tile)?;
    }
    page.push_str("</main>\n</body>\n</html>\n");
    Ok(page)
}

fn figure(page: &mut String, tile: &Tile) -> Result<(), GalleryError> {
    let class = if tile.original == Original::None { "pair alone" } else { "pair" };
    push(page, format_args!("<figure tabindex=\"0\"><div class=\"{class}\">"));
    match &tile.original {
        Original::Found(original) => image(page, original, "original")?,
        Original::Missing => page.push_str("<div class=\"missing\">original not found</div>"),
        Original::None => {}
    }
    image(page, &tile.picture, if tile.original == Original::None { "sample" } else { "reconstruction" })?;
    page.push_str("</div>\n<figcaption>");
    if let Some(caption) = &tile.caption {
        push(page, format_args!("{}", escape(caption)));
    }
    page.push_str("<div>");
    if let Some(label) = tile.label {
        push(page, format_args!("class {label} · "));
    }
    push(page, format_args!("{} · {}</div></figcaption></figure>\n", escape(&tile.key), escape(&tile.source)));
    Ok(())
}

fn image(page: &mut String, picture: &Rgb, class: &str) -> Result<(), GalleryError> {
    let side = picture.width.max(picture.height);
    let (kind, bytes) = if side <= LARGEST_PNG {
        ("png", imaging::encode_png(picture)?)
    } else {
        ("jpeg", imaging::encode_jpeg(picture, JPEG_QUALITY)?)
    };
    let small = if side <= PIXELATED { " small" } else { "" };
    let (width, height) = (picture.width, picture.height);
    push(page, format_args!("<img class=\"{class}{small}\" alt=\"{class}\" width=\"{width}\" height=\"{height}\" "));
    push(page, format_args!("src=\"data:image/{kind};base64,"));
    STANDARD.encode_string(bytes, page);
    page.push_str("\">");
    Ok(())
}

fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = page.write_fmt(text);
}

/// Text as HTML shows it: `& < > " '` escaped, control characters made visible.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() && !matches!(c, '\n' | '\t') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(side: u32) -> Tile {
        let picture = Rgb { width: side, height: side, pixels: vec![200; (side * side * 3) as usize] };
        Tile {
            original: Original::Found(picture.clone()),
            picture,
            key: "000001".into(),
            source: "shapes-0000.tar".into(),
            label: Some(7),
            caption: Some("a small blue square".into()),
        }
    }

    /// The page's tag names, in order, without style and image data.
    fn tags(page: &str) -> Vec<String> {
        let body = page.split_once("<body>").unwrap().1;
        body.split('<').skip(1).map(|t| t.split([' ', '>', '\n']).next().unwrap().to_owned()).collect()
    }

    #[test]
    fn hostile_text_stays_text() {
        let evil = "<script>alert(\"1\")</script>' onload='x' & \u{0} </figure><img src=x onerror=alert(1)>";
        let plain = render(&Header { facts: vec![("a".into(), "b".into())], ..Header::default() }, &[tile(8)]).unwrap();
        let mut hostile = tile(8);
        hostile.caption = Some(evil.into());
        hostile.key = evil.into();
        hostile.source = evil.into();
        let facts = vec![(evil.into(), evil.into())];
        let header = Header { title: evil.into(), summary: evil.into(), notes: Vec::new(), facts };
        let page = render(&header, &[hostile]).unwrap();
        assert_eq!(tags(&page), tags(&plain), "captions must not add elements");
        assert!(!page.contains("<script"));
        assert!(
            page.contains("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&#39; onload=&#39;x&#39; &amp; \u{fffd} ")
        );
        assert!(page.contains("default-src 'none'"));
    }

    #[test]
    fn images_are_inside_the_page() {
        let page = render(&Header::default(), &[tile(8), tile(300)]).unwrap();
        let sources: Vec<&str> = page.split("src=\"").skip(1).map(|s| s.split('"').next().unwrap()).collect();
        assert_eq!(sources.len(), 4);
        for (source, side) in sources.iter().zip([8, 8, 300, 300]) {
            let (head, data) = source.split_once(',').unwrap();
            assert_eq!(head, if side == 8 { "data:image/png;base64" } else { "data:image/jpeg;base64" });
            let picture = image::load_from_memory(&STANDARD.decode(data).unwrap()).unwrap().into_rgb8();
            assert_eq!(picture.width(), side);
            assert!(picture.as_raw().iter().all(|&v| v.abs_diff(200) <= 1));
        }
        assert!(page.contains("class=\"original small\"") && page.contains("class=\"original\""));
    }

    #[test]
    fn a_missing_original_is_said_so() {
        let mut lost = tile(8);
        lost.original = Original::Missing;
        lost.caption = None;
        lost.label = None;
        let header = Header { notes: vec!["1 original was not found".into()], ..Header::default() };
        let page = render(&header, &[lost]).unwrap();
        assert!(page.contains("<div class=\"missing\">original not found</div>"));
        assert!(page.contains("<p class=\"note\">1 original was not found</p>"));
        assert!(!page.contains("class 7") && page.contains("000001 · shapes-0000.tar"));
    }
    #[test]
    fn samples_stand_alone() {
        let page = render(&Header::default(), &[Tile { original: Original::None, ..tile(8) }]).unwrap();
        assert!(page.contains("<div class=\"pair alone\"><img class=\"sample small\""));
        assert!(!page.contains("class=\"missing\""));
    }
}
