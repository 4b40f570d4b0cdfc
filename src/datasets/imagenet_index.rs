//! The index of a tar of tars: where its members lie, kept between runs.
//!
//! It is kept for sources with an entity tag that survives a copy, and only believed for the source of the same path, size and
//! entity tag: there it cannot be stale. What is broken is ignored with a word. A reader checks each member's header all the
//! same before it reads the member, so that not even a forged index gives wrong images.

use super::listing::{Listing, Wanted};
use super::range_reader::{Object, ReadAhead};
use super::store::Location;
use super::tar_parts::Place;
use super::{DatasetError, Source};
use crate::digest::hex;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const VERSION: u32 = 1;
/// A larger file is no index: a thousand members take a hundred kilobytes.
const MAX_BYTES: u64 = 256 << 20;

/// The file: `<path of the source>.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    version: u32,
    path: String,
    size: u64,
    etag: String,
    /// SHA-256 of the JSON of `members`.
    sha256: String,
    /// Every member of the archive.
    members: Vec<Place>,
}

fn digest(members: &[Place]) -> Option<String> {
    serde_json::to_vec(members).ok().map(|text| hex(&Sha256::digest(&text)))
}

/// The URL of the index of `source` in the directory `url`.
fn url_of(url: &str, source: &Source) -> String {
    format!("{}/{}.json", url.trim_end_matches('/'), source.path)
}

/// The members of `source` by the index in the directory `url`, where there is a good one.
pub(super) async fn load(url: &str, source: &Source) -> Option<Vec<Place>> {
    let etag = source.etag.as_deref()?;
    let url = url_of(url, source);
    let text = match fetch(&url).await {
        Ok(text) => text?,
        Err(error) => {
            tracing::warn!(%url, %error, "the index cannot be read: the archive's headers are walked instead");
            return None;
        }
    };
    match read(&text, source, etag) {
        Ok(members) => {
            tracing::info!(%url, members = members.len(), "members by the index");
            Some(members)
        }
        Err(why) => {
            tracing::warn!(%url, why, "the index is ignored: the archive's headers are walked instead");
            None
        }
    }
}

async fn fetch(url: &str) -> Result<Option<Vec<u8>>, DatasetError> {
    let location = Location::open(url).await?;
    let listing = match Listing::find(&location, &Wanted { what: "index", extensions: &[".json"] }).await {
        Ok(listing) => listing,
        // It is not there: nothing was kept yet.
        Err(DatasetError::Config(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let [file] = &listing.objects[..] else { return Ok(None) };
    if file.size > MAX_BYTES {
        return Err(DatasetError::Config(format!("it has {} bytes", file.size)));
    }
    let object = Object::new(location.store.clone(), listing.location(&file.path)?, file, &ReadAhead::default());
    object.get(0..file.size).await.map(|bytes| Some(bytes.to_vec()))
}

/// What the text of an index says of `source`, or why it is of no use.
fn read(text: &[u8], source: &Source, etag: &str) -> Result<Vec<Place>, String> {
    let index: Index = serde_json::from_slice(text).map_err(|error| format!("it is damaged ({error})"))?;
    if index.version != VERSION {
        return Err(format!("it is of version {}, not {VERSION}", index.version));
    }
    if (index.path.as_str(), index.size, index.etag.as_str()) != (&source.path, source.size, etag) {
        return Err("it is stale: the archive has changed".to_owned());
    }
    if digest(&index.members).as_ref() != Some(&index.sha256) {
        return Err("it is damaged: its checksum does not fit".to_owned());
    }
    // Members lie one behind the other from the archive's first byte: none was left out.
    let mut next = 0;
    for place in &index.members {
        if place.start != next || place.end <= place.start || place.end > source.size {
            return Err(format!("it is damaged: {} cannot lie where it says", place.name));
        }
        next = place.next();
    }
    Ok(index.members)
}

/// Keeps the members of `source` in the directory `url`. A failure is only logged: the next run walks again.
pub(super) async fn store(url: &str, source: &Source, members: &[Place]) {
    let (Some(etag), Some(sha256)) = (source.etag.clone(), digest(members)) else { return };
    let url = url_of(url, source);
    let index = Index {
        version: VERSION,
        path: source.path.clone(),
        size: source.size,
        etag,
        sha256,
        members: members.to_vec(),
    };
    if let Err(error) = put(&url, &index).await {
        tracing::warn!(%url, error, "the index cannot be kept: the next run will walk the archive's headers again");
    }
}

async fn put(url: &str, index: &Index) -> Result<(), String> {
    let location = Location::open(url).await.map_err(|error| error.to_string())?;
    let path = location.patterns.first().map(Path::parse).ok_or("it has no path")?;
    let path = path.map_err(|error| error.to_string())?;
    let text = serde_json::to_vec(index).map_err(|error| error.to_string())?;
    location.store.put(&path, text.into()).await.map_err(|error| error.to_string())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        Source { path: "sub/train.tar".to_owned(), size: 5000, etag: Some("\"v1\"".to_owned()) }
    }

    fn place(name: &str, start: u64, end: u64) -> Place {
        Place { name: name.to_owned(), start, end, file: true }
    }

    fn members() -> Vec<Place> {
        vec![place("n01440764.tar", 0, 1000), place("notes", 1024, 1536), place("n01443537.tar", 1536, 4000)]
    }

    #[tokio::test]
    async fn an_index_is_read_back_for_its_source_alone() {
        let directory = tempfile::tempdir().unwrap();
        let url = directory.path().display().to_string();
        assert_eq!(load(&url, &source()).await, None);
        store(&url, &source(), &members()).await;
        assert!(directory.path().join("sub/train.tar.json").is_file());
        assert_eq!(load(&url, &source()).await, Some(members()));
        for other in [
            Source { size: 5001, ..source() },
            Source { etag: Some("\"v2\"".to_owned()), ..source() },
            Source { etag: None, ..source() },
        ] {
            assert_eq!(load(&url, &other).await, None, "{other:?}");
        }
        // Without an entity tag nothing is kept; a directory that cannot be written to is no failure.
        store(&url, &Source { path: "local.tar".to_owned(), etag: None, ..source() }, &members()).await;
        assert!(!directory.path().join("local.tar.json").exists());
        store("http://127.0.0.1:1/index", &source(), &members()).await;
    }

    #[tokio::test]
    async fn a_broken_index_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let url = directory.path().display().to_string();
        store(&url, &source(), &members()).await;
        let file = directory.path().join("sub/train.tar.json");
        let good = std::fs::read(&file).unwrap();
        for at in (0..good.len()).step_by(7) {
            std::fs::write(&file, &good[..at]).unwrap();
            assert_eq!(load(&url, &source()).await, None, "cut at {at}");
            let mut flipped = good.clone();
            flipped[at] ^= 1;
            std::fs::write(&file, &flipped).unwrap();
            assert_eq!(load(&url, &source()).await, None, "flipped at {at}");
        }
        let forged = [
            vec![place("a", 512, 1000)],
            vec![place("a", 0, 1000), place("b", 1000, 1500)],
            vec![place("a", 0, 6000)],
            vec![place("a", 0, 0)],
            vec![place("a", 0, 1000), place("c", 1536, 4000)],
            vec![place("a", 0, u64::MAX)],
        ];
        for members in forged {
            store(&url, &source(), &members).await;
            assert_eq!(load(&url, &source()).await, None, "{members:?}");
        }
    }
}
