//! The names of a run's curves: `train/` for what a step saw, `validation/` for the held-out rows.

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
    pub logarithmic: bool,
}

const fn linear(name: &'static str, title: &'static str) -> Metric {
    Metric { name, title, logarithmic: false }
}

/// The metrics that a report shows first, in its order.
pub(super) const METRICS: [Metric; 24] = [
    linear("loss", "Loss"),
    linear("bits_per_token", "Bits per token"),
    linear("hard_loss", "Cross entropy, nats a token"),
    linear("soft_loss", "Divergence from the posterior, nats a token"),
    linear("l1", "Mean absolute error"),
    linear("psnr", "PSNR, dB"),
    linear("perceptual", "Perceptual distance"),
    linear("codes", "Codes in use"),
    linear("perplexity", "Perplexity of the codes"),
    linear("codebook_loss", "Codebook loss"),
    linear("adversarial", "Adversarial loss"),
    linear("adaptive_weight", "Adaptive weight of the adversarial loss"),
    linear("discriminator_loss", "Discriminator's loss"),
    linear("restarted_codes", "Codes placed anew in a step"),
    Metric { name: "gradient_norm", title: "Gradient norm", logarithmic: true },
    linear("lr", "Learning rate"),
    linear("tokens_per_s", "Tokens a second"),
    linear("images_per_s", "Images a second"),
    linear("teraflops", "TFLOP a second"),
    linear("steps_per_s", "Steps a second"),
    linear("waiting_share", "Share of the time that waits for data"),
    linear("peak_memory", "Peak memory, GiB"),
    linear("skipped_steps", "Steps left out"),
    linear("rejected_images", "Images left out, in all"),
];

/// The metric of this name, if it is a known one.
pub(super) fn metric(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}
