//! Parquet pages that claim more than they have: refused before memory is taken for them.

use crate::formats::options;
use crate::stores::in_memory;
use arrow::array::{ArrayRef, BinaryArray, RecordBatch};
use imagebart::datasets::{DatasetOptions, Entry, Location, ParquetImages, Reader, Table, read_unit};
use imagebart::reject::Reason;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use std::sync::Arc;

/// Two row groups of two images each, compressed, and where the page of the first begins.
fn table() -> (Vec<u8>, usize) {
    let images: ArrayRef = Arc::new(BinaryArray::from_iter((0..4u8).map(|image| Some(vec![image; 900]))));
    let batch = RecordBatch::try_from_iter([("image", images)]).unwrap();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(2))
        .set_compression(Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    let file = writer.into_inner().unwrap();
    let footer = ArrowReaderMetadata::load(&bytes::Bytes::from(file.clone()), Default::default()).unwrap();
    let page = footer.metadata().row_group(0).column(0).data_page_offset();
    (file, usize::try_from(page).unwrap())
}

/// Writes `size` as the unpacked size of the page at `page`. The page's end gives way, so that nothing else moves.
fn claim(file: &mut Vec<u8>, page: usize, size: u32, end: usize) {
    // The page's type, and its size as an integer of variable length: two fields of Thrift's compact protocol.
    assert_eq!((file[page], file[page + 2]), (0x15, 0x15));
    let start = page + 3;
    let length = file[start..].iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
    let (mut rest, mut number) = (u64::from(size) << 1, Vec::new());
    while rest > 0x7f {
        number.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    number.push(rest as u8);
    file.drain(end - (number.len() - length)..end);
    file.splice(start..start + length, number);
}

async fn entries(file: Vec<u8>, options: DatasetOptions) -> Vec<Entry> {
    let store = in_memory(&[("t.parquet".to_owned(), file)]).await;
    let reader = ParquetImages::new(Location::in_store(store, "t.parquet"), Table::HuggingFace, options);
    let mut entries = Vec::new();
    for unit in reader.units().await.unwrap() {
        entries.extend(read_unit(&reader, &unit).await.unwrap());
    }
    entries
}

#[tokio::test]
async fn a_page_of_two_gigabytes_costs_its_row_group_and_no_memory() {
    let (whole, page) = table();
    let second = {
        let footer = ArrowReaderMetadata::load(&bytes::Bytes::from(whole.clone()), Default::default()).unwrap();
        usize::try_from(footer.metadata().row_group(1).column(0).data_page_offset()).unwrap()
    };
    assert_eq!(entries(whole.clone(), DatasetOptions::default()).await.len(), 4);
    for size in [u32::MAX >> 1, 1 << 30, 3 << 20] {
        let mut file = whole.clone();
        claim(&mut file, page, size, second);
        assert_eq!(file.len(), whole.len());
        let found = entries(file, DatasetOptions::default()).await;
        let [Entry::Reject(reject), Entry::Sample(_), Entry::Sample(_)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(reject.reason, Reason::DecodeError);
        assert!(reject.message.contains(&format!("a page claims {size} bytes")), "{}", reject.message);
    }
}

#[tokio::test]
async fn pages_have_the_limit_of_sixteen_images() {
    let (file, _) = table();
    let with = |max_bytes: u64| DatasetOptions { max_bytes, ..options() };
    let found = entries(file.clone(), with(900)).await;
    assert!(found.iter().all(|entry| matches!(entry, Entry::Sample(_))), "{found:?}");
    let found = entries(file, with(100)).await;
    assert!(found.iter().all(|entry| matches!(entry, Entry::Reject(_))) && found.len() == 2, "{found:?}");
}
