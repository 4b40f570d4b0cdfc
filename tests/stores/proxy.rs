//! A proxy between a client and a store that spoils some of what passes, by a seed.

use crate::http::{Answer, HttpServer, Request};
use imagebart::random::{Purpose, RowKey};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One in so many requests is spoilt.
const ONE_IN: u32 = 5;
const KINDS: usize = 5;

/// The proxy, and how often it did what.
pub struct Proxy {
    pub server: HttpServer,
    counts: Arc<[AtomicU64; KINDS]>,
    passed: Arc<AtomicU64>,
}

impl Proxy {
    /// Before the server at `address`.
    pub fn before(address: &str, seed: u64) -> Proxy {
        let upstream = address.trim_start_matches("http://").to_owned();
        let (counts, passed) = (Arc::<[AtomicU64; KINDS]>::default(), Arc::<AtomicU64>::default());
        let (spoilt, asked) = (counts.clone(), passed.clone());
        let server = HttpServer::start(move |request| {
            let row = RowKey::new(seed, "proxy", asked.fetch_add(1, Ordering::SeqCst), 0);
            if row.below(Purpose::Init, 0, ONE_IN) != 0 {
                return forward(&upstream, request);
            }
            // One kind after the other.
            let kind = spoilt.iter().map(|count| count.load(Ordering::SeqCst)).sum::<u64>() as usize % KINDS;
            spoilt[kind].fetch_add(1, Ordering::SeqCst);
            match kind {
                0 => Answer::status("503 Slow Down"),
                1 => Answer::status("429 Too Many Requests"),
                2 => Answer::status("500 Internal Server Error"),
                // The answer of what was done is lost, or breaks off.
                3 => {
                    forward(&upstream, request);
                    Answer::Hangup
                }
                _ => match forward(&upstream, request) {
                    Answer::Whole(head, body) if request.method == "GET" && body.len() > 1 => {
                        let half = body.len() / 2;
                        Answer::Cut(head, body, half)
                    }
                    _ => Answer::Hangup,
                },
            }
        });
        Proxy { server, counts, passed }
    }

    /// How often each kind of fault was made.
    pub fn faults(&self) -> [u64; KINDS] {
        [0, 1, 2, 3, 4].map(|kind: usize| self.counts[kind].load(Ordering::SeqCst))
    }

    /// How many requests there were.
    pub fn requests(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }
}

/// What the store answers, on a connection for this request alone.
fn forward(upstream: &str, request: &Request) -> Answer {
    let ask = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(upstream)?;
        let kept = request.headers.iter().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
        let headers: String = kept.map(String::as_str).collect();
        write!(stream, "{} {} HTTP/1.1\r\n{headers}connection: close\r\n\r\n", request.method, request.target)?;
        stream.write_all(&request.body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let Ok(answer) = ask() else { return Answer::status("502 Bad Gateway") };
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Answer::status("502 Bad Gateway");
    };
    let (head, body) = answer.split_at(end + 4);
    let head = String::from_utf8_lossy(&head[..end + 2]);
    // Ours stays open.
    let lines = head.split_inclusive("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    Answer::Whole(lines.collect(), body.to_vec())
}
