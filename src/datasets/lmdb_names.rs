//! A list of names, sorted as an LMDB's keys are, so that it can be split along the tree.

use super::DatasetError;
use super::folder::IMAGES;
use super::name_list::read_list;
use std::ops::Range;

const NAMED_IN_MESSAGE: usize = 5;

/// The keys that a list names: `<key>.webp`, a path that ends so, or the bare key, one per line.
#[derive(Debug)]
pub(super) struct Names {
    /// Where the list is, for messages.
    list: String,
    text: String,
    /// Place and length of each key in `text`, without repetitions, in the bytewise order of the keys.
    sorted: Vec<(u32, u32)>,
}

impl Names {
    /// Reads a list.
    ///
    /// # Errors
    /// [`DatasetError::Config`] when it cannot be read, or names nothing.
    pub(super) async fn read(list: &str) -> Result<Names, DatasetError> {
        let text = read_list(list).await?;
        Names::parse(list.to_owned(), text)
            .ok_or_else(|| DatasetError::Config(format!("dataset.list = {list} names no images")))
    }

    fn parse(list: String, text: String) -> Option<Names> {
        let start = text.as_ptr() as usize;
        let mut sorted = Vec::new();
        for key in text.lines().map(key).filter(|key| !key.is_empty()) {
            let at = u32::try_from(key.as_ptr() as usize - start).ok()?;
            sorted.push((at, u32::try_from(key.len()).ok()?));
        }
        sorted.sort_unstable_by(|a, b| part(&text, a).cmp(part(&text, b)));
        sorted.dedup_by(|a, b| part(&text, a) == part(&text, b));
        sorted.shrink_to_fit();
        (!sorted.is_empty()).then_some(Names { list, text, sorted })
    }

    /// All of them.
    pub(super) fn all(&self) -> Range<u32> {
        0..u32::try_from(self.sorted.len()).unwrap_or(u32::MAX)
    }

    fn slice(&self, range: &Range<u32>) -> &[(u32, u32)] {
        self.sorted.get(range.start as usize..range.end as usize).unwrap_or_default()
    }

    /// The place of `key`, if it is among those of `range`.
    pub(super) fn find(&self, range: &Range<u32>, key: &[u8]) -> Option<u32> {
        let found = self.slice(range).binary_search_by(|name| part(&self.text, name).cmp(key)).ok()?;
        Some(range.start + u32::try_from(found).ok()?)
    }

    /// Splits `range` before `key`.
    pub(super) fn split(&self, range: &Range<u32>, key: &[u8]) -> u32 {
        let below = self.slice(range).partition_point(|name| part(&self.text, name) < key);
        range.start + u32::try_from(below).unwrap_or(u32::MAX).min(range.end - range.start)
    }

    /// Checks that each name was found once. `found` has the places that the databases had, in any order; where `damaged`,
    /// those that are missing may be lost in the damage, which is reported elsewhere.
    ///
    /// # Errors
    /// [`DatasetError::Config`], as for the lists of folders.
    pub(super) fn check(&self, mut found: Vec<u32>, damaged: bool) -> Result<(), DatasetError> {
        let list = &self.list;
        found.sort_unstable();
        if let Some([twice, ..]) = found.windows(2).find(|pair| pair.first() == pair.last()) {
            let key = self.key(*twice);
            return Err(DatasetError::Config(format!(
                "dataset.list = {list}: several of the databases have an image {key}; name one of them in dataset.url"
            )));
        }
        let missing = self.sorted.len() - found.len().min(self.sorted.len());
        if missing == 0 {
            return Ok(());
        }
        let first: Vec<&str> = self
            .all()
            .filter(|at| found.binary_search(at).is_err())
            .take(NAMED_IN_MESSAGE)
            .map(|at| self.key(at))
            .collect();
        let (of, first) = (self.sorted.len(), first.join(", "));
        if damaged {
            tracing::warn!(missing, of, first, "names of the list that were not found: a database is damaged");
            return Ok(());
        }
        Err(DatasetError::Config(format!("{missing} of the {of} names in {list} are not in the database: {first}")))
    }

    fn key(&self, at: u32) -> &str {
        let name = self.sorted.get(at as usize);
        name.and_then(|name| std::str::from_utf8(part(&self.text, name)).ok()).unwrap_or_default()
    }
}

fn part<'a>(text: &'a str, (at, length): &(u32, u32)) -> &'a [u8] {
    let at = *at as usize;
    text.as_bytes().get(at..at + *length as usize).unwrap_or_default()
}

/// The key in a line: its last path segment, without an image's ending.
fn key(line: &str) -> &str {
    let name = line.trim().rsplit('/').next().unwrap_or_default();
    let ends = |ending: &&str| {
        let at = name.len().checked_sub(ending.len())?;
        let (stem, tail) = name.split_at_checked(at)?;
        (tail.eq_ignore_ascii_case(ending) && !stem.is_empty()).then_some(stem)
    };
    IMAGES.extensions.iter().find_map(ends).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Names {
        Names::parse("list.txt".to_owned(), text.to_owned()).unwrap()
    }

    #[test]
    fn lines_become_sorted_keys() {
        let names = names(" c.WEBP\r\na/b/ab.jpg\n\nab\n.webp\nb.x\n");
        let keys: Vec<&str> = names.all().map(|at| names.key(at)).collect();
        assert_eq!(keys, [".webp", "ab", "b.x", "c"]);
        assert_eq!((names.find(&names.all(), b"b.x"), names.find(&(0..2), b"b.x")), (Some(2), None));
        assert_eq!(
            (names.split(&names.all(), b"b"), names.split(&(3..4), b"b"), names.split(&(1..3), b"z")),
            (2, 3, 3)
        );
        assert!(Names::parse("x".to_owned(), "\n \n".to_owned()).is_none());
    }

    #[test]
    fn each_name_is_wanted_once() {
        let names = names("a\nb\nc\n");
        assert!(names.check(vec![2, 0, 1], false).is_ok());
        let text = names.check(vec![2], false).unwrap_err().to_string();
        assert_eq!(text, "2 of the 3 names in list.txt are not in the database: a, b");
        assert!(names.check(vec![2], true).is_ok(), "lost in the damage");
        let text = names.check(vec![0, 1, 2, 1], false).unwrap_err().to_string();
        assert!(text.contains("several") && text.contains("image b"), "{text}");
    }
}
