//! The leaf pages of an LMDB in the order of their keys, with the number of rows in each: what units are cut from.
//!
//! The branch pages are read once, level by level. Of the leaf pages only the headers are, which count their entries; with a
//! list, the leaf pages that may hold one of its names. Three million images have some sixty thousand leaf pages, spread
//! between the images: about one request for each, a fiftieth of what reading the images takes. What is kept is 32 bytes a leaf
//! page.
//!
//! A page that cannot be read counts as one row, which is its reject: so units have the same rows whoever lists them. No page
//! is followed twice, and no path is longer than the tree is deep: what points in circles ends.

use super::DatasetError;
use super::fields::Problem;
use super::lmdb_names::Names;
use super::lmdb_page::{self, HEADER, Kind, Meta, Node, corrupt, nodes};
use super::lmdb_pages::Pages;
use std::ops::Range;

/// The most pages of one level: two hundred million images of LSUN's kind, and 128 MiB here.
const MAX_PAGES: u64 = 4 << 20;
/// How many pages are asked for together: their neighbours in the file are found among them.
const WINDOW: usize = 4096;

/// A database's leaf pages.
pub(super) struct Tree {
    pub(super) pages: Pages,
    /// Those with rows, in the order of their keys.
    pub(super) leaves: Vec<Leaf>,
    pub(super) rows: u64,
    /// Which names of the list it has.
    pub(super) found: Vec<u32>,
    /// Whether a page of it cannot be read.
    pub(super) damaged: bool,
}

/// A leaf page, or one reject in place of pages that cannot be read.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) number: u64,
    /// The number of its first row.
    pub(super) first: u64,
    /// Which names of the list can be in it.
    pub(super) names: Range<u32>,
    pub(super) problem: Option<Box<Problem>>,
}

/// A page to go to.
struct Place {
    number: u64,
    names: Range<u32>,
    problem: Option<Box<Problem>>,
}

impl Place {
    fn broken(number: u64, problem: Problem) -> Place {
        Place { number, names: 0..0, problem: Some(Box::new(problem)) }
    }

    /// Notes what is wrong with the page, if that is the first thing.
    fn mark(&mut self, problem: Option<Problem>) {
        if let Some(problem) = problem {
            self.problem.get_or_insert_with(|| Box::new(problem));
        }
    }
}

impl Tree {
    /// Walks a database: all of it, or what can hold one of `names`.
    pub(super) async fn walk(pages: Pages, names: Option<&Names>) -> Result<Result<Tree, Problem>, DatasetError> {
        let Meta { depth, root, entries, .. } = pages.meta;
        let all = names.map_or(0..0, Names::all);
        let mut level: Vec<Place> = root.map(|number| place(&pages, number, all)).into_iter().collect();
        for _ in 1..depth {
            level = match below(&pages, level, names).await? {
                Ok(level) => level,
                Err(problem) => return Ok(Err(problem)),
            };
        }
        let mut tree = Tree { pages, leaves: Vec::new(), rows: 0, found: Vec::new(), damaged: false };
        let counts = tree.count(&mut level, names).await?;
        for (place, count) in level.into_iter().zip(counts) {
            tree.push(place, count);
        }
        if names.is_none() && !tree.damaged && tree.rows != entries {
            let message = format!("the database says that it has {entries} entries, but has {}", tree.rows);
            tree.push(Place::broken(0, corrupt(message)), 0);
        }
        Ok(Ok(tree))
    }

    fn push(&mut self, place: Place, count: usize) {
        let Place { number, names, problem } = place;
        let rows = if problem.is_some() { 1 } else { count as u64 };
        self.damaged |= problem.is_some();
        if rows > 0 {
            self.leaves.push(Leaf { number, first: self.rows, names, problem });
            self.rows = self.rows.saturating_add(rows);
        }
    }

    /// The number of rows in each leaf page; those that cannot be read are marked.
    async fn count(&mut self, leaves: &mut [Place], names: Option<&Names>) -> Result<Vec<usize>, DatasetError> {
        mark_repeated(leaves);
        let Tree { pages, found, .. } = self;
        let page_size = pages.meta.page_size;
        let length = if names.is_some() { page_size } else { HEADER as u64 };
        let mut counts = Vec::with_capacity(leaves.len());
        for window in leaves.chunks_mut(WINDOW) {
            let numbers = numbers(window);
            let mut results = vec![Ok(0); window.len()];
            let count = |at: usize, page: &[u8]| {
                let (Some(result), Some(place)) = (results.get_mut(at), window.get(at)) else { return };
                let count = lmdb_page::count(page, place.number, Kind::Leaf, page_size);
                *result = count.map(|count| match names {
                    Some(names) => named(page, count, names, &place.names, found),
                    None => count,
                });
            };
            pages.visit(&numbers, length, count).await?;
            for (place, result) in window.iter_mut().zip(results) {
                counts.push(*result.as_ref().unwrap_or(&0));
                place.mark(result.err());
            }
        }
        Ok(counts)
    }
}

/// A page to go to, if there can be one.
fn place(pages: &Pages, number: u64, names: Range<u32>) -> Place {
    match pages.place(number, pages.meta.page_size) {
        Ok(_) => Place { number, names, problem: None },
        Err(problem) => Place::broken(number, problem),
    }
}

/// The pages to read; 0, which is none, for those with a problem.
fn numbers(places: &[Place]) -> Vec<u64> {
    places.iter().map(|place| if place.problem.is_some() { 0 } else { place.number }).collect()
}

/// The level below one of branch pages, in the order of the keys.
async fn below(
    pages: &Pages,
    mut level: Vec<Place>,
    names: Option<&Names>,
) -> Result<Result<Vec<Place>, Problem>, DatasetError> {
    mark_repeated(&mut level);
    let most = pages.meta.pages.min(MAX_PAGES);
    let mut below = Vec::new();
    for window in level.chunks_mut(WINDOW) {
        let mut results: Vec<Result<Vec<Place>, Problem>> = window.iter().map(|_| Ok(Vec::new())).collect();
        let parse = |at: usize, page: &[u8]| {
            if let (Some(result), Some(place)) = (results.get_mut(at), window.get(at)) {
                *result = children(pages, page, place, names);
            }
        };
        pages.visit(&numbers(window), pages.meta.page_size, parse).await?;
        for (place, result) in window.iter_mut().zip(results) {
            match result {
                Ok(children) => below.extend(children),
                Err(problem) => place.mark(Some(problem)),
            }
            if let Some(problem) = place.problem.take() {
                below.push(Place::broken(place.number, *problem));
            }
        }
        if below.len() as u64 > most {
            return Ok(Err(corrupt(format!("one level of its tree has more than {most} pages"))));
        }
    }
    Ok(Ok(below))
}

/// The pages below a branch page; with a list, those that can hold one of its names.
fn children(pages: &Pages, page: &[u8], parent: &Place, names: Option<&Names>) -> Result<Vec<Place>, Problem> {
    let count = lmdb_page::count(page, parent.number, Kind::Branch, pages.meta.page_size)?;
    let mut children = Vec::with_capacity(count);
    let mut rest = parent.names.clone();
    let mut nodes = nodes(page, count).peekable();
    while let Some(node) = nodes.next() {
        // A child's keys end before the next one's first.
        let end = match (names, nodes.peek()) {
            (Some(names), Some(Some(next))) => names.split(&rest, next.key),
            _ => rest.end,
        };
        let own = rest.start..end;
        if names.is_some() && own.is_empty() {
            continue;
        }
        rest.start = end;
        children.push(match node {
            Some(node) => place(pages, node.child(), own),
            None => Place::broken(parent.number, corrupt(format!("a node of page {} lies outside it", parent.number))),
        });
    }
    Ok(children)
}

/// Marks the pages that the level already has: of those that are reached twice, the first counts.
fn mark_repeated(level: &mut [Place]) {
    let mut order: Vec<(u64, usize)> =
        level.iter().enumerate().filter(|(_, place)| place.problem.is_none()).map(|(at, p)| (p.number, at)).collect();
    order.sort_unstable();
    for pair in order.windows(2) {
        if let [(a, _), (b, at)] = pair
            && a == b
            && let Some(place) = level.get_mut(*at)
        {
            place.mark(Some(corrupt(format!("page {b} is reached twice"))));
        }
    }
}

/// How many rows a leaf page has of the list: its names, and nodes that cannot be read, which may be some.
fn named(page: &[u8], count: usize, names: &Names, range: &Range<u32>, found: &mut Vec<u32>) -> usize {
    let before = found.len();
    let mut unreadable = 0;
    for node in nodes(page, count) {
        match node {
            None => unreadable += 1,
            Some(Node { key, .. }) => found.extend(names.find(range, key)),
        }
    }
    found.len() - before + unreadable
}
