//! `chain_greedy*`, `sampling_probs`, `inpaint_greedy`: the scales together, through a model directory on disk.

use super::fixture::{Fixture, Outcome, VALUES};
use imagebart::chain::{
    Chain, ChainConfig, Compat, Condition, EditNoise, EditOptions, EditRow, MaskRule, ModelDirectory, PixelMask, Row,
    RowCondition, SampleOptions, ScaleConfig, ScaleSettings, Start, Step,
};
use imagebart::config::ScheduleValue;
use imagebart::diffusion::StepDraws;
use imagebart::random::RowKey;
use imagebart::torch::weights::write;
use imagebart::transformer::{NetworkConfig, Placement};
use imagebart::vqgan::ops::Placement as ImagePlacement;
use imagebart::vqgan::{Codebook, Vqgan};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Kind, Tensor};

type Error = Box<dyn std::error::Error>;

/// A fixture's models, as a chain that went through a model directory.
struct Models {
    chain: Chain,
    vqgan: Vqgan,
    top_k: Vec<u32>,
    temperature: Vec<f32>,
    _directory: tempfile::TempDir,
}

impl Models {
    fn open(fixture: &mut Fixture) -> Result<Models, Error> {
        let models = fixture.config.get("models").and_then(Value::as_array).ok_or("the config has no models")?.clone();
        let config = describe(&models)?;
        let folder = tempfile::tempdir()?;
        let vqgan = write_tokenizer(fixture, folder.path())?;
        ModelDirectory::write_config(folder.path(), &config, "")?;
        for network in &config.networks {
            let scale = network.scales[0];
            let tensors = average(fixture, scale, &network.network)?;
            ModelDirectory::write_scale(folder.path(), scale, &network.network, &tensors)?;
        }
        let directory = ModelDirectory::open(folder.path())?;
        assert_eq!(directory.config(), &config);
        let chain = directory.load(Placement::cpu())?;
        assert_eq!(chain.fingerprint(), directory.fingerprint()?);
        let list = |key: &str| fixture.config.get(key).and_then(Value::as_array).ok_or(format!("no {key}"));
        let top_k = list("top_k")?.iter().filter_map(Value::as_u64).map(|k| k as u32).collect();
        let temperature = list("temperature")?.iter().filter_map(Value::as_f64).map(|x| x as f32).collect();
        Ok(Models { chain, vqgan, top_k, temperature, _directory: folder })
    }

    /// A row of the fixture, whose class is in `in.cond`.
    fn rows(&self, fixture: &mut Fixture, batch: i64, greedy: bool) -> Result<Vec<Row>, Error> {
        let classes = if fixture.has("in.cond") { Some(fixture.read("in.cond")?) } else { None };
        let settings: Vec<ScaleSettings> = (self.top_k.iter().zip(&self.temperature))
            .map(|(&k, &temperature)| ScaleSettings { temperature, top_k: Some(k), greedy, ..ScaleSettings::default() })
            .collect();
        let row = |index| Row {
            key: RowKey::new(0, "parity", index as u64, 0),
            condition: match &classes {
                Some(classes) => RowCondition::Class(classes.int64_value(&[index, 0]) as u32),
                None => RowCondition::None,
            },
            settings: settings.clone().into(),
        };
        Ok((0..batch).map(row).collect())
    }

    fn image(&self, grids: &[Vec<u16>]) -> Result<Tensor, Error> {
        let (rows, columns) = self.chain.config().grid;
        let ids = tensor(grids).view([grids.len() as i64, i64::from(rows), i64::from(columns)]);
        let codebook = &self.vqgan.codebook;
        Ok(self.vqgan.decode(&codebook.entries(&codebook.remap().to_indices(&ids)?)?)?)
    }

    fn scales(&self) -> u32 {
        self.chain.config().scales()
    }
}

/// The chain that the authors' configs describe.
fn describe(models: &[Value]) -> Result<ChainConfig, Error> {
    let first = models.first().ok_or("no models")?;
    let scales = models.len() as i64;
    let schedule = match first.get("redraw_prob") {
        Some(Value::String(name)) => ScheduleValue::Name(name.clone()),
        Some(Value::Number(number)) => ScheduleValue::Number(number.as_f64().unwrap_or(f64::NAN)),
        _ => return Err("no redraw_prob".into()),
    };
    let mut networks = Vec::new();
    let mut tokens = 0;
    for (scale, model) in (1..).zip(models) {
        let network = model.get("transformer_config").ok_or("no transformer_config")?;
        let network = NetworkConfig::from_released(network, scales)?;
        if let NetworkConfig::EncoderDecoder(config) = &network {
            tokens = config.decoder_length as u32;
        }
        let alpha = model.get("alpha").and_then(Value::as_f64).unwrap_or(0.0);
        networks.push(ScaleConfig { scales: vec![scale], network, alpha });
    }
    let classes = match &networks[0].network {
        NetworkConfig::EncoderDecoder(config) => config.encoder_tokens as u32,
        NetworkConfig::Gpt(config) => config.input_tokens as u32,
    };
    let condition = match first.get("conditioner_config") {
        Some(_) => Condition::Class { classes, null: false },
        None => Condition::None,
    };
    let codebook_size = networks[0].network.codes() as u32;
    let side = tokens.isqrt();
    Ok(ChainConfig { schedule, codebook_size, grid: (side, tokens / side), condition, networks })
}

/// The EMA weights of one scale, by the parameters' own names.
fn average(fixture: &mut Fixture, scale: u32, network: &NetworkConfig) -> Result<BTreeMap<String, Tensor>, Error> {
    let mut tensors = BTreeMap::new();
    for spec in network.tensors() {
        let name = format!("w.scale{scale}.transformer_ema.{}", spec.name.replace('.', ""));
        tensors.insert(spec.name, fixture.read(&name)?);
    }
    Ok(tensors)
}

fn write_tokenizer(fixture: &mut Fixture, folder: &Path) -> Result<Vqgan, Error> {
    let config = fixture.vqgan("first_stage_config")?;
    let weights = fixture.weights("w.scale1.first_stage_model.")?;
    write(folder.join("tokenizer.safetensors"), weights.tensors(), &config.to_metadata())?;
    Ok(Vqgan::load(&config, &weights, ImagePlacement::cpu(), false)?)
}

fn tensor(grids: &[Vec<u16>]) -> Tensor {
    let rows: Vec<Tensor> = grids
        .iter()
        .map(|grid| Tensor::from_slice(&grid.iter().map(|&id| i64::from(id)).collect::<Vec<_>>()))
        .collect();
    Tensor::stack(&rows, 0)
}

fn grids(fixture: &mut Fixture, name: &str) -> Result<Vec<Vec<u16>>, Error> {
    let ids = Vec::<Vec<i64>>::try_from(fixture.read(name)?)?;
    Ok(ids.into_iter().map(|grid| grid.into_iter().map(|id| id as u16).collect()).collect())
}

fn slices(grids: &[Vec<u16>]) -> Vec<&[u16]> {
    grids.iter().map(Vec::as_slice).collect()
}

pub fn greedy(fixture: &mut Fixture) -> Outcome {
    let _guard = tch::no_grad_guard();
    let models = Models::open(fixture)?;
    let cases = [("start", "", models.scales()), ("mid", "mid.", models.scales() - 1)];
    for (input, prefix, scale) in cases {
        let start = grids(fixture, &format!("in.{input}"))?;
        let rows = models.rows(fixture, start.len() as i64, true)?;
        for compat in [Compat::Authors, Compat::None] {
            let start = Some(Start { scale, grids: &slices(&start) });
            let steps =
                models.chain.sample_steps(&rows, SampleOptions { compat, start, ..SampleOptions::default() })?;
            for step in &steps {
                fixture.equal(&format!("out.{prefix}tokens.scale{}", step.scale), &tensor(&step.tokens))?;
            }
            let last = steps.last().ok_or("no steps")?;
            fixture.close(&format!("out.{prefix}image"), &models.image(&last.tokens)?, VALUES)?;
        }
    }
    Ok(())
}

pub fn probabilities(fixture: &mut Fixture) -> Outcome {
    let _guard = tch::no_grad_guard();
    let models = Models::open(fixture)?;
    let start = grids(fixture, "in.start")?;
    let rows = models.rows(fixture, start.len() as i64, false)?;
    let known = fixture.read("in.guided.known")?.one_hot(i64::from(models.chain.config().codebook_size));
    let free = fixture.read("in.guided.keep")?.eq(0).unsqueeze(2);
    let guide = known.to_kind(Kind::Float).log().masked_fill(&free, 0.0);
    for (prefix, guide) in [("", None), ("guided.", Some(&guide))] {
        let mut x_t = start.clone();
        for scale in (1..=models.scales()).rev() {
            let tokens = grids(fixture, &format!("in.{prefix}tokens.scale{scale}"))?;
            let read = (&slices(&x_t)[..], &slices(&tokens)[..]);
            let ours = models.chain.probabilities(&rows, scale, read, Compat::Authors, guide)?;
            fixture.close(&format!("out.{prefix}probs.scale{scale}"), &ours, VALUES)?;
            x_t = tokens;
        }
    }
    Ok(())
}

pub fn inpaint(fixture: &mut Fixture) -> Outcome {
    let _guard = tch::no_grad_guard();
    let models = Models::open(fixture)?;
    let (image, mask) = (fixture.read("in.image")?, fixture.read("in.mask")?);
    fixture.close("out.masked_inputs", &(&image * &mask), VALUES)?;
    let clean = clean(&models.vqgan, &image)?;
    fixture.equal("out.x_clean", &clean)?;
    let known = known(&models, &mask)?;
    let kept = tensor(&known.iter().map(|row| row.iter().map(|&known| known.into()).collect()).collect::<Vec<_>>());
    fixture.equal("out.kept", &kept)?;
    let clean = Vec::<Vec<i64>>::try_from(clean)?;
    let rows = models.rows(fixture, clean.len() as i64, true)?;
    let rows: Vec<EditRow> = (rows.into_iter().zip(clean).zip(known))
        .map(|((row, clean), known)| EditRow { row, tokens: clean.iter().map(|&id| id as u16).collect(), known })
        .collect();
    let repeats = fixture.config.get("chains").and_then(Value::as_array).ok_or("no chains")?;
    let repeats: Vec<u32> = repeats.iter().filter_map(Value::as_u64).map(|passes| passes as u32).collect();
    let noise = noise(fixture, &repeats)?;
    let options = EditOptions { compat: Compat::Authors, repeats: repeats.clone(), ..EditOptions::default() };
    let steps = models.chain.edit_steps(&rows, &options, Some(noise))?;
    assert_eq!(steps.len() as u32, repeats.iter().sum::<u32>());
    fixture.equal("out.c_start", &tensor(&steps.first().ok_or("no steps")?.x_t))?;
    for Step { scale, pass, x_t, tokens } in &steps {
        fixture.equal(&format!("out.scale{scale}.chain{pass}.xt_in"), &tensor(x_t))?;
        fixture.equal(&format!("out.scale{scale}.chain{pass}.tokens"), &tensor(tokens))?;
    }
    let last = steps.last().ok_or("no steps")?;
    fixture.close("out.image", &models.image(&last.tokens)?, VALUES)
}

/// The image's tokens `[batch, tokens]`.
fn clean(vqgan: &Vqgan, image: &Tensor) -> Result<Tensor, Error> {
    let Codebook::Nearest(quantizer) = &vqgan.codebook else { return Err("the first stage is a GumbelVQ".into()) };
    let indices = quantizer.indices(&vqgan.features(image)?)?;
    Ok(quantizer.remap().to_ids(&indices)?.flatten(1, -1))
}

fn known(models: &Models, mask: &Tensor) -> Result<Vec<Vec<bool>>, Error> {
    let size = mask.size();
    let (height, width) = (size[2] as u32, size[3] as u32);
    let grid = models.chain.config().grid;
    let pixels = Vec::<Vec<bool>>::try_from(mask.ge(0.5).flatten(1, -1))?;
    let masks = pixels.into_iter().map(|known| PixelMask { height, width, known });
    masks.map(|mask| Ok(mask.tokens(grid, height / grid.0, MaskRule::FirstPixel)?)).collect()
}

/// The random numbers that the authors' code drew.
fn noise(fixture: &mut Fixture, repeats: &[u32]) -> Result<EditNoise, Error> {
    let mut draws = BTreeMap::new();
    for (scale, &passes) in (1..).zip(repeats) {
        for pass in 1..passes {
            let redraw = fixture.read(&format!("in.scale{scale}.chain{pass}.redraw"))?;
            // 0 is below every probability, 1 below none.
            let uniforms = redraw.to_kind(Kind::Float).rsub_scalar(1.0);
            let noise = fixture.read(&format!("in.scale{scale}.chain{pass}.rand"))?;
            draws.insert((scale, pass), StepDraws { uniforms, noise });
        }
    }
    Ok(EditNoise { start: fixture.read("in.c_uniform")?, repeats: draws })
}
