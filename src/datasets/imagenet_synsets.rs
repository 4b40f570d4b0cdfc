//! The 1000 synsets of ILSVRC2012. An image's class is the rank of its synset's id, the wnid, among **all** of them in
//! ascending order, whichever are present; neither the devkit's `ILSVRC2012_ID` nor a name (names are not unique) is one
//! (FORMATS §0, §4).

use std::sync::LazyLock;

/// How many classes there are.
pub(super) const CLASSES: u32 = 1000;

static TABLE: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let lines = include_str!("imagenet_synsets.txt").lines();
    lines.filter(|line| !line.starts_with('#')).collect()
});

/// Whether this is the form of a wnid: `n` and eight digits.
pub(super) fn is_wnid(text: &str) -> bool {
    text.strip_prefix('n').is_some_and(|digits| digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The class of a wnid; `None` for one that is not among the 1000.
pub(crate) fn class_of(wnid: &str) -> Option<i32> {
    TABLE.binary_search(&wnid).ok().and_then(|rank| i32::try_from(rank).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole_and_in_order() {
        assert_eq!(TABLE.len(), CLASSES as usize);
        assert!(TABLE.iter().all(|wnid| is_wnid(wnid)));
        assert!(TABLE.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn classes_are_those_everyone_uses() {
        // Tench, hen, kit fox, toilet tissue.
        for (wnid, class) in [("n01440764", 0), ("n01514859", 8), ("n02119789", 278), ("n15075141", 999)] {
            assert_eq!(class_of(wnid), Some(class), "{wnid}");
        }
        // A word that a synset shares with the hen, and what is no wnid at all.
        assert_eq!(class_of("n07646067"), None);
        assert!(!is_wnid("n0144076") && !is_wnid("tench") && !is_wnid("n0144076x") && !is_wnid("#01440764"));
    }
}
