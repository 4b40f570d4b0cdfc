//! The WebDataset reader: one tar shard after the other, streamed. Its rules are told at [`WebDataset`].

use super::finished::{self, Shards};
use super::listing::{Files, Wanted};
use super::open::DatasetOptions;
use super::range_reader::RangeReader;
use super::samples::{Group, Outcome, Want, Window, split_name};
use super::store::Location;
use super::tar::{Kind, Member, Tar, TarError};
use super::{DatasetError, Output, Reader, Sample, Source, Unit};
use futures::future::BoxFuture;
use tokio::sync::OnceCell;

const SHARDS: Wanted = Wanted { what: "WebDataset shards", extensions: &[".tar", ".tar.gz", ".tgz"] };

/// WebDataset: tar shards whose neighbouring members of one key are a sample (FORMATS §6). Made by [`open()`](super::open()),
/// or with [`WebDataset::new`] over a store of one's own.
///
/// - A shard is a work unit, named by its path relative to the root. It is streamed by ranged GETs that run ahead; in memory
///   are those ranges, the sample being read, at most 16 samples and 8 MiB that wait in the look-ahead for torn ones, and up to
///   32 MiB of ranges whose images were handed out in place.
/// - Whether a shard is gzipped is told by its bytes. Members are grouped by directories and base name up to the first dot;
///   those whose base name has no dot, or starts with one, and directories belong to no sample.
/// - A sample has an image (`jpg`, `jpeg`, `png`, `webp`, `gif`, `bmp`; the first of these, should there be several), a class
///   (`cls`, else `label` of `json`) and a caption (`txt`, else `caption` of `json`). Other fields are passed over unread, and
///   samples that have none but such fields are no samples of images.
/// - A shard that breaks yields every whole sample before the break, a reject for the sample in hand if that is not whole, and
///   one reject with an empty key for the rest.
/// - Where some of the shards of a directory, whose names are digits, have a `_stats.json` beside them, img2dataset wrote them;
///   those that have none it did not finish, and they are passed over.
#[derive(Debug)]
pub struct WebDataset {
    files: Files,
    shards: OnceCell<Shards>,
    options: DatasetOptions,
}

impl WebDataset {
    /// A reader of the shards at `location`; of `options` it uses labels, classes, captions, limits and read-ahead.
    pub fn new(location: Location, options: DatasetOptions) -> WebDataset {
        WebDataset { files: Files::with(location, SHARDS, finished::BESIDE), shards: OnceCell::new(), options }
    }

    async fn shards(&self) -> Result<&Shards, DatasetError> {
        self.shards.get_or_try_init(|| finished::optional(&self.files)).await
    }

    async fn list_units(&self) -> Result<Vec<Unit>, DatasetError> {
        let unit = |shard: &Source| Unit { name: shard.path.clone(), sources: vec![shard.clone()], range: None };
        Ok(self.shards().await?.finished.iter().map(unit).collect())
    }

    async fn read_shard(&self, unit: &Unit, out: &Output) -> Result<(), DatasetError> {
        let object = self.files.object(unit, &self.options.read_ahead).await?;
        let mut shard = Shard {
            tar: Tar::new(RangeReader::new(object)),
            unit,
            source: &unit.name,
            options: &self.options,
            out,
            group: None,
            previous: 0,
            window: Window::default(),
        };
        match shard.read().await {
            Ok(()) => shard.finish().await,
            Err(TarError::Dataset(error)) => Err(error),
            Err(broken) => shard.broken(broken).await,
        }
    }
}

impl Reader for WebDataset {
    fn units(&self) -> BoxFuture<'_, Result<Vec<Unit>, DatasetError>> {
        Box::pin(self.list_units())
    }

    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<String>, DatasetError>> {
        Box::pin(async { Ok(self.shards().await?.unfinished.clone()) })
    }

    fn read<'a>(&'a self, unit: &'a Unit, out: &'a Output) -> BoxFuture<'a, Result<(), DatasetError>> {
        Box::pin(out.while_wanted(self.read_shard(unit, out)))
    }
}

/// One shard being read.
struct Shard<'a> {
    tar: Tar,
    unit: &'a Unit,
    source: &'a str,
    options: &'a DatasetOptions,
    out: &'a Output,
    /// The sample whose members are coming in.
    group: Option<Group>,
    /// Which fields the sample before it had.
    previous: u16,
    window: Window,
}

impl Shard<'_> {
    async fn read(&mut self) -> Result<(), TarError> {
        while let Some(member) = self.tar.next().await? {
            self.member(member).await?;
        }
        Ok(())
    }

    async fn member(&mut self, member: Member) -> Result<(), TarError> {
        if member.kind == Kind::Directory {
            return Ok(());
        }
        let Some((key, field)) = split_name(&member.name) else { return Ok(()) };
        if self.group.as_ref().is_some_and(|group| group.key != key) {
            self.end_group().await?;
        }
        let group = self.group.get_or_insert_with(|| Group::new(key));
        if group.member(&field, member.kind, member.size, self.options.max_bytes) == Want::Body {
            group.body(&field, self.tar.body().await?);
        }
        Ok(())
    }

    async fn end_group(&mut self) -> Result<(), DatasetError> {
        let Some(group) = self.group.take() else { return Ok(()) };
        if group.fields != 0 {
            self.previous = group.fields;
        }
        for (group, index) in self.window.push(group) {
            self.send(group, index).await?;
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), DatasetError> {
        self.end_group().await?;
        for (group, index) in self.window.flush().collect::<Vec<_>>() {
            self.send(group, index).await?;
        }
        Ok(())
    }

    /// Ends a shard that breaks here. The sample in hand counts as whole only if it has every field that the one before had:
    /// else its other members may lie behind the break.
    async fn broken(&mut self, error: TarError) -> Result<(), DatasetError> {
        let (reason, lost) = error.verdict();
        let cut = matches!(&error, TarError::Truncated { what: "a member is cut", .. });
        let previous = self.previous;
        if let Some(group) = self.group.as_mut().filter(|group| cut || previous & !group.fields != 0) {
            group.fail(reason, format!("the shard breaks within this sample: {error}"));
        }
        self.finish().await?;
        let index = self.window.next_index();
        tracing::warn!(shard = self.source, %error, "a broken shard");
        self.out.reject(self.unit, self.source, "", index, reason, format!("{error}; {lost}")).await
    }

    async fn send(&self, group: Group, index: u64) -> Result<(), DatasetError> {
        let key = group.key.clone();
        match group.finish(self.options) {
            Outcome::Bad { reason, message } => {
                self.out.reject(self.unit, self.source, &key, index, reason, message).await
            }
            Outcome::Good { image, label, caption, original } => {
                let source = self.source.to_owned();
                self.out.sample(Sample { source, key, index, label, caption, image, original }).await
            }
        }
    }
}
