//! A small dataset of each format: its objects, and the entries it must give.

use crate::example::LengthPrefixed;
use imagebart::datasets::{DatasetOptions, Folder, Labels, Location, ReadAhead, Reader, WebDataset};
use imagebart::retry::Retries;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

/// A dataset for the conformance suite.
pub struct Fixture {
    pub name: &'static str,
    /// Every object, sorted by path, all of them part of the dataset but those under `other/` and the JSON files that describe
    /// it.
    pub objects: Vec<(String, Vec<u8>)>,
    /// What a user writes to name the dataset, without scheme and host.
    pub pattern: &'static str,
    /// The same dataset without listing, by braces: plain HTTP needs that.
    pub names_for_http: &'static str,
    pub reader: fn(Location) -> Arc<dyn Reader>,
    /// Per unit, in order: `source|key|label|caption|image` of a sample, `source|key|reason` of a reject.
    pub expected: Vec<Vec<String>>,
}

impl Fixture {
    pub fn bytes(&self) -> u64 {
        // Files that only describe the others are no unit's.
        let is_read = |path: &str| !path.contains("other/") && !path.ends_with(".json") && !path.ends_with("/lock.mdb");
        self.objects.iter().filter(|(path, _)| is_read(path)).map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

/// Small ranges, so that small objects are read in many steps; no waiting between attempts.
pub fn options() -> DatasetOptions {
    let retries = Retries { attempts: 3, backoff: Duration::ZERO, ..Retries::default() };
    let read_ahead = ReadAhead { chunk: 700, parallel: 2, retries };
    DatasetOptions {
        max_bytes: 5000,
        unit_rows: 3,
        parallel_files: 2,
        ahead_bytes: 1000,
        read_ahead,
        ..DatasetOptions::default()
    }
}

pub fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, body) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *body).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn objects(list: Vec<(&str, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    list.into_iter().map(|(path, bytes)| (path.to_owned(), bytes)).collect()
}

pub fn lines(units: &[&[&str]]) -> Vec<Vec<String>> {
    units.iter().map(|unit| unit.iter().map(|line| (*line).to_owned()).collect()).collect()
}

fn shards() -> [Vec<u8>; 3] {
    let big = [b'x'; 6000];
    let first = tar_of(&[
        ("a.jpg", b"image a"),
        ("a.cls", b"3\n"),
        ("a.txt", b"a cat"),
        ("d/b.cls", b"4"),
        ("d/b.png", b"image b"),
        ("c.jpg", &big),
        ("c.cls", b"5"),
        ("d.json", br#"{"label": 6, "caption": "json"}"#),
        ("d.webp", &[b'd'; 2000]),
        ("e.txt", b"no image"),
        ("f.jpg", b"image f"),
        ("f.txt", b"\xff"),
    ]);
    [first, tar_of(&[]), tar_of(&[("0.jpg", b"zero")])]
}

const SHARD_ENTRIES: &[&[&str]] = &[
    &[
        "00.tar|a|3|a cat|image a",
        "00.tar|d/b|4|-|image b",
        "00.tar|c|too_large",
        "", // d: its image is long; see below
        "00.tar|e|missing_field",
        "00.tar|f|bad_utf8_caption",
    ],
    &[],
    &["sub/02.tar|0|-|-|zero"],
];

fn shard_entries() -> Vec<Vec<String>> {
    let mut expected = lines(SHARD_ENTRIES);
    expected[0][3] = format!("00.tar|d|6|json|{}", "d".repeat(2000));
    expected
}

pub fn webdataset() -> Fixture {
    let [a, b, c] = shards();
    Fixture {
        name: "webdataset",
        objects: objects(vec![
            ("set/00.tar", a),
            ("set/01.tar", b),
            ("set/other/notes.txt", b"not a shard".to_vec()),
            ("set/sub/02.tar", c),
        ]),
        pattern: "set/",
        names_for_http: "set/{00,01,sub/02}.tar",
        reader: |location| Arc::new(WebDataset::new(location, options())),
        expected: shard_entries(),
    }
}

pub fn webdataset_gzip() -> Fixture {
    let gzip = |plain: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    };
    let [a, b, c] = shards().map(|plain| gzip(&plain));
    // The endings say nothing about compression: the bytes do.
    Fixture {
        name: "webdataset, gzipped",
        objects: objects(vec![("set/00.tar", a), ("set/01.tar", b), ("set/sub/02.tar", c)]),
        pattern: "set/{0*,sub/*}.tar",
        names_for_http: "set/{0{0,1},sub/02}.tar",
        ..webdataset()
    }
}

pub fn folder() -> Fixture {
    let reader = |location| -> Arc<dyn Reader> { Arc::new(Folder::new(location, options())) };
    Fixture {
        name: "folder",
        objects: objects(vec![
            ("imgs/a.JPG", b"image a".to_vec()),
            ("imgs/b/1.png", vec![b'b'; 1500]),
            ("imgs/b/2.webp", Vec::new()),
            ("imgs/b/c/3 \u{e9}.gif", vec![b'c'; 900]),
            ("imgs/b0.bmp", vec![0; 5001]),
            ("imgs/other/notes.txt", b"not an image".to_vec()),
            ("imgs/z.jpeg", b"image z".to_vec()),
        ]),
        pattern: "imgs",
        names_for_http: "imgs/{a.JPG,b/1.png,b/2.webp,b/c/3%20%C3%A9.gif,b0.bmp,z.jpeg}",
        reader,
        expected: vec![
            vec![
                "a.JPG|a.JPG|-|-|image a".to_owned(),
                format!("b/1.png|b/1.png|-|-|{}", "b".repeat(1500)),
                "b/2.webp|b/2.webp|empty".to_owned(),
            ],
            vec![
                format!("b/c/3 \u{e9}.gif|b/c/3 \u{e9}.gif|-|-|{}", "c".repeat(900)),
                "b0.bmp|b0.bmp|too_large".to_owned(),
                "z.jpeg|z.jpeg|-|-|image z".to_owned(),
            ],
        ],
    }
}

/// As img2dataset writes files: what describes an image lies beside it.
pub fn folder_with_captions() -> Fixture {
    Fixture {
        name: "folder, captions beside the images",
        objects: objects(vec![
            ("f/00000/000.jpg", b"image 0".to_vec()),
            ("f/00000/000.txt", b"a cat\n".to_vec()),
            ("f/00000/001.jpg", b"image 1".to_vec()),
            ("f/00000/002.jpg", Vec::new()),
            ("f/00000/002.txt", b"no image".to_vec()),
            ("f/00000/003.webp", b"image 3".to_vec()),
            ("f/00000/003.txt", b"\xff".to_vec()),
            ("f/00000/004.jpg", b"image 4".to_vec()),
            ("f/00000/004.txt", Vec::new()),
            ("f/00000_stats.json", b"{}".to_vec()),
        ]),
        pattern: "f/",
        names_for_http: "f/{00000/000.jpg,00000/001.jpg,00000/002.jpg,00000/003.webp,00000/004.jpg,00000/00{0,2,3,4}.txt}",
        expected: lines(&[
            &[
                "00000/000.jpg|00000/000.jpg|-|a cat|image 0",
                "00000/001.jpg|00000/001.jpg|-|-|image 1",
                "00000/002.jpg|00000/002.jpg|empty",
            ],
            &["00000/003.webp|00000/003.webp|bad_utf8_caption", "00000/004.jpg|00000/004.jpg|-||image 4"],
        ]),
        ..folder()
    }
}

pub fn folder_with_directories() -> Fixture {
    let reader = |location| -> Arc<dyn Reader> {
        let options = DatasetOptions { labels: Labels::Directory, ..options() };
        Arc::new(Folder::new(location, options))
    };
    Fixture {
        name: "folder, classes from directories",
        objects: objects(vec![
            ("train/cat/1.jpg", b"c1".to_vec()),
            ("train/cat/deep/2.jpg", b"c2".to_vec()),
            ("train/dog/1.jpg", b"d1".to_vec()),
            ("train/ox/1.jpg", b"o1".to_vec()),
        ]),
        pattern: "train",
        names_for_http: "train/{cat/1,cat/deep/2,dog/1,ox/1}.jpg",
        reader,
        expected: lines(&[
            &["cat/1.jpg|cat/1.jpg|0|-|c1", "cat/deep/2.jpg|cat/deep/2.jpg|0|-|c2", "dog/1.jpg|dog/1.jpg|1|-|d1"],
            &["ox/1.jpg|ox/1.jpg|2|-|o1"],
        ]),
    }
}

/// The format of `examples/own_reader.rs`: what the example shows must hold for it too.
pub fn lengths_example() -> Fixture {
    let file = |images: &[&[u8]]| -> Vec<u8> {
        images.iter().flat_map(|image| [&(image.len() as u32).to_le_bytes()[..], image].concat()).collect()
    };
    let mut cut = file(&[b"three", b"four is lost"]);
    cut.truncate(cut.len() - 3);
    Fixture {
        name: "length-prefixed (examples/own_reader.rs)",
        objects: objects(vec![
            ("l/a.lp", file(&[b"one", &[b'2'; 1000], b""])),
            ("l/b.lp", cut),
            ("l/c.lp", Vec::new()),
        ]),
        pattern: "l/*.lp",
        names_for_http: "l/{a..c}.lp",
        reader: |location| Arc::new(LengthPrefixed::new(location, options().read_ahead)),
        expected: vec![
            vec!["a.lp|0|-|-|one".to_owned(), format!("a.lp|1|-|-|{}", "2".repeat(1000)), "a.lp|2|empty".to_owned()],
            vec!["b.lp|0|-|-|three".to_owned(), "b.lp||truncated".to_owned()],
            vec![],
        ],
    }
}
