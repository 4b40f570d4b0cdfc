//! The names of a run's curves: `train/` for what a step saw, `validation/` for the held-out rows.

use super::chart::Scale;

/// What is minimised: of a chain in nats a token.
pub const LOSS: &str = "train/loss";
/// Cross entropy with x_{t-1}, in nats a token.
pub const HARD_LOSS: &str = "train/hard_loss";
/// Divergence from the posterior, in nats a token.
pub const SOFT_LOSS: &str = "train/soft_loss";
/// The hard loss in bits.
pub const BITS_PER_TOKEN: &str = "train/bits_per_token";
pub const LEARNING_RATE: &str = "train/lr";
/// Norm of all gradients together, before they are clipped.
pub const GRADIENT_NORM: &str = "train/gradient_norm";
/// Steps left out so far, because their loss or gradients were no numbers.
pub const SKIPPED_STEPS: &str = "train/skipped_steps";
/// Share of the time in which the device waited for data.
pub const WAITING_SHARE: &str = "train/waiting_share";
pub const STEPS_PER_S: &str = "train/steps_per_s";
pub const TOKENS_PER_S: &str = "train/tokens_per_s";
pub const IMAGES_PER_S: &str = "train/images_per_s";
/// Operations of the network's matrix products, in 10^12 a second; over the device's peak this is the MFU.
pub const TERAFLOPS: &str = "train/teraflops";
/// The most memory that the process has taken, in GiB.
pub const PEAK_MEMORY: &str = "train/peak_memory";
/// Perceptual distance of a tokenizer's reconstructions.
pub const PERCEPTUAL: &str = "train/perceptual";
/// Codebook loss of a tokenizer.
pub const CODEBOOK_LOSS: &str = "train/codebook_loss";
/// What a tokenizer's discriminator costs the generator, before and after its adaptive weight, and its own loss.
pub const ADVERSARIAL: &str = "train/adversarial";
pub const ADAPTIVE_WEIGHT: &str = "train/adaptive_weight";
pub const DISCRIMINATOR_LOSS: &str = "train/discriminator_loss";
/// Codes that stand among the tokens of a step, and e to the entropy of their shares.
pub const CODES: &str = "train/codes";
pub const PERPLEXITY: &str = "train/perplexity";
/// Codes that a step placed anew.
pub const RESTARTED: &str = "train/restarted_codes";
/// Images that could not be read, in all.
pub const REJECTED: &str = "train/rejected_images";
/// Mean absolute error, of values in [-1, 1].
pub const VALIDATION_L1: &str = "validation/l1";
pub const VALIDATION_PERCEPTUAL: &str = "validation/perceptual";
/// In dB, the mean over images.
pub const VALIDATION_PSNR: &str = "validation/psnr";
pub const VALIDATION_CODES: &str = "validation/codes";
pub const VALIDATION_PERPLEXITY: &str = "validation/perplexity";
pub const VALIDATION_LOSS: &str = "validation/loss";
pub const VALIDATION_HARD_LOSS: &str = "validation/hard_loss";
pub const VALIDATION_SOFT_LOSS: &str = "validation/soft_loss";
pub const VALIDATION_BITS_PER_TOKEN: &str = "validation/bits_per_token";

/// How a report shows a metric.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metric {
    /// The curves' names after their first part.
    pub name: &'static str,
    pub title: &'static str,
    pub scale: Scale,
}

const fn metric_of(name: &'static str, title: &'static str, scale: Scale) -> Metric {
    Metric { name, title, scale }
}

/// The metrics that a report shows first, in its order.
pub(super) const METRICS: [Metric; 24] = [
    metric_of("loss", "Loss", Scale::Fitted),
    metric_of("bits_per_token", "Bits per token", Scale::Fitted),
    metric_of("hard_loss", "Cross entropy, nats a token", Scale::Fitted),
    metric_of("soft_loss", "Divergence from the posterior, nats a token", Scale::Fitted),
    metric_of("l1", "Mean absolute error", Scale::Fitted),
    metric_of("psnr", "PSNR, dB", Scale::Fitted),
    metric_of("perceptual", "Perceptual distance", Scale::Fitted),
    metric_of("codes", "Codes in use", Scale::FromZero),
    metric_of("perplexity", "Perplexity of the codes", Scale::Fitted),
    metric_of("codebook_loss", "Codebook loss", Scale::Fitted),
    metric_of("adversarial", "Adversarial loss", Scale::Fitted),
    metric_of("adaptive_weight", "Adaptive weight of the adversarial loss", Scale::Fitted),
    metric_of("discriminator_loss", "Discriminator's loss", Scale::Fitted),
    metric_of("restarted_codes", "Codes placed anew in a step", Scale::FromZero),
    metric_of("gradient_norm", "Gradient norm", Scale::Logarithmic),
    metric_of("lr", "Learning rate", Scale::FromZero),
    metric_of("tokens_per_s", "Tokens a second", Scale::FromZero),
    metric_of("images_per_s", "Images a second", Scale::FromZero),
    metric_of("teraflops", "TFLOP a second", Scale::FromZero),
    metric_of("steps_per_s", "Steps a second", Scale::FromZero),
    metric_of("waiting_share", "Share of the time that waits for data", Scale::FromZero),
    metric_of("peak_memory", "Peak memory, GiB", Scale::FromZero),
    metric_of("skipped_steps", "Steps left out", Scale::FromZero),
    metric_of("rejected_images", "Images left out, in all", Scale::FromZero),
];

/// The metric of this name, if it is a known one.
pub(super) fn metric(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}
