//! Images and masks in two folders, matched by the names of their files without directories and endings.

use super::{DatasetError, DatasetOptions, Flaw, Pair, changed};
use crate::datasets::Source;
use crate::datasets::folder::IMAGES;
use crate::datasets::listing::Listing;
use crate::datasets::range_reader::{Object, ReadAhead};
use crate::datasets::store::Location;
use crate::datasets::task::Task;
use crate::digest::hex;
use crate::reject::Reason;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// How many names a message gives.
const NAMED: usize = 5;

/// Two folders, or one where masks are not read. Rows are the images in bytewise order of their paths.
pub struct PairFolders {
    images: Files,
    masks: Option<Masks>,
    options: DatasetOptions,
}

/// The image files of a folder.
struct Files {
    location: Location,
    listing: Listing,
}

/// The masks by the name of the image they belong to.
struct Masks {
    files: Files,
    by_name: HashMap<String, usize>,
}

/// A file's name without directories and ending.
fn name(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.rsplit_once('.').map_or(name, |(name, _)| name)
}

impl Files {
    async fn find(url: &str) -> Result<Files, DatasetError> {
        let location = Location::open(url).await?;
        let mut listing = Listing::find(&location, &IMAGES).await?;
        listing.objects.sort_unstable_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
        Ok(Files { location, listing })
    }

    fn get(&self, at: usize) -> Option<&Source> {
        self.listing.objects.get(at)
    }

    /// The files by their names, which must differ for the reason `why`.
    fn by_name(&self, why: &str) -> Result<HashMap<String, usize>, DatasetError> {
        let mut names = HashMap::with_capacity(self.listing.objects.len());
        for (at, file) in self.listing.objects.iter().enumerate() {
            if let Some(other) = names.insert(name(&file.path).to_owned(), at) {
                let other = self.get(other).map_or("", |file| file.path.as_str());
                let (url, path) = (&self.location.url, &file.path);
                return Err(DatasetError::Config(format!(
                    "{url}: {other} and {path} have one name, {why}; rename one"
                )));
            }
        }
        Ok(names)
    }

    /// The bytes of a file; what is wrong with it where it is empty or has more than `max_bytes`.
    fn fetch(&self, file: &Source, options: &DatasetOptions) -> Result<Fetched, DatasetError> {
        match (file.size, options.max_bytes) {
            (0, _) => return Ok(Fetched::Bad(Reason::Empty, "it has no bytes".to_owned())),
            (size, limit) if size > limit => {
                let message = format!("it has {size} bytes, more than the limit of {limit}");
                return Ok(Fetched::Bad(Reason::TooLarge, message));
            }
            _ => {}
        }
        let place = self.listing.location(&file.path)?;
        let object = Object::new(self.location.store.clone(), place, file, &ReadAhead::default());
        let size = file.size;
        Ok(Fetched::Coming(Task::spawn(async move { object.get(0..size).await })))
    }
}

/// A file that is being read, or not.
enum Fetched {
    Coming(Task<Bytes>),
    Bad(Reason, String),
}

impl Fetched {
    async fn join(self, stage: &'static str) -> Result<Result<Bytes, Flaw>, DatasetError> {
        match self {
            Fetched::Coming(task) => task.join().await.map(Ok),
            Fetched::Bad(reason, message) => Ok(Err(Flaw { stage, reason, message })),
        }
    }
}

impl PairFolders {
    /// Lists the folders at `images` and `masks`. Every image must have a mask of its name, whatever the endings; without a folder
    /// of masks none is read.
    ///
    /// # Errors
    /// [`DatasetError::Config`]: nothing there, two files of one name, images without a mask.
    pub async fn find(images: &str, masks: Option<&str>, options: DatasetOptions) -> Result<PairFolders, DatasetError> {
        let images = Files::find(images).await?;
        let names = images.by_name("and what is drawn is named after them")?;
        let masks = match masks {
            Some(url) => {
                let files = Files::find(url).await?;
                let by_name = files.by_name("so either would be the mask of one image")?;
                Some(Masks { files, by_name })
            }
            None => None,
        };
        if let Some(masks) = &masks {
            masks.check(&images, &names)?;
        }
        Ok(PairFolders { images, masks, options })
    }

    /// The images' names, in their order.
    pub fn keys(&self) -> Arc<[String]> {
        self.images.listing.objects.iter().map(|image| name(&image.path).to_owned()).collect()
    }

    /// The path of an image, relative to the folder.
    pub(super) fn path(&self, row: u64) -> &str {
        self.image(row).map_or("", |image| image.path.as_str())
    }

    fn image(&self, row: u64) -> Option<&Source> {
        self.images.get(usize::try_from(row).ok()?)
    }

    fn mask(&self, image: &Source) -> Option<(&Masks, &Source)> {
        let masks = self.masks.as_ref()?;
        Some((masks, masks.files.get(*masks.by_name.get(name(&image.path))?)?))
    }

    /// Names and sizes of the images in their order, each followed by its mask's.
    pub(super) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for image in &self.images.listing.objects {
            for file in [Some(image), self.mask(image).map(|(_, mask)| mask)].into_iter().flatten() {
                hash.update((file.path.len() as u64).to_le_bytes());
                hash.update(file.path.as_bytes());
                hash.update(file.size.to_le_bytes());
            }
        }
        hex(&hash.finalize())
    }
}

impl Masks {
    fn check(&self, images: &Files, names: &HashMap<String, usize>) -> Result<(), DatasetError> {
        let bare = |image: &&Source| !self.by_name.contains_key(name(&image.path));
        let bare: Vec<&str> = images.listing.objects.iter().filter(bare).map(|image| image.path.as_str()).collect();
        if !bare.is_empty() {
            return Err(DatasetError::Config(format!(
                "{} of the {} images at {} have no mask of their name at {}: {}",
                bare.len(),
                names.len(),
                images.location.url,
                self.files.location.url,
                bare[..bare.len().min(NAMED)].join(", ")
            )));
        }
        let spare = self.by_name.keys().filter(|mask| !names.contains_key(*mask)).count();
        if spare > 0 {
            tracing::warn!("{spare} masks at {} belong to no image", self.files.location.url);
        }
        Ok(())
    }
}

/// The files of two folders, fetched ahead.
pub struct FolderRows {
    folders: Arc<PairFolders>,
    ahead: VecDeque<Ahead>,
    /// The row after the last one in `ahead`.
    next: u64,
    bytes: u64,
}

struct Ahead {
    row: u64,
    bytes: u64,
    image: Fetched,
    mask: Option<Fetched>,
}

impl FolderRows {
    pub(super) fn new(folders: Arc<PairFolders>) -> FolderRows {
        FolderRows { folders, ahead: VecDeque::new(), next: 0, bytes: 0 }
    }

    pub(super) async fn get(&mut self, row: u64) -> Result<Result<Pair, Flaw>, DatasetError> {
        while self.ahead.front().is_some_and(|ahead| ahead.row < row) {
            self.pop();
        }
        // Elsewhere, or once more after it could not be read.
        if self.ahead.front().is_none_or(|ahead| ahead.row != row) {
            self.ahead.clear();
            (self.bytes, self.next) = (0, row);
        }
        self.fill()?;
        let folders = self.folders.clone();
        let (Some(Ahead { image, mask, .. }), Some(source)) = (self.pop(), folders.image(row)) else {
            return Err(changed(&folders.images.location.url, "it has fewer images than were listed"));
        };
        let image = image.join("read").await?;
        let mask_name = folders.mask(source).map_or(String::new(), |(_, mask)| format!("the mask {}", mask.path));
        let mask = match mask {
            Some(mask) => Some(mask.join("mask").await?),
            None => None,
        };
        Ok(image.and_then(|image| {
            let named = |flaw: Flaw| Flaw { message: format!("{mask_name}: {}", flaw.message), ..flaw };
            let mask = mask.transpose().map_err(named)?;
            Ok(Pair { image, mask, mask_name })
        }))
    }

    fn pop(&mut self) -> Option<Ahead> {
        let ahead = self.ahead.pop_front()?;
        self.bytes -= ahead.bytes;
        Some(ahead)
    }

    /// Asks for files up to the options' number and bytes of them, or for a single pair.
    fn fill(&mut self) -> Result<(), DatasetError> {
        let folders = self.folders.clone();
        let options = &folders.options;
        while let Some(image) = folders.image(self.next) {
            let mask = folders.mask(image);
            let size = |file: &Source| if file.size > options.max_bytes { 0 } else { file.size };
            let bytes = size(image).saturating_add(mask.map_or(0, |(_, mask)| size(mask)));
            let room =
                self.ahead.len() < options.parallel_files && self.bytes.saturating_add(bytes) <= options.ahead_bytes;
            if !room && !self.ahead.is_empty() {
                break;
            }
            let mask = mask.map(|(masks, mask)| masks.files.fetch(mask, options)).transpose()?;
            let image = folders.images.fetch(image, options)?;
            self.ahead.push_back(Ahead { row: self.next, bytes, image, mask });
            self.bytes += bytes;
            self.next += 1;
        }
        Ok(())
    }
}
