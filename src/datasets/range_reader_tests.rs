use super::*;
use object_store::memory::InMemory;

async fn reader(size: u8, chunk: u64, parallel: usize) -> (Arc<InMemory>, RangeReader) {
    let store = Arc::new(InMemory::new());
    let data: Vec<u8> = (0..size).collect();
    store.put(&Path::from("o"), data.into()).await.unwrap();
    let source = Source { path: "o".into(), size: size.into(), etag: None };
    let options = ReadAhead { chunk, parallel, retries: Retries { attempts: 1, ..Retries::default() } };
    (store.clone(), RangeReader::new(Object::new(store, Path::from("o"), &source, &options)))
}

#[tokio::test]
async fn chunks_join_to_the_object() {
    for (size, chunk, parallel) in [(0, 4, 1), (1, 4, 0), (8, 4, 1), (100, 7, 3), (100, 1000, 2)] {
        let (_store, mut reader) = reader(size, chunk, parallel).await;
        let mut all = Vec::new();
        while let Some(bytes) = reader.chunk().await.unwrap() {
            all.extend_from_slice(&bytes);
        }
        assert_eq!(all, (0..size).collect::<Vec<u8>>(), "{size} {chunk} {parallel}");
    }
}

#[tokio::test]
async fn skipping_lands_where_it_says() {
    for skip in 0..=90u64 {
        let (_store, mut reader) = reader(100, 8, 2).await;
        assert_eq!(reader.chunk().await.unwrap().unwrap().len(), 8);
        assert_eq!(reader.skip(skip), skip);
        assert_eq!(reader.chunk().await.unwrap().unwrap()[0], 8 + skip as u8, "{skip}");
    }
    let (_store, mut reader) = reader(100, 8, 2).await;
    assert_eq!(reader.skip(1000), 100);
    assert_eq!(reader.chunk().await.unwrap(), None);
}

#[tokio::test]
async fn a_part_is_read_alone() {
    for part in [0..100, 0..0, 13..14, 40..77, 90..200, 200..300] {
        let (_store, whole) = reader(100, 8, 2).await;
        let mut reader = RangeReader::within(whole.object, part.clone());
        let mut all = Vec::new();
        while let Some(bytes) = reader.chunk().await.unwrap() {
            all.extend_from_slice(&bytes);
        }
        assert_eq!(all, (part.start.min(100) as u8..part.end.min(100) as u8).collect::<Vec<u8>>(), "{part:?}");
    }
}

#[tokio::test]
async fn a_changed_object_is_noticed() {
    let (store, mut reader) = reader(100, 8, 0).await;
    reader.chunk().await.unwrap();
    store.put(&Path::from("o"), vec![0; 100].into()).await.unwrap();
    assert!(matches!(reader.chunk().await, Err(DatasetError::Changed { .. })));
    store.put(&Path::from("o"), vec![0; 10].into()).await.unwrap();
    assert!(matches!(reader.chunk().await, Err(DatasetError::Changed { .. })));
}

/// A reader of a local file of the bytes 0 to 99, in pieces of 8.
fn of_file(directory: &tempfile::TempDir) -> RangeReader {
    std::fs::write(directory.path().join("o"), (0..100).collect::<Vec<u8>>()).unwrap();
    let store = Arc::new(object_store::local::LocalFileSystem::new_with_prefix(directory.path()).unwrap());
    let source = Source { path: "o".into(), size: 100, etag: None };
    let options = ReadAhead { chunk: 8, parallel: 1, retries: Retries { attempts: 1, ..Retries::default() } };
    RangeReader::new(Object::new(store, Path::from("o"), &source, &options).placed(true, &Lender::default()))
}

#[tokio::test]
async fn a_local_file_is_read_in_pieces() {
    let directory = tempfile::tempdir().unwrap();
    for skip in 0..=90u64 {
        let mut reader = of_file(&directory);
        assert_eq!(reader.chunk().await.unwrap().unwrap().len(), 8);
        assert_eq!((reader.skip(skip), reader.position()), (skip, 8 + skip));
        let mut rest = Vec::new();
        while let Some(bytes) = reader.chunk().await.unwrap() {
            rest.extend_from_slice(&bytes);
        }
        assert_eq!(rest, (8 + skip as u8..100).collect::<Vec<u8>>(), "{skip}");
        assert!(reader.in_pieces, "no range was asked for");
    }
    let mut part = RangeReader::within(of_file(&directory).object, 13..14);
    assert_eq!(part.chunk().await.unwrap().unwrap()[..], [13]);
    assert_eq!(part.chunk().await.unwrap(), None);
}

#[tokio::test]
async fn a_local_file_that_changes_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let mut reader = of_file(&directory);
    assert_eq!(reader.chunk().await.unwrap().unwrap().len(), 8);
    std::fs::write(directory.path().join("o"), [0; 50]).unwrap();
    let error = loop {
        match reader.chunk().await {
            Ok(Some(bytes)) => assert!(bytes.iter().all(|byte| *byte > 0), "only what was read before comes"),
            Ok(None) => panic!("the change was not noticed"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, DatasetError::Changed { .. }), "{error}");
}
