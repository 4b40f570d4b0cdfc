//! The bound of a tiny chain, against its definition summed over everything that can happen.

use super::support::{all_grids, encoder_decoder, gpt, unconditional, weights};
use imagebart::chain::{Chain, ChainConfig, Noised, Row, RowCondition, SampleError, ScaleSettings};
use imagebart::config::{ChainSection, ScheduleValue};
use imagebart::evaluate::Likelihood;
use imagebart::random::RowKey;
use imagebart::training::{Batch, Conditioning, Position};
use imagebart::transformer::{ConditionIds, Placement, Source};
use std::sync::Arc;
use tch::{Kind, Tensor};

type Error = Box<dyn std::error::Error>;

const CODES: usize = 3;
const TOKENS: usize = 2;
const SCALES: u32 = 3;
/// Something of x_0 is left in x_T.
const KEPT: [f64; 4] = [1.0, 0.8, 0.5, 0.2];

fn chain() -> Result<Chain, Error> {
    let scale = vec![encoder_decoder("plain"), encoder_decoder("residual-scaled"), gpt()];
    let schedule = ScheduleValue::Name("alphacum:1,0.8,0.5,0.2".to_owned());
    let section =
        ChainSection { schedule, codebook_size: CODES as u32, grid: [1, 2], scale, ..ChainSection::default() };
    let config = ChainConfig::from_sections(&section, &unconditional(), None)?;
    Ok(Chain::new(config, Placement::cpu(), weights)?)
}

/// q(to | from) of a whole grid, where a token survives with probability `kept`.
fn transition(from: &[u16], to: &[u16], kept: f64) -> f64 {
    let token = |(from, to): (&u16, &u16)| (1.0 - kept) / CODES as f64 + if from == to { kept } else { 0.0 };
    from.iter().zip(to).map(token).product()
}

fn rows(grids: &[&Vec<u16>]) -> Tensor {
    let ids: Vec<i64> = grids.iter().flat_map(|grid| grid.iter().map(|id| i64::from(*id))).collect();
    Tensor::from_slice(&ids).view([grids.len() as i64, TOKENS as i64])
}

/// log p_t(x_{t-1} | x_t) of all pairs: by x_t, then by x_{t-1}.
fn log_p(chain: &Chain, t: u32, grids: &[Vec<u16>]) -> Result<Vec<Vec<f64>>, Error> {
    let network = chain.network(t).ok_or("no network")?;
    let of = |after: &Vec<u16>| -> Result<Vec<f64>, Error> {
        let (befores, afters) = (rows(&grids.iter().collect::<Vec<_>>()), rows(&vec![after; grids.len()]));
        let scale = Tensor::full([grids.len() as i64], i64::from(t), (Kind::Int64, tch::Device::Cpu));
        let source = Source { scale: &scale, condition: ConditionIds::None, x_t: Some(&afters) };
        let log_p =
            tch::no_grad(|| network.logits(&source, &befores))?.to_kind(Kind::Double).log_softmax(-1, Kind::Double);
        let chosen =
            log_p.gather(-1, &befores.unsqueeze(-1), false).sum_dim_intlist([1i64, 2].as_slice(), false, Kind::Double);
        Ok(Vec::try_from(chosen)?)
    };
    grids.iter().map(of).collect()
}

#[test]
fn the_bound_is_its_definition() -> Result<(), Error> {
    let (chain, grids) = (chain()?, all_grids(TOKENS, CODES));
    let conditioning = Conditioning::None;
    let likelihood = Likelihood::new(&chain, &conditioning)?;
    let tables: Vec<_> = (1..=SCALES).map(|t| log_p(&chain, t, &grids)).collect::<Result<_, _>>()?;
    let step = |t: usize| KEPT[t] / KEPT[t - 1];
    for clean in [0, 5] {
        let x_0 = &grids[clean];
        // E_q [log q(x_1, x_2, x_3 | x_0) - log p(x_3) - log p(x_0, x_1, x_2 | x_3)], and p(x_0).
        let (mut bound, mut marginal) = (0.0, 0.0);
        for (one, x_1) in grids.iter().enumerate() {
            for (two, x_2) in grids.iter().enumerate() {
                for (three, x_3) in grids.iter().enumerate() {
                    let q =
                        transition(x_0, x_1, step(1)) * transition(x_1, x_2, step(2)) * transition(x_2, x_3, step(3));
                    let log_p =
                        tables[0][one][clean] + tables[1][two][one] + tables[2][three][two] - (grids.len() as f64).ln();
                    bound += q * (q.ln() - log_p);
                    marginal += log_p.exp();
                }
            }
        }
        // Ours: each scale's term over all pairs (x_{t-1}, x_t), by their probability.
        let mut ours = likelihood.start() * TOKENS as f64;
        for t in 1..=SCALES {
            let pairs: Vec<(&Vec<u16>, &Vec<u16>)> =
                grids.iter().flat_map(|before| grids.iter().map(move |after| (before, after))).collect();
            let before = rows(&pairs.iter().map(|pair| pair.0).collect::<Vec<_>>());
            let after = rows(&pairs.iter().map(|pair| pair.1).collect::<Vec<_>>());
            let drawn = Noised { clean: &rows(&vec![x_0; pairs.len()]), before: &before, after: &after };
            let nats = tch::no_grad(|| likelihood.step(t, drawn, ConditionIds::None))?;
            for (nats, (before, after)) in Vec::<f64>::try_from(nats)?.into_iter().zip(pairs) {
                let t = t as usize;
                let weight = transition(x_0, before, KEPT[t - 1]) * transition(before, after, step(t));
                ours += if weight > 0.0 { weight * nats } else { 0.0 };
            }
        }
        assert!((ours - bound).abs() < 1e-5 * bound, "{ours}, by definition {bound}");
        assert!(bound > -marginal.ln(), "{bound} bounds {}", -marginal.ln());
    }
    Ok(())
}

/// Draws of the forward process are estimates of the same, row by row whatever the batch.
#[test]
fn draws_estimate_the_bound() -> Result<(), Error> {
    let (chain, conditioning) = (chain()?, Conditioning::None);
    let likelihood = Likelihood::new(&chain, &conditioning)?;
    let batch = |rows: std::ops::Range<u64>| Batch {
        position: Position::default(),
        tokens: rows.clone().flat_map(|_| [2, 1]).collect(),
        labels: rows.clone().map(|_| None).collect(),
        captions: rows.clone().map(|_| None).collect(),
        rows: rows.map(|row| RowKey::new(3, "bits", row, 0)).collect(),
    };
    let terms = likelihood.terms(&batch(0..4000))?;
    let x_0 = rows(&vec![&vec![2, 1]; 81]);
    let grids = all_grids(TOKENS, CODES);
    for t in 1..=SCALES {
        let pairs: Vec<_> = grids.iter().flat_map(|before| grids.iter().map(move |after| (before, after))).collect();
        let before = rows(&pairs.iter().map(|pair| pair.0).collect::<Vec<_>>());
        let after = rows(&pairs.iter().map(|pair| pair.1).collect::<Vec<_>>());
        let drawn = Noised { clean: &x_0, before: &before, after: &after };
        let nats = Vec::<f64>::try_from(tch::no_grad(|| likelihood.step(t, drawn, ConditionIds::None))?)?;
        let (mut expected, mut square) = (0.0, 0.0);
        for (nats, (before, after)) in nats.into_iter().zip(pairs) {
            let kept = KEPT[t as usize - 1];
            let weight = transition(&[2, 1], before, kept) * transition(before, after, KEPT[t as usize] / kept);
            if weight > 0.0 {
                expected += weight * nats / std::f64::consts::LN_2;
                square += weight * (nats / std::f64::consts::LN_2).powi(2);
            }
        }
        let found = terms[t as usize - 1].iter().sum::<f64>() / 4000.0;
        let deviation = ((square - expected * expected).max(0.0) / 4000.0).sqrt();
        assert!((found - expected).abs() < 5.0 * deviation + 1e-5, "scale {t}: {found}, expected {expected}");
    }
    let alone = likelihood.terms(&batch(7..8))?;
    for (alone, all) in alone.iter().zip(&terms) {
        assert!((alone[0] - all[7]).abs() < 1e-4);
    }
    Ok(())
}

/// What edits are chosen by: the same terms, summed in nats, of rows as a sampler has them, whatever they were drawn with.
#[test]
fn finished_images_are_scored_by_the_bound() -> Result<(), Error> {
    let (chain, conditioning) = (chain()?, Conditioning::None);
    let paths: Vec<RowKey> = (0..5).map(|row| RowKey::new(3, "bits", row, 0)).collect();
    let grids = [[2u16, 1], [0, 0], [1, 2], [2, 2], [0, 1]];
    let batch = Batch {
        position: Position::default(),
        tokens: grids.concat(),
        labels: vec![None; 5],
        captions: vec![None; 5],
        rows: paths.clone(),
    };
    let terms = Likelihood::new(&chain, &conditioning)?.terms(&batch)?;
    let settings: Arc<[ScaleSettings]> =
        vec![ScaleSettings { temperature: 0.3, top_k: Some(1), ..ScaleSettings::default() }; SCALES as usize].into();
    let row = |number| Row {
        key: RowKey::new(9, "others", number, 0),
        condition: RowCondition::None,
        settings: settings.clone(),
    };
    let slices: Vec<&[u16]> = grids.iter().map(|grid| grid.as_slice()).collect();
    let bounds = chain.bound(&(0..5).map(row).collect::<Vec<_>>(), &slices, &paths)?;
    for (number, bound) in bounds.iter().enumerate() {
        let expected = terms.iter().map(|scale| scale[number]).sum::<f64>() * std::f64::consts::LN_2;
        assert!((bound - expected).abs() < 1e-5, "{bound}, expected {expected}");
    }
    let refused = chain.bound(&[row(0)], &slices[..1], &paths).unwrap_err();
    assert!(matches!(refused, SampleError::Rows { rows: 1, grids: 5 }), "{refused}");
    Ok(())
}
