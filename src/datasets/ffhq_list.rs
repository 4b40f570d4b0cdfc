//! NVIDIA's split of FFHQ: `ffhq-dataset-v2.json` says of each image whether it is for training or validation (FORMATS §2).

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// What is read of the file; its 267 MB are mostly landmarks.
#[derive(Deserialize)]
struct Entry {
    category: String,
}

/// Splits a list's name into that of the JSON file and the category: `ffhq-dataset-v2.json#training`.
pub(super) fn split(list: &str) -> Option<(&str, &str)> {
    list.rsplit_once('#')
        .filter(|(file, category)| file.to_ascii_lowercase().ends_with(".json") && !category.is_empty())
}

/// The names of the images of a category, one per line in the order of their indices, as CompVis's lists have them; or the end
/// of a sentence that says what is wrong.
pub(super) fn names(json: &str, category: &str) -> Result<String, String> {
    let entries: BTreeMap<u64, Entry> = serde_json::from_str(json)
        .map_err(|error| format!("is not FFHQ's metadata, an object of images with a category each ({error})"))?;
    let of_category = entries.iter().filter(|(_, entry)| entry.category == category);
    let names: String = of_category.map(|(index, _)| format!("{index:05}.png\n")).collect();
    if names.is_empty() {
        let known: BTreeSet<&str> = entries.values().map(|entry| entry.category.as_str()).take(1000).collect();
        let known = known.into_iter().take(5).collect::<Vec<_>>().join(", ");
        return Err(format!("has no image of category {category:?}; there are {known}"));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_category_becomes_names() {
        let json = r#"{"60001": {"category": "validation", "image": {"face_landmarks": [[1, 2]]}},
            "7": {"category": "training"}, "123": {"category": "training"}}"#;
        assert_eq!(names(json, "training").unwrap(), "00007.png\n00123.png\n");
        assert_eq!(names(json, "validation").unwrap(), "60001.png\n");
        let message = names(json, "test").unwrap_err();
        assert_eq!(message, "has no image of category \"test\"; there are training, validation");
        assert!(names("[1]", "training").unwrap_err().starts_with("is not FFHQ's metadata"));
        assert_eq!(split("a/ffhq-dataset-v2.json#training"), Some(("a/ffhq-dataset-v2.json", "training")));
        assert_eq!((split("a#b.txt"), split("a.json"), split("a.json#")), (None, None, None));
    }
}
