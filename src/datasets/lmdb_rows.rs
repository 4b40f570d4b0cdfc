//! One work unit of an LMDB being read: leaf pages some way ahead, and several values at a time.

use super::fields::{self, Problem, readable};
use super::lmdb_names::Names;
use super::lmdb_page::{self, HEADER, Kind, Node, Value, corrupt, nodes};
use super::lmdb_tree::{Leaf, Tree};
use super::open::DatasetOptions;
use super::task::Task;
use super::{DatasetError, Output, Sample, Unit};
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;

/// How many leaf pages are asked for together: 256 KiB of LSUN's, three thousand images.
const WINDOW: usize = 64;

/// A unit to read, and where to.
pub(super) struct Rows<'a> {
    pub(super) tree: &'a Tree,
    pub(super) names: Option<&'a Names>,
    pub(super) label: Option<i32>,
    pub(super) options: &'a DatasetOptions,
    pub(super) unit: &'a Unit,
    pub(super) source: &'a str,
    pub(super) out: &'a Output,
}

/// An entry, or what stands for one.
struct Row {
    key: String,
    content: Content,
}

enum Content {
    Image(Bytes),
    /// A value on overflow pages: the first one's number, and the bytes from there to the value's end.
    Far(u64, Range<u64>),
    Bad(Problem),
}

impl Content {
    fn cost(&self) -> u64 {
        match self {
            Content::Far(_, range) => range.end - range.start,
            Content::Image(bytes) => bytes.len() as u64,
            Content::Bad(_) => 0,
        }
    }
}

/// A row on its way.
struct Pending {
    key: String,
    cost: u64,
    image: Image,
}

enum Image {
    Known(Result<Bytes, Problem>),
    Coming(Task<Result<Bytes, Problem>>),
}

/// Leaf pages on their way: which, and their bytes.
type Window = (Range<usize>, Task<Vec<Bytes>>);

impl Rows<'_> {
    /// Reads the rows of a range.
    pub(super) async fn read(&self, rows: Range<u64>) -> Result<(), DatasetError> {
        let leaves = &self.tree.leaves;
        let start = leaves.partition_point(|leaf| leaf.first <= rows.start).saturating_sub(1);
        let mut rest = start..leaves.partition_point(|leaf| leaf.first < rows.end).max(start);
        let (mut windows, mut ready, mut pending) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        let (mut bytes, mut index) = (0, 0);
        loop {
            loop {
                if ready.is_empty() && !self.next_window(&mut windows, &mut rest, &rows, &mut ready).await? {
                    break;
                }
                let cost = ready.front().map_or(0, |row: &Row| row.content.cost());
                let room = pending.len() < self.options.parallel_files && bytes + cost <= self.options.ahead_bytes;
                if !room && !pending.is_empty() {
                    break;
                }
                let Some(Row { key, content }) = ready.pop_front() else { continue };
                bytes += cost;
                pending.push_back(Pending { key, cost, image: self.fetch(content) });
            }
            let Some(Pending { key, cost, image }) = pending.pop_front() else { return Ok(()) };
            bytes -= cost;
            let image = match image {
                Image::Known(image) => image,
                Image::Coming(task) => task.join().await?,
            };
            self.send(key, index, image).await?;
            index += 1;
        }
    }

    /// Adds the rows of the next leaf pages to `ready`; false at the end. Those after them are asked for already.
    async fn next_window(
        &self,
        windows: &mut VecDeque<Window>,
        rest: &mut Range<usize>,
        rows: &Range<u64>,
        ready: &mut VecDeque<Row>,
    ) -> Result<bool, DatasetError> {
        while windows.len() < 2 && rest.start < rest.end {
            let window = rest.start..rest.end.min(rest.start + WINDOW);
            rest.start = window.end;
            // Those with a problem are not read: 0 is no page of data.
            let number = |leaf: &Leaf| if leaf.problem.is_some() { 0 } else { leaf.number };
            let numbers: Vec<u64> = self.leaves(&window).iter().map(number).collect();
            let pages = self.tree.pages.clone();
            windows.push_back((window, Task::spawn(async move { pages.read(&numbers).await })));
        }
        let Some((window, task)) = windows.pop_front() else { return Ok(false) };
        let pages = task.join().await?;
        for (leaf, page) in self.leaves(&window).iter().zip(&pages) {
            let skip = usize::try_from(rows.start.saturating_sub(leaf.first)).unwrap_or(usize::MAX);
            let end = usize::try_from(rows.end.saturating_sub(leaf.first)).unwrap_or(usize::MAX);
            let rows = self.rows_of(leaf, page);
            ready.extend(rows.into_iter().take(end).skip(skip));
        }
        Ok(true)
    }

    fn leaves(&self, range: &Range<usize>) -> &[Leaf] {
        self.tree.leaves.get(range.clone()).unwrap_or_default()
    }

    /// The rows of a leaf page: with a list, those that it names.
    fn rows_of(&self, leaf: &Leaf, page: &[u8]) -> Vec<Row> {
        let bad = |problem: Problem| Row { key: String::new(), content: Content::Bad(problem) };
        if let Some(problem) = &leaf.problem {
            return vec![bad(problem.as_ref().clone())];
        }
        let count = match lmdb_page::count(page, leaf.number, Kind::Leaf, self.tree.pages.meta.page_size) {
            Ok(count) => count,
            Err(problem) => return vec![bad(problem)],
        };
        let mut rows = Vec::with_capacity(count);
        let mut before: Option<&[u8]> = None;
        for node in nodes(page, count) {
            let Some(node) = node else {
                rows.push(bad(corrupt(format!("a node of page {} lies outside it", leaf.number))));
                continue;
            };
            let in_order = before.replace(node.key).is_none_or(|before| before < node.key);
            if self.names.is_some_and(|names| names.find(&leaf.names, node.key).is_none()) {
                continue;
            }
            let out_of_order =
                || corrupt(format!("its key does not come after the one before it on page {}", leaf.number));
            let content = if in_order { self.content(node) } else { Err(out_of_order()) };
            rows.push(Row { key: readable(node.key), content: content.unwrap_or_else(Content::Bad) });
        }
        rows
    }

    /// An entry's value, or where it lies.
    fn content(&self, node: Node<'_>) -> Result<Content, Problem> {
        match node.value()? {
            Value::Here(bytes) => {
                fields::check_image(bytes.len() as u64, self.options)?;
                // Copied, or a small image would hold on to its page.
                Ok(Content::Image(Bytes::copy_from_slice(bytes)))
            }
            Value::There { page, size } => {
                fields::check_image(size, self.options)?;
                self.tree.pages.place(page, size + HEADER as u64).map(|range| Content::Far(page, range))
            }
        }
    }

    fn fetch(&self, content: Content) -> Image {
        let (page, range) = match content {
            Content::Image(bytes) => return Image::Known(Ok(bytes)),
            Content::Bad(problem) => return Image::Known(Err(problem)),
            Content::Far(page, range) => (page, range),
        };
        let (object, page_size) = (self.tree.pages.object.clone(), self.tree.pages.meta.page_size);
        Image::Coming(Task::spawn(async move {
            let mut run = object.get(range).await?;
            let size = (run.len() as u64).saturating_sub(HEADER as u64);
            Ok(lmdb_page::check_value(&run, page, size, page_size).map(|()| run.split_off(run.len().min(HEADER))))
        }))
    }

    async fn send(&self, key: String, index: u64, image: Result<Bytes, Problem>) -> Result<(), DatasetError> {
        let source = self.source.to_owned();
        match image {
            Ok(image) => {
                self.out
                    .sample(Sample { source, key, index, label: self.label, caption: None, original: None, image })
                    .await
            }
            Err((reason, message)) => self.out.reject(self.unit, &source, &key, index, reason, message).await,
        }
    }
}
