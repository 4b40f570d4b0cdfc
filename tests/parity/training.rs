//! `lr_schedule`, `ema`, `optimizer_groups`, and `grad_*`: three steps of training, from the gradients on.

use super::diffusion::dense;
use super::fixture::{Fixture, GRADIENTS, Outcome, VALUES};
use imagebart::diffusion::{SoftTarget, loss};
use imagebart::training::{AdamW, AdamWConfig, Ema, LearningRate, ParameterGroup, parameter_groups};
use imagebart::transformer::{ConditionIds, Network, NetworkConfig, Placement, Source};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tch::Tensor;

type Error = Box<dyn std::error::Error>;

/// Largest error of a learning rate, in units of the largest one: cosines differ by a rounding between libraries.
const RATES: f64 = 1e-15;
/// Largest error of a moving average.
const AVERAGES: f64 = 1e-7;
/// Largest error of a parameter after three steps, on top of what the fixture says rounding alone does to it.
const STEPS: f64 = 1e-5;

pub fn learning_rate(fixture: &mut Fixture) -> Outcome {
    for case in &fixture.cases()? {
        let name = case.get("case").and_then(Value::as_str).ok_or("a case has no name")?;
        let number = |key: &str| {
            case.get("params").and_then(|params| params.get(key)?.as_f64()).ok_or(format!("case {name} has no {key}"))
        };
        let rate = LearningRate {
            warm_up_steps: number("warm_up_steps")? as u64,
            max_decay_steps: number("max_decay_steps")? as u64,
            start: number("lr_start")?,
            max: number("lr_max")?,
            min: number("lr_min")?,
        };
        let steps = Vec::<i64>::try_from(fixture.read(&format!("in.{name}.steps"))?)?;
        let ours: Vec<f64> = steps.iter().map(|&step| rate.at(step as u64)).collect();
        fixture.close(&format!("out.{name}.factor"), &Tensor::from_slice(&ours), RATES * rate.max)?;
    }
    Ok(())
}

pub fn ema(fixture: &mut Fixture) -> Outcome {
    let updates = fixture.config.get("updates").and_then(Value::as_i64).ok_or("the config has no updates")?;
    let names = fixture.names("in.step1.");
    let read = |fixture: &mut Fixture, step: i64| -> Result<BTreeMap<String, Tensor>, Error> {
        let parameter = |name: &String| Ok((name.clone(), fixture.read(&format!("in.step{step}.{name}"))?));
        names.iter().map(parameter).collect()
    };
    let state = fixture.names("w.").into_iter().map(|name| Ok((name.clone(), fixture.read(&format!("w.{name}"))?)));
    let state = state.collect::<Result<BTreeMap<_, _>, Error>>()?;
    let parameters = read(fixture, 1)?;
    let mut ema = Ema::resume(parameters.iter().map(|(name, tensor)| (name.as_str(), tensor)), &state)?;
    for step in 1..=updates {
        let parameters = read(fixture, step)?;
        ema.update(|name| parameters.get(name))?;
        let state = ema.state()?;
        for name in fixture.names(&format!("out.step{step}.")) {
            let ours = state.get(&name).ok_or(format!("there is no average {name}"))?;
            fixture.close(&format!("out.step{step}.{name}"), ours, AVERAGES)?;
        }
    }
    Ok(())
}

pub fn groups(fixture: &mut Fixture) -> Outcome {
    let groups = fixture.config.get("groups").and_then(Value::as_object).ok_or("the config has no groups")?;
    for (class, expected) in groups {
        let key = if class == "GPT" { "gpt" } else { "xt" };
        let params = fixture.config.get("configs").and_then(|configs| configs.get(key)).ok_or("no configs")?;
        let ours = parameter_groups(&network(class, params, 1)?);
        let listed = expected.get("groups").and_then(Value::as_array).ok_or("no groups")?;
        let listed = listed.iter().map(|group| read_group(group)).collect::<Result<Vec<_>, _>>()?;
        if ours != listed {
            return Err(format!("the groups of {class} are {listed:?}, ours {ours:?}").into());
        }
    }
    fixture.measured(0.0, 0.0);
    Ok(())
}

fn read_group(group: &Value) -> Result<ParameterGroup, Error> {
    let config = AdamWConfig::default();
    let (betas, epsilon) = (json!([config.betas.0, config.betas.1]), json!(config.epsilon));
    if group.get("betas") != Some(&betas) || group.get("eps") != Some(&epsilon) {
        return Err(format!("not the released models' AdamW: {group}").into());
    }
    Ok(ParameterGroup {
        weight_decay: group.get("weight_decay").and_then(Value::as_f64).ok_or("no weight_decay")?,
        names: serde_json::from_value(group.get("names").ok_or("no names")?.clone())?,
    })
}

/// The network of an authors' class and its parameters.
fn network(class: &str, params: &Value, scales: i64) -> Result<NetworkConfig, Error> {
    let mut params = params.clone();
    if class != "GPT" && params.get("n_scales").is_none() {
        params["n_scales"] = scales.into();
    }
    Ok(NetworkConfig::from_released(&json!({"target": class, "params": params}), scales)?)
}

/// What a `grad_*` fixture trains, and with what.
struct Run {
    config: NetworkConfig,
    parameters: BTreeMap<String, Tensor>,
    network: Network,
    alpha: f64,
    rate: f64,
    adamw: AdamWConfig,
}

impl Run {
    fn read(fixture: &mut Fixture) -> Result<Run, Error> {
        let config = fixture.config.clone();
        let number = |key: &str| config.get(key).and_then(Value::as_f64).ok_or(format!("the config has no {key}"));
        let class = config.get("kind").and_then(Value::as_str).ok_or("the config has no kind")?;
        let params = config.get("params").ok_or("the config has no params")?;
        let (alpha, rate, epsilon) = (number("alpha")?, number("lr")?, number("eps")?);
        let betas = serde_json::from_value(config.get("betas").ok_or("the config has no betas")?.clone())?;
        let config = network(class, params, number("n_scales")? as i64)?;
        let alphas = Vec::<f32>::try_from(fixture.read("w.alphats")?)?;
        let mut parameters = fixture.weights("w.transformer.")?.into_tensors();
        for (name, _) in config.buffers() {
            parameters.remove(&name);
        }
        let parameters = parameters.into_iter().map(|(name, tensor)| (name, tensor.set_requires_grad(true))).collect();
        let network = Network::new(&config, &parameters, &alphas, Placement::cpu())?;
        Ok(Run { config, parameters, network, alpha, rate, adamw: AdamWConfig { betas, epsilon } })
    }
}

pub fn gradients(fixture: &mut Fixture) -> Outcome {
    let run = Run::read(fixture)?;
    let (x, posterior) = (fixture.read("in.x")?, dense(&fixture.read("in.posterior")?));
    let scale = fixture.read("in.scale")?.select(1, 0);
    let x_t = if fixture.has("in.x_t") { Some(fixture.read("in.x_t")?) } else { None };
    let class = if fixture.has("in.cond") { Some(fixture.read("in.cond")?.select(1, 0)) } else { None };
    let condition = class.as_ref().map_or(ConditionIds::None, ConditionIds::Class);
    let source = Source { scale: &scale, condition, x_t: x_t.as_ref() };

    let start = run.parameters.iter().map(|(name, tensor)| (name.clone(), tensor.detach().copy()));
    let start: BTreeMap<String, Tensor> = start.collect();
    let mut adamw = AdamW::new(run.adamw, &parameter_groups(&run.config), |name| run.parameters.get(name))?;
    let mut losses = Vec::new();
    for step in 0..3 {
        adamw.zero_gradients()?;
        let logits = run.network.logits(&source, &x)?;
        let loss = loss(&logits, &x, SoftTarget::Dense(&posterior), run.alpha, None)?;
        loss.total.f_backward()?;
        losses.push(loss.total.double_value(&[]));
        if step == 0 {
            compare_gradients(fixture, &run.parameters)?;
        }
        adamw.step(run.rate)?;
    }
    for name in ["losses", "losses_f64"] {
        fixture.close(&format!("out.{name}"), &Tensor::from_slice(&losses), VALUES)?;
    }
    compare_parameters(fixture, &run, &start)
}

fn compare_gradients(fixture: &mut Fixture, parameters: &BTreeMap<String, Tensor>) -> Outcome {
    for (name, parameter) in parameters {
        let (expected, gradient) = (format!("out.grad.{name}"), parameter.grad());
        match (fixture.has(&expected), gradient.defined()) {
            (true, true) => fixture.close(&expected, &gradient, GRADIENTS)?,
            (false, false) => {}
            (_, ours) => return Err(format!("{name} has a gradient: {ours} for us, not so for the authors").into()),
        }
    }
    Ok(())
}

fn compare_parameters(fixture: &mut Fixture, run: &Run, start: &BTreeMap<String, Tensor>) -> Outcome {
    let rounding = fixture.config.get("f32_vs_f64_after3").cloned().unwrap_or_default();
    let without_gradient: Vec<String> =
        serde_json::from_value(fixture.config.get("no_grad").cloned().unwrap_or_else(|| json!([])))?;
    for (name, parameter) in &run.parameters {
        let output = format!("out.after3.{name}");
        let parameter = parameter.detach();
        if without_gradient.contains(name) {
            if parameter != start[name] {
                return Err(format!("{name} has no gradient and has moved").into());
            }
            fixture.equal(&output, &parameter)?;
        } else if matches!(run.config, NetworkConfig::Gpt(_)) && name.ends_with("attn.key.bias") {
            // A softmax does not see them: their gradient is 0 but for rounding, which Adam makes steps of.
            fixture.excuse(&output);
        } else {
            let allowed = STEPS + 2.0 * rounding.get(name).and_then(Value::as_f64).unwrap_or(0.0);
            fixture.close(&output, &parameter, allowed)?;
        }
    }
    Ok(())
}
