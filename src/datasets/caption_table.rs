//! The tables of captions and URLs that Conceptual Captions is published as (FORMATS §5). They hold no images: whoever gives
//! one as a dataset is told how to fetch them.

use super::DatasetError;
use super::Source;
use super::range_reader::{Object, ReadAhead};
use super::store::Location;
use object_store::ObjectMeta;
use std::borrow::Cow;
use std::sync::Arc;

/// How much of a table is looked at.
const LOOKED_AT: u64 = 64 << 10;

/// Which column comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnOrder {
    /// CC3M: caption, then URL; its labels variant has three more columns.
    CaptionFirst,
    /// CC12M: URL, then caption.
    UrlFirst,
}

/// What a line of a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableLine {
    /// A caption and a URL.
    Row,
    /// The names of the columns, which users put there for img2dataset.
    Header,
    /// Nothing but blanks.
    Blank,
    /// Not the columns of the other lines.
    Bad,
    /// A URL without a caption.
    EmptyCaption,
    /// A caption that is not UTF-8.
    BadUtf8Caption,
}

/// A table of captions and URLs, or the beginning of one: tab-separated, where quotes mean nothing.
///
/// ```
/// use imagebart::datasets::{CaptionTable, ColumnOrder, TableLine};
/// let table = CaptionTable::sniff(b"a cat .\thttp://host/1.jpg\n\thttp://host/2.jpg\n").unwrap();
/// assert_eq!(table.order, ColumnOrder::CaptionFirst);
/// assert_eq!(table.lines, [TableLine::Row, TableLine::EmptyCaption]);
/// assert_eq!(CaptionTable::sniff(b"name\tsize\ncat\t3\n"), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptionTable {
    pub order: ColumnOrder,
    /// Columns of its rows: 2, or 5 in CC3M's labels variant.
    pub columns: usize,
    pub lines: Vec<TableLine>,
}

impl CaptionTable {
    /// Recognises a table by its text: at least half of the lines that are not blank have a URL in the same of the first two
    /// columns.
    pub fn sniff(text: &[u8]) -> Option<CaptionTable> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let lines: Vec<Vec<&[u8]>> = text
            .split(|byte| *byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line).split(|byte| *byte == b'\t').collect())
            .collect();
        let urls =
            |column: usize| lines.iter().filter(|line| line.get(column).is_some_and(|field| is_url(field))).count();
        let (order, column, found) = match (urls(0), urls(1)) {
            (first, second) if first > second => (ColumnOrder::UrlFirst, 0, first),
            (_, second) => (ColumnOrder::CaptionFirst, 1, second),
        };
        let rows = lines.iter().filter(|line| line.get(column).is_some_and(|field| is_url(field)));
        let five = rows.filter(|line| line.len() == 5).count();
        let columns = if 2 * five > found { 5 } else { 2 };
        let lines: Vec<TableLine> =
            lines.iter().enumerate().map(|(number, line)| classify(line, number, order, columns)).collect();
        let written = lines.iter().filter(|line| **line != TableLine::Blank).count();
        (found > 0 && 2 * found >= written).then_some(CaptionTable { order, columns, lines })
    }

    /// Whether the first line names the columns.
    pub fn has_header(&self) -> bool {
        self.lines.first() == Some(&TableLine::Header)
    }

    /// The names of its columns as img2dataset is to be told, separated by `\t`.
    fn header(&self) -> &'static str {
        match (self.order, self.columns) {
            (ColumnOrder::UrlFirst, _) => r"url\tcaption",
            (ColumnOrder::CaptionFirst, 5) => r"caption\turl\tlabels\tids\tconfidences",
            (ColumnOrder::CaptionFirst, _) => r"caption\turl",
        }
    }

    /// The commands that fetch the images of the table at `path`. Without `keep_ratio` img2dataset pads them with white.
    fn commands(&self, path: &str) -> String {
        let path = quoted(path);
        let folder = match self.order {
            ColumnOrder::CaptionFirst => "cc3m",
            ColumnOrder::UrlFirst => "cc12m",
        };
        let header = match self.has_header() {
            true => String::new(),
            false => format!("sed -i '1s/^/{}\\n/' {path} && ", self.header()),
        };
        format!(
            "{header}img2dataset --url_list {path} --input_format tsv --url_col url --caption_col caption \
             --output_format webdataset --output_folder {folder} --processes_count 16 --thread_count 64 --image_size 256 \
             --resize_mode keep_ratio"
        )
    }
}

/// A path as a shell takes it for one word.
fn quoted(path: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+=@%,:".contains(&byte) || !byte.is_ascii();
    match !path.is_empty() && path.bytes().all(plain) {
        true => Cow::Borrowed(path),
        false => Cow::Owned(format!("'{}'", path.replace('\'', r"'\''"))),
    }
}

fn is_url(field: &[u8]) -> bool {
    [&b"http://"[..], b"https://"].iter().any(|scheme| {
        field.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)) && field.len() > scheme.len()
    })
}

fn classify(line: &[&[u8]], number: usize, order: ColumnOrder, columns: usize) -> TableLine {
    let named = |name: &str| line.iter().any(|field| field.eq_ignore_ascii_case(name.as_bytes()));
    if line.iter().all(|field| field.trim_ascii().is_empty()) {
        return TableLine::Blank;
    }
    if number == 0 && named("url") && named("caption") {
        return TableLine::Header;
    }
    let (caption, url) = match (order, line) {
        _ if line.len() != columns => return TableLine::Bad,
        (ColumnOrder::CaptionFirst, [caption, url, ..]) | (ColumnOrder::UrlFirst, [url, caption, ..]) => (caption, url),
        _ => return TableLine::Bad,
    };
    match std::str::from_utf8(caption) {
        _ if !is_url(url) => TableLine::Bad,
        Err(_) => TableLine::BadUtf8Caption,
        Ok(caption) if caption.trim().is_empty() => TableLine::EmptyCaption,
        Ok(_) => TableLine::Row,
    }
}

/// Whether a path has the ending of such a table.
pub(super) fn is_named_so(path: &str) -> bool {
    path.rsplit('.').next().is_some_and(|ending| ending.eq_ignore_ascii_case("tsv"))
}

/// Fails with the way from a table to images, if `object` is such a table.
pub(super) async fn refuse(location: &Location, object: &ObjectMeta) -> Result<(), DatasetError> {
    let source = Source { path: object.location.to_string(), size: object.size, etag: None };
    let reader = Object::new(Arc::clone(&location.store), object.location.clone(), &source, &ReadAhead::default());
    let mut text = &reader.get(0..object.size.min(LOOKED_AT)).await?[..];
    if object.size > LOOKED_AT {
        // The last line is cut.
        let end = text.iter().rposition(|byte| *byte == b'\n').unwrap_or(text.len());
        text = text.get(..end).unwrap_or(text);
    }
    let Some(table) = CaptionTable::sniff(text) else { return Ok(()) };
    let (first, second, whose) = match table.order {
        ColumnOrder::CaptionFirst => ("captions", "URLs", "CC3M"),
        ColumnOrder::UrlFirst => ("URLs", "captions", "CC12M"),
    };
    // A local path works in the command as it is; img2dataset and sed want a local copy of anything else.
    let base = object.location.filename().unwrap_or("table.tsv");
    let path = match location.url.contains("://") {
        true => base.to_owned(),
        false => format!("/{}", object.location),
    };
    Err(DatasetError::Config(format!(
        "{} holds no images: {base} is a table of {first} and {second}, as {whose} is published; fetch the images with \
         img2dataset and give dataset.url its output instead: {}",
        location.url,
        table.commands(&path)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use TableLine::{Bad, BadUtf8Caption, Blank, EmptyCaption, Header, Row};
    use proptest::prelude::*;

    fn sniff(text: &str) -> Option<(ColumnOrder, usize, Vec<TableLine>)> {
        CaptionTable::sniff(text.as_bytes()).map(|table| (table.order, table.columns, table.lines))
    }

    #[test]
    fn the_order_of_the_columns_is_read_off_the_lines() {
        use ColumnOrder::{CaptionFirst, UrlFirst};
        assert_eq!(sniff("a\thttp://h/1\nb\tHTTPS://h/2"), Some((CaptionFirst, 2, vec![Row, Row])));
        assert_eq!(sniff("http://h/1\ta\r\nhttp://h/2\tb\r\n"), Some((UrlFirst, 2, vec![Row, Row])));
        assert_eq!(sniff("\u{feff}url\tcaption\nhttp://h/1\ta"), Some((UrlFirst, 2, vec![Header, Row])));
        assert_eq!(sniff("Caption\tURL\na\thttp://h/1"), Some((CaptionFirst, 2, vec![Header, Row])));
        let labels = "a\thttp://h/1\tcat,dog\t/m/1,/m/2\t0.9,0.8\n";
        assert_eq!(sniff(labels), Some((CaptionFirst, 5, vec![Row])));
        for other in ["", "\n\n", "a\tb\nc\td", "http://", "a b http://h/1\nc\n", "x\n\ny\nz\na\thttp://h/1"] {
            assert_eq!(sniff(other), None, "{other:?}");
        }
    }

    #[test]
    fn every_line_is_accounted_for() {
        let text = b"ok\thttp://h/1\ncaf\xe9\thttp://h/2\nno tab\na \"quote\thttp://h/3\n\thttp://h/4\na\tb\thttp://h/5\n\nx\tftp";
        let table = CaptionTable::sniff(text).unwrap();
        assert_eq!(table.lines, [Row, BadUtf8Caption, Bad, Row, EmptyCaption, Bad, Blank, Bad]);
    }

    #[test]
    fn the_commands_name_the_columns_once() {
        let commands = |text: &str| CaptionTable::sniff(text.as_bytes()).unwrap().commands("/d/t.tsv");
        let bare = commands("a\thttp://h/1");
        assert!(
            bare.starts_with(r"sed -i '1s/^/caption\turl\n/' /d/t.tsv && img2dataset --url_list /d/t.tsv "),
            "{bare}"
        );
        assert!(commands("http://h/1\ta").starts_with(r"sed -i '1s/^/url\tcaption\n/' "));
        assert!(commands("url\tcaption\nhttp://h/1\ta").starts_with("img2dataset --url_list /d/t.tsv "));
    }

    #[test]
    fn the_commands_name_a_path_of_any_letters_as_one_word() {
        let words = ["/d/t.tsv", "/my data/t.tsv", "it's", "a;b", "$HOME", "é/t.tsv"].map(quoted);
        assert_eq!(words, ["/d/t.tsv", "'/my data/t.tsv'", r"'it'\''s'", "'a;b'", "'$HOME'", "é/t.tsv"]);
        let table = CaptionTable::sniff(b"a\thttp://h/1").unwrap();
        let commands = table.commands("/my data/t.tsv");
        assert!(commands.contains(r"\n/' '/my data/t.tsv' && img2dataset --url_list '/my data/t.tsv' "), "{commands}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
            if let Some(table) = CaptionTable::sniff(&bytes) {
                prop_assert!(table.lines.len() <= lines);
            }
        }
    }
}
