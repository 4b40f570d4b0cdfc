//! The conformance suite that every dataset reader passes, on every kind of store, and the readers' own behaviour.
//!
//! A new format gets: a fixture in `formats.rs` or `containers.rs` (the objects of a small dataset and the entries it must give), and a line in
//! [`every_format`].

mod conformance;
mod containers;
mod corpora;
mod example;
mod ffhq;
mod formats;
mod imagenet;
mod img2dataset;
mod lmdb;
mod lmdb_damage;
mod lmdb_writer;
mod lsun;
mod messages;
mod pages;
#[path = "../python/mod.rs"]
mod python;
mod remote;
#[allow(dead_code)] // Azure's and Google's are for tests/stores.
#[path = "../stores/servers/mod.rs"]
mod servers;
#[path = "../skip/mod.rs"]
mod skip;
mod stores;
mod truth;

use conformance::conformance;
use formats::Fixture;

/// One fixture per format, and per way of laying it out that matters.
fn every_format() -> Vec<Fixture> {
    vec![
        formats::webdataset(),
        formats::webdataset_gzip(),
        formats::folder(),
        formats::folder_with_captions(),
        formats::folder_with_directories(),
        formats::lengths_example(),
        containers::ffhq_records(),
        containers::img2dataset_records(),
        containers::mds(),
        containers::zips(),
        containers::hf_table(),
        containers::img2dataset_table(),
        imagenet::train_tar(),
        imagenet::val_tar(),
        imagenet::train_folder(),
        imagenet::val_folder(),
        lmdb::databases(),
        lmdb::listed_databases(),
    ]
}

#[tokio::test]
async fn every_reader_conforms_on_every_store() {
    for fixture in every_format() {
        conformance(&fixture).await;
    }
}
