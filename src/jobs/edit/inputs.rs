//! Images and their masks: two folders, matched by the names of their files.

use crate::datasets::{
    DatasetError, DatasetOptions, Folder, IMAGES, Listing, Location, NotDownloaded, Object, ReadAhead, Reader, Sample,
    Unit,
};
use crate::digest::hex;
use crate::flow::{BoxError, Emitter};
use crate::imaging::Preprocess;
use crate::jobs::{JobError, reading};
use crate::reject::{Reason, Reject};
use bytes::Bytes;
use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;

/// How many names a message gives.
const NAMED: usize = 5;

/// Where the images and masks of a run are.
pub(super) struct Inputs {
    pub reader: Arc<Folder>,
    masks: Arc<Masks>,
    /// How many images there are.
    pub images: u64,
    /// SHA-256 over the names and sizes of all images and masks.
    pub digest: String,
}

/// The masks by the name of the image they belong to.
struct Masks {
    location: Location,
    listing: Listing,
    by_stem: HashMap<String, usize>,
    max_bytes: u64,
}

/// An image and its mask, as they lie in their files.
pub(super) struct Pair {
    /// The image's number over the whole run.
    pub number: u64,
    pub unit: Arc<Unit>,
    pub sample: Sample,
    pub mask: Bytes,
    pub mask_name: String,
}

impl Inputs {
    /// Lists both folders. Every image must have a mask of its name, whatever the endings.
    pub async fn find(images: &str, masks: &str, options: DatasetOptions) -> Result<Inputs, JobError> {
        let usage = |error: DatasetError| JobError::Usage(error.to_string());
        let location = Location::open(images).await.map_err(usage)?;
        let listed = Listing::find(&location, &IMAGES).await.map_err(usage)?;
        let masks = Masks::find(masks, options.max_bytes).await?;
        let mut stems = HashMap::with_capacity(listed.objects.len());
        for image in &listed.objects {
            if let Some(other) = stems.insert(stem(&image.path), &image.path) {
                return Err(JobError::Usage(format!(
                    "{images}: {other} and {} have one name, so one mask would be for both; rename one",
                    image.path
                )));
            }
        }
        let bare: Vec<&str> = listed
            .objects
            .iter()
            .filter(|image| !masks.by_stem.contains_key(&stem(&image.path)))
            .map(|image| image.path.as_str())
            .collect();
        if !bare.is_empty() {
            let (count, names) = (bare.len(), bare[..bare.len().min(NAMED)].join(", "));
            return Err(JobError::Usage(format!(
                "{count} of the {} images at {images} have no mask of their name at {}: {names}",
                listed.objects.len(),
                masks.location.url
            )));
        }
        let spare = masks.by_stem.keys().filter(|stem| !stems.contains_key(*stem)).count();
        if spare > 0 {
            tracing::warn!("{spare} masks at {} belong to no image", masks.location.url);
        }
        let digest = digest(&listed, &masks);
        let images = listed.objects.len() as u64;
        Ok(Inputs { reader: Arc::new(Folder::new(location, options)), masks: Arc::new(masks), images, digest })
    }
}

/// A file's name without directories and ending.
fn stem(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_owned()
}

/// SHA-256 over names and sizes, in bytewise order of the images' names, each followed by its mask's.
fn digest(images: &Listing, masks: &Masks) -> String {
    let mut order: Vec<_> = images.objects.iter().collect();
    order.sort_unstable_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    let mut hash = Sha256::new();
    for image in order {
        let mask = masks.by_stem.get(&stem(&image.path)).and_then(|&at| masks.listing.objects.get(at));
        for file in [Some(image), mask].into_iter().flatten() {
            hash.update((file.path.len() as u64).to_le_bytes());
            hash.update(file.path.as_bytes());
            hash.update(file.size.to_le_bytes());
        }
    }
    hex(&hash.finalize())
}

impl Masks {
    async fn find(url: &str, max_bytes: u64) -> Result<Masks, JobError> {
        let usage = |error: DatasetError| JobError::Usage(error.to_string());
        let location = Location::open(url).await.map_err(usage)?;
        let listing = Listing::find(&location, &IMAGES).await.map_err(usage)?;
        let mut by_stem = HashMap::with_capacity(listing.objects.len());
        for (at, mask) in listing.objects.iter().enumerate() {
            if let Some(other) = by_stem.insert(stem(&mask.path), at) {
                let other = listing.objects.get(other).map_or("", |mask| mask.path.as_str());
                return Err(JobError::Usage(format!("{url}: {other} and {} have one name; remove one", mask.path)));
            }
        }
        Ok(Masks { location, listing, by_stem, max_bytes })
    }

    /// The mask of the image at `path`: its name and bytes; none of those too large to be read.
    async fn read(&self, path: &str) -> Result<(String, Option<Bytes>), DatasetError> {
        let at = self.by_stem.get(&stem(path)).and_then(|&at| self.listing.objects.get(at));
        let mask = at.ok_or_else(|| DatasetError::Changed {
            path: path.to_owned(),
            detail: "it was not there when images and masks were matched".to_owned(),
        })?;
        if mask.size == 0 || mask.size > self.max_bytes {
            return Ok((mask.path.clone(), None));
        }
        let place = self.listing.location(&mask.path)?;
        let object = Object::new(self.location.store.clone(), place, mask, &ReadAhead::default());
        Ok((mask.path.clone(), Some(object.get(0..mask.size).await?)))
    }
}

impl Pair {
    /// The memory a pair takes on its way: both files, their pixels while they are decoded, the crop.
    pub fn cost(&self, preprocess: &Preprocess) -> u64 {
        preprocess.cost(&self.sample.image).saturating_add(preprocess.cost(&self.mask))
    }

    /// Why this pair is not edited.
    pub fn reject(&self, stage: &'static str, reason: Reason, message: String) -> Reject {
        Reject {
            source: self.sample.source.clone(),
            key: self.sample.key.clone(),
            index: self.sample.index,
            unit: self.unit.name.clone(),
            stage,
            reason,
            message,
        }
    }
}

/// Reads the pairs of the units, one after the other.
pub(super) async fn read(
    inputs: Arc<Inputs>,
    units: Vec<Arc<Unit>>,
    out: Emitter<Unit, Pair, Reject>,
) -> Result<(), BoxError> {
    let masks = inputs.masks.clone();
    let item = move |unit: Arc<Unit>, sample: Sample| -> BoxFuture<'static, Result<Pair, DatasetError>> {
        let masks = masks.clone();
        Box::pin(async move {
            let (mask_name, mask) = masks.read(&sample.key).await?;
            let start = unit.range.as_ref().map_or(0, |range| range.start);
            let number = start.saturating_add(sample.index);
            // A mask that was not read is one that does not decode.
            Ok(Pair { number, unit, sample, mask: mask.unwrap_or_default(), mask_name })
        })
    };
    let reader: Arc<dyn Reader> = inputs.reader.clone();
    reading::read(reader, units, |_, _| true, item, NotDownloaded::default(), out).await
}
