use super::*;
use ::parquet::arrow::ArrowWriter;
use ::parquet::file::properties::WriterProperties;
use arrow::array::{ArrayRef, BinaryArray, StringArray, StructArray};
use arrow::datatypes::{DataType, Field};
use arrow::record_batch::RecordBatch;
use std::path::Path;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn message(rows: &mut PairRows, row: u64) -> (&'static str, String) {
    let flaw = rows.get(row).await.unwrap().unwrap_err();
    (flaw.stage, flaw.message)
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_one_name_are_pairs() {
    let root = tempfile::tempdir().unwrap();
    let (images, masks) = (root.path().join("images"), root.path().join("masks"));
    std::fs::create_dir_all(images.join("deep")).unwrap();
    std::fs::create_dir_all(&masks).unwrap();
    for (at, name) in ["b", "deep/a", "c", "empty"].into_iter().enumerate() {
        std::fs::write(
            images.join(format!("{name}.jpg")),
            if name == "empty" { String::new() } else { at.to_string() },
        )
        .unwrap();
        let base = name.rsplit('/').next().unwrap();
        std::fs::write(
            masks.join(format!("{base}.png")),
            if base == "c" { String::new() } else { format!("mask {at}") },
        )
        .unwrap();
    }
    let options = DatasetOptions { parallel_files: 2, ..DatasetOptions::default() };
    let find = |masks: Option<String>| {
        let (images, options) = (images.clone(), options.clone());
        async move { PairFolders::find(text(&images), masks.as_deref(), options).await }
    };
    let folders = Arc::new(find(Some(text(&masks).to_owned())).await.unwrap());
    assert_eq!(*folders.keys(), ["b", "c", "a", "empty"]);
    let pairs = Pairs::Folders(folders);
    assert_eq!((pairs.source(2), pairs.source(9)), ("deep/a.jpg", ""));
    let mut rows = pairs.start();
    for _ in 0..2 {
        let pair = rows.get(0).await.unwrap().unwrap();
        assert_eq!(
            (pair.image, pair.mask, pair.mask_name),
            (bytes("0"), Some(bytes("mask 0")), "the mask b.png".into())
        );
    }
    assert_eq!(rows.get(2).await.unwrap().unwrap().mask, Some(bytes("mask 1")));
    assert_eq!(message(&mut rows, 3).await, ("read", "it has no bytes".to_owned()));
    assert!(rows.get(4).await.is_err());
    assert_eq!(message(&mut pairs.start(), 1).await, ("mask", "the mask c.png: it has no bytes".to_owned()));

    let bare = Pairs::Folders(Arc::new(find(None).await.unwrap()));
    assert_eq!(bare.start().get(1).await.unwrap().unwrap().mask, None);
    assert_ne!(bare.digest(), pairs.digest());
    std::fs::remove_file(masks.join("a.png")).unwrap();
    let fault = find(Some(text(&masks).to_owned())).await.err().unwrap().to_string();
    assert!(fault.contains("1 of the 4 images") && fault.ends_with(": deep/a.jpg"), "{fault}");
    std::fs::write(images.join("a.png"), "twice").unwrap();
    assert!(find(None).await.err().unwrap().to_string().contains("a.png and deep/a.jpg have one name"));
    // What cannot be read is not taken for what comes next.
    std::fs::remove_file(images.join("c.jpg")).unwrap();
    let mut rows = bare.start();
    assert!(rows.get(0).await.is_ok() && rows.get(1).await.is_err() && rows.get(1).await.is_err());
    assert_eq!(rows.get(2).await.unwrap().unwrap().image, bytes("1"));
}

/// A table of `rows` rows in groups of ten, as bytes and structs of bytes, but for an image and a mask that are null.
fn table(path: &Path, rows: usize) {
    let image = |row: usize| (row != 3).then(|| format!("image {row}"));
    let mask = |row: usize| (row != 4).then(|| format!("mask {row}"));
    let images: BinaryArray = (0..rows).map(image).collect::<Vec<_>>().iter().map(Option::as_ref).collect();
    let masks: BinaryArray = (0..rows).map(mask).collect::<Vec<_>>().iter().map(Option::as_ref).collect();
    let keys: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("key {row}"))));
    let images = StructArray::from(vec![
        (Arc::new(Field::new("bytes", DataType::Binary, true)), Arc::new(images) as ArrayRef),
        (Arc::new(Field::new("path", DataType::Utf8, true)), keys.clone()),
    ]);
    let columns: [(&str, ArrayRef); 3] = [("key", keys), ("image", Arc::new(images)), ("mask", Arc::new(masks))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(10)).build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_read_from_any_row_on() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("pairs.parquet");
    table(&path, 275);
    let open = |masked| PairTable::open("edit.images", text(&path), masked, DatasetOptions::default());
    let pairs = Pairs::Table(Arc::new(open(true).await.unwrap()));
    assert_eq!(pairs.source(7), "pairs.parquet");
    // On, within a group, over several, and to the end; each twice.
    for wanted in [vec![0, 1, 2, 5, 9, 10, 11], vec![7, 8, 29, 163, 164, 274], vec![274]] {
        let mut rows = pairs.start();
        for row in wanted.into_iter().flat_map(|row| [row, row]) {
            let pair = rows.get(row).await.unwrap().unwrap();
            assert_eq!((pair.image, pair.mask), (bytes(&format!("image {row}")), Some(bytes(&format!("mask {row}")))));
        }
        assert!(rows.get(275).await.is_err());
    }
    let mut rows = pairs.start();
    assert_eq!(message(&mut rows, 3).await, ("read", "its image has no bytes in the file, at most a path".to_owned()));
    assert_eq!(message(&mut rows, 4).await, ("mask", "its mask is null, or has no bytes in the file".to_owned()));
    let bare = Pairs::Table(Arc::new(open(false).await.unwrap()));
    assert_eq!(bare.start().get(4).await.unwrap().unwrap().mask, None);
    assert_ne!(bare.digest(), pairs.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_costs_what_is_left_of_a_row_group() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("pairs.parquet");
    table(&path, 40);
    let mut file = std::fs::read(&path).unwrap();
    let at = file.windows(8).position(|part| part == b"image 15").unwrap();
    // A length that leads beyond the page.
    file[at - 4..at].copy_from_slice(&u32::MAX.to_le_bytes());
    std::fs::write(&path, file).unwrap();
    let table = PairTable::open("edit.images", text(&path), true, DatasetOptions::default()).await.unwrap();
    let mut rows = Pairs::Table(Arc::new(table)).start();
    let mut readable = Vec::new();
    for row in 0..40 {
        match rows.get(row).await.unwrap() {
            Ok(_) => readable.push(row),
            Err(flaw) => assert!(matches!(row, 3 | 4 | 10..20) && !flaw.message.is_empty(), "{row}: {flaw:?}"),
        }
    }
    assert!(readable.starts_with(&[0, 1, 2, 5]) && readable.ends_with(&[37, 38, 39]), "{readable:?}");
    assert!(readable.contains(&20) && !readable.contains(&15), "{readable:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_table_of_pairs_is_told() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("pairs.parquet");
    let fault = || async {
        PairTable::open("edit.images", text(&path), true, DatasetOptions::default()).await.err().unwrap().to_string()
    };
    std::fs::write(&path, "PAR1 and no more").unwrap();
    assert!(fault().await.starts_with("edit.images = "));
    let write = |columns: Vec<(&str, ArrayRef)>| {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    };
    let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values(["x"]));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(["x"]));
    write(vec![("image", bytes.clone()), ("masks", bytes.clone())]);
    assert!(fault().await.ends_with("it has no column `mask` among image, masks; is it `masks`?"), "{}", fault().await);
    write(vec![("image", texts), ("mask", bytes)]);
    assert!(fault().await.contains("its column `image` is of the type Utf8, neither bytes nor"), "{}", fault().await);
}
