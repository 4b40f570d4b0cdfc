//! An object store that fails as stores do, by a seed: refusals, broken and short bodies, answers that never come.

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use imagebart::random::{Purpose, RowKey};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// 503, as the clients of network stores report it when their own patience ended.
    Unavailable,
    /// 429 likewise.
    TooMany,
    /// The connection broke before an answer.
    Reset,
    /// A body that breaks off with an error. Of reads only.
    Cut,
    /// A body that ends early as if that were all. Of reads only.
    Short,
    /// No answer, ever. Of reads and puts only.
    Stall,
    /// What was asked is done, but the answer is lost. Of puts only.
    Lost,
}

const OF_READS: [Fault; 6] = [Fault::Unavailable, Fault::TooMany, Fault::Reset, Fault::Cut, Fault::Short, Fault::Stall];
const OF_PUTS: [Fault; 5] = [Fault::Unavailable, Fault::TooMany, Fault::Reset, Fault::Stall, Fault::Lost];
const OF_OTHERS: [Fault; 3] = [Fault::Unavailable, Fault::TooMany, Fault::Reset];

/// What a [`Faulty`] store did.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// How often each request was made: an operation, its object and its place there.
    pub requests: BTreeMap<String, u64>,
    pub faults: BTreeMap<Fault, u64>,
}

/// A store whose requests fail by chance. The chance depends on seed, request and attempt alone: never on their order.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    seed: u64,
    /// Faults in a hundred requests.
    percent: u32,
    /// Requests for this object always fail.
    pub dead: Option<Path>,
    record: Arc<Mutex<Record>>,
}

impl Faulty {
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64, percent: u32) -> Faulty {
        Faulty { inner, seed, percent, dead: None, record: Arc::default() }
    }

    pub fn record(&self) -> Record {
        self.record.lock().unwrap().clone()
    }

    /// Whether, and how, this attempt of a request fails.
    fn fault(&self, request: String, path: Option<&Path>, faults: &[Fault]) -> Option<Fault> {
        let mut record = self.record.lock().unwrap();
        let attempt = record.requests.entry(request.clone()).or_default();
        *attempt += 1;
        let row = RowKey::new(self.seed, &request, *attempt, 0);
        let dead = path.is_some() && path == self.dead.as_ref();
        let fault = match row.below(Purpose::Init, 0, 100) < self.percent {
            true if !dead => faults[row.below(Purpose::Init, 1, faults.len() as u32) as usize],
            _ if dead => Fault::Unavailable,
            _ => return None,
        };
        *record.faults.entry(fault).or_default() += 1;
        Some(fault)
    }
}

/// The error of a fault that has one.
fn error(fault: Fault) -> Error {
    let source = match fault {
        Fault::Unavailable => "Server returned non-2xx status code: 503 Service Unavailable: SlowDown",
        Fault::TooMany => "Server returned non-2xx status code: 429 Too Many Requests: ",
        Fault::Cut => "error decoding response body",
        _ => "connection reset by peer",
    };
    Error::Generic { store: "faulty", source: source.into() }
}

/// A body that ends half-way, with an error or without one.
async fn half(mut result: GetResult, fault: Fault) -> Result<GetResult> {
    let GetResultPayload::Stream(mut body) = result.payload else { return Err(error(fault)) };
    let mut left = (result.range.end - result.range.start) as usize / 2;
    let mut kept = Vec::new();
    while let Some(bytes) = body.next().await {
        let bytes = bytes?;
        let some = bytes.slice(..bytes.len().min(left));
        left -= some.len();
        kept.push(Ok(some));
    }
    if fault == Fault::Cut {
        kept.push(Err(error(fault)));
    }
    result.payload = GetResultPayload::Stream(futures::stream::iter(kept).boxed());
    Ok(result)
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

impl ObjectStore for Faulty {
    fn get_opts<'s, 'l, 'a>(&'s self, location: &'l Path, options: GetOptions) -> BoxFuture<'a, Result<GetResult>>
    where
        's: 'a,
        'l: 'a,
        Self: 'a,
    {
        // A body that is resumed ends where it would have ended: the end tells the range, whatever its start now is.
        let place = match &options.range {
            Some(GetRange::Bounded(range)) => range.end.to_string(),
            _ => "whole".to_owned(),
        };
        let (request, faults) = match options.head {
            true => (format!("head {location}"), &OF_OTHERS[..]),
            false => (format!("get {location} {place}"), &OF_READS[..]),
        };
        let fault = self.fault(request, Some(location), faults);
        Box::pin(async move {
            match fault {
                None => self.inner.get_opts(location, options).await,
                Some(Fault::Stall) => futures::future::pending().await,
                Some(fault @ (Fault::Cut | Fault::Short)) => {
                    half(self.inner.get_opts(location, options).await?, fault).await
                }
                Some(fault) => Err(error(fault)),
            }
        })
    }

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
        let fault = self.fault(format!("put {location}"), Some(location), &OF_PUTS);
        Box::pin(async move {
            match fault {
                None => self.inner.put_opts(location, payload, options).await,
                Some(Fault::Stall) if options.mode == object_store::PutMode::Overwrite => {
                    futures::future::pending().await
                }
                Some(Fault::Lost) => {
                    self.inner.put_opts(location, payload, options).await?;
                    Err(error(Fault::Lost))
                }
                Some(fault) => Err(error(fault)),
            }
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
        let fault = self.fault(format!("multipart {location}"), Some(location), &OF_OTHERS);
        Box::pin(async move {
            match fault {
                None => self.inner.put_multipart_opts(location, options).await,
                Some(fault) => Err(error(fault)),
            }
        })
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let request = format!("list {}", prefix.map_or("", Path::as_ref));
        match self.fault(request, None, &OF_OTHERS) {
            None => self.inner.list(prefix),
            // Half-way, with some of the list told already.
            Some(fault) => self.inner.list(prefix).take(1).chain(futures::stream::iter([Err(error(fault))])).boxed(),
        }
    }

    fn list_with_delimiter<'s, 'l, 'a>(&'s self, prefix: Option<&'l Path>) -> BoxFuture<'a, Result<ListResult>>
    where
        's: 'a,
        'l: 'a,
        Self: 'a,
    {
        self.inner.list_with_delimiter(prefix)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
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
        self.inner.copy_opts(from, to, options)
    }
}
