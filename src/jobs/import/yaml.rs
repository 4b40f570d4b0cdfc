//! The authors' YAML files as plain values, within narrow limits: whoever wrote them may mean harm.

use super::ImportError;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longest file that is read. The released ones have 3 KB.
const MAX_BYTES: u64 = 1 << 20;

/// A YAML file that was read.
#[derive(Debug)]
pub(super) struct Yaml {
    pub path: PathBuf,
    pub value: Value,
    /// What was read around, in a sentence.
    pub note: Option<String>,
}

/// Reads a file. One stray `>` in a line of its own at the end is read around: a released file has it.
///
/// # Errors
/// A file that is too long, is no YAML, or is beyond the limits on depth, nodes and aliases: with its line.
pub(super) fn read(path: &Path) -> Result<Yaml, ImportError> {
    let text = text(path)?;
    let invalid = |detail| ImportError::Yaml { path: path.to_owned(), detail };
    let done = |value, note| Ok(Yaml { path: path.to_owned(), value, note });
    match (parse(&text), without_stray(&text)) {
        (Ok(value), _) => done(value, None),
        (Err(_), Some((rest, line))) => {
            let note = format!("{}:{line}: a stray \">\" at the end was read around", path.display());
            done(parse(rest).map_err(invalid)?, Some(note))
        }
        (Err(detail), None) => Err(invalid(detail)),
    }
}

fn text(path: &Path) -> Result<String, ImportError> {
    let failed = |source| ImportError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        let detail = format!("it is longer than the {MAX_BYTES} bytes that are read");
        return Err(ImportError::Yaml { path: path.to_owned(), detail });
    }
    Ok(text)
}

/// One document as a value, or what is wrong with it, in one line.
fn parse(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_depth: 32,
            max_nodes: 20_000,
            max_events: 100_000,
            max_documents: 1,
            max_anchors: 64,
            max_aliases: 64,
            max_merge_keys: 64,
            max_recorded_anchor_events: 20_000,
            max_recorded_anchor_bytes: 1 << 20,
            max_total_scalar_bytes: 1 << 20,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 20_000,
            max_replay_stack_depth: 8,
        },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let message = error.to_string();
        message.split_whitespace().collect::<Vec<_>>().join(" ")
    })
}

/// The text before a last line that is only `>`, and that line's number.
fn without_stray(text: &str) -> Option<(&str, usize)> {
    let rest = text.trim_end().strip_suffix('>')?;
    let line = rest.matches('\n').count() + 1;
    let before = rest.rfind('\n').map_or("", |at| &rest[at + 1..]);
    before.trim().is_empty().then_some((rest, line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_text(text: &str) -> Result<Yaml, ImportError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    fn fault(text: &str) -> String {
        let message = read_text(text).unwrap_err().to_string();
        assert!(message.contains("a.yaml") && message.lines().count() == 1, "{message}");
        message
    }

    #[test]
    fn values_have_their_kinds() {
        let text = "a: True\nb: false\nc: 2.5e-6\nd: -3\ne: \"5\"\nf: ~\ng:\nh: [1, 1,2]  # why\ni:\n  - 16\n  - x/y.yaml\nj: 1.0e-08\n";
        let expected = json!({"a": true, "b": false, "c": 2.5e-6, "d": -3, "e": "5", "f": null, "g": null, "h": [1, 1, 2],
            "i": [16, "x/y.yaml"], "j": 1e-8});
        assert_eq!(read_text(text).unwrap().value, expected);
        assert_eq!(read_text("").unwrap().value, Value::Null);
    }

    #[test]
    fn the_stray_sign_of_a_released_file_is_read_around_with_a_word() {
        let yaml = read_text("configs:\n  - \"a.yaml\"\n  - \"b.yaml\"\n>\n").unwrap();
        assert_eq!(yaml.value, json!({"configs": ["a.yaml", "b.yaml"]}));
        assert!(yaml.note.unwrap().ends_with("a.yaml:4: a stray \">\" at the end was read around"));
        // Where it means something, or stands elsewhere, nothing is read around.
        assert_eq!(read_text("a: >\n").unwrap().note, None);
        fault("a: 1\n>\nb: 2\n");
        fault("a: [1\n>\n");
    }

    #[test]
    fn hostile_files_are_refused_within_limits() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let before = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", [before.as_str(); 9].join(","));
        }
        fault(&bomb);
        fault(&"[".repeat(10_000));
        fault(&(0..200).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>());
        fault(&format!("a: [{}]\n", "1,".repeat(50_000)));
        fault("a: &x [*x]\n");
        fault("a: 1\na: 2\n");
        fault("a: 1\n---\nb: 2\n");
        assert!(fault(&"# long\n".repeat(200_000)).contains("longer than"));
        assert!(read_text("a: !!python/object/apply:os.system [ls]\n").map_or(true, |yaml| yaml.value.is_object()));
        let folder = tempfile::tempdir().unwrap();
        assert!(read(&folder.path().join("none.yaml")).unwrap_err().to_string().contains("none.yaml"));
    }
}
