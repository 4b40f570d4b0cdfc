//! `imagebart encode` over ImageNet's training archive, from a store whose entity tags last.

use crate::common::{imagebart, pipeline, png, stderr, succeed, tables, tar};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use tempfile::tempdir;

/// Serves one file under any name on a loopback port: HEAD, and GET of a range. The thread ends with the process.
fn served(file: Vec<u8>) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let file = file.clone();
            std::thread::spawn(move || while answer(&stream, &file).is_some() {});
        }
    });
    format!("http://{address}")
}

/// Answers a request; `None` at the end of the connection.
fn answer(stream: &TcpStream, file: &[u8]) -> Option<()> {
    let (mut head, mut line) = (Vec::new(), String::new());
    let mut reader = BufReader::with_capacity(1, stream.take(1 << 16));
    while reader.read_line(&mut line).ok()? > 2 {
        head.push(std::mem::take(&mut line).to_ascii_lowercase());
    }
    let range = head.iter().find_map(|line| line.strip_prefix("range: bytes=")?.trim().split_once('-'));
    let range = range.map(|(start, end)| start.parse().unwrap()..file.len().min(end.parse::<usize>().unwrap() + 1));
    let (status, place) = match &range {
        Some(range) => ("206", format!("content-range: bytes {}-{}/{}\r\n", range.start, range.end - 1, file.len())),
        None => ("200", String::new()),
    };
    let body = &file[range.unwrap_or(0..file.len())];
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status} OK\r\netag: \"v1\"\r\ncontent-length: {}\r\n{place}\r\n", body.len()).ok()?;
    if !head.first()?.starts_with("head") {
        stream.write_all(body).ok()?;
    }
    Some(())
}

fn archive() -> Vec<u8> {
    let synset = |(at, wnid): (u64, &str)| {
        let images: Vec<(String, Vec<u8>)> =
            (0..2).map(|n| (format!("{wnid}_{n}.JPEG"), png(2 * at + n, 40, 36))).collect();
        (format!("{wnid}.tar"), tar(&images))
    };
    tar(&(0..).zip(["n01440764", "n02119789", "n15075141"]).map(synset).collect::<Vec<_>>())
}

#[test]
fn the_training_archive_is_indexed_beside_the_output() {
    let root = tempdir().unwrap();
    let url = format!("{}/ILSVRC2012_img_train.tar", served(archive()));
    let file = pipeline(root.path(), "imagenet-tar", &url, "");
    let encode = |more: &[&str]| {
        let output = imagebart().arg("encode").arg(&file).args(more).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    };
    let out = root.path().join("out");
    encode(&["--dry-run"]);
    assert!(!out.exists(), "a dry run keeps no index");

    encode(&[]);
    let index = out.join("index/ILSVRC2012_img_train.tar.json");
    let kept = std::fs::read(&index).unwrap();
    succeed(["verify", out.to_str().unwrap()]);
    let before = tables(&out);
    let synset = Path::new("latents/ILSVRC2012_img_train.tar/n02119789.tar.parquet");
    assert!(before.contains_key(synset.to_str().unwrap()), "{:?}", before.keys());

    // With the index, and with a broken one, which is put right again.
    for change in [false, true] {
        std::fs::remove_file(out.join(synset)).unwrap();
        if change {
            std::fs::write(&index, "{}").unwrap();
        }
        let said = encode(&[]);
        assert_eq!(said.contains("the index is ignored"), change, "{said}");
        assert_eq!(std::fs::read(&index).unwrap(), kept);
        assert_eq!(tables(&out), before);
    }
}
