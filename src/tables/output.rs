//! An output directory: which units are done, whose run it belongs to, and the traces of killed runs.

use super::names::{UnitFile, file_of_path, path_of_file};
use super::repeating::Repeating;
use super::run::Run;
use super::{Identity, Manifest, TableError};
use crate::retry::{Retries, whole};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::path::{Path as DiskPath, PathBuf};
use std::sync::Arc;

/// Several ranks may begin at once, and sweep each other's stage of the manifest; each try finds it nearer to done.
const MANIFEST_TRIES: usize = 20;
const DELETES_IN_FLIGHT: usize = 16;

/// An output directory in an object store, as runs of one kind see it: `OutputDir` is that of `encode`,
/// `OutputDir<SamplesIdentity>` that of `sample` and `edit`. Both may be one directory ([`OutputDir::of`]).
///
/// Requests of other stores that fail in a way that can pass are repeated: those that can be made twice.
///
/// A local store must be opened with `LocalFileSystem::with_fsync(true)`: only then does a commit survive a power cut.
/// Local stores stage an upload as `name#1` and rename it; their listings hide such files, and so they are swept on the
/// disk itself, below `disk`. Uploads that a killed run left unfinished in an object store cannot be listed through
/// `object_store`: a lifecycle rule of the bucket ("abort incomplete multipart uploads") removes them.
#[derive(Clone, Debug)]
pub struct OutputDir<I = Identity> {
    store: Arc<dyn ObjectStore>,
    root: Path,
    disk: Option<PathBuf>,
    retries: Retries,
    run: PhantomData<fn() -> I>,
}

impl OutputDir {
    /// The directory `root` of `store`; `disk` is its path when the store is a local disk.
    pub fn new(store: Arc<dyn ObjectStore>, root: Path, disk: Option<PathBuf>) -> OutputDir {
        OutputDir::repeating(store, root, disk, Retries::default())
    }

    /// The same, with requests repeated as told.
    pub fn repeating(store: Arc<dyn ObjectStore>, root: Path, disk: Option<PathBuf>, retries: Retries) -> OutputDir {
        // What fails on a local disk fails again.
        let store = match disk {
            Some(_) => store,
            None => Arc::new(Repeating::new(store, retries)),
        };
        OutputDir { store, root, disk, retries, run: PhantomData }
    }

    /// The local directory `disk`, which must exist.
    pub fn local(disk: impl AsRef<DiskPath>) -> Result<OutputDir, TableError> {
        let disk = disk.as_ref();
        let store = LocalFileSystem::new_with_prefix(disk)
            .map_err(|source| TableError::Store { path: disk.display().to_string(), source })?;
        Ok(OutputDir::new(Arc::new(store.with_fsync(true)), Path::default(), Some(disk.to_owned())))
    }

    /// Where the latents of `unit` lie.
    pub fn latents(&self, unit: &str) -> Result<Path, TableError> {
        self.table(&unit.into())
    }
}

impl<I: Run> OutputDir<I> {
    /// The same directory as runs of another kind see it.
    pub fn of<J: Run>(&self) -> OutputDir<J> {
        let OutputDir { store, root, disk, retries, .. } = self.clone();
        OutputDir { store, root, disk, retries, run: PhantomData }
    }

    /// The store the directory lies in.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The directory's path in its store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory as the user knows it.
    pub fn place(&self) -> String {
        self.shown(&self.root)
    }

    /// Where the rows of `file` lie: a unit's latents, its samples, or what a retry added to them.
    pub fn table(&self, file: &UnitFile) -> Result<Path, TableError> {
        path_of_file(&self.root, I::TABLE, file)
    }

    /// Where the rejects of `file` lie: a unit's, or what a retry left of them.
    pub fn rejects(&self, file: &UnitFile) -> Result<Path, TableError> {
        path_of_file(&self.root, I::REJECTS, file)
    }

    /// The manifest, when the directory has one: its identity is what settings on `auto` take.
    pub async fn manifest(&self) -> Result<Option<Manifest<I>>, TableError> {
        let path = self.file(I::MANIFEST);
        match self.get(&path).await? {
            Some(text) => Manifest::from_json(&self.shown(&path), &text).map(Some),
            None => Ok(None),
        }
    }

    /// Begins a run, or goes on with one: writes the manifest once, or compares it with the one that is there. Latents
    /// without a manifest are refused too.
    pub async fn begin(&self, manifest: &Manifest<I>) -> Result<(), TableError> {
        let path = self.file(I::MANIFEST);
        let mut tries = 0;
        loop {
            if let Some(recorded) = self.manifest().await? {
                manifest.check(&recorded, &self.shown(&path))?;
                // Stages of the manifest serve nobody once it is there.
                return self.sweep_stages_of(&path).await.map(drop);
            }
            if !self.list(I::TABLE).await?.is_empty() {
                let detail = format!(
                    "missing beside a {} folder: these are not known to be of this run; pass --overwrite to delete them, \
                     or choose another output directory",
                    I::TABLE
                );
                return Err(TableError::Format { path: self.shown(&path), detail });
            }
            tries += 1;
            match self.create(&path, manifest.to_json()).await {
                Ok(()) => {}
                Err(error) if tries >= MANIFEST_TRIES => return Err(TableError::store(&path, error)),
                // Another rank was faster, or swept our stage: look again.
                Err(_) => {}
            }
        }
    }

    /// Puts `text` at `path` unless there is something already.
    async fn create(&self, path: &Path, text: String) -> Result<(), object_store::Error> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(path, text.clone().into(), options).await {
            // A store without conditional puts: all ranks write the same bytes.
            Err(object_store::Error::NotImplemented { .. }) => self.store.put(path, text.into()).await.map(drop),
            done => done.map(drop),
        }
    }

    /// Deletes what this run is about to write anew, for `--overwrite`: the files of its `own` units, and, when
    /// `leftovers` is set (on one rank of the world), all files of units that `manifest` does not have. Then replaces the
    /// manifest. Other ranks' units are theirs to delete.
    pub async fn overwrite(&self, manifest: &Manifest<I>, own: &[&str], leftovers: bool) -> Result<(), TableError> {
        let own: BTreeSet<&str> = own.iter().copied().collect();
        let known: BTreeSet<&str> = manifest.units.iter().map(|unit| unit.name.as_str()).collect();
        for table in [I::TABLE, I::REJECTS] {
            let doomed: Vec<Path> = self
                .list(table)
                .await?
                .into_iter()
                .filter(|path| match file_of_path(&self.root, table, path) {
                    Some(file) if known.contains(file.unit.as_str()) => own.contains(file.unit.as_str()),
                    _ => leftovers,
                })
                .collect();
            futures::stream::iter(doomed)
                .map(|path| async move { self.delete(&path).await })
                .buffer_unordered(DELETES_IN_FLIGHT)
                .try_collect::<Vec<()>>()
                .await?;
        }
        let units: Vec<&str> = own.into_iter().collect();
        self.sweep(&units).await?;
        self.put(I::MANIFEST, manifest.to_json()).await
    }

    /// Names of the units that are done, each with the number of its newest retry: 0 where none was committed.
    pub async fn done(&self) -> Result<BTreeMap<String, u32>, TableError> {
        let mut retries: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        for file in self.list(I::TABLE).await?.iter().filter_map(|path| file_of_path(&self.root, I::TABLE, path)) {
            retries.entry(file.unit).or_default().insert(file.retry);
        }
        // A retry counts only where those before it are there: each says what the one before it left.
        let newest = |found: &BTreeSet<u32>| {
            (0..).zip(found).take_while(|(number, found)| number == *found).map(|(n, _)| n).last()
        };
        Ok(retries.into_iter().filter_map(|(unit, found)| Some((unit, newest(&found)?))).collect())
    }

    /// Removes what killed runs left of the `own` units: stage files of uploads that were never completed. Those of other
    /// units may belong to a rank that is writing them now. Returns how many there were.
    pub async fn sweep(&self, own: &[&str]) -> Result<usize, TableError> {
        let mut swept = 0;
        for unit in own {
            swept += self.sweep_file(&(*unit).into()).await?;
        }
        Ok(swept)
    }

    /// Removes the stage files of one file of a unit in both tables, as [`OutputDir::sweep`] does.
    pub async fn sweep_file(&self, file: &UnitFile) -> Result<usize, TableError> {
        Ok(self.sweep_stages_of(&self.table(file)?).await? + self.sweep_stages_of(&self.rejects(file)?).await?)
    }

    /// Removes the stages of the small files `names` beside the tables, as [`OutputDir::sweep`] does.
    pub async fn sweep_beside(&self, names: &[&str]) -> Result<usize, TableError> {
        let mut swept = 0;
        for name in names {
            swept += self.sweep_stages_of(&self.file(name)).await?;
        }
        Ok(swept)
    }

    async fn sweep_stages_of(&self, path: &Path) -> Result<usize, TableError> {
        let Some(disk) = self.on_disk(path) else { return Ok(0) };
        let mut swept = 0;
        for stage in stages_of(&disk).await? {
            match tokio::fs::remove_file(&stage).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(disk_error(&stage, error)),
                _ => swept += 1,
            }
        }
        Ok(swept)
    }

    /// Removes the stage files that lie directly in `folder`: what a killed process left there.
    pub(crate) async fn sweep_folder(&self, folder: &Path) -> Result<(), TableError> {
        let Some(disk) = self.on_disk(folder) else { return Ok(()) };
        for (path, is_dir) in entries(&disk).await? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !is_dir && is_stage(&name) {
                tokio::fs::remove_file(&path).await.map_err(|error| disk_error(&path, error))?;
            }
        }
        Ok(())
    }

    /// Every stage file below the directory, relative to it, for reports. Empty on stores that have none.
    pub async fn stages(&self) -> Result<Vec<String>, TableError> {
        let Some(disk) = &self.disk else { return Ok(Vec::new()) };
        let (mut found, mut folders) = (Vec::new(), vec![disk.clone()]);
        while let Some(folder) = folders.pop() {
            let top = folder == *disk;
            for (path, is_dir) in entries(&folder).await? {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if is_dir && (!top || [I::TABLE, I::REJECTS].contains(&name.as_str())) {
                    folders.push(path);
                } else if !is_dir && is_stage(&name) {
                    found.push(path.strip_prefix(disk).unwrap_or(&path).display().to_string());
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Puts a small file beside the tables, whole or not at all: `run.json`.
    pub async fn put(&self, name: &str, text: String) -> Result<(), TableError> {
        let path = self.file(name);
        self.store.put(&path, text.into()).await.map_err(|error| TableError::store(&path, error))?;
        Ok(())
    }

    /// Deletes an object, if it is there.
    pub(crate) async fn delete(&self, path: &Path) -> Result<(), TableError> {
        match self.retries.run(path.as_ref(), || self.store.delete(path)).await {
            Err(object_store::Error::NotFound { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(TableError::store(path, error)),
        }
    }

    /// All objects in the folder of `table`, in the order of their paths.
    pub async fn list(&self, table: &str) -> Result<Vec<Path>, TableError> {
        self.list_below(&self.file(table)).await
    }

    /// All objects below `folder`, in the order of their paths.
    pub(crate) async fn list_below(&self, folder: &Path) -> Result<Vec<Path>, TableError> {
        let retries = self.retries;
        let paths = || async {
            let (mut pages, mut paths) = (self.store.list(Some(folder)), Vec::new());
            while let Some(meta) = retries.piece(pages.try_next()).await? {
                paths.push(meta.location);
            }
            Ok(paths)
        };
        match retries.repeat(folder.as_ref(), paths).await {
            Ok(mut paths) => {
                paths.sort();
                Ok(paths)
            }
            Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(TableError::store(folder, error)),
        }
    }

    /// A small object's bytes; none if it is not there.
    pub(crate) async fn get(&self, path: &Path) -> Result<Option<Bytes>, TableError> {
        let get = || async { whole(self.store.get(path).await?).await };
        match self.retries.run(path.as_ref(), get).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(TableError::store(path, error)),
        }
    }

    fn file(&self, name: &str) -> Path {
        self.root.clone().join(name)
    }

    /// The path as the user knows it: on the disk, where there is one.
    pub(crate) fn shown(&self, path: &Path) -> String {
        self.on_disk(path).map_or_else(|| path.to_string(), |disk| disk.display().to_string())
    }

    fn on_disk(&self, path: &Path) -> Option<PathBuf> {
        let disk = self.disk.as_ref()?;
        let rest = path.as_ref().strip_prefix(self.root.as_ref())?;
        Some(disk.join(rest.trim_start_matches('/')))
    }
}

/// The stages of the file at `path`: `<path>#<digits>` in its folder.
async fn stages_of(path: &DiskPath) -> Result<Vec<PathBuf>, TableError> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Vec::new()) };
    let name = name.to_string_lossy().into_owned();
    let stage = |path: &PathBuf| {
        let entry = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        is_stage(&entry) && entry.rsplit_once('#').is_some_and(|(base, _)| base == name)
    };
    Ok(entries(folder).await?.into_iter().map(|(path, _)| path).filter(stage).collect())
}

/// Whether a local store's listing hides a file of this name as an unfinished upload.
fn is_stage(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(_, digits)| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// What is in a folder, and whether each is a folder itself; nothing when there is no such folder.
async fn entries(folder: &DiskPath) -> Result<Vec<(PathBuf, bool)>, TableError> {
    let mut found = Vec::new();
    let mut listing = match tokio::fs::read_dir(folder).await {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(disk_error(folder, error)),
    };
    while let Some(entry) = listing.next_entry().await.map_err(|error| disk_error(folder, error))? {
        let kind = entry.file_type().await.map_err(|error| disk_error(&entry.path(), error))?;
        found.push((entry.path(), kind.is_dir()));
    }
    Ok(found)
}

fn disk_error(path: &DiskPath, source: std::io::Error) -> TableError {
    TableError::Disk { path: path.display().to_string(), source }
}
