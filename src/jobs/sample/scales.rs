//! Who draws tokens: a chain on one device, or its scales on a device each, batches handed down from one to the next.

use super::draws::Draw;
use super::stages::{Sketch, on_threads};
use crate::chain::{Chain, Row, SampleError, SampleOptions, Start, Step};
use crate::config::SampleSection;
use crate::datasets::Unit;
use crate::flow::{BoxError, Flow};
use crate::jobs::JobError;
use crate::jobs::model::{Model, stopped};
use crate::reject::Reject;
use crate::torch::device::{DeviceChoice, DeviceError, DeviceInUse};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;

/// What a drawer's stages are called, by the scale.
const NAMES: [&str; 10] =
    ["scale 1", "scale 2", "scale 3", "scale 4", "scale 5", "scale 6", "scale 7", "scale 8", "scale 9", "scale 10"];

/// Which device `--device auto` means: where the scales have devices of their own, that of scale 1, which is the last to draw.
///
/// # Errors
/// What is no device's name.
pub fn usual_device(asked: DeviceChoice, section: &SampleSection) -> Result<DeviceChoice, JobError> {
    match (asked, section.devices.first()) {
        (DeviceChoice::Auto, Some(first)) => first.parse().map_err(wrong),
        (asked, _) => Ok(asked),
    }
}

/// The devices of the scales, from scale 1 up; none where they share that of `model`.
///
/// # Errors
/// Another number of devices than of scales; one that is not there, or of another class than the run's.
pub fn devices(model: &Model, section: &SampleSection) -> Result<Vec<DeviceInUse>, JobError> {
    let scales = model.directory.config().scales() as usize;
    let given = section.devices.len();
    if given != 0 && given != scales {
        return Err(JobError::Usage(format!(
            "sample.devices has {given} devices, the chain {scales} scales: give one for each, that of scale 1 first"
        )));
    }
    let device = |(scale, name): (u32, &String)| {
        let found = name.parse::<DeviceChoice>().and_then(DeviceChoice::resolve).map_err(wrong)?;
        match found.class == model.device.class {
            true => Ok(found),
            false => Err(JobError::Usage(format!(
                "sample.devices: that of scale {scale} is {}, but the run's {}: all must be of one class, which the run's identity \
                 names",
                found.class, model.device.class
            ))),
        }
    };
    (1..).zip(&section.devices).map(device).collect()
}

fn wrong(error: DeviceError) -> JobError {
    JobError::Usage(format!("sample.devices: {error}"))
}

/// How batches are drawn.
#[derive(Clone, Copy, Debug)]
pub struct How {
    pub options: SampleOptions<'static>,
    /// Whether the likelihood of what is drawn is its score.
    pub likelihood: bool,
    /// Threads of one tensor operation.
    pub threads: NonZeroUsize,
}

/// Networks that draw tokens.
pub struct Drawer {
    /// Where scales have devices of their own: from the last one down to scale 2.
    above: Vec<Part>,
    /// All scales, or scale 1.
    last: Part,
}

/// Networks on one device, and their scales.
struct Part {
    chain: Chain,
    scales: RangeInclusive<u32>,
}

impl Drawer {
    /// Loads the networks of `model`: onto its device, or that of each scale onto its own of `devices`.
    pub fn load(model: &Model, devices: &[DeviceInUse]) -> Result<Drawer, JobError> {
        if devices.is_empty() {
            let chain = model.load_chain()?;
            return Ok(Drawer { above: Vec::new(), last: Part { scales: 1..=chain.config().scales(), chain } });
        }
        let mut parts: Vec<Part> = Vec::with_capacity(devices.len());
        parts.extend((1..).zip(model.load_apart(devices)?).map(|(scale, chain)| Part { chain, scales: scale..=scale }));
        parts.reverse();
        let last = parts.pop().ok_or_else(|| JobError::Usage("the chain has no scales".to_owned()))?;
        Ok(Drawer { above: parts, last })
    }

    /// Of the whole chain, as [`Chain::fingerprint`].
    pub fn fingerprint(&self) -> &str {
        self.last.chain.fingerprint()
    }

    /// How many batches are drawn at once.
    pub fn parts(&self) -> usize {
        self.above.len() + 1
    }

    /// Draws a batch on the calling thread.
    pub fn draw(&self, how: How, batch: Vec<Draw>) -> Result<Vec<Sketch>, BoxError> {
        let batch = batch.into_iter().map(Sketch::from).collect();
        let batch = self.above.iter().try_fold(batch, |batch, part| part.draw(how, batch))?;
        self.last.draw(how, batch)
    }

    /// Draws a batch on the calling thread, and tells what each scale read and drew.
    pub fn steps(&self, how: How, batch: &[Draw]) -> Result<Vec<Step>, SampleError> {
        let mut steps: Vec<Step> = Vec::new();
        for part in self.above.iter().chain([&self.last]) {
            let grids: Vec<&[u16]> = steps.last().iter().flat_map(|step| &step.tokens).map(Vec::as_slice).collect();
            let more = part.chain.sample_steps(&part.rows(batch.iter()), part.options(how, &grids))?;
            steps.extend(more);
        }
        Ok(steps)
    }

    /// Draws the batches of a flow, each part on a thread of its own: while one draws a batch, the one above it draws the next.
    pub fn stages(self, flow: Flow<Unit, Vec<Draw>, Reject>, how: How) -> Flow<Unit, Sketch, Reject> {
        let set_up = move |part: Part| move || on_threads(how.threads, part);
        let name = |part: &Part| NAMES.get(*part.scales.start() as usize - 1).copied().unwrap_or("scale");
        let (mut above, last) = (self.above.into_iter(), self.last);
        let Some(first) = above.next() else {
            return flow.device("draw", set_up(last), move |part, batch| part.draw(how, batch));
        };
        let mut flow = flow.device_batches(name(&first), set_up(first), move |part, batch| part.draw(how, batch));
        for part in above {
            flow = flow.device_batches(name(&part), set_up(part), move |part, batch| part.draw(how, batch));
        }
        flow.device(name(&last), set_up(last), move |part, batch| part.draw(how, batch))
    }
}

impl Part {
    /// What the chain is to know of the images of a batch.
    fn rows<'a>(&self, draws: impl Iterator<Item = &'a Draw>) -> Vec<Row> {
        let condition = self.chain.config().condition;
        let row = |draw: &Draw| Row {
            key: draw.random,
            condition: draw.subject.condition(&condition),
            settings: draw.settings.scales.clone(),
        };
        draws.map(row).collect()
    }

    /// Its scales alone, from what those above it drew.
    fn options<'a>(&self, how: How, grids: &'a [&'a [u16]]) -> SampleOptions<'a> {
        let (end, scale) = (*self.scales.start(), *self.scales.end());
        let start = (scale < self.chain.config().scales()).then_some(Start { scale, grids });
        SampleOptions { start, end: Some(end), ..how.options }
    }

    /// Draws the scales of a batch.
    fn draw<B: Into<Sketch>>(&self, how: How, batch: Vec<B>) -> Result<Vec<Sketch>, BoxError> {
        let mut batch: Vec<Sketch> = batch.into_iter().map(B::into).collect();
        let rows = self.rows(batch.iter().map(|sketch| &sketch.draw));
        let grids: Vec<&[u16]> = batch.iter().map(|sketch| sketch.tokens.as_slice()).collect();
        let options = self.options(how, &grids);
        let drawn = match how.likelihood {
            true => self.chain.sample_scored(&rows, options),
            false => self.chain.sample_as(&rows, options).map(|all| all.into_iter().map(|grid| (grid, 0.0)).collect()),
        };
        let drawn = drawn.map_err(|error| {
            let unit = batch.first().map_or("", |sketch| sketch.draw.unit.name.as_str());
            stopped(error, unit, &batch.iter().map(|sketch| sketch.draw.key.as_str()).collect::<Vec<_>>())
        })?;
        for (sketch, (tokens, likelihood)) in batch.iter_mut().zip(drawn) {
            sketch.tokens = tokens;
            // Scale upon scale, as one device adds them.
            sketch.score = how.likelihood.then(|| sketch.score.map_or(likelihood, |above| above + likelihood));
        }
        Ok(batch)
    }
}
