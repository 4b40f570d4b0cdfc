use super::*;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use proptest::prelude::*;
use std::io::Write;

fn element(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = [kind.to_le_bytes(), (body.len() as u32).to_le_bytes()].concat();
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// Up to four bytes of data in the tag.
fn short(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = [kind.to_le_bytes(), (body.len() as u16).to_le_bytes()].concat();
    bytes.extend(body);
    bytes.resize(8, 0);
    bytes
}

fn array(class: u8, name: &[u8], rest: &[Vec<u8>]) -> Vec<u8> {
    let dimensions = [1u32, 1].map(u32::to_le_bytes).concat();
    let head = [element(UINT32, &[class, 0, 0, 0, 0, 0, 0, 0]), element(INT32, &dimensions), element(INT8, name)];
    element(MATRIX, &[head.concat(), rest.concat()].concat())
}

fn file(elements: &[Vec<u8>]) -> Vec<u8> {
    let mut file = b"MATLAB 5.0 MAT-file".to_vec();
    file.resize(124, b' ');
    file.extend(b"\x00\x01IM");
    file.extend(elements.concat());
    file
}

/// Three synsets, their numbers and texts in the several types that writers use.
fn table() -> Vec<u8> {
    let names = [&b"WNID\0\0\0\0\0\0\0\0\0\0\0\0"[..], b"words\0\0\0\0\0\0\0\0\0\0\0", b"ILSVRC2012_ID\0\0\0"].concat();
    let two_bytes: Vec<u8> = b"n02100735".iter().flat_map(|byte| [*byte, 0]).collect();
    let text = |kind, body: &[u8]| array(4, b"", &[element(kind, body)]);
    let records = [
        [text(UTF8, b"n02119789"), text(UTF8, b"kit fox"), array(6, b"", &[element(DOUBLE, &1f64.to_le_bytes())])],
        [text(UINT16, &two_bytes), text(UINT16, b""), array(6, b"", &[short(UINT8 as u16, &[2])])],
        [text(UINT8, b"n02110185"), text(UTF8, b""), array(6, b"", &[short(UINT16 as u16, &[0xe8, 3])])],
    ];
    array(STRUCT, b"synsets", &[short(INT32 as u16, &[16, 0, 0, 0]), element(INT8, &names), records.concat().concat()])
}

fn packed(array: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(array).unwrap();
    let body = encoder.finish().unwrap();
    [&COMPRESSED.to_le_bytes()[..], &(body.len() as u32).to_le_bytes(), &body].concat()
}

#[test]
fn plain_and_compressed_tables_are_read() {
    let expected = [(1, "n02119789"), (2, "n02100735"), (1000, "n02110185")];
    let expected: HashMap<u64, String> = expected.map(|(id, wnid)| (id, wnid.to_owned())).into();
    let other = array(6, b"x", &[element(DOUBLE, &[0; 8])]);
    assert_eq!(synsets(&file(&[other.clone(), table()])).unwrap(), expected);
    assert_eq!(synsets(&file(&[packed(&other), packed(&table())])).unwrap(), expected);
}

#[test]
fn what_is_missing_is_said() {
    assert!(synsets(b"MATLAB 7.3").unwrap_err().contains("no little-endian"));
    assert!(synsets(&file(&[])).unwrap_err().contains("no struct array called synsets"));
    let bare = array(STRUCT, b"synsets", &[short(INT32 as u16, &[8, 0, 0, 0]), element(INT8, b"WNID\0\0\0\0")]);
    assert!(synsets(&file(&[bare])).unwrap_err().contains("no field ILSVRC2012_ID"));
}

proptest! {
    #[test]
    fn damage_is_an_error_or_other_facts(
        compressed in any::<bool>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = file(&[if compressed { packed(&table()) } else { table() }]);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = synsets(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        let _ = synsets(&bytes);
    }
}
