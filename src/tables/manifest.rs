//! `manifest.json`, `samples-manifest.json`: what an output was begun with. Written once, compared by every run that goes on.

use super::run::Run;
use super::{Difference, Identity, Provenance, TableError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What an output was begun with: the run's identity in clear, and all units with their sources.
///
/// It depends on identity and dataset alone, so every rank of every run writes the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(bound = "I: Run")]
pub struct Manifest<I = Identity> {
    /// SHA-256 of the canonical JSON of `identity`.
    pub identity_sha256: String,
    pub identity: I,
    /// Height and width of the token grid.
    pub grid: (u32, u32),
    /// K: every token is below it.
    pub codebook_size: u32,
    /// Crops times flips.
    pub rows_per_image: u32,
    /// All units of the dataset, in the dataset's order.
    pub units: Vec<ManifestUnit>,
}

/// A work unit and the objects it reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestUnit {
    pub name: String,
    pub sources: Vec<SourceFile>,
}

/// An object a unit reads, as it was when the output was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Path relative to the dataset's root.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Entity tag, where the store has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

impl<I: Run> Manifest<I> {
    /// The manifest of a run with this provenance over these units.
    pub fn new(provenance: &Provenance<I>, units: Vec<ManifestUnit>) -> Manifest<I> {
        Manifest {
            identity_sha256: provenance.identity.sha256(),
            identity: provenance.identity.clone(),
            grid: provenance.grid,
            codebook_size: provenance.codebook_size,
            rows_per_image: provenance.rows_per_image,
            units,
        }
    }

    /// What every file of the directory must say of itself.
    pub fn provenance(&self) -> Provenance<I> {
        Provenance {
            identity: self.identity.clone(),
            grid: self.grid,
            codebook_size: self.codebook_size,
            rows_per_image: self.rows_per_image,
        }
    }

    /// The manifest as it stands on disk: readable JSON, one line per unit.
    pub fn to_json(&self) -> String {
        let line = |value: serde_json::Result<String>| value.expect("strings, numbers and lists of them are JSON");
        let units: Vec<String> =
            self.units.iter().map(|unit| format!("\n    {}", line(serde_json::to_string(unit)))).collect();
        let head = Manifest::new(&self.provenance(), Vec::new());
        let head = line(serde_json::to_string_pretty(&head));
        let list = if units.is_empty() { "[]".to_owned() } else { format!("[{}\n  ]", units.join(",")) };
        // The head ends with its empty list of units.
        match head.strip_suffix("[]\n}") {
            Some(head) => format!("{head}{list}\n}}\n"),
            None => format!("{head}\n"),
        }
    }

    /// Reads the text of the manifest at `path`.
    pub(crate) fn from_json(path: &str, text: &[u8]) -> Result<Manifest<I>, TableError> {
        let wrong = |detail: String| TableError::Format { path: path.to_owned(), detail };
        let manifest: Manifest<I> = serde_json::from_slice(text)
            .map_err(|error| wrong(format!("not a manifest of this version of imagebart: {error}")))?;
        if manifest.identity.sha256() != manifest.identity_sha256 {
            return Err(wrong("identity_sha256 is not the hash of identity: the file was edited".to_owned()));
        }
        Ok(manifest)
    }

    /// Whether a run that would write `self` may go on in the directory whose manifest `recorded` lies at `path`.
    pub(crate) fn check(&self, recorded: &Manifest<I>, path: &str) -> Result<(), TableError> {
        let differences: Vec<Difference> = self.provenance().difference(&recorded.provenance());
        if !differences.is_empty() {
            return Err(TableError::Identity { path: path.to_owned(), differences });
        }
        match self.dataset_change(recorded) {
            Some(detail) => Err(TableError::Dataset { path: path.to_owned(), detail }),
            None => Ok(()),
        }
    }

    /// The first way in which the dataset is not the recorded one.
    fn dataset_change(&self, recorded: &Manifest<I>) -> Option<String> {
        let theirs: BTreeMap<&str, &ManifestUnit> =
            recorded.units.iter().map(|unit| (unit.name.as_str(), unit)).collect();
        for unit in &self.units {
            let Some(recorded) = theirs.get(unit.name.as_str()) else {
                return Some(format!("the dataset has a new work unit, {}", unit.name));
            };
            if let Some(change) = unit.change(recorded) {
                return Some(change);
            }
        }
        let ours: BTreeMap<&str, ()> = self.units.iter().map(|unit| (unit.name.as_str(), ())).collect();
        if let Some(unit) = recorded.units.iter().find(|unit| !ours.contains_key(unit.name.as_str())) {
            return Some(format!("the dataset lacks the work unit {}", unit.name));
        }
        let same_order = self.units.iter().zip(&recorded.units).all(|(ours, theirs)| ours.name == theirs.name);
        (!same_order).then(|| "the dataset's work units come in another order".to_owned())
    }
}

impl ManifestUnit {
    /// The first way in which our sources are not the recorded ones. ETags count only where both sides have one.
    fn change(&self, recorded: &ManifestUnit) -> Option<String> {
        for (ours, theirs) in self.sources.iter().zip(&recorded.sources) {
            if ours.path != theirs.path {
                return Some(format!("the unit {} reads {} in place of {}", self.name, ours.path, theirs.path));
            }
            if ours.size != theirs.size {
                return Some(format!("{} has {} bytes, {} recorded", ours.path, ours.size, theirs.size));
            }
            if let (Some(tag), Some(recorded)) = (&ours.etag, &theirs.etag)
                && tag != recorded
            {
                return Some(format!("{} has changed (ETag {tag}, {recorded} recorded)", ours.path));
            }
        }
        let (ours, theirs) = (self.sources.len(), recorded.sources.len());
        (ours != theirs).then(|| format!("the unit {} reads {ours} files, {theirs} recorded", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::tests::example;
    use super::*;

    fn manifest() -> Manifest {
        let provenance = Provenance { identity: example(), grid: (16, 16), codebook_size: 1024, rows_per_image: 1 };
        let unit = |name: &str, size| ManifestUnit {
            name: name.to_owned(),
            sources: vec![SourceFile { path: name.to_owned(), size, etag: None }],
        };
        Manifest::new(&provenance, vec![unit("a.tar", 10), unit("b\"\n.tar", 20)])
    }

    #[test]
    fn the_file_is_read_back_as_written() {
        let path = "out/manifest.json";
        let manifest = manifest();
        let json = manifest.to_json();
        assert_eq!(Manifest::from_json(path, json.as_bytes()).unwrap(), manifest);
        assert_eq!(json.lines().filter(|line| line.contains(".tar")).count(), 2, "{json}");
        let empty = Manifest { units: Vec::new(), ..manifest };
        assert_eq!(Manifest::from_json(path, empty.to_json().as_bytes()).unwrap(), empty);
        let edited = json.replace("\"seed\": 23", "\"seed\": 24");
        assert!(Manifest::<Identity>::from_json(path, edited.as_bytes()).unwrap_err().to_string().contains("edited"));
    }

    #[test]
    fn what_changed_is_named() {
        let path = "out/manifest.json";
        let ours = manifest();
        ours.check(&ours, path).unwrap();
        let says = |change: &dyn Fn(&mut Manifest)| {
            let mut recorded = ours.clone();
            change(&mut recorded);
            ours.check(&recorded, path).unwrap_err().to_string()
        };
        let text = says(&|recorded| recorded.units[0].sources[0].size = 11);
        assert!(text.contains("a.tar has 10 bytes, 11 recorded"), "{text}");
        let text = says(&|recorded| drop(recorded.units.pop()));
        assert!(text.contains("new work unit"), "{text}");
        let text = says(&|recorded| recorded.units.swap(0, 1));
        assert!(text.contains("another order"), "{text}");
        let text = says(&|recorded| recorded.units[1].name = "c.tar".to_owned());
        assert!(text.contains("new work unit, b"), "{text}");
        let text = says(&|recorded| recorded.identity.batch_size = 4);
        assert!(text.contains("batch_size: 8 here, 4 recorded"), "{text}");
        let text = says(&|recorded| recorded.codebook_size = 973);
        assert!(text.contains("codebook_size: 1024 here, 973 recorded"), "{text}");
    }

    #[test]
    fn etags_count_where_both_sides_have_one() {
        let path = "manifest.json";
        let mut ours = manifest();
        let mut recorded = manifest();
        ours.units[0].sources[0].etag = Some("new".to_owned());
        // The recorded run read a copy on a store without ETags.
        ours.check(&recorded, path).unwrap();
        recorded.units[0].sources[0].etag = Some("old".to_owned());
        let text = ours.check(&recorded, path).unwrap_err().to_string();
        assert!(text.contains("ETag new, old recorded"), "{text}");
    }
}
