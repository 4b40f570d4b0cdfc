//! Generated images beside a reference set, by the features of a network.

use super::Stop;
use super::figure::{Better, Figure, Group};
use super::neighbours::Neighbourhoods;
use super::pictures::Source;
use crate::evaluate::{
    Collector, Estimate, FeatureNetwork, Gaussian, Kid, KidSettings, Manifolds, MetricError, Singular, Statistics,
    StatisticsError, frechet, inception_score,
};
use crate::imaging::Rgb;
use crate::jobs::JobError;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tch::{Device, Tensor};

/// Below this many rows FID and Inception Score say more about the number than about the images.
pub const ENOUGH: u64 = 2048;
/// What a reference set is too small for.
pub const AGAINST: &str = "FID against a reference";

/// What generated images are compared with.
pub enum Reference {
    /// Images of this set, whose statistics go into the file where one is named.
    Pictures(Source, Option<PathBuf>),
    /// Statistics of a file, and the images that they are of, where these are known.
    Known(Statistics, Option<Source>),
}

/// What pins the features of a network, and their dimensions.
#[derive(Clone, Debug)]
pub struct Pinned {
    pub dims: i64,
    pub settings: BTreeMap<String, String>,
}

impl Pinned {
    /// Of `network`.
    pub fn of(network: &FeatureNetwork) -> Pinned {
        let settings = BTreeMap::from([
            ("network".to_owned(), network.fingerprint().to_owned()),
            ("network input".to_owned(), network.input().to_string()),
        ]);
        Pinned { dims: network.dims(), settings }
    }
}

/// What a generation was found to be.
pub struct Generated {
    pub figures: Vec<Figure>,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// Images beside the reference, where its images are known.
    pub neighbours: Option<Neighbourhoods>,
}

/// How generated images are measured.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub batch: usize,
    pub neighbours: u32,
    pub splits: u32,
    pub kid: KidSettings,
    pub device: Device,
}

/// Everything that generation metrics need but the images themselves.
pub struct Generation {
    pub reference: Reference,
    /// What pins the reference set.
    pub facts: BTreeMap<String, String>,
    /// What a reader must know of it.
    pub notes: Vec<String>,
    pub settings: Settings,
}

/// Whether that many rows do; with `force` too few are let pass, and so are singular covariances.
pub fn enough(metric: &str, rows: u64, force: bool) -> Result<Singular, JobError> {
    match force {
        true => Ok(Singular::Allow),
        false if rows < ENOUGH => Err(JobError::Usage(format!(
            "{metric} of {rows} rows is refused: below {ENOUGH} its bias is larger than the differences it is used for; give more \
             images, or pass --force"
        ))),
        false => Ok(Singular::Refuse),
    }
}

impl Generation {
    /// Measures up to `limit` images of either side.
    ///
    /// # Errors
    /// [`JobError::Usage`] for too few images and features that cannot be compared; what reading and libtorch report.
    pub fn run(
        self,
        (network, generated): (&FeatureNetwork, &Source),
        (mut group, limit): (Group, u64),
        stop: &Stop,
    ) -> Result<Generated, JobError> {
        let (batch, pinned) = (self.settings.batch, Pinned::of(network));
        let (made, identity) = collect(network, generated, (limit, batch), stop)?;
        enough("FID", made.gaussian.rows.unwrap_or(0), stop.force)?;
        let collected;
        let (reference, real) = match &self.reference {
            Reference::Known(statistics, source) => (statistics, source.as_ref()),
            Reference::Pictures(source, file) => {
                collected = collect(network, source, (limit, batch), stop)?.0;
                if let Some(file) = file {
                    let facts = self.facts.clone().into_iter().chain(pinned.settings.clone()).collect();
                    collected.write(file, &facts).map_err(refused)?;
                }
                (&collected, Some(source))
            }
        };
        group.rows = made.gaussian.rows.unwrap_or(0);
        group.rows_id = identity;
        group.settings.extend(pinned.settings);
        group.settings.extend(self.facts.clone());
        let mut notes = self.notes.clone();
        notes.extend(biased(&mut group, reference, stop)?);
        notes.extend(lacking(&made, reference));
        let figures = self.figures(&made, reference, &group, stop)?;
        stop.check()?;
        let neighbours = match (&made.features, &reference.features, real) {
            (Some(features), Some(others), Some(real)) => {
                let device = self.settings.device;
                let placed = |tensor: &Tensor| tensor.f_to_device(device).map_err(JobError::failed);
                Some(Neighbourhoods::find((&placed(features)?, generated), (&placed(others)?, real))?)
            }
            _ => None,
        };
        Ok(Generated { figures, notes, neighbours })
    }

    fn figures(
        &self,
        made: &Statistics,
        reference: &Statistics,
        group: &Group,
        stop: &Stop,
    ) -> Result<Vec<Figure>, JobError> {
        let Settings { neighbours, splits, kid, device, .. } = self.settings;
        let placed = |tensor: &Tensor| tensor.f_to_device(device).map_err(JobError::failed);
        let there = |gaussian: &Gaussian| gaussian.to_device(device).map_err(JobError::failed);
        let singular = if stop.force { Singular::Allow } else { Singular::Refuse };
        let features = made.features.as_ref().ok_or_else(|| JobError::Failed("no features were kept".to_owned()))?;
        let found = frechet(&there(&made.gaussian)?, &there(&reference.gaussian)?, singular).map_err(usage)?;
        let estimate = Estimate { value: found.distance, contributions: found.contributions(features).map_err(usage)? };
        let mut figures = vec![group.figure("fid", &estimate, ("", Better::Lower))];
        if let Some(logits) = &made.logits {
            enough("the Inception Score", group.rows, stop.force)?;
            let score = inception_score(&placed(logits)?, splits).map_err(usage)?;
            let estimate = Estimate { value: score.score, contributions: score.contributions };
            let figure = group.figure("inception_score", &estimate, ("", Better::Higher)).with("splits", splits);
            figures.push(figure);
            figures.push(
                group.plain("inception_score_spread", score.spread, ("", Better::Neither)).with("splits", splits),
            );
        }
        if let Some(other) = &reference.features {
            stop.check()?;
            let (features, other) = (placed(features)?, placed(other)?);
            let found = Kid::between(&features, &other, kid).map_err(usage)?;
            let pinned = |figure: Figure| figure.with("subsets", kid.subsets).with("subset rows", kid.size);
            let estimate = Estimate { value: found.distance, contributions: found.contributions };
            figures.push(pinned(group.figure("kid", &estimate, ("", Better::Lower))));
            figures.push(pinned(group.plain("kid_spread", found.spread, ("", Better::Neither))));
            stop.check()?;
            let overlap = Manifolds::between(&features, &other, neighbours).map_err(usage)?;
            let parts = [
                ("precision", overlap.precision),
                ("recall", overlap.recall),
                ("density", overlap.density),
                ("coverage", overlap.coverage),
            ];
            let means = parts.into_iter().filter_map(|(name, values)| group.mean(name, values, ("", Better::Higher)));
            figures.extend(means.map(|figure| figure.with("neighbours", neighbours)));
        }
        Ok(figures)
    }
}

/// Adds the reference's rows to the settings; says where either side is too small.
fn biased(group: &mut Group, reference: &Statistics, stop: &Stop) -> Result<Option<String>, JobError> {
    let Some(rows) = reference.gaussian.rows else { return Ok(None) };
    group.settings.insert("reference rows".to_owned(), rows.to_string());
    enough(AGAINST, rows, stop.force)?;
    Ok((rows.min(group.rows) < ENOUGH).then(|| {
        format!(
            "FID and Inception Score of {} rows against {rows} are biased (FID upwards, the score downwards): compare them with \
             figures of as many rows alone.",
            group.rows
        )
    }))
}

/// What cannot be measured, and why.
fn lacking(made: &Statistics, reference: &Statistics) -> Vec<String> {
    let mut notes = Vec::new();
    if reference.features.is_none() {
        let note = "The reference has a mean and a covariance alone: KID, precision, recall, density and coverage need its features.";
        notes.push(note.to_owned());
    }
    if made.logits.is_none() {
        notes.push("The feature network gives no logits: there is no Inception Score.".to_owned());
    }
    notes
}

/// What is wrong with features is the user's to mend.
fn usage(error: MetricError) -> JobError {
    match error {
        MetricError::Torch(_) => JobError::failed(error),
        error => JobError::Usage(error.to_string()),
    }
}

pub fn refused(error: StatisticsError) -> JobError {
    match error {
        StatisticsError::Torch(_) => JobError::failed(error),
        error => JobError::Usage(error.to_string()),
    }
}

/// The features of up to `limit` pictures, and what identifies the pictures.
fn collect(
    network: &FeatureNetwork,
    source: &Source,
    (limit, batch): (u64, usize),
    stop: &Stop,
) -> Result<(Statistics, String), JobError> {
    let mut collector = Collector::new(network.dims(), network.device()).map_err(usage)?;
    let (mut pictures, mut identity) = (source.open(), Sha256::new());
    let (start, mut waited) = (Instant::now(), Duration::ZERO);
    while collector.count() < limit {
        let asked = Instant::now();
        let Some(mut images) = pictures.next_batch(batch)? else { break };
        waited += asked.elapsed();
        stop.check()?;
        images.truncate(usize::try_from(limit - collector.count()).unwrap_or(usize::MAX));
        images.iter().for_each(|picture| identity.update(crc32c::crc32c(&picture.image.pixels).to_le_bytes()));
        let images: Vec<&Rgb> = images.iter().map(|picture| &picture.image).collect();
        let features = network.features(&images).map_err(|error| JobError::Usage(error.to_string()))?;
        collector.add(&features).map_err(usage)?;
    }
    let (all, rows) = (start.elapsed().as_secs_f64(), collector.count());
    let idle = 100.0 * waited.as_secs_f64() / all.max(f64::MIN_POSITIVE);
    tracing::info!("features of {rows} images in {all:.1} s, {idle:.1} % of which the network waited for images");
    Ok((collector.finish().map_err(usage)?, crate::digest::hex(&identity.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::{FeatureInput, FeatureResize};
    use crate::random::{Purpose, RowKey};
    use tch::{CModule, Kind};
    use tokio_util::sync::CancellationToken;

    const SIDE: u32 = 2;

    /// Different images, the same for the same seed.
    fn images(seed: u64, rows: i64) -> Source {
        let key = RowKey::new(seed, "images", 0, 0);
        let pixels: Vec<u8> = (0..rows as u32 * 12).map(|at| key.below(Purpose::Init, at, 256) as u8).collect();
        Source::Array(Tensor::from_slice(&pixels).view([rows, 2, 2, 3]))
    }

    fn network(features: fn(&Tensor) -> Tensor) -> FeatureNetwork {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("features.pt");
        let input = Tensor::rand([2, 3, 2, 2], (Kind::Float, Device::Cpu));
        let mut closure = |inputs: &[Tensor]| vec![features(&inputs[0])];
        CModule::create_by_tracing("Features", "forward", &[input], &mut closure).unwrap().save(&file).unwrap();
        let resize = FeatureResize::None;
        let input = FeatureInput { resize, size: SIDE, mean: vec![0.0], std: vec![1.0], flags: Vec::new() };
        FeatureNetwork::load(&file, input, SIDE, Device::Cpu).unwrap()
    }

    fn means(images: &Tensor) -> Tensor {
        images.mean_dim([2i64, 3].as_slice(), false, Kind::Float)
    }

    /// The third feature is the second once more.
    fn twice(images: &Tensor) -> Tensor {
        let means = means(images);
        Tensor::cat(&[&means.narrow(1, 0, 2), &means.narrow(1, 1, 1)], 1)
    }

    fn measured(
        network: &FeatureNetwork,
        (generated, reference): (Source, Source),
        force: bool,
    ) -> Result<Generated, JobError> {
        let kid = KidSettings { subsets: 2, size: 50, seed: 1 };
        let settings = Settings { batch: 512, neighbours: 3, splits: 2, kid, device: Device::Cpu };
        let reference = Reference::Pictures(reference, None);
        let group = Group {
            name: "generation",
            rows: 0,
            rows_id: String::new(),
            settings: BTreeMap::new(),
            bootstrap: (10, 1),
        };
        let stop = Stop { cancel: CancellationToken::new(), force };
        Generation { reference, facts: BTreeMap::new(), notes: Vec::new(), settings }.run(
            (network, &generated),
            (group, u64::MAX),
            &stop,
        )
    }

    #[test]
    fn the_same_images_are_at_no_distance() {
        let found = measured(&network(means), (images(1, 2048), images(1, 2048)), false).unwrap();
        let value = |name: &str| found.figures.iter().find(|figure| figure.metric == name).unwrap().value;
        assert!(value("fid").abs() < 1e-6 && value("precision") == 1.0 && value("recall") == 1.0);
        let neighbours = found.neighbours.unwrap();
        assert!(neighbours.median < 1e-6 && neighbours.first[0].image == neighbours.first[0].nearest[0].1);
        assert!(found.notes.iter().any(|note| note.contains("no logits")), "{:?}", found.notes);
    }

    #[test]
    fn features_that_tell_nothing_are_refused() {
        let refused = |network: &FeatureNetwork, rows: (i64, i64)| {
            let error = measured(network, (images(1, rows.0), images(2, rows.1)), false).map(|_| ()).unwrap_err();
            assert!(matches!(error, JobError::Usage(_)), "{error}");
            error.to_string()
        };
        let singular = network(twice);
        let text = refused(&singular, (2048, 2048));
        assert!(text.contains("covariance of the generated features is singular (rank 2 of 3)"), "{text}");
        assert!(measured(&singular, (images(1, 2048), images(2, 2048)), true).is_ok());
        let broken = network(|images| (means(images) - 100.0).sqrt());
        assert!(refused(&broken, (2048, 2048)).contains("row 0 of the features"));
        let text = refused(&network(means), (2048, 100));
        assert!(text.starts_with("FID against a reference of 100 rows is refused: below 2048"), "{text}");
        let few = measured(&network(means), (images(1, 2048), images(2, 100)), true).unwrap();
        assert!(few.notes.iter().any(|note| note.contains("biased (FID upwards")), "{:?}", few.notes);
    }
}
