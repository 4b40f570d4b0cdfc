//! What each stage of `encode` does with an item.

use crate::datasets::{DatasetError, Entry, Output, Reader, Sample, Unit};
use crate::flow::{BoxError, Emitter, Sink};
use crate::imaging::{Crop, Preprocess};
use crate::random::RowKey;
use crate::reject::{Reason, Reject};
use crate::tables::{LatentRow, OutputDir, Provenance, TableError, UnitSummary, UnitWriter};
use crate::vqgan::Tokenizer;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Entries a reader may be ahead of the byte budget. Few: what is in this channel is not yet accounted for.
const READER_LEAD: usize = 2;

/// A sample with the unit it belongs to, which keys its random draws.
pub struct Read {
    unit: Arc<Unit>,
    sample: Sample,
}

/// A crop on its way to the tokenizer.
pub struct Prepared {
    row: RowKey,
    sample: Arc<Described>,
    crop: Crop,
}

/// What is kept of a sample once its image is decoded.
struct Described {
    source: String,
    key: String,
    index: u64,
    label: Option<i32>,
    caption: Option<String>,
}

/// Bytes a unit's sources have, for the progress display.
pub fn bytes_of(units: &[Arc<Unit>]) -> u64 {
    units.iter().flat_map(|unit| &unit.sources).map(|source| source.size).sum()
}

/// The memory a sample takes on its way: its file, its pixels while they are decoded, its crops.
pub fn cost(read: &Read, preprocess: &Preprocess) -> u64 {
    preprocess.cost(&read.sample.image)
}

/// Reads the units one after the other. A unit that fails is aborted, and the run goes on with the next.
pub async fn read(
    reader: Arc<dyn Reader>,
    units: Vec<Arc<Unit>>,
    mut out: Emitter<Unit, Read, Reject>,
) -> Result<(), BoxError> {
    for unit in units {
        out.begin(unit.clone()).await?;
        let (sender, entries) = Output::channel(READER_LEAD);
        let reading = {
            let (reader, unit) = (reader.clone(), unit.clone());
            tokio::spawn(async move { reader.read(&unit, &sender).await })
        };
        while let Ok(entry) = entries.recv().await {
            match entry {
                Entry::Sample(sample) => {
                    out.input(sample.image.len() as u64);
                    out.row(Read { unit: unit.clone(), sample }).await?;
                }
                Entry::Reject(reject) => out.reject(reject).await?,
            }
        }
        match reading.await {
            Ok(Ok(())) => out.end().await?,
            Ok(Err(DatasetError::Cancelled)) => return Ok(()),
            Ok(Err(error)) => {
                tracing::error!("unit {} failed and is left for the next run: {error}", unit.name);
                out.abort(error).await?;
            }
            Err(panicked) => return Err(format!("the reader of {} panicked: {panicked}", unit.name).into()),
        }
    }
    Ok(())
}

/// Encoded bytes to crops, or a reject with its reason.
pub fn decode(read: Read, preprocess: &Preprocess, seed: u64) -> Vec<Result<Prepared, Reject>> {
    let Read { unit, sample } = read;
    let row = |crop| RowKey::new(seed, &unit.name, sample.index, crop);
    let crops = match preprocess.prepare(&sample.image, row) {
        Ok(crops) => crops,
        Err(error) => {
            let reason = error.reason();
            return vec![Err(reject(&unit.name, &sample, reason, error.to_string()))];
        }
    };
    let sample = Arc::new(Described {
        source: sample.source,
        key: sample.key,
        index: sample.index,
        label: sample.label,
        caption: sample.caption,
    });
    let mut rows = Vec::with_capacity(crops.len());
    for crop in crops {
        let row = RowKey::new(seed, &unit.name, sample.index, crop.index);
        rows.push(Ok(Prepared { row, sample: sample.clone(), crop }));
    }
    rows
}

fn reject(unit: &str, sample: &Sample, reason: Reason, message: String) -> Reject {
    Reject {
        source: sample.source.clone(),
        key: sample.key.clone(),
        index: sample.index,
        unit: unit.to_owned(),
        stage: "decode",
        reason,
        message,
    }
}

/// A batch of crops to rows of the table.
pub fn tokenize(tokenizer: &Tokenizer, side: u32, batch: Vec<Prepared>) -> Result<Vec<LatentRow>, BoxError> {
    let images: Vec<&[u8]> = batch.iter().map(|item| item.crop.pixels.as_slice()).collect();
    let rows: Vec<RowKey> = batch.iter().map(|item| item.row).collect();
    let grids = tokenizer.encode(&images, (side, side), &rows)?;
    Ok(batch.into_iter().zip(grids).map(|(item, tokens)| latent(item, tokens)).collect())
}

fn latent(item: Prepared, tokens: Vec<u16>) -> LatentRow {
    let Prepared { sample, crop, .. } = item;
    LatentRow {
        key: sample.key.clone(),
        source: sample.source.clone(),
        index: sample.index,
        label: sample.label,
        caption: sample.caption.clone(),
        width: crop.original.0,
        height: crop.original.1,
        crop: crop.rect,
        flipped: crop.flipped,
        tokens,
    }
}

/// What was committed, for the summary.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    pub units: u64,
    pub rows: u64,
    pub samples: u64,
    pub rejects: u64,
    pub bytes: u64,
    pub reasons: BTreeMap<Reason, u64>,
}

/// Writes each unit's tables and commits them at its end, while the next unit's rows arrive already.
pub struct Writer {
    output: OutputDir,
    provenance: Arc<Provenance>,
    open: Option<Open>,
    committing: Option<Committing>,
    committed: Committed,
}

/// The unit being written.
struct Open {
    writer: UnitWriter,
    reasons: BTreeMap<Reason, u64>,
}

/// The unit before it, on its way to the store. One at a time: a slow store slows the run rather than piling up uploads.
struct Committing {
    unit: String,
    task: JoinHandle<Result<UnitSummary, TableError>>,
    reasons: BTreeMap<Reason, u64>,
}

impl Writer {
    pub fn new(output: OutputDir, provenance: Arc<Provenance>) -> Writer {
        Writer { output, provenance, open: None, committing: None, committed: Committed::default() }
    }

    /// What was committed so far.
    pub fn committed(&self) -> Committed {
        self.committed.clone()
    }

    fn open(&mut self) -> Result<&mut Open, BoxError> {
        self.open.as_mut().ok_or_else(|| "a row outside a unit".into())
    }

    /// Waits for the commit that is under way, if any, and counts it.
    async fn settle(&mut self) -> Result<(), BoxError> {
        // Taken out only once it is done: this future may be dropped half-way, when the run is stopped.
        let Some(committing) = &mut self.committing else { return Ok(()) };
        let result = (&mut committing.task).await;
        let Some(Committing { unit, reasons, .. }) = self.committing.take() else { return Ok(()) };
        let done = result??;
        tracing::debug!("committed {unit}: {} rows, {} rejects", done.rows, done.rejects);
        let total = &mut self.committed;
        total.units += 1;
        total.rows += done.rows;
        total.samples += done.samples;
        total.rejects += done.rejects;
        total.bytes += done.bytes;
        for (reason, count) in reasons {
            *total.reasons.entry(reason).or_default() += count;
        }
        Ok(())
    }

    async fn discard(&mut self) -> Result<(), BoxError> {
        match self.open.take() {
            Some(open) => Ok(open.writer.abort().await?),
            None => Ok(()),
        }
    }
}

impl Sink<Unit, LatentRow, Reject> for Writer {
    async fn begin(&mut self, unit: &Arc<Unit>) -> Result<(), BoxError> {
        let writer = UnitWriter::create(&self.output, &self.provenance, &unit.name)?;
        self.open = Some(Open { writer, reasons: BTreeMap::new() });
        Ok(())
    }

    async fn row(&mut self, row: LatentRow) -> Result<(), BoxError> {
        Ok(self.open()?.writer.row(row).await?)
    }

    async fn reject(&mut self, reject: Reject) -> Result<(), BoxError> {
        tracing::debug!("{} {}: {} ({})", reject.source, reject.key, reject.reason, reject.message);
        let open = self.open()?;
        *open.reasons.entry(reject.reason).or_default() += 1;
        Ok(open.writer.reject(reject).await?)
    }

    async fn end(&mut self, unit: &Arc<Unit>) -> Result<(), BoxError> {
        self.settle().await?;
        let Some(Open { writer, reasons }) = self.open.take() else { return Err("the end of no unit".into()) };
        let task = tokio::spawn(writer.commit());
        self.committing = Some(Committing { unit: unit.name.clone(), task, reasons });
        Ok(())
    }

    async fn abort(&mut self, _unit: &Arc<Unit>, _error: &BoxError) -> Result<(), BoxError> {
        self.discard().await
    }

    async fn finish(&mut self) -> Result<(), BoxError> {
        self.settle().await
    }

    async fn abandon(&mut self) {
        for result in [self.settle().await, self.discard().await] {
            if let Err(error) = result {
                tracing::warn!("the units in hand could not be put away: {error}");
            }
        }
    }
}
