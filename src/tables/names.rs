//! Work unit names and the paths of their files: a reversible map, safe on every store.
//!
//! A unit may be named anything. Its file keeps the name's folders and readable characters; the rest becomes `%XX`:
//! control characters, what stores and URLs treat specially (`# % ? * : \ …`), `=` (readers take `a=1/` for a partition),
//! and a leading `.` or `_` (readers skip such files, and `..` would climb). An empty folder name becomes a lone `%`, and a
//! folder named `x.parquet` loses its last letter to `%74`, because `x` may be a unit too. What a retry of a unit's rejects
//! gave lies beside the unit's file, as `<name>!<number>.parquet`: names have no `!` of their own.

use super::TableError;
use object_store::path::Path;

const SUFFIX: &str = ".parquet";

/// Which file of a work unit, in each table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnitFile {
    /// The work unit's name.
    pub unit: String,
    /// 0: the file that makes the unit done. 1 and up: what that retry of its rejects gave.
    pub retry: u32,
}

impl UnitFile {
    /// The file of the `retry`-th retry of `unit`.
    pub fn retry(unit: &str, retry: u32) -> UnitFile {
        UnitFile { unit: unit.to_owned(), retry }
    }

    /// The unit's file and those of its retries up to the `newest`, in this order.
    pub fn all(unit: &str, newest: u32) -> impl Iterator<Item = UnitFile> {
        (0..=newest).map(move |retry| UnitFile::retry(unit, retry))
    }
}

/// The file that makes a unit done.
impl From<&str> for UnitFile {
    fn from(unit: &str) -> UnitFile {
        UnitFile::retry(unit, 0)
    }
}

/// Where `file` lies in `table` under `root`: `<root>/<table>/<unit, escaped>.parquet`, `…!<retry>.parquet`.
pub fn path_of_file(root: &Path, table: &str, file: &UnitFile) -> Result<Path, TableError> {
    let name = escape(&file.unit);
    let retry = if file.retry == 0 { String::new() } else { format!("!{}", file.retry) };
    let path = format!("{root}/{table}/{name}{retry}{SUFFIX}");
    Path::parse(&path).map_err(|error| TableError::Format { path, detail: error.to_string() })
}

/// The unit's file in `table` under `root` that lies at `path`; none when no unit's file has that path.
pub fn file_of_path(root: &Path, table: &str, path: &Path) -> Option<UnitFile> {
    let rest = path.as_ref().strip_prefix(root.as_ref())?;
    let rest = if root.as_ref().is_empty() { rest } else { rest.strip_prefix('/')? };
    let name = rest.strip_prefix(table)?.strip_prefix('/')?.strip_suffix(SUFFIX)?;
    let (name, retry) = match name.rsplit_once('!') {
        Some((name, retry)) => {
            (name, retry.parse().ok().filter(|&number: &u32| number > 0 && number.to_string() == retry)?)
        }
        None => (name, 0),
    };
    let unit = unescape(name)?;
    (escape(&unit) == name).then_some(UnitFile { unit, retry })
}

fn escape(unit: &str) -> String {
    let folders = unit.matches('/').count();
    let mut out = String::with_capacity(unit.len());
    for (at, segment) in unit.split('/').enumerate() {
        if at > 0 {
            out.push('/');
        }
        if segment.is_empty() {
            out.push('%');
            continue;
        }
        let is_folder = at < folders;
        match segment.strip_suffix('t') {
            Some(rest) if is_folder && segment.ends_with(SUFFIX) => {
                escape_segment(rest, &mut out);
                out.push_str("%74");
            }
            _ => escape_segment(segment, &mut out),
        }
    }
    out
}

fn escape_segment(segment: &str, out: &mut String) {
    for (at, c) in segment.char_indices() {
        let plain = match c {
            '.' | '_' => at > 0,
            '-' | '@' | '+' | ',' | ' ' | '(' | ')' => true,
            c if c.is_ascii() => c.is_ascii_alphanumeric(),
            c => !c.is_control(),
        };
        if plain {
            out.push(c);
        } else {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
    }
}

/// Undoes [`escape`]; lenient: the caller checks that escaping leads back.
fn unescape(name: &str) -> Option<String> {
    let segments: Option<Vec<String>> = name.split('/').map(unescape_segment).collect();
    Some(segments?.join("/"))
}

fn unescape_segment(segment: &str) -> Option<String> {
    if segment == "%" {
        return Some(String::new());
    }
    let mut parts = segment.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const ODD: [&str; 24] = [
        "train/0001.tar",
        "train@000000000-000005000",
        "a b/ü 漢.tar",
        "x#1",
        "x%23",
        "100%",
        "..",
        ".",
        "../../etc",
        "",
        "/",
        "a//b",
        "a/",
        "/a",
        "a.parquet/b",
        "a",
        "k=v/x",
        "_hidden/.x",
        "q?*<>|\"\\:",
        "\u{1}\n",
        "%",
        "%74",
        "a!1",
        "!",
    ];

    #[test]
    fn ordinary_names_stay_readable() {
        let path = path_of_file(&Path::from("out"), "latents", &"train/0001.tar@000000000-000005000".into()).unwrap();
        assert_eq!(path.as_ref(), "out/latents/train/0001.tar@000000000-000005000.parquet");
        let path = path_of_file(&Path::default(), "latents", &"a b/ü.tar".into()).unwrap();
        assert_eq!(path.as_ref(), "latents/a b/ü.tar.parquet");
    }

    #[test]
    fn odd_names_have_paths_of_their_own() {
        let root = Path::from("out");
        let mut seen = BTreeMap::new();
        for (unit, retry) in ODD.into_iter().flat_map(|unit| [0, 1, 2, 10, u32::MAX].map(|retry| (unit, retry))) {
            let file = UnitFile::retry(unit, retry);
            let path = path_of_file(&root, "latents", &file).unwrap();
            assert_eq!(file_of_path(&root, "latents", &path).as_ref(), Some(&file), "{path}");
            assert_eq!(seen.insert(path, file), None);
        }
        // No file's path is a folder of another: a local disk could not hold both.
        for path in seen.keys() {
            for other in seen.keys().filter(|other| *other != path) {
                assert!(!other.as_ref().starts_with(&format!("{path}/")), "{path} and {other}");
            }
        }
    }

    #[test]
    fn paths_of_no_unit_are_not_mistaken() {
        let root = Path::from("out");
        for path in [
            "out/latents/a.txt",
            "out/latents/x%2g.parquet",
            "out/latents/%61.parquet",
            "out/rejects/a.parquet",
            "elsewhere/latents/a.parquet",
            "out/latents/_a.parquet",
            "out/latents/%ff.parquet",
            "outlatents/a.parquet",
            "out/latents/a!0.parquet",
            "out/latents/a!01.parquet",
            "out/latents/a!.parquet",
            "out/latents/a!x.parquet",
            "out/latents/a!1!2.parquet",
            "out/latents/a!4294967296.parquet",
        ] {
            assert_eq!(file_of_path(&root, "latents", &Path::parse(path).unwrap()), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn the_map_is_reversible(unit in "([a-c./%#_=t!1]|\\PC|\\.parquet|\u{7f}){0,12}", retry in 0u32..20, in_root: bool) {
            let root = if in_root { Path::default() } else { Path::from("some/where") };
            let file = UnitFile { unit, retry };
            let path = path_of_file(&root, "latents", &file).unwrap();
            prop_assert_eq!(file_of_path(&root, "latents", &path), Some(file));
        }
    }
}
