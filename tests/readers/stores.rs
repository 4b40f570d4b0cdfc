//! Stores for the suite: in memory, on disk, on a loopback HTTP server, and one that fails on purpose.

use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

type Objects = [(String, Vec<u8>)];

pub async fn in_memory(objects: &Objects) -> Arc<InMemory> {
    let store = Arc::new(InMemory::new());
    for (path, bytes) in objects {
        store.put(&Path::parse(path).unwrap(), bytes.clone().into()).await.unwrap();
    }
    store
}

pub fn on_disk(objects: &Objects) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (path, bytes) in objects {
        let file = directory.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }
    directory
}

/// An HTTP/1.1 server on a loopback port: HEAD and GET, one range, entity tags, connections kept open.
pub struct Served {
    address: std::net::SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Served {
    pub async fn start(objects: &Objects) -> Served {
        Served::start_breaking(objects, 0).await
    }

    /// A server that breaks off in the middle of its first `breaks` bodies.
    pub async fn start_breaking(objects: &Objects, breaks: u32) -> Served {
        let breaks = Arc::new(AtomicU32::new(breaks));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let objects: Arc<HashMap<String, Vec<u8>>> = Arc::new(objects.iter().cloned().collect());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, objects.clone(), breaks.clone()));
            }
        });
        Served { address, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    stream: TcpStream,
    objects: Arc<HashMap<String, Vec<u8>>>,
    breaks: Arc<AtomicU32>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let (headers, body) = answer(&head, &objects);
        stream.write_all(headers.as_bytes()).await?;
        let left = |n: u32| n.checked_sub(1);
        if !body.is_empty() && breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok() {
            stream.write_all(&body[..body.len() / 2]).await?;
            return stream.shutdown().await;
        }
        stream.write_all(&body).await?;
        stream.flush().await?;
    }
}

fn answer(head: &str, objects: &HashMap<String, Vec<u8>>) -> (String, Vec<u8>) {
    let mut words = head.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = Path::from_url_path(target).map(|path| path.to_string()).unwrap_or_default();
    let Some(bytes) = objects.get(&path).filter(|_| matches!(method, "GET" | "HEAD")) else {
        return ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into(), Vec::new());
    };
    let size = bytes.len();
    let range =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
    let (status, place, body) = match range.and_then(|range| {
        let (start, end) = range.split_once('-')?;
        Some((start.parse::<usize>().ok()?, end.parse::<usize>().ok()?.min(size - 1)))
    }) {
        Some((start, end)) => {
            ("206 Partial Content", format!("content-range: bytes {start}-{end}/{size}\r\n"), &bytes[start..=end])
        }
        None => ("200 OK", String::new(), &bytes[..]),
    };
    let length = body.len();
    let headers = format!("HTTP/1.1 {status}\r\netag: \"v1\"\r\ncontent-length: {length}\r\n{place}\r\n");
    (headers, if method == "HEAD" { Vec::new() } else { body.to_vec() })
}

/// How a [`Faulty`] store fails.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The request itself fails.
    Refuse,
    /// The body breaks off half-way with an error.
    CutBody,
    /// The body ends half-way as if that were all.
    ShortBody,
    /// No answer, ever.
    Hang,
}

/// A store whose reads fail: the first `times` reads up to any one place of an object. It remembers what it was asked for.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<InMemory>,
    fault: Fault,
    times: u32,
    tried: Mutex<HashMap<(String, Option<u64>), u32>>,
    faults: AtomicU32,
    requests: AtomicU32,
    /// The range of each GET, none for a whole object.
    gets: Mutex<Vec<Option<GetRange>>>,
}

impl Faulty {
    pub fn new(inner: Arc<InMemory>, fault: Fault, times: u32) -> Faulty {
        Faulty {
            inner,
            fault,
            times,
            tried: Mutex::default(),
            faults: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            gets: Mutex::default(),
        }
    }

    /// How many reads and listings were asked for.
    pub fn requests(&self) -> u32 {
        self.requests.load(Ordering::SeqCst)
    }

    /// The ranges of all GETs since this was asked last.
    pub fn take_gets(&self) -> Vec<Option<GetRange>> {
        std::mem::take(&mut self.gets.lock().unwrap())
    }

    pub fn faults(&self) -> u32 {
        self.faults.load(Ordering::SeqCst)
    }

    fn strikes(&self, location: &Path, options: &GetOptions) -> bool {
        let end = match &options.range {
            Some(GetRange::Bounded(range)) => Some(range.end),
            _ => None,
        };
        let mut tried = self.tried.lock().unwrap();
        let times = tried.entry((location.to_string(), end)).or_default();
        *times += 1;
        let strikes = !options.head && *times <= self.times;
        self.faults.fetch_add(u32::from(strikes), Ordering::SeqCst);
        strikes
    }

    async fn get(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        if !options.head {
            self.gets.lock().unwrap().push(options.range.clone());
        }
        if !self.strikes(location, &options) {
            return self.inner.get_opts(location, options).await;
        }
        let broken = || object_store::Error::Generic { store: "faulty", source: "on purpose".into() };
        if matches!(self.fault, Fault::Refuse) {
            return Err(broken());
        }
        if matches!(self.fault, Fault::Hang) {
            return futures::future::pending().await;
        }
        let mut result = self.inner.get_opts(location, options).await?;
        let wanted = (result.range.end - result.range.start) as usize;
        let GetResultPayload::Stream(body) = result.payload else { return Err(broken()) };
        let kept = body.map(move |bytes| bytes.map(|bytes| bytes.slice(..bytes.len().min(wanted / 2))));
        result.payload = GetResultPayload::Stream(match self.fault {
            Fault::CutBody => kept.chain(futures::stream::once(async move { Err(broken()) })).boxed(),
            _ => kept.boxed(),
        });
        Ok(result)
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({:?})", self.fault)
    }
}

/// What `#[async_trait]`, which `ObjectStore` is declared with, makes of an async function.
type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

impl ObjectStore for Faulty {
    fn get_opts<'s, 'l, 'a>(&'s self, location: &'l Path, options: GetOptions) -> Answer<'a, GetResult>
    where
        's: 'a,
        'l: 'a,
        Self: 'a,
    {
        Box::pin(self.get(location, options))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.inner.list(prefix)
    }

    fn list_with_delimiter<'s, 'l, 'a>(&'s self, prefix: Option<&'l Path>) -> Answer<'a, ListResult>
    where
        's: 'a,
        'l: 'a,
        Self: 'a,
    {
        self.inner.list_with_delimiter(prefix)
    }

    fn put_opts<'s, 'l, 'a>(
        &'s self,
        location: &'l Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Answer<'a, PutResult>
    where
        's: 'a,
        'l: 'a,
        Self: 'a,
    {
        self.inner.put_opts(location, payload, options)
    }

    fn put_multipart_opts<'s, 'l, 'a>(
        &'s self,
        location: &'l Path,
        options: PutMultipartOptions,
    ) -> Answer<'a, Box<dyn MultipartUpload>>
    where
        's: 'a,
        'l: 'a,
        Self: 'a,
    {
        self.inner.put_multipart_opts(location, options)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn copy_opts<'s, 'f, 't, 'a>(&'s self, from: &'f Path, to: &'t Path, options: CopyOptions) -> Answer<'a, ()>
    where
        's: 'a,
        'f: 'a,
        't: 'a,
        Self: 'a,
    {
        self.inner.copy_opts(from, to, options)
    }
}
