//! An HTTP/1.1 server in this process that answers as a test tells it: with files, with faults, over TLS.

use object_store::path::Path;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What was asked.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// As it was sent.
    pub target: String,
    /// Each with its line end.
    pub headers: Vec<String>,
    pub body: Vec<u8>,
}

impl Request {
    /// The target as the path of an object.
    pub fn path(&self) -> String {
        Path::from_url_path(self.target.trim_start_matches('/')).map(|path| path.to_string()).unwrap_or_default()
    }

    /// A header's value, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &&String| line.split(':').next().is_some_and(|found| found.eq_ignore_ascii_case(name));
        self.headers.iter().find(named).and_then(|line| line.split_once(':')).map(|(_, value)| value.trim())
    }

    /// The range asked for, of an object of `size` bytes.
    pub fn range(&self, size: usize) -> Option<(usize, usize)> {
        let (start, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((start.parse().ok()?, last.parse::<usize>().ok()?.saturating_add(1).min(size)))
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Status line and headers, each with its line end; and the body.
    Whole(String, Vec<u8>),
    /// The same, but the connection breaks after so many bytes of the body.
    Cut(String, Vec<u8>, usize),
    /// Nothing: the connection breaks.
    Hangup,
    /// Nothing, until the client gives up.
    Silence,
}

impl Answer {
    /// A status without a body.
    pub fn status(status: &str) -> Answer {
        Answer::Whole(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n"), Vec::new())
    }

    /// An object, or the range of it that was asked for; `headers` are those of its version.
    pub fn object(request: &Request, bytes: &[u8], headers: &str) -> Answer {
        let (status, place, body) = match request.range(bytes.len()) {
            Some((start, end)) if start < end => {
                let place = format!("content-range: bytes {start}-{}/{}\r\n", end - 1, bytes.len());
                ("206 Partial Content", place, &bytes[start..end])
            }
            Some(_) => return Answer::status("416 Range Not Satisfiable"),
            None => ("200 OK", String::new(), bytes),
        };
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{place}{headers}");
        Answer::Whole(head, if request.method == "HEAD" { Vec::new() } else { body.to_vec() })
    }

    /// The same answer, whose body breaks off after `bytes`.
    pub fn cut(self, bytes: usize) -> Answer {
        match self {
            Answer::Whole(head, body) if bytes < body.len() => Answer::Cut(head, body, bytes),
            other => other,
        }
    }
}

/// A handler that serves files.
pub fn files(objects: BTreeMap<String, Vec<u8>>) -> impl Fn(&Request) -> Answer + Send + Sync + 'static {
    move |request| match objects.get(&request.path()) {
        Some(bytes) if ["GET", "HEAD"].contains(&request.method.as_str()) => {
            Answer::object(request, bytes, "etag: \"1\"\r\n")
        }
        _ => Answer::status("404 Not Found"),
    }
}

/// A server on a free port of the loopback, until it is dropped.
pub struct HttpServer {
    socket: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl HttpServer {
    pub fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> HttpServer {
        HttpServer::start_with(None, answer)
    }

    /// Over TLS, as `localhost`; with the certificate of who vouches for it, as PEM.
    pub fn start_tls(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> (HttpServer, String) {
        let (config, authority) = identity().expect("a certificate");
        (HttpServer::start_with(Some(Arc::new(config)), answer), authority)
    }

    fn start_with(
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> HttpServer {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let socket = listener.local_addr().expect("its number");
        let (stop, answer) = (Arc::new(AtomicBool::new(false)), Arc::new(answer));
        let stopped = stop.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (tls, answer) = (tls.clone(), answer.clone());
                std::thread::spawn(move || match tls {
                    None => converse(stream, &*answer),
                    Some(tls) => converse(StreamOwned::new(ServerConnection::new(tls).expect("TLS"), stream), &*answer),
                });
            }
        });
        HttpServer { socket, stop }
    }

    pub fn port(&self) -> u16 {
        self.socket.port()
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://{}", self.socket)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(self.socket);
    }
}

/// Answers the requests of one connection, until either side ends it.
fn converse(stream: impl Read + Write, answer: &dyn Fn(&Request) -> Answer) {
    let mut stream = BufReader::new(stream);
    while let Ok(Some(request)) = read(&mut stream) {
        let (head, body, whole) = match answer(&request) {
            Answer::Whole(head, body) => (head, body, true),
            Answer::Cut(head, mut body, bytes) => {
                body.truncate(bytes);
                (head, body, false)
            }
            Answer::Hangup => return,
            Answer::Silence => {
                let _ = stream.read_to_end(&mut Vec::new());
                return;
            }
        };
        let out = stream.get_mut();
        let sent = out.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| out.write_all(&body));
        if !whole || sent.and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

fn read(stream: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut first = String::new();
    if stream.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut words = first.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut request = Request { method, target, headers: Vec::new(), body: Vec::new() };
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? <= 2 {
            break;
        }
        request.headers.push(line);
    }
    let length: usize = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    request.body.resize(length, 0);
    stream.read_exact(&mut request.body)?;
    Ok(Some(request))
}

/// A certificate for `localhost`, and that of the authority that signed it.
fn identity() -> Result<(ServerConfig, String), Box<dyn std::error::Error>> {
    let mut params = rcgen::CertificateParams::new(Vec::new())?;
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate()?;
    let authority = params.self_signed(&authority_key)?;
    let issuer = rcgen::Issuer::new(params, authority_key);
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::try_from(key.serialize_der())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok((config, authority.pem()))
}
