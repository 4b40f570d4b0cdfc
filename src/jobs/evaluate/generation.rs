//! Generated images beside a reference set, by the features of a network.

use super::Stop;
use super::figure::{Better, Figure, Group};
use super::pictures::Pictures;
use super::reconstruction::network_settings;
use crate::evaluate::{
    Collector, Estimate, FeatureNetwork, Gaussian, Kid, KidSettings, Manifolds, MetricError, Published, Singular,
    Statistics, StatisticsError, frechet, inception_score,
};
use crate::imaging::Rgb;
use crate::jobs::JobError;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tch::{Device, Tensor};

/// Below this many rows FID and Inception Score say more about the number than about the images.
pub const ENOUGH: u64 = 2048;

/// What generated images are compared with.
pub enum Reference {
    /// Images of this set.
    Pictures(Pictures),
    /// Statistics of the set that are kept in a file: read, or made and written.
    Kept { file: PathBuf, pictures: Pictures },
    /// A file of others.
    Published(PathBuf),
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

/// Everything that generation metrics need.
pub struct Generation {
    pub generated: Pictures,
    pub reference: Reference,
    /// What the reference set is: must be the same where kept statistics are read.
    pub facts: BTreeMap<String, String>,
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
    /// Measures up to `limit` images of either side; gives the figures, and what a reader must know.
    ///
    /// # Errors
    /// [`JobError::Usage`] for too few images and a reference that does not go with the network; what reading and libtorch report.
    pub fn run(
        mut self,
        network: &FeatureNetwork,
        (mut group, limit): (Group, u64),
        stop: &Stop,
    ) -> Result<(Vec<Figure>, Vec<String>), JobError> {
        let (made, identity) = collect(network, &mut self.generated, (limit, self.settings.batch), stop)?;
        enough("FID", made.gaussian.rows.unwrap_or(0), stop.force)?;
        let (reference, mut notes) = self.reference(network, limit, stop)?;
        group.rows = made.gaussian.rows.unwrap_or(0);
        group.rows_id = identity;
        group.settings.extend(network_settings(network));
        group.settings.extend(self.facts.clone());
        if let Some(rows) = reference.gaussian.rows {
            group.settings.insert("reference rows".to_owned(), rows.to_string());
            let singular = enough("FID against a reference", rows, stop.force)?;
            if singular == Singular::Allow && rows.min(group.rows) < ENOUGH {
                notes.push(format!(
                    "FID and Inception Score of {} rows against {rows} are biased (FID upwards, the score downwards): \
                     compare them with figures of as many rows alone.",
                    group.rows
                ));
            }
        }
        let figures = self.figures(&made, &reference, &group, stop)?;
        if reference.features.is_none() {
            notes.push(
                "The reference has a mean and a covariance alone: KID, precision, recall, density and coverage need its \
                 features."
                    .to_owned(),
            );
        }
        if made.logits.is_none() {
            notes.push("The feature network gives no logits: there is no Inception Score.".to_owned());
        }
        Ok((figures, notes))
    }

    /// The reference set's statistics, and notes on them.
    fn reference(
        &mut self,
        network: &FeatureNetwork,
        limit: u64,
        stop: &Stop,
    ) -> Result<(Statistics, Vec<String>), JobError> {
        let batch = self.settings.batch;
        match &mut self.reference {
            Reference::Pictures(pictures) => Ok((collect(network, pictures, (limit, batch), stop)?.0, Vec::new())),
            Reference::Kept { file, pictures } => {
                let mut facts = self.facts.clone();
                facts.extend(network_settings(network));
                if file.exists() {
                    return Ok((Statistics::read(file, &facts).map_err(refused)?, Vec::new()));
                }
                let statistics = collect(network, pictures, (limit, batch), stop)?.0;
                statistics.write(file, &facts).map_err(refused)?;
                Ok((statistics, Vec::new()))
            }
            Reference::Published(file) => match Published::read(file).map_err(refused)? {
                Published::Statistics(gaussian) => {
                    let note = format!(
                        "{} does not say of which network and preprocessing it is: that they are those of this evaluation is \
                         taken on trust.",
                        file.display()
                    );
                    Ok((Statistics { gaussian, features: None, logits: None }, vec![note]))
                }
                Published::Images(images) => {
                    let mut pictures = Pictures::Array(images, 0);
                    Ok((collect(network, &mut pictures, (limit, batch), stop)?.0, Vec::new()))
                }
            },
        }
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

/// What is wrong with features is the user's to mend.
fn usage(error: MetricError) -> JobError {
    match error {
        MetricError::Torch(_) => JobError::failed(error),
        error => JobError::Usage(error.to_string()),
    }
}

fn refused(error: StatisticsError) -> JobError {
    match error {
        StatisticsError::Torch(_) => JobError::failed(error),
        error => JobError::Usage(error.to_string()),
    }
}

/// The features of up to `limit` pictures, and what identifies the pictures.
fn collect(
    network: &FeatureNetwork,
    pictures: &mut Pictures,
    (limit, batch): (u64, usize),
    stop: &Stop,
) -> Result<(Statistics, String), JobError> {
    let mut collector = Collector::new(network.dims(), network.device()).map_err(usage)?;
    let mut identity = Sha256::new();
    while collector.count() < limit
        && let Some(mut images) = pictures.next_batch(batch)?
    {
        stop.check()?;
        images.truncate(usize::try_from(limit - collector.count()).unwrap_or(usize::MAX));
        images.iter().for_each(|image| identity.update(crc32c::crc32c(&image.pixels).to_le_bytes()));
        let images: Vec<&Rgb> = images.iter().collect();
        let features = network.features(&images).map_err(|error| JobError::Usage(error.to_string()))?;
        collector.add(&features).map_err(usage)?;
    }
    Ok((collector.finish().map_err(usage)?, crate::digest::hex(&identity.finalize())))
}
