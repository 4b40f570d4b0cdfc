//! What a VQGAN is trained on (Eq. 5 to 7 of its paper): reconstruction, perceptual and adversarial loss with its adaptive
//! weight, as taming's `VQLPIPSWithDiscriminator` computes them.

use super::discriminator::Discriminator;
use super::lpips::Perceptual;
use tch::{Kind, TchError, Tensor};

/// How the discriminator is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adversarial {
    Hinge,
    /// The original loss of GANs: cross entropy of the logits.
    Vanilla,
}

/// Weights of the losses; the names are taming's, the defaults those of its class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossConfig {
    /// The step the discriminator starts to count at. Its adaptive weight is computed before, too.
    pub disc_start: i64,
    pub disc_factor: f64,
    pub disc_weight: f64,
    pub codebook_weight: f64,
    /// 0: no perceptual loss.
    pub perceptual_weight: f64,
    pub disc_loss: Adversarial,
}

impl LossConfig {
    /// The losses' defaults, for a discriminator that starts at `disc_start`.
    pub fn starting_at(disc_start: i64) -> LossConfig {
        LossConfig {
            disc_start,
            disc_factor: 1.0,
            disc_weight: 1.0,
            codebook_weight: 1.0,
            perceptual_weight: 1.0,
            disc_loss: Adversarial::Hinge,
        }
    }

    /// `disc_factor` from `disc_start` on, 0 before.
    pub fn factor(&self, step: i64) -> f64 {
        if step < self.disc_start { 0.0 } else { self.disc_factor }
    }
}

/// A batch while training: images and their reconstructions, `[batch, 3, h, w]` in [-1, 1].
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    pub images: &'a Tensor,
    pub reconstructions: &'a Tensor,
}

/// The generator's loss and its parts, all scalars.
#[derive(Debug)]
pub struct GeneratorLoss {
    /// What to differentiate.
    pub total: Tensor,
    /// Reconstruction and perceptual loss together: what the adaptive weight balances the adversarial loss with.
    pub nll: Tensor,
    pub perceptual: Tensor,
    /// The codebook's loss, unweighted.
    pub quantizer: Tensor,
    pub adversarial: Tensor,
    /// The adaptive weight, times `disc_weight`.
    pub weight: Tensor,
    /// `disc_factor` at this step.
    pub factor: f64,
}

/// The discriminator's loss, and the means of its logits, all scalars.
#[derive(Debug)]
pub struct DiscriminatorLoss {
    /// What to differentiate.
    pub total: Tensor,
    pub logits_real: Tensor,
    pub logits_fake: Tensor,
}

/// The losses of one model in training.
#[derive(Debug)]
pub struct VqganLoss {
    pub config: LossConfig,
    /// Needed unless it never counts.
    pub discriminator: Option<Discriminator>,
    /// Needed unless `perceptual_weight` is 0.
    pub perceptual: Option<Perceptual>,
}

impl VqganLoss {
    /// The loss of encoder, codebook and decoder. `last_layer` is the weight of the decoder's last convolution, a leaf of the
    /// graph: the adaptive weight compares the gradients that reach it.
    pub fn generator(
        &self,
        pair: Pair,
        codebook_loss: &Tensor,
        last_layer: &Tensor,
        step: i64,
    ) -> Result<GeneratorLoss, TchError> {
        let (nll, perceptual) = self.reconstruction(pair)?;
        let adversarial = self.critic()?.forward(pair.reconstructions, true)?.f_mean(Kind::Float)?.f_neg()?;
        let weight = adaptive_weight(&nll, &adversarial, last_layer)?.f_mul_scalar(self.config.disc_weight)?;
        let factor = self.config.factor(step);
        let quantizer = codebook_loss.f_mean(Kind::Float)?;
        let total = nll
            .f_add(&weight.f_mul_scalar(factor)?.f_mul(&adversarial)?)?
            .f_add(&quantizer.f_mul_scalar(self.config.codebook_weight)?)?;
        Ok(GeneratorLoss { total, nll, perceptual, quantizer, adversarial, weight, factor })
    }

    /// [`generator`](VqganLoss::generator) where the discriminator does not count, without the work for it: the parts that are
    /// of it are 0.
    pub fn without_critic(&self, pair: Pair, codebook_loss: &Tensor) -> Result<GeneratorLoss, TchError> {
        let (nll, perceptual) = self.reconstruction(pair)?;
        let quantizer = codebook_loss.f_mean(Kind::Float)?;
        let total = nll.f_add(&quantizer.f_mul_scalar(self.config.codebook_weight)?)?;
        let zero = || Tensor::f_zeros([], (Kind::Float, nll.device()));
        let (adversarial, weight) = (zero()?, zero()?);
        Ok(GeneratorLoss { total, nll, perceptual, quantizer, adversarial, weight, factor: 0.0 })
    }

    /// The loss of the discriminator. No gradient reaches the generator.
    pub fn discriminator(&self, pair: Pair, step: i64) -> Result<DiscriminatorLoss, TchError> {
        let real = self.critic()?.forward(&pair.images.f_detach()?, true)?;
        let fake = self.critic()?.forward(&pair.reconstructions.f_detach()?, true)?;
        let loss = match self.config.disc_loss {
            Adversarial::Hinge => {
                let margin = |logits: &Tensor| logits.f_add_scalar(1.0)?.f_relu()?.f_mean(Kind::Float);
                margin(&real.f_neg()?)?.f_add(&margin(&fake)?)?
            }
            Adversarial::Vanilla => {
                let entropy = |logits: &Tensor| logits.f_softplus()?.f_mean(Kind::Float);
                entropy(&real.f_neg()?)?.f_add(&entropy(&fake)?)?
            }
        };
        let total = loss.f_mul_scalar(0.5)?.f_mul_scalar(self.config.factor(step))?;
        Ok(DiscriminatorLoss { total, logits_real: real.f_mean(Kind::Float)?, logits_fake: fake.f_mean(Kind::Float)? })
    }

    fn critic(&self) -> Result<&Discriminator, TchError> {
        let missing = || TchError::TensorNameNotFound("the discriminator".to_owned(), "the losses".to_owned());
        self.discriminator.as_ref().ok_or_else(missing)
    }

    /// Mean absolute error plus the weighted perceptual distance, and the distance alone.
    fn reconstruction(&self, pair: Pair) -> Result<(Tensor, Tensor), TchError> {
        let absolute = pair.images.f_sub(pair.reconstructions)?.f_abs()?;
        if self.config.perceptual_weight == 0.0 {
            return Ok((absolute.f_mean(Kind::Float)?, Tensor::f_zeros([], (Kind::Float, absolute.device()))?));
        }
        let missing = || TchError::TensorNameNotFound("LPIPS".to_owned(), "the losses".to_owned());
        let distance = self.perceptual.as_ref().ok_or_else(missing)?.distance(pair.images, pair.reconstructions)?;
        let weighted = absolute.f_add(&distance.f_mul_scalar(self.config.perceptual_weight)?)?;
        Ok((weighted.f_mean(Kind::Float)?, distance.f_mean(Kind::Float)?))
    }
}

/// |∇ nll| / (|∇ adversarial| + 1e-4) at the last layer, in 0..=1e4, without a gradient of its own (Eq. 7).
fn adaptive_weight(nll: &Tensor, adversarial: &Tensor, last_layer: &Tensor) -> Result<Tensor, TchError> {
    let norm = |loss: &Tensor| -> Result<Tensor, TchError> {
        let gradients = Tensor::f_run_backward(&[loss], &[last_layer], true, false)?;
        let gradient = gradients.first().ok_or_else(|| TchError::Shape("the last layer has no gradient".to_owned()))?;
        gradient.f_norm()
    };
    norm(nll)?.f_div(&norm(adversarial)?.f_add_scalar(1e-4)?)?.f_clamp(0.0, 1e4)?.f_detach()
}
