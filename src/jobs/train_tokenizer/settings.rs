//! The pipeline's settings as the trainer takes them, and what of them a run is.

use crate::config::Pipeline;
use crate::datasets::Unit;
use crate::digest::hex;
use crate::jobs::JobError;
use crate::torch::device::DeviceInUse;
use crate::training::LearningRate;
use crate::training::tokenizer::{CodebookConfig, Rates, TrainerConfig};
use crate::vqgan::VqganConfig;
use crate::vqgan::discriminator::DiscriminatorConfig;
use crate::vqgan::losses::{Adversarial, LossConfig};
use crate::vqgan::ops::Layout;
use crate::vqgan::quantizer::Commitment;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The keys of `[train_tokenizer]` that do not change what a step does.
const INDIFFERENT: [&str; 16] = [
    "to",
    "validation",
    "validation_list",
    "validation_images",
    "steps",
    "shrink",
    "merge",
    "shrink_min_count",
    "log_every",
    "checkpoint_every",
    "keep",
    "validate_every",
    "sample_every",
    "max_bad_steps",
    "lpips",
    "export",
];

/// How the trainer is set up.
pub fn trainer(pipeline: &Pipeline, network: VqganConfig, device: &DeviceInUse) -> TrainerConfig {
    let section = &pipeline.train_tokenizer;
    let seed = pipeline.run.seed;
    let rate = |max: f64| LearningRate {
        warm_up_steps: section.warm_up_steps,
        max_decay_steps: section.decay_steps.unwrap_or(u64::MAX),
        start: 0.0,
        max,
        min: max / 100.0,
    };
    let starts = section.disc_start.map(|step| i64::try_from(step).unwrap_or(i64::MAX));
    let shape = DiscriminatorConfig {
        in_channels: network.out_ch,
        ndf: i64::from(section.disc_ndf),
        layers: section.disc_layers as usize,
    };
    TrainerConfig {
        losses: LossConfig {
            disc_start: starts.unwrap_or(i64::MAX),
            disc_factor: section.disc_factor,
            disc_weight: section.disc_weight,
            codebook_weight: section.codebook_weight,
            perceptual_weight: if section.lpips.is_some() { section.perceptual_weight } else { 0.0 },
            disc_loss: Adversarial::Hinge,
        },
        discriminator: starts.map(|_| shape),
        commitment: Commitment { beta: section.beta, legacy: section.legacy },
        codebook: CodebookConfig {
            begin: section.quantize_after,
            decay: section.codebook_ema,
            restart_after: section.restart_after,
            seed,
        },
        ema: section.ema,
        rates: Rates { generator: rate(section.lr), discriminator: rate(section.disc_lr.unwrap_or(section.lr)) },
        network,
        seed,
        device: device.device,
        layout: Layout::Contiguous,
    }
}

/// What changes the result of a run, and what must therefore stay as it is. `perceptual`: what identifies the distance.
pub fn identity(
    pipeline: &Pipeline,
    network: &VqganConfig,
    perceptual: Option<String>,
    units: &[Arc<Unit>],
) -> Result<BTreeMap<String, String>, JobError> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut identity = BTreeMap::new();
    let sections = [
        ("train_tokenizer", serde_json::to_value(&pipeline.train_tokenizer)),
        ("image", serde_json::to_value(&pipeline.image)),
    ];
    for (section, value) in sections {
        let Value::Object(keys) = value.map_err(JobError::failed)? else { continue };
        let keys = keys.iter().filter(|(key, _)| section == "image" || !INDIFFERENT.contains(&key.as_str()));
        identity.extend(keys.map(|(key, value)| (format!("{section}.{key}"), text(value))));
    }
    identity.insert("network".to_owned(), serde_json::to_string(network).map_err(JobError::failed)?);
    identity.insert("seed".to_owned(), pipeline.run.seed.to_string());
    identity.insert("lpips".to_owned(), perceptual.unwrap_or_else(|| "none".to_owned()));
    let mut names = Sha256::new();
    for unit in units {
        names.update(format!("{}\n", unit.name).as_bytes());
    }
    identity.insert("dataset.format".to_owned(), pipeline.dataset.format.clone());
    identity.insert("dataset.units".to_owned(), hex(&names.finalize()));
    Ok(identity)
}
