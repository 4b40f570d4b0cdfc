//! What serde cannot see in a pipeline file: keys that must be given, and values that must fit.

use super::load::Needs;
use super::{FilterSection, Pipeline, load::nearest};
use crate::datasets::{Format, Pairs};

/// The key at fault, and what to do about it.
type Fault = (&'static str, String);

/// Checks a pipeline for a command.
pub(super) fn check(pipeline: &Pipeline, needs: Needs) -> Result<(), Fault> {
    required(pipeline, needs)?;
    values(pipeline)
}

fn required(pipeline: &Pipeline, needs: Needs) -> Result<(), Fault> {
    let Pipeline { dataset, tokenizer, chain, sample, edit, shrink, output, .. } = pipeline;
    let format = ("dataset.format", dataset.format.is_empty(), "\"folder\", \"webdataset\" or another of the formats");
    let url = ("dataset.url", dataset.url.is_empty(), "where the images are: a local path or a URL");
    let weights = ("tokenizer.weights", tokenizer.weights.is_empty(), "the VQGAN's .safetensors file");
    let model =
        ("chain.model", chain.model.is_empty(), "the model directory, as `imagebart import` or `train` writes it");
    let countless = sample.count.is_none() && sample.prompts.is_none();
    let count = ("sample.count", countless, "how many images to draw, or give --count or --prompts");
    let images = ("edit.images", edit.images.is_empty(), "the images to edit, a folder or a table, or give --images");
    let unmasked = edit.masks.is_empty() && edit.is_masked() && !Pairs::is_table(&edit.images);
    let masks = ("edit.masks", unmasked, "the folder of their masks, or give --masks");
    let to = ("shrink.to", shrink.to.is_empty(), "where the remapped latents go: a local path or a URL");
    let trained = (weights.0, weights.1, "the .safetensors file that is written at the end");
    let nowhere = output.url.is_empty() && pipeline.train_tokenizer.to.is_empty();
    let folder =
        ("output.url", nowhere, "where checkpoints and reports go, or set train_tokenizer.to: a local path or a URL");
    let unreported = output.url.is_empty() && pipeline.evaluate.to.is_empty();
    let report = ("output.url", unreported, "where the tables are, or set evaluate.to, where the report goes");
    let tables = ("output.url", output.url.is_empty(), "where the tables go: a local path or a URL");
    let rules =
        ("filter", pipeline.filter == FilterSection::default(), "min_score, duplicate_tokens, against or another rule");
    let needed = match needs {
        Needs::Encode => vec![format, url, weights, tables],
        Needs::Shrink => vec![weights, tables, to],
        Needs::Train => vec![weights, model, tables],
        Needs::TrainTokenizer => vec![format, url, trained, folder],
        Needs::Sample => vec![model, count, tables],
        Needs::Edit => vec![model, images, masks, tables],
        Needs::Evaluate => vec![report],
        Needs::Filter => vec![tables, rules],
    };
    match needed.into_iter().find(|(_, missing, _)| *missing) {
        Some((key, _, meaning)) => Err((key, format!("{key} is missing; set it to {meaning}"))),
        None => Ok(()),
    }
}

fn values(pipeline: &Pipeline) -> Result<(), Fault> {
    let (image, tokenizer) = (&pipeline.image, &pipeline.train_tokenizer);
    let positive = [
        ("image.size", u64::from(image.size)),
        ("image.crops", u64::from(image.crops)),
        ("image.max_pixels", image.max_pixels),
        ("image.max_bytes", image.max_bytes.0),
        ("dataset.unit_rows", pipeline.dataset.unit_rows),
        ("sample.unit_rows", pipeline.sample.unit_rows),
        ("sample.count", pipeline.sample.count.unwrap_or(1)),
        ("run.memory_budget", pipeline.run.memory_budget.0),
        ("tokenizer.decode_memory", pipeline.tokenizer.decode_memory.0),
        ("evaluate.count", pipeline.evaluate.count.unwrap_or(1)),
        ("evaluate.batch_size", pipeline.evaluate.batch_size.into()),
        ("evaluate.network_size", pipeline.evaluate.network_size.into()),
        ("evaluate.neighbours", pipeline.evaluate.neighbours.into()),
        ("evaluate.splits", pipeline.evaluate.splits.into()),
        ("evaluate.kid_subsets", pipeline.evaluate.kid_subsets.into()),
        ("evaluate.kid_size", pipeline.evaluate.kid_size.into()),
        ("train_tokenizer.steps", tokenizer.steps),
        ("train_tokenizer.batch_size", tokenizer.batch_size.into()),
        ("train_tokenizer.accumulate", tokenizer.accumulate.into()),
        ("train_tokenizer.disc_layers", tokenizer.disc_layers.into()),
        ("train_tokenizer.disc_ndf", tokenizer.disc_ndf.into()),
        ("train_tokenizer.restart_after", tokenizer.restart_after.unwrap_or(1)),
        ("train_tokenizer.validation_images", tokenizer.validation_images.unwrap_or(1)),
        ("train_tokenizer.window_images", tokenizer.window_images),
        ("train_tokenizer.log_every", tokenizer.log_every),
        ("train_tokenizer.checkpoint_every", tokenizer.checkpoint_every),
        ("train_tokenizer.validate_every", tokenizer.validate_every),
        ("train_tokenizer.keep", tokenizer.keep.into()),
        ("train_tokenizer.max_bad_steps", tokenizer.max_bad_steps.into()),
        ("train.steps", pipeline.train.steps),
        ("train.batch_size", pipeline.train.batch_size.into()),
        ("train.accumulate", pipeline.train.accumulate.into()),
        ("train.window_rows", pipeline.train.window_rows),
        ("train.log_every", pipeline.train.log_every),
        ("train.checkpoint_every", pipeline.train.checkpoint_every),
        ("train.validate_every", pipeline.train.validate_every),
        ("train.keep", pipeline.train.keep.into()),
        ("train.max_bad_steps", pipeline.train.max_bad_steps.into()),
    ];
    for (key, value) in positive {
        if value == 0 {
            return Err((key, format!("{key} must be 1 or more")));
        }
    }
    if !pipeline.dataset.format.is_empty() {
        one_of("dataset.format", &pipeline.dataset.format, &Format::ALL.map(|(name, _)| name))?;
    }
    one_of("dataset.labels", &pipeline.dataset.labels, &["auto", "directory", "none"])?;
    if let Some(split) = &pipeline.dataset.split {
        one_of("dataset.split", split, &["train", "val"])?;
    }
    if !pipeline.dataset.captions.starts_with("json.") {
        one_of("dataset.captions", &pipeline.dataset.captions, &["auto", "none", "json.<key>"])?;
    }
    one_of("image.crop", &image.crop, &["center", "random"])?;
    one_of("image.flip", &image.flip, &["none", "both"])?;
    one_of("image.trim", &image.trim, &["none", "white-border"])?;
    one_of(
        "image.resize",
        &image.resize,
        &["pillow-bicubic", "pillow-lanczos", "pillow-bilinear", "pillow-box", "cv2-linear"],
    )?;
    one_of("sample.compat", &pipeline.sample.compat, &["default", "authors"])?;
    one_of("sample.image", &pipeline.sample.image, &["png", "jpeg", "webp"])?;
    if pipeline.sample.stride.is_some() && pipeline.sample.size.is_none() {
        let message = "sample.stride is of pictures larger than the chain's: set sample.size too, or leave it out";
        return Err(("sample.stride", message.to_owned()));
    }
    if let Some(quality) = pipeline.sample.quality {
        if pipeline.sample.image != "jpeg" {
            let message = format!("sample.quality is jpeg's alone; {} is lossless", pipeline.sample.image);
            return Err(("sample.quality", message));
        }
        if !(1..=100).contains(&quality) {
            return Err(("sample.quality", format!("sample.quality = {quality} must be 1 to 100")));
        }
    }
    one_of("choose.rejected", &pipeline.choose.rejected, &["drop", "keep"])?;
    if let Some(fault) = pipeline.choose.fault() {
        return Err(fault);
    }
    one_of("edit.compat", &pipeline.edit.compat, &["default", "authors"])?;
    one_of("edit.white", &pipeline.edit.white, &["keep", "edit"])?;
    one_of("edit.mode", &pipeline.edit.mode, &["inpaint", "outpaint", "upper-half", "lower-half"])?;
    if let Some(fault) = pipeline.edit.fault() {
        return Err(fault);
    }
    if let Some(fault) = pipeline.card.fault() {
        return Err(fault);
    }
    evaluation(pipeline)?;
    shares(pipeline)?;
    filter(&pipeline.filter)?;
    if image.crops > 1 && image.crop == "center" {
        let message = format!("image.crops = {} needs image.crop = \"random\"", image.crops);
        return Err(("image.crops", message));
    }
    if !(0.0..=1.0).contains(&pipeline.run.max_reject_fraction) {
        return Err(("run.max_reject_fraction", "run.max_reject_fraction must be between 0 and 1".to_owned()));
    }
    Ok(())
}

/// What `[evaluate]` may name.
fn evaluation(pipeline: &Pipeline) -> Result<(), Fault> {
    let section = &pipeline.evaluate;
    for metric in &section.metrics {
        one_of("evaluate.metrics", metric, &["reconstruction", "generation", "text", "likelihood"])?;
    }
    if let Some(fault) = section.fault() {
        return Err(fault);
    }
    one_of("evaluate.ssim", &section.ssim, &["gaussian", "uniform"])?;
    one_of("evaluate.network_resize", &section.network_resize, &["clean", "legacy", "none"])?;
    one_of("evaluate.generated", &section.generated, &["samples", "latents"])?;
    let channels = [("evaluate.network_mean", &section.network_mean), ("evaluate.network_std", &section.network_std)];
    for (key, values) in channels {
        if ![1, 3].contains(&values.len()) || values.iter().any(|value| !value.is_finite()) {
            return Err((key, format!("{key} must be a list of one number, or of three: red, green, blue")));
        }
    }
    match section.network_std.iter().find(|std| **std <= 0.0) {
        Some(std) => Err(("evaluate.network_std", format!("evaluate.network_std = {std} must be more than 0"))),
        None => Ok(()),
    }
}

/// Rates and shares of `[train]` and `[train_tokenizer]`.
fn shares(pipeline: &Pipeline) -> Result<(), Fault> {
    let (train, tokenizer) = (&pipeline.train, &pipeline.train_tokenizer);
    one_of("train.export", &train.export, &["best", "last"])?;
    one_of("train_tokenizer.export", &tokenizer.export, &["best", "last"])?;
    if tokenizer.quantize_after > 0 && tokenizer.restart_after.is_none() {
        let message = "the codes are placed among the features as dead ones are: set train_tokenizer.restart_after too";
        return Err(("train_tokenizer.quantize_after", message.to_owned()));
    }
    if tokenizer.shrink && tokenizer.merge.is_some() {
        let message = "train_tokenizer.shrink and merge both choose the codes that are kept: leave one out";
        return Err(("train_tokenizer.merge", message.to_owned()));
    }
    let rates = [("train.lr", train.lr), ("train.lr_start", train.lr_start), ("train.lr_min", train.lr_min)];
    let least = [("train.weight_decay", train.weight_decay), ("train.clip", train.clip.unwrap_or(1.0))];
    let weights = [
        ("train_tokenizer.lr", tokenizer.lr),
        ("train_tokenizer.disc_lr", tokenizer.disc_lr.unwrap_or(0.0)),
        ("train_tokenizer.perceptual_weight", tokenizer.perceptual_weight),
        ("train_tokenizer.codebook_weight", tokenizer.codebook_weight),
        ("train_tokenizer.merge", tokenizer.merge.unwrap_or(0.0)),
        ("train_tokenizer.beta", tokenizer.beta),
        ("train_tokenizer.disc_weight", tokenizer.disc_weight),
        ("train_tokenizer.disc_factor", tokenizer.disc_factor),
    ];
    let mut numbers = rates.into_iter().chain(least).chain(weights);
    if let Some((key, value)) = numbers.find(|(_, value)| !(value.is_finite() && *value >= 0.0)) {
        return Err((key, format!("{key} = {value} must be 0 or more")));
    }
    let shares = [
        ("train.ema", train.ema),
        ("train.condition_dropout", train.condition_dropout),
        ("train_tokenizer.ema", tokenizer.ema.unwrap_or(0.0)),
        ("train_tokenizer.codebook_ema", tokenizer.codebook_ema.unwrap_or(0.0)),
    ];
    match shares.into_iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
        Some((key, value)) => Err((key, format!("{key} = {value} must be between 0 and 1"))),
        None => Ok(()),
    }
}

/// Ranges of `[filter]`.
fn filter(section: &FilterSection) -> Result<(), Fault> {
    let tokens = [
        ("filter.duplicate_tokens", section.duplicate_tokens.unwrap_or(0.0)),
        ("filter.copy_tokens", section.copy_tokens),
    ];
    if let Some((key, value)) = tokens.into_iter().find(|(_, value)| !(0.0..=0.5).contains(value)) {
        return Err((key, format!("{key} = {value} must be between 0 and 0.5: the share of tokens that may differ")));
    }
    if let Some(rate) = section.rate.filter(|rate| !(*rate > 0.0 && *rate <= 1.0)) {
        return Err(("filter.rate", format!("filter.rate = {rate} must be above 0 and at most 1")));
    }
    if let Some(bits) = section.duplicate_image.filter(|bits| *bits > 32) {
        let key = "filter.duplicate_image";
        return Err((key, format!("{key} = {bits} must be at most 32, of the 64 bits of a hash")));
    }
    match section.per_prompt {
        Some(0) => Err(("filter.per_prompt", "filter.per_prompt must be 1 or more".to_owned())),
        _ => Ok(()),
    }
}

/// `value` must be one of `known`; the message offers the nearest.
fn one_of(key: &'static str, value: &str, known: &[&str]) -> Result<(), Fault> {
    if known.contains(&value) {
        return Ok(());
    }
    let hint = nearest(value, known.iter().copied()).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    Err((key, format!("{key} = \"{value}\" is not one of {}{hint}", known.join(", "))))
}
