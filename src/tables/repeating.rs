//! An output's store, with failed requests repeated.

use crate::retry::{Retries, whole};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, coalesce_ranges,
};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Bytes between two ranges that are fetched with them rather than in a request of their own.
const GAP: u64 = 1 << 20;

/// Repeats the requests of a store that can be made twice: reads, and puts that replace what is there.
///
/// Not repeated here are puts that must not replace anything (an answer that was lost would look like another writer's work),
/// and the parts of a multipart upload, which have no name that a second try could use: those, the clients of network stores
/// repeat themselves. A listing is repeated as a whole by who asks for it.
#[derive(Clone, Debug)]
pub(super) struct Repeating {
    store: Arc<dyn ObjectStore>,
    retries: Retries,
}

impl Repeating {
    pub(super) fn new(store: Arc<dyn ObjectStore>, retries: Retries) -> Repeating {
        Repeating { store, retries }
    }

    /// Bodies that break off, or end early, are asked for again.
    async fn range(&self, location: &Path, range: Range<u64>) -> Result<Bytes> {
        let get = || async {
            let options = GetOptions { range: Some(range.clone().into()), ..GetOptions::default() };
            whole(self.store.get_opts(location, options).await?).await
        };
        self.retries.run(location.as_ref(), get).await
    }
}

impl fmt::Display for Repeating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

impl ObjectStore for Repeating {
    fn put_opts<'s, 'l, 'a>(
        &'s self,
        location: &'l Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> BoxFuture<'a, Result<PutResult>>
    where
        's: 'a,
        'l: 'a,
        Self: 'a,
    {
        Box::pin(async move {
            if options.mode != PutMode::Overwrite {
                return self.store.put_opts(location, payload, options).await;
            }
            let put = || self.store.put_opts(location, payload.clone(), options.clone());
            self.retries.run(location.as_ref(), put).await
        })
    }

    fn put_multipart_opts<'s, 'l, 'a>(
        &'s self,
        location: &'l Path,
        options: PutMultipartOptions,
    ) -> BoxFuture<'a, Result<Box<dyn MultipartUpload>>>
    where
        's: 'a,
        'l: 'a,
        Self: 'a,
    {
        let begin = move || self.store.put_multipart_opts(location, options.clone());
        Box::pin(async move { self.retries.run(location.as_ref(), begin).await })
    }

    fn get_opts<'s, 'l, 'a>(&'s self, location: &'l Path, options: GetOptions) -> BoxFuture<'a, Result<GetResult>>
    where
        's: 'a,
        'l: 'a,
        Self: 'a,
    {
        let get = move || self.store.get_opts(location, options.clone());
        Box::pin(async move { self.retries.run(location.as_ref(), get).await })
    }

    fn get_ranges<'s, 'l, 'r, 'a>(
        &'s self,
        location: &'l Path,
        ranges: &'r [Range<u64>],
    ) -> BoxFuture<'a, Result<Vec<Bytes>>>
    where
        's: 'a,
        'l: 'a,
        'r: 'a,
        Self: 'a,
    {
        Box::pin(async move { coalesce_ranges(ranges, |range| self.range(location, range), GAP).await })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list_with_offset(prefix, offset)
    }

    fn list_with_delimiter<'s, 'l, 'a>(&'s self, prefix: Option<&'l Path>) -> BoxFuture<'a, Result<ListResult>>
    where
        's: 'a,
        'l: 'a,
        Self: 'a,
    {
        let list = move || self.store.list_with_delimiter(prefix);
        Box::pin(async move { self.retries.run(prefix.map_or("", Path::as_ref), list).await })
    }

    fn copy_opts<'s, 'f, 't, 'a>(
        &'s self,
        from: &'f Path,
        to: &'t Path,
        options: CopyOptions,
    ) -> BoxFuture<'a, Result<()>>
    where
        's: 'a,
        'f: 'a,
        't: 'a,
        Self: 'a,
    {
        self.store.copy_opts(from, to, options)
    }
}
