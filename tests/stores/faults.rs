//! `encode` over an object store that fails on one request in ten: the same bytes, a bounded number of requests, all of it
//! logged; and over one that does not recover: the unit fails, and nothing of it is called a reject.

use crate::common::pipeline;
use crate::corpus::{Corpus, download, latents_and_rejects, upload};
use crate::faulty::{Fault, Faulty, Record};
use imagebart::config::Pipeline;
use imagebart::datasets::{DatasetOptions, Folder, Location, ReadAhead, Reader, WebDataset};
use imagebart::jobs::JobError;
use imagebart::jobs::encode::{EncodeOptions, EncodePlan, EncodeSummary, encode_into};
use imagebart::progress::Display;
use imagebart::retry::Retries;
use imagebart::tables::OutputDir;
use imagebart::torch::device::DeviceChoice;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const PERCENT: u32 = 10;
const ATTEMPTS: u32 = 6;
const QUICK: Retries =
    Retries { attempts: ATTEMPTS, backoff: Duration::from_millis(1), stall: Duration::from_millis(400) };

/// The log of one thread, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    /// Collects what this thread logs from `warn` up, until the guard is dropped.
    fn start(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_ansi(false);
        tracing::subscriber::set_default(lines.with_writer(move || log.clone()).finish())
    }
}

/// Encodes the corpus in `input` to `output`, in one thread.
async fn encode(
    corpus: &Corpus,
    format: &str,
    input: Arc<Faulty>,
    output: Arc<Faulty>,
) -> Result<EncodeSummary, JobError> {
    let local = corpus.local();
    // The plan is made of the files on the disk; then the reader is put in place of theirs.
    let file = pipeline(corpus.root.path(), format, local.of(format), "");
    let pipeline = Pipeline::load(&file, &["dataset.unit_rows=11".to_owned()]).unwrap();
    let options = EncodeOptions { device: DeviceChoice::Cpu, ..EncodeOptions::default() };
    let mut plan = EncodePlan::make(&pipeline, &options).await.unwrap();
    let read_ahead = ReadAhead { chunk: 4000, parallel: 1, retries: QUICK };
    let options_of = DatasetOptions { unit_rows: 11, read_ahead, ..DatasetOptions::default() };
    let there = corpus.below("");
    let location = Location::in_store(input, there.of(format));
    let reader: Arc<dyn Reader> = match format {
        "folder" => Arc::new(Folder::new(location, options_of)),
        _ => Arc::new(WebDataset::new(location, options_of)),
    };
    // Listed over the faults, too.
    let units = reader.units().await.unwrap();
    assert!(units.iter().map(|unit| &unit.name).eq(plan.work.units.iter().map(|unit| &unit.name)));
    plan.reader = reader;
    let output = OutputDir::repeating(output, Path::from("out"), None, QUICK);
    encode_into(plan, output, &pipeline, &options, &Display::plain(), CancellationToken::new()).await
}

/// The corpus in memory.
async fn filled(corpus: &Corpus) -> Arc<InMemory> {
    let store = Arc::new(InMemory::new());
    upload(&*store, corpus.files()).await;
    store
}

fn total(records: &[Record]) -> u64 {
    records.iter().flat_map(|record| record.faults.values()).sum()
}

/// Runs with each of the seeds, and returns which faults there were.
async fn one_in_ten(format: &str, seeds: Range<u64>) -> BTreeMap<Fault, u64> {
    let corpus = Corpus::new();
    let expected = corpus.expected(format, &["dataset.unit_rows=11"]);
    let store = filled(&corpus).await;
    let mut seen = BTreeMap::new();
    for seed in seeds {
        let log = Log::default();
        let logging = log.start();
        let made: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let input = Arc::new(Faulty::new(store.clone(), seed, PERCENT));
        let output = Arc::new(Faulty::new(made.clone(), seed + 1000, PERCENT));
        let summary = encode(&corpus, format, input.clone(), output.clone()).await.unwrap();
        drop(logging);
        assert!(summary.failed.is_empty(), "seed {seed}: {:?}", summary.failed);
        assert_eq!(latents_and_rejects(download(&*made, "out").await), expected, "{format}, seed {seed}");

        let records = [input.record(), output.record()];
        for (request, times) in records.iter().flat_map(|record| &record.requests) {
            // A listing and the manifest are asked for several times without any fault.
            let bound =
                if request.starts_with("get in/") || request.contains("/latents/") { ATTEMPTS.into() } else { 20 };
            assert!(*times <= bound, "seed {seed}: {request} was made {times} times");
        }
        // All but the manifest's first put, which is not made twice: there the output is looked at anew.
        let lines = log.text().lines().filter(|line| line.contains("a request failed and is repeated")).count() as u64;
        assert!(lines <= total(&records), "seed {seed}: {lines} lines for {} faults", total(&records));
        assert!(lines + 3 >= total(&records), "seed {seed}: {lines} lines for {} faults", total(&records));
        for (fault, count) in records.iter().flat_map(|record| &record.faults) {
            *seen.entry(*fault).or_default() += count;
        }
    }
    seen
}

#[tokio::test]
async fn faults_under_shards_change_no_byte() {
    let seen = one_in_ten("webdataset", 0..16).await;
    assert_eq!(seen.len(), 7, "every kind of fault was made: {seen:?}");
}

#[tokio::test]
async fn faults_under_a_folder_change_no_byte() {
    let seen = one_in_ten("folder", 20..24).await;
    assert!(seen.len() > 3, "{seen:?}");
}

#[tokio::test]
async fn a_fault_that_lasts_fails_the_unit_and_no_other() {
    let corpus = Corpus::new();
    let store = filled(&corpus).await;
    let mut input = Faulty::new(store, 1, 0);
    input.dead = Some(Path::from("in/shards/shard-0001.tar"));
    let input = Arc::new(input);
    let made: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let output = Arc::new(Faulty::new(made.clone(), 2, 0));
    // Listed by its name, the dead shard would stop the run before any work.
    let error = dead_while_reading(&corpus, input.clone(), output).await;
    assert_eq!(error.exit_code(), 1, "{error}");
    assert!(error.to_string().contains("shard-0001.tar"), "{error}");
    let files = latents_and_rejects(download(&*made, "out").await);
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "latents/shard-0000.tar.parquet",
            "latents/shard-0002.tar.parquet",
            "rejects/shard-0000.tar.parquet",
            "rejects/shard-0002.tar.parquet"
        ]
    );
    let expected = corpus.expected("webdataset", &[]);
    assert!(files.iter().all(|(name, bytes)| expected[name] == *bytes), "what is there is right");
    // At most so many attempts for each of the ranges that were asked for.
    for (request, times) in input.record().requests.iter().filter(|(request, _)| request.contains("shard-0001")) {
        assert!(*times <= u64::from(ATTEMPTS), "{request}: {times} times");
    }
}

/// How a run ends whose second shard cannot be read.
async fn dead_while_reading(corpus: &Corpus, input: Arc<Faulty>, output: Arc<Faulty>) -> JobError {
    let file = pipeline(corpus.root.path(), "webdataset", &corpus.local().shards, "");
    let pipeline = Pipeline::load(&file, &[]).unwrap();
    let options = EncodeOptions { device: DeviceChoice::Cpu, ..EncodeOptions::default() };
    let mut plan = EncodePlan::make(&pipeline, &options).await.unwrap();
    let retries = Retries { stall: Duration::from_millis(20), ..QUICK };
    let read_ahead = ReadAhead { retries, ..ReadAhead::default() };
    // By prefix, which asks nothing of the single shards.
    let location = Location::in_store(input, "in/shards/");
    plan.reader = Arc::new(WebDataset::new(location, DatasetOptions { read_ahead, ..DatasetOptions::default() }));
    let output = OutputDir::repeating(output, Path::from("out"), None, QUICK);
    let ended = encode_into(plan, output, &pipeline, &options, &Display::plain(), CancellationToken::new()).await;
    ended.map(drop).expect_err("a unit is left")
}

/// An output that cannot be written ends the run; what was committed is whole.
#[tokio::test]
async fn an_output_that_fails_for_good_ends_the_run() {
    let corpus = Corpus::new();
    let store = filled(&corpus).await;
    let made: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut output = Faulty::new(made.clone(), 2, 0);
    output.dead = Some(Path::from("out/latents/shard-0001.tar.parquet"));
    let error = encode(&corpus, "webdataset", Arc::new(Faulty::new(store, 1, 0)), Arc::new(output)).await;
    let error = error.map(drop).expect_err("the run ends");
    assert_eq!(error.exit_code(), 1, "{error}");
    assert!(error.to_string().contains("out/latents/shard-0001.tar.parquet"), "{error}");
    let expected = corpus.expected("webdataset", &[]);
    let files = latents_and_rejects(download(&*made, "out").await);
    assert!(!files.contains_key("latents/shard-0001.tar.parquet"));
    assert!(files.iter().all(|(name, bytes)| expected[name] == *bytes), "what is there is right");
}
