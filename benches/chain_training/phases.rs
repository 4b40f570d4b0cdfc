//! Where the time of a training step goes, ours and the plain one's, by the same parts that the trainer is made of.

use super::plain::{Plain, noise, soft_loss};
use super::step::{CODES, Case, DECAY, EMA, RATE, grids};
use super::{Error, median};
use imagebart::diffusion::{Posteriors, SoftTarget, forward, loss};
use imagebart::training::{AdamW, AdamWConfig, Batch, Ema, parameter_groups};
use imagebart::transformer::{ConditionIds, Network, Placement, Source};
use std::collections::BTreeMap;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

const ROUNDS: usize = 7;
const PHASES: [&str; 7] = ["noise", "forward", "loss", "backward", "norm", "optimizer", "averages"];

/// Prints the milliseconds of each phase.
pub fn print(case: &Case) -> Result<(), Error> {
    let (mut ours, mut plain) = (Ours::new(case)?, PlainSteps::new(case)?);
    let mut times = [const { [const { Vec::new() }; PHASES.len()] }; 2];
    for round in 0..=ROUNDS {
        let batch = case.batch(round as u64);
        for (times, took) in times.iter_mut().zip([ours.step(case, &batch)?, plain.step(case, &batch)?]) {
            // The first round warms up.
            if round > 0 {
                times.iter_mut().zip(took).for_each(|(times, took)| times.push(took));
            }
        }
    }
    println!("{}, {} tokens: ms of", case.name, case.tokens);
    for (phase, (ours, plain)) in PHASES.iter().zip(times[0].iter().zip(&times[1])) {
        println!("  {phase:10} ours {:7.1}   plain {:7.1}", median(ours) * 1e3, median(plain) * 1e3);
    }
    Ok(())
}

/// Seconds between marks.
struct Clock(Instant, Vec<f64>);

impl Clock {
    fn start() -> Clock {
        Clock(Instant::now(), Vec::new())
    }

    fn mark(&mut self) {
        self.1.push(self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}

/// The trainer's step, taken apart.
struct Ours {
    parameters: BTreeMap<String, Tensor>,
    network: Network,
    posteriors: Posteriors,
    adamw: AdamW,
    ema: Ema,
}

impl Ours {
    fn new(case: &Case) -> Result<Ours, Error> {
        let weights = case.weights()?.into_tensors().into_iter();
        let parameters: BTreeMap<_, _> = weights.map(|(name, tensor)| (name, tensor.set_requires_grad(true))).collect();
        let schedule = case.schedule()?;
        let mut groups = parameter_groups(&case.network);
        groups.iter_mut().filter(|group| group.weight_decay > 0.0).for_each(|group| group.weight_decay = DECAY);
        Ok(Ours {
            network: Network::new(&case.network, &parameters, schedule.alphas(), Placement::cpu())?,
            posteriors: Posteriors::new(&schedule, CODES, Device::Cpu)?,
            adamw: AdamW::new(AdamWConfig::default(), &groups, |name| parameters.get(name))?,
            ema: Ema::new(parameters.iter().map(|(name, tensor)| (name.as_str(), tensor)), EMA)?,
            parameters,
        })
    }

    fn step(&mut self, case: &Case, batch: &Batch) -> Result<Vec<f64>, Error> {
        let schedule = case.schedule()?;
        let mut clock = Clock::start();
        let x_0 = grids(batch);
        let scale = Tensor::full([batch.len() as i64], i64::from(case.scale), (Kind::Int64, Device::Cpu));
        let (before, x_t) = forward(&x_0, &schedule, CODES, &batch.rows)?.pair(&scale)?;
        clock.mark();
        let source = Source { scale: &scale, condition: ConditionIds::None, x_t: Some(&x_t) };
        let logits = self.network.logits(&source, &before)?;
        clock.mark();
        let posterior = self.posteriors.at(&scale, &x_0, &x_t)?;
        let loss = loss(&logits, &before, SoftTarget::Posterior(&posterior), 1.0, None)?;
        clock.mark();
        self.adamw.zero_gradients()?;
        loss.total.backward();
        clock.mark();
        let gradients = self.parameters.values().map(Tensor::grad).filter(Tensor::defined);
        let norms: Vec<Tensor> = gradients.map(|gradient| gradient.norm()).collect();
        Tensor::stack(&norms, 0).norm().double_value(&[]);
        clock.mark();
        self.adamw.step(RATE)?;
        clock.mark();
        self.ema.update(|name| self.parameters.get(name))?;
        clock.mark();
        Ok(clock.1)
    }
}

struct PlainSteps(Plain);

impl PlainSteps {
    fn new(case: &Case) -> Result<PlainSteps, Error> {
        Ok(PlainSteps(Plain::new(&case.network, &case.weights()?, RATE, DECAY)?))
    }

    fn step(&mut self, case: &Case, batch: &Batch) -> Result<Vec<f64>, Error> {
        let schedule = case.schedule()?;
        let mut clock = Clock::start();
        let x_0 = grids(batch);
        let (before, x_t) = noise(&x_0, &schedule, CODES, case.scale);
        clock.mark();
        let logits = self.0.logits(i64::from(case.scale), &x_t, &before);
        clock.mark();
        let loss = soft_loss(&logits, &schedule, case.scale, &x_0, &x_t);
        clock.mark();
        self.0.optimizer.zero_grad();
        loss.backward();
        clock.mark();
        clock.mark(); // It has no norm.
        self.0.optimizer.step();
        clock.mark();
        self.0.average(EMA);
        clock.mark();
        Ok(clock.1)
    }
}
