//! A chain ready to draw: its networks on a device.

use super::config::{ChainConfig, ScaleConfig};
use super::directory::{ModelDirectory, ModelError, fingerprint};
use crate::diffusion::Schedule;
use crate::torch::weights::Weights;
use crate::transformer::{Network, Placement};

/// The T scales of a chain in one placement. Nothing it does is recorded for gradients.
#[derive(Debug)]
pub struct Chain {
    config: ChainConfig,
    schedule: Schedule,
    /// As in the description: one may serve several scales. Of a part of a chain, those that are its own.
    networks: Vec<Option<Network>>,
    placement: Placement,
    fingerprint: String,
}

impl Chain {
    /// A chain whose networks have the weights that `weights` gives, which are asked for one network at a time.
    ///
    /// # Errors
    /// A schedule that does not fit the scales, weights that do not fit a network.
    pub fn new(
        config: ChainConfig,
        placement: Placement,
        mut weights: impl FnMut(&ScaleConfig) -> Result<Weights, ModelError>,
    ) -> Result<Chain, ModelError> {
        let schedule = Schedule::new(&config.schedule, config.scales())
            .map_err(|source| ModelError::Schedule { path: "the chain".into(), source })?;
        let (networks, fingerprints) = networks(&config, &schedule, placement, &mut weights)?;
        let fingerprint = fingerprint(&config, &fingerprints, &[])?;
        Ok(Chain { config, schedule, networks, placement, fingerprint })
    }

    /// The chain of a model directory.
    pub(super) fn load(directory: &ModelDirectory, placement: Placement) -> Result<Chain, ModelError> {
        let (config, schedule) = (directory.config().clone(), directory.schedule().clone());
        let weights = &mut |network: &ScaleConfig| directory.load_weights(network);
        let (networks, fingerprints) = networks(&config, &schedule, placement, weights)?;
        let fingerprint = directory.combined_fingerprint(&fingerprints)?;
        Ok(Chain { config, schedule, networks, placement, fingerprint })
    }

    /// The chain of a model directory in parts: scale by scale from 1 up, each with the network of that scale alone.
    pub(super) fn load_apart(
        directory: &ModelDirectory,
        placement: impl Fn(u32) -> Placement,
    ) -> Result<Vec<Chain>, ModelError> {
        let (config, schedule) = (directory.config(), directory.schedule());
        let mut parts: Vec<Vec<Option<Network>>> =
            (1..=config.scales()).map(|_| config.networks.iter().map(|_| None).collect()).collect();
        let mut fingerprints = Vec::with_capacity(config.networks.len());
        for (index, network) in config.networks.iter().enumerate() {
            let weights = directory.load_weights(network)?;
            for &scale in &network.scales {
                let own = parts.get_mut(scale as usize - 1).and_then(|part| part.get_mut(index));
                own.map(|own| place(network, &weights, schedule, placement(scale)).map(|network| *own = Some(network)))
                    .transpose()?;
            }
            fingerprints.push(weights.fingerprint().to_owned());
        }
        let fingerprint = directory.combined_fingerprint(&fingerprints)?;
        let chain = |(scale, networks)| Chain {
            config: config.clone(),
            schedule: schedule.clone(),
            networks,
            placement: placement(scale),
            fingerprint: fingerprint.clone(),
        };
        Ok((1..).zip(parts).map(chain).collect())
    }

    /// The chain's description.
    pub fn config(&self) -> &ChainConfig {
        &self.config
    }

    /// The noise schedule.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Where and how it computes.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// See [`ModelDirectory::fingerprint`]. The same on every device and in every dtype.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The network of `scale` (1..=T); of a part of a chain, that of its own scale.
    pub fn network(&self, scale: u32) -> Option<&Network> {
        let index = self.config.networks.iter().position(|network| network.scales.contains(&scale))?;
        self.networks.get(index)?.as_ref()
    }
}

type Weighing<'a> = &'a mut dyn FnMut(&ScaleConfig) -> Result<Weights, ModelError>;

fn networks(
    config: &ChainConfig,
    schedule: &Schedule,
    placement: Placement,
    weights: Weighing,
) -> Result<(Vec<Option<Network>>, Vec<String>), ModelError> {
    let mut networks = Vec::with_capacity(config.networks.len());
    let mut fingerprints = Vec::with_capacity(config.networks.len());
    for network in &config.networks {
        let weights = weights(network)?;
        networks.push(Some(place(network, &weights, schedule, placement)?));
        fingerprints.push(weights.fingerprint().to_owned());
    }
    Ok((networks, fingerprints))
}

fn place(
    network: &ScaleConfig,
    weights: &Weights,
    schedule: &Schedule,
    placement: Placement,
) -> Result<Network, ModelError> {
    let failed = |source| ModelError::Network { origin: weights.origin().to_owned(), source: Box::new(source) };
    Network::load(&network.network, weights, schedule.alphas(), placement).map_err(failed)
}
