use super::*;
use crate::datasets::Source;
use crate::datasets::range_reader::{Object, ReadAhead};
use crate::retry::Retries;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;
use std::io::Write;
use std::sync::Arc;

async fn open(bytes: Vec<u8>, chunk: u64) -> Tar {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = Source { path: "o".into(), size: bytes.len() as u64, etag: None };
    store.put(&Path::from("o"), bytes.into()).await.unwrap();
    let options = ReadAhead { chunk, parallel: 1, retries: Retries { attempts: 1, ..Retries::default() } };
    Tar::new(RangeReader::new(Object::new(store, Path::from("o"), &source, &options)))
}

/// What an archive holds, and how it ends.
async fn walk(bytes: Vec<u8>, chunk: u64) -> (Vec<(String, Kind, Vec<u8>)>, Option<TarError>) {
    let mut tar = open(bytes, chunk).await;
    let mut members = Vec::new();
    loop {
        match tar.next().await {
            Ok(None) => return (members, None),
            Err(error) => return (members, Some(error)),
            Ok(Some(member)) => match tar.body().await {
                Ok(body) => {
                    assert_eq!(body.len() as u64, member.size);
                    members.push((String::from_utf8_lossy(&member.name).into_owned(), member.kind, body.to_vec()));
                }
                Err(error) => return (members, Some(error)),
            },
        }
    }
}

/// A member's name, kind and bytes.
type Member = (String, Kind, Vec<u8>);

fn walk_now(bytes: Vec<u8>, chunk: u64) -> (Vec<Member>, Option<TarError>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(walk(bytes, chunk))
}

fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (name, body) in members {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *body).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A header by hand: name, type, size field as written, filled up with a right checksum.
fn header(name: &[u8], flag: u8, size: &[u8], magic: &[u8]) -> Vec<u8> {
    let mut block = vec![0u8; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[124..124 + size.len()].copy_from_slice(size);
    block[156] = flag;
    block[257..257 + magic.len()].copy_from_slice(magic);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

fn padded(body: &[u8]) -> Vec<u8> {
    let mut bytes = body.to_vec();
    bytes.resize(body.len().next_multiple_of(BLOCK), 0);
    bytes
}

#[test]
fn members_come_back_from_any_chunking_and_gzip() {
    let long = "x/".repeat(90) + "name.jpg";
    let expected = [("a.jpg", &b"one"[..]), (&long, &[7; 1500]), ("empty.txt", b"")];
    let plain = archive(&expected);
    for bytes in [plain.clone(), gzipped(&plain), [gzipped(&plain[..700]), gzipped(&plain[700..])].concat()] {
        for chunk in [1, 100, 512, 1 << 20] {
            let (members, error) = walk_now(bytes.clone(), chunk);
            assert!(error.is_none(), "{error:?}");
            let found: Vec<(&str, &[u8])> = members.iter().map(|(n, _, b)| (n.as_str(), &b[..])).collect();
            assert_eq!(found, expected);
        }
    }
}

#[test]
fn every_way_of_writing_names_and_sizes() {
    let base256 = [&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &[3]].concat();
    let mut prefixed = header(b"name.txt", b'0', b"00000000002\0", b"ustar\x0000");
    prefixed[345..348].copy_from_slice(b"dir");
    prefixed[148..156].fill(b' ');
    let sum: u32 = prefixed.iter().map(|b| u32::from(*b)).sum();
    prefixed[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let record = |text: &str| {
        let length = (text.len() + 4).to_string();
        format!("{length} {text}\n").into_bytes()
    };
    let pax = [record("path=new/name.txt"), record("size=00000004")].concat();
    let pax_size = format!("{:011o}\0", pax.len());
    let bytes = [
        header(b"v7.txt", 0, b"         1 ", b""),
        padded(b"1"),
        header(b"dir/", 0, b"0", b""),
        header(b"big.txt", b'0', &base256, b"ustar  \0"),
        padded(b"333"),
        prefixed,
        padded(b"22"),
        header(b"pax", b'x', pax_size.as_bytes(), b"ustar\x0000"),
        padded(&pax),
        header(b"old.txt", b'0', b"00000000000\0", b"ustar\x0000"),
        padded(b"4444"),
        // A hard link's size field does not mean that a body follows.
        header(b"hard.jpg", b'1', b"00000007777\0", b"ustar\x0000"),
        header(b"soft.jpg", b'2', b"0", b"ustar\x0000"),
        header(b"odd", b'Z', b"00000000003\0", b"ustar\x0000"),
        padded(b"odd"),
        vec![0; 1024],
    ]
    .concat();
    let (members, error) = walk_now(bytes, 300);
    assert!(error.is_none(), "{error:?}");
    let found: Vec<(&str, Kind, &[u8])> = members.iter().map(|(n, k, b)| (n.as_str(), *k, &b[..])).collect();
    assert_eq!(
        found,
        [
            ("v7.txt", Kind::File, &b"1"[..]),
            ("dir/", Kind::Directory, b""),
            ("big.txt", Kind::File, b"333"),
            ("dir/name.txt", Kind::File, b"22"),
            ("new/name.txt", Kind::File, b"4444"),
            ("hard.jpg", Kind::Other("hard link"), b""),
            ("soft.jpg", Kind::Other("symbolic link"), b""),
            ("odd", Kind::Other("member of an unknown type"), b"odd"),
        ]
    );
}

#[test]
fn breaks_are_told_from_the_end() {
    let good = archive(&[("a.jpg", b"one"), ("b.jpg", b"two")]);
    let ended = |bytes: Vec<u8>| match walk_now(bytes, 1 << 20) {
        (members, Some(error)) => (members.len(), error.to_string()),
        (members, None) => (members.len(), String::new()),
    };
    assert_eq!(ended(good.clone()), (2, String::new()));
    assert_eq!(ended(good[..2048 + 512].to_vec()), (2, String::new()));
    assert!(ended(good[..2048].to_vec()).1.contains("end mark"));
    assert!(ended(good[..1024 + 100].to_vec()).1.contains("header is cut"));
    assert_eq!(
        ended(good[..1024 + 512 + 1].to_vec()),
        (1, "the archive ends early at byte 1536: a member is cut".into())
    );
    let mut flipped = good.clone();
    flipped[1024] ^= 1;
    assert_eq!(ended(flipped), (1, "the archive is damaged at byte 1024: the checksum of a header is wrong".into()));
    let mut hole = good.clone();
    hole[1024..1536].fill(0);
    assert!(ended(hole).1.contains("zeros"));
    assert!(ended(b"<html>no".repeat(100)).1.contains("no tar archive"));
    assert_eq!(ended(Vec::new()).1, "the file has no bytes");
    assert!(ended(gzipped(&good)[..40].to_vec()).1.contains("ends early"));
    assert!(ended([&[0x28, 0xb5, 0x2f, 0xfd][..], &[0; 600]].concat()).1.contains("zstd"));
}

#[test]
fn lengths_in_the_archive_take_no_memory() {
    let huge = header(b"a.jpg", b'0', b"77777777777\0", b"ustar\x0000");
    let (_, error) = walk_now(huge.clone(), 1 << 20);
    assert!(matches!(error, Some(TarError::Truncated { what: "a member is cut", .. })), "{error:?}");
    let most = [&[0x80, 0, 0, 0][..], &[0xff; 8]].concat();
    let (_, error) = walk_now(header(b"a.jpg", b'0', &most, b""), 1 << 20);
    assert!(matches!(error, Some(TarError::Corrupt { .. })), "{error:?}");
    let (_, error) = walk_now(header(b"a", b'0', &[0xff; 12], b""), 1 << 20);
    assert!(matches!(error, Some(TarError::Corrupt { .. })), "{error:?}");
    for flag in [b'L', b'K', b'x', b'g'] {
        let (_, error) = walk_now(header(b"a", flag, b"77777777777\0", b""), 1 << 20);
        assert!(error.unwrap().to_string().contains("claims"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the bytes, reading ends with an answer.
    #[test]
    fn damaged_archives_never_panic(at in 0usize..4096, byte: u8, cut in 0usize..4096, chunk in 1u64..2000) {
        let mut bytes = archive(&[("a.jpg", &[1; 600]), (&"long/".repeat(30), b"two"), ("c.txt", b"three")]);
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes.truncate(cut.max(1));
        let (members, _) = walk_now(bytes, chunk);
        prop_assert!(members.len() <= 3);
    }
}
