//! Pairs of originals and reconstructions as one HTML file: images inside, no scripts, nothing fetched.

use super::{GalleryError, Tile};
use crate::html::{Opening, Page, escape};
use crate::imaging::{self, Rgb};

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

/// A reconstruction with its original, and what is known of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub tile: Tile,
    /// Key of the row.
    pub key: String,
    /// The shard or file it comes from.
    pub source: String,
    pub label: Option<i32>,
    pub caption: Option<String>,
}

/// Writes the page. Every text is escaped: keys, sources and captions come from the dataset and are not to be trusted.
pub fn render(header: &Header, pairs: &[Pair]) -> Result<String, GalleryError> {
    let Header { title, summary, notes, facts } = header;
    let mut page = Page::open(&Opening { title, summary, notes, styles: include_str!("page.css") });
    page.facts("Provenance", facts);
    page.raw("<main>\n");
    for pair in pairs {
        figure(&mut page, pair)?;
    }
    page.raw("</main>\n");
    Ok(page.close())
}

fn figure(page: &mut Page, pair: &Pair) -> Result<(), GalleryError> {
    page.raw("<figure tabindex=\"0\"><div class=\"pair\">");
    match pair.tile.original.found() {
        Some(original) => image(page, original, "original")?,
        None => page.raw("<div class=\"missing\">original not found</div>"),
    }
    image(page, &pair.tile.picture, "reconstruction")?;
    page.raw("</div>\n<figcaption>");
    if let Some(caption) = &pair.caption {
        page.raw(&escape(caption));
    }
    page.raw("<div>");
    if let Some(label) = pair.label {
        page.put(format_args!("class {label} · "));
    }
    page.put(format_args!("{} · {}</div></figcaption></figure>\n", escape(&pair.key), escape(&pair.source)));
    Ok(())
}

fn image(page: &mut Page, picture: &Rgb, class: &str) -> Result<(), GalleryError> {
    let side = picture.width.max(picture.height);
    let (kind, bytes) = if side <= LARGEST_PNG {
        ("png", imaging::encode_png(picture)?)
    } else {
        ("jpeg", imaging::encode_jpeg(picture, JPEG_QUALITY)?)
    };
    let small = if side <= PIXELATED { " small" } else { "" };
    let (width, height) = (picture.width, picture.height);
    page.put(format_args!("<img class=\"{class}{small}\" alt=\"{class}\" width=\"{width}\" height=\"{height}\" "));
    page.source(kind, &bytes);
    page.raw(">");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Original;
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    fn pair(side: u32) -> Pair {
        let picture = Rgb { width: side, height: side, pixels: vec![200; (side * side * 3) as usize] };
        Pair {
            tile: Tile { original: Original::Found(picture.clone()), picture },
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
        let plain = render(&Header { facts: vec![("a".into(), "b".into())], ..Header::default() }, &[pair(8)]).unwrap();
        let mut hostile = pair(8);
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
        let page = render(&Header::default(), &[pair(8), pair(300)]).unwrap();
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
        let mut lost = pair(8);
        lost.tile.original = Original::Missing;
        lost.caption = None;
        lost.label = None;
        let header = Header { notes: vec!["1 original was not found".into()], ..Header::default() };
        let page = render(&header, &[lost]).unwrap();
        assert!(page.contains("<div class=\"missing\">original not found</div>"));
        assert!(page.contains("<p class=\"note\">1 original was not found</p>"));
        assert!(!page.contains("class 7") && page.contains("000001 · shapes-0000.tar"));
    }
}
