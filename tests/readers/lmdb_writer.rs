//! Databases that liblmdb writes and reads, through `heed`: the oracle of our own reader of pages. The bench of the readers has
//! its database from here, too.

use heed::types::Bytes;
use heed::{CommitOrAbort, EnvOpenOptions};
use std::path::Path;

/// What a transaction puts, or deletes where there is no value.
pub type Step = (Vec<u8>, Option<Vec<u8>>);
pub type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// The bytes of a database that liblmdb wrote in these transactions, and what it reads from it.
pub fn written(transactions: &[Vec<Step>]) -> (Vec<u8>, Entries) {
    let directory = tempfile::tempdir().unwrap();
    let entries = write(directory.path(), transactions);
    (std::fs::read(directory.path().join("data.mdb")).unwrap(), entries)
}

/// Has liblmdb write a database into `directory`, which only the caller knows, in these transactions. What it reads from it.
pub fn write<T: AsRef<[Step]>>(directory: &Path, transactions: impl IntoIterator<Item = T>) -> Entries {
    let mut settings = EnvOpenOptions::new();
    settings.map_size(1 << 30);
    // SAFETY: heed asks that nobody changes the file under the memory map. It lies in a directory that was just made for this
    // call alone, and is read as a file only after the environment is closed. liblmdb is worth the block: as the format's one
    // author it is the oracle, and heed has no safe way to open a database.
    #[allow(unsafe_code)]
    let environment = unsafe { settings.open(directory) }.unwrap();
    let entries = {
        let opened =
            environment.create_databases_and_commit(environment.write_txn().unwrap(), |opener, transaction| {
                opener.create_database::<Bytes, Bytes>(transaction, None).map(CommitOrAbort::<_, ()>::Commit)
            });
        let database = opened.unwrap().unwrap_commit();
        for steps in transactions {
            let mut transaction = environment.write_txn().unwrap();
            for (key, value) in steps.as_ref() {
                match value {
                    Some(value) => database.put(&mut transaction, key, value).unwrap(),
                    None => drop(database.delete(&mut transaction, key).unwrap()),
                }
            }
            transaction.commit().unwrap();
        }
        let transaction = environment.read_txn().unwrap();
        let entries = database.iter(&transaction).unwrap().map(|entry| entry.unwrap());
        entries.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    };
    environment.prepare_for_closing().wait();
    entries
}

pub fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Step {
    (key.into(), Some(value.into()))
}
