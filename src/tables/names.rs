//! Work unit names and the paths of their files: a reversible map, safe on every store.
//!
//! A unit may be named anything. Its file keeps the name's folders and readable characters; the rest becomes `%XX`:
//! control characters, what stores and URLs treat specially (`# % ? * : \ …`), `=` (readers take `a=1/` for a partition),
//! and a leading `.` or `_` (readers skip such files, and `..` would climb). An empty folder name becomes a lone `%`, and a
//! folder named `x.parquet` loses its last letter to `%74`, because `x` may be a unit too.

use super::TableError;
use object_store::path::Path;

const SUFFIX: &str = ".parquet";

/// Where the file of `unit` in `table` lies under `root`: `<root>/<table>/<unit, escaped>.parquet`.
pub fn path_of_unit(root: &Path, table: &str, unit: &str) -> Result<Path, TableError> {
    let name = escape(unit);
    let path = format!("{root}/{table}/{name}{SUFFIX}");
    Path::parse(&path).map_err(|error| TableError::Format { path, detail: error.to_string() })
}

/// The unit whose file in `table` under `root` is `path`; none when no unit's file has that path.
pub fn unit_of_path(root: &Path, table: &str, path: &Path) -> Option<String> {
    let rest = path.as_ref().strip_prefix(root.as_ref())?;
    let rest = if root.as_ref().is_empty() { rest } else { rest.strip_prefix('/')? };
    let name = rest.strip_prefix(table)?.strip_prefix('/')?.strip_suffix(SUFFIX)?;
    let unit = unescape(name)?;
    (escape(&unit) == name).then_some(unit)
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

    const ODD: [&str; 22] = [
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
    ];

    #[test]
    fn ordinary_names_stay_readable() {
        let path = path_of_unit(&Path::from("out"), "latents", "train/0001.tar@000000000-000005000").unwrap();
        assert_eq!(path.as_ref(), "out/latents/train/0001.tar@000000000-000005000.parquet");
        let path = path_of_unit(&Path::default(), "latents", "a b/ü.tar").unwrap();
        assert_eq!(path.as_ref(), "latents/a b/ü.tar.parquet");
    }

    #[test]
    fn odd_names_have_paths_of_their_own() {
        let root = Path::from("out");
        let mut seen = BTreeMap::new();
        for unit in ODD {
            let path = path_of_unit(&root, "latents", unit).unwrap();
            assert_eq!(unit_of_path(&root, "latents", &path).as_deref(), Some(unit), "{path}");
            assert_eq!(seen.insert(path, unit), None);
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
        ] {
            assert_eq!(unit_of_path(&root, "latents", &Path::parse(path).unwrap()), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn the_map_is_reversible(unit in "([a-c./%#_=t]|\\PC|\\.parquet|\u{7f}){0,12}", in_root: bool) {
            let root = if in_root { Path::default() } else { Path::from("some/where") };
            let path = path_of_unit(&root, "latents", &unit).unwrap();
            prop_assert_eq!(unit_of_path(&root, "latents", &path), Some(unit));
        }
    }
}
