use super::*;
use crate::training::LearningRate;
use crate::vqgan::VqganConfig;
use crate::vqgan::discriminator::DiscriminatorConfig;
use crate::vqgan::losses::LossConfig;
use crate::vqgan::ops::Layout;
use crate::vqgan::quantizer::Commitment;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn config(layout: Layout) -> TrainerConfig {
    let rate = LearningRate { warm_up_steps: 0, max_decay_steps: u64::MAX, start: 0.0, max: 1e-3, min: 0.0 };
    let network = r#"{"ddconfig": {"z_channels": 8, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 1],
        "num_res_blocks": 1, "attn_resolutions": []}, "embed_dim": 4, "n_embed": 16}"#;
    TrainerConfig {
        network: serde_json::from_str::<VqganConfig>(network).expect("a shape"),
        losses: LossConfig { perceptual_weight: 0.0, ..LossConfig::starting_at(0) },
        discriminator: Some(DiscriminatorConfig { in_channels: 3, ndf: 8, layers: 1 }),
        commitment: Commitment { beta: 0.25, legacy: true },
        codebook: CodebookConfig { begin: 0, decay: None, restart_after: None, seed: 0 },
        ema: Some(0.9),
        rates: Rates { generator: rate, discriminator: rate },
        seed: 3,
        device: Device::Cpu,
        layout,
    }
}

/// Smooth pictures, `[count, 3, 16, 16]`.
fn pictures(count: i64, shift: f64) -> Tensor {
    let line = Tensor::arange(count * 3 * 256, (Kind::Float, Device::Cpu)) * 0.01 + shift;
    line.sin().view([count, 3, 16, 16])
}

fn copies(state: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    state.iter().map(|(name, tensor)| (name.clone(), tensor.detach().copy())).collect()
}

/// The network computes with the very tensors that the optimizer moves, in either layout.
#[test]
fn a_step_moves_every_parameter() -> Outcome {
    for layout in [Layout::Contiguous, Layout::ChannelsLast] {
        let mut trainer = Trainer::new(config(layout), None)?;
        let before = copies(&trainer.state()?);
        let first = trainer.step(&[pictures(4, 0.0)])?;
        assert!(!first.skipped && first.figures.judged && first.figures.gradient > 0.0, "{first:?}");
        let after = trainer.state()?;
        for (name, tensor) in
            before.iter().filter(|(name, _)| name.contains("network.") || name.contains("discriminator."))
        {
            // A softmax does not see the keys' bias; the hinge moves the logits' own as far up as down while all are within it.
            let still = name.ends_with("attn_1.k.bias") || name == "discriminator.main.5.bias";
            let moved = after[name] != *tensor || still;
            assert!(moved, "{name} has not moved ({layout:?})");
        }
        for _ in 0..20 {
            trainer.step(&[pictures(4, 0.0)])?;
        }
        let last = trainer.step(&[pictures(4, 0.0)])?;
        assert!(last.figures.nll < 0.8 * first.figures.nll, "{first:?} {last:?}");
    }
    Ok(())
}

/// Two halves make the step of the whole, but for rounding, where nothing depends on the batch.
#[test]
fn accumulated_gradients_are_those_of_the_whole_batch() -> Outcome {
    let alone = TrainerConfig { discriminator: None, ema: None, ..config(Layout::Contiguous) };
    let (mut whole, mut halves) = (Trainer::new(alone.clone(), None)?, Trainer::new(alone, None)?);
    let images = pictures(4, 0.3);
    let one = whole.step(&[images.shallow_clone()])?.figures;
    let two = halves.step(&[images.narrow(0, 0, 2), images.narrow(0, 2, 2)])?.figures;
    assert!((one.gradient - two.gradient).abs() < 1e-4 * one.gradient, "{one:?} {two:?}");
    assert!((one.total - two.total).abs() < 1e-5 && one.codes == two.codes, "{one:?} {two:?}");
    Ok(())
}

/// Until the codebook begins nothing of it moves and no code is told from another; then all that is not used is placed at once.
#[test]
fn a_codebook_can_begin_later() -> Outcome {
    let codebook = CodebookConfig { begin: 2, decay: Some(0.9), restart_after: Some(5), seed: 5 };
    let mut trainer = Trainer::new(TrainerConfig { codebook, ..config(Layout::Contiguous) }, None)?;
    let entries = |trainer: &Trainer| Ok::<_, TrainerError>(trainer.weights()?["quantize.embedding.weight"].copy());
    let before = entries(&trainer)?;
    for _ in 0..2 {
        let figures = trainer.step(&[pictures(2, 0.0)])?.figures;
        assert_eq!((figures.quantizer, figures.restarted), (0.0, 0.0));
    }
    assert_eq!(entries(&trainer)?, before);
    let figures = trainer.step(&[pictures(2, 0.0)])?.figures;
    assert!(figures.quantizer > 0.0 && figures.restarted > 0.0, "{figures:?}");
    assert_ne!(entries(&trainer)?, before);
    Ok(())
}

#[test]
fn a_trainer_goes_on_from_its_state() -> Outcome {
    let codebook = CodebookConfig { begin: 0, decay: Some(0.9), restart_after: Some(2), seed: 5 };
    let config = TrainerConfig { codebook, ..config(Layout::Contiguous) };
    let mut straight = Trainer::new(config.clone(), None)?;
    for step in 0..4 {
        straight.step(&[pictures(2, f64::from(step))])?;
    }
    let kept = copies(&straight.state()?);
    let mut resumed = Trainer::new(TrainerConfig { seed: 9, ..config }, None)?;
    resumed.restore(4, &kept)?;
    for step in 4..7 {
        let images = [pictures(2, f64::from(step))];
        assert_eq!(straight.step(&images)?, resumed.step(&images)?);
    }
    assert_eq!(straight.state()?, resumed.state()?);
    assert_eq!(straight.weights()?, resumed.weights()?);
    let mut less = kept;
    less.remove("codebook.last_used");
    let refused = resumed.restore(4, &less).expect_err("refused").to_string();
    assert_eq!(refused, "the checkpoint has no codebook.last_used");
    Ok(())
}

#[test]
fn a_step_without_numbers_changes_nothing() -> Outcome {
    let mut trainer = Trainer::new(config(Layout::Contiguous), None)?;
    trainer.step(&[pictures(2, 0.0)])?;
    let before = copies(&trainer.state()?);
    let step = trainer.step(&[pictures(2, f64::NAN)])?;
    assert!(step.skipped && !step.figures.total.is_finite());
    for (name, tensor) in trainer.state()? {
        assert_eq!(before[&name], tensor, "{name}");
    }
    assert_eq!(trainer.steps(), 2);
    assert!(!trainer.step(&[pictures(2, 0.0)])?.skipped);
    Ok(())
}
