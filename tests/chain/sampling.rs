//! A row's tokens are a function of its key, condition and settings.

use crate::exact::chosen;
use crate::support::{
    all_grids, chain, classes, config, encoder_decoder, key, plain_rows, row, text, three_scales, unconditional,
    weights,
};
use imagebart::chain::{Chain, ChainConfig, Compat, Row, RowCondition, SampleOptions, ScaleSettings, Start};
use imagebart::config::{ConditionSection, ScheduleValue};
use imagebart::random::Purpose;
use imagebart::torch::weights::Weights;
use imagebart::transformer::{ConditionIds, Placement, Source};
use tch::Tensor;

/// The tokens of an unconditional row without any cache: every position from the whole prefix, every number by hand.
fn recomputed(chain: &Chain, row: usize) -> Vec<u16> {
    let config = chain.config();
    let (tokens, codes) = (config.tokens() as u32, config.codebook_size);
    let ids = |grid: &[u16]| Tensor::from_slice(&grid.iter().map(|&id| i64::from(id)).collect::<Vec<_>>()).unsqueeze(0);
    let mut x: Vec<u16> = (0..tokens).map(|at| key(row).below(Purpose::Start, at, codes) as u16).collect();
    for scale in (1..=config.scales()).rev() {
        let x_t = ids(&x);
        let number = Tensor::from_slice(&[i64::from(scale)]);
        let source = Source { scale: &number, condition: ConditionIds::None, x_t: Some(&x_t) };
        let mut drawn: Vec<u16> = Vec::new();
        for position in 0..tokens {
            // The last token is a placeholder: its own logits do not depend on it.
            let prefix = [drawn.as_slice(), &[0]].concat();
            let logits = chain.network(scale).unwrap().logits(&source, &ids(&prefix)).unwrap();
            let uniform = key(row).at(scale as u16, 0).uniform(Purpose::Token, position);
            drawn.push(chosen(&logits, i64::from(position), uniform));
        }
        x = drawn;
    }
    x
}

#[test]
fn cached_and_recomputed_tokens_are_the_same() {
    let chain = chain(&three_scales(unconditional()));
    let sampled = chain.sample(&plain_rows(chain.config(), 12)).unwrap();
    for (row, tokens) in sampled.iter().enumerate() {
        assert_eq!(tokens, &recomputed(&chain, row), "row {row}");
    }
    let distinct: std::collections::BTreeSet<_> = sampled.iter().collect();
    assert!(distinct.len() > 6, "rows differ: {sampled:?}");
}

/// Rows of all kinds: every condition, each with settings of its own.
fn mixed_rows(config: &ChainConfig) -> Vec<Row> {
    let plain = ScaleSettings::default();
    let settings = [
        plain,
        ScaleSettings { temperature: 0.5, ..plain },
        ScaleSettings { top_k: Some(3), ..plain },
        ScaleSettings { top_p: Some(0.8), temperature: 1.5, ..plain },
        ScaleSettings { guidance: 2.5, ..plain },
        ScaleSettings { greedy: true, guidance: 0.5, ..plain },
        ScaleSettings { top_k: Some(5), top_p: Some(0.7), guidance: 4.0, ..plain },
    ];
    let conditions = [
        RowCondition::Class(0),
        RowCondition::Class(3),
        RowCondition::Null,
        RowCondition::Class(1),
        RowCondition::Class(2),
        RowCondition::Class(3),
        RowCondition::Class(0),
    ];
    let rows = conditions.into_iter().zip(settings).enumerate();
    rows.map(|(index, (condition, settings))| row(config, index, condition, settings)).collect()
}

#[test]
fn neighbours_order_and_batch_size_do_not_matter() {
    let chain = chain(&three_scales(classes(4, true)));
    let rows = mixed_rows(chain.config());
    let together = chain.sample(&rows).unwrap();
    for (row, expected) in rows.iter().zip(&together) {
        assert_eq!(&chain.sample(std::slice::from_ref(row)).unwrap()[0], expected);
    }
    let reversed: Vec<Row> = rows.iter().rev().cloned().collect();
    let mut backwards = chain.sample(&reversed).unwrap();
    backwards.reverse();
    assert_eq!(backwards, together);
    assert_eq!(chain.sample(&rows[2..5]).unwrap(), &together[2..5]);
    assert!(chain.sample(&[]).unwrap().is_empty());
}

#[test]
fn texts_condition_and_short_ones_are_padded() {
    let chain = chain(&three_scales(text(20, 4)));
    let sample = |ids: &[u32]| {
        let condition = RowCondition::Text(ids.to_vec());
        let rows = (0..8).map(|index| row(chain.config(), index, condition.clone(), ScaleSettings::default()));
        chain.sample(&rows.collect::<Vec<_>>()).unwrap()
    };
    let text = sample(&[3, 4]);
    assert_eq!(sample(&[3, 4, 20, 20]), text, "20 is the padding");
    assert_ne!(sample(&[7, 8, 9, 10]), text);
    assert_ne!(sample(&[]), text);
}

#[test]
fn low_temperatures_tend_to_greedy() {
    let chain = chain(&three_scales(unconditional()));
    let draw = |settings: ScaleSettings| {
        let rows: Vec<Row> = (0..9).map(|index| row(chain.config(), index, RowCondition::None, settings)).collect();
        chain.sample(&rows).unwrap()
    };
    let greedy = draw(ScaleSettings { greedy: true, ..ScaleSettings::default() });
    assert_eq!(draw(ScaleSettings { temperature: 1e-6, ..ScaleSettings::default() }), greedy);
    assert_eq!(draw(ScaleSettings { top_k: Some(1), ..ScaleSettings::default() }), greedy);
    assert_ne!(draw(ScaleSettings::default()), greedy);
}

#[test]
fn the_released_behaviour_ignores_temperature_but_in_the_gpt() {
    let chain = chain(&three_scales(unconditional()));
    let hot = ScaleSettings { temperature: 3.0, ..ScaleSettings::default() };
    let at = |temperatures: [ScaleSettings; 3]| -> Vec<Row> {
        (0..9)
            .map(|index| Row { key: key(index), condition: RowCondition::None, settings: temperatures.into() })
            .collect()
    };
    let tokens = |rows: &[Row], compat| {
        let options = SampleOptions { compat, ..SampleOptions::default() };
        chain.sample_steps(rows, options).unwrap().pop().unwrap().tokens
    };
    let plain = ScaleSettings::default();
    assert_eq!(tokens(&at([hot; 3]), Compat::Authors), tokens(&at([plain, plain, hot]), Compat::None));
    assert_ne!(tokens(&at([hot; 3]), Compat::None), tokens(&at([plain, plain, hot]), Compat::None));
}

#[test]
fn a_chain_without_noise_returns_its_input() {
    for condition in [unconditional(), classes(3, true)] {
        let scales = vec![encoder_decoder("residual"), encoder_decoder("residual-scaled")];
        let mut config = config(4, [1, 3], scales, condition);
        config.schedule = ScheduleValue::Number(0.0);
        let chain = chain(&config);
        let grids = all_grids(3, 4);
        let slices: Vec<&[u16]> = grids.iter().map(Vec::as_slice).collect();
        let (condition, guidance) = match config.condition.has_null() {
            true => (RowCondition::Class(1), 3.0),
            false => (RowCondition::None, 1.0),
        };
        let settings = ScaleSettings { guidance, ..ScaleSettings::default() };
        let rows: Vec<Row> = (0..grids.len()).map(|index| row(&config, index, condition.clone(), settings)).collect();
        let start = Some(Start { scale: 2, grids: &slices });
        let steps = chain.sample_steps(&rows, SampleOptions { start, ..SampleOptions::default() }).unwrap();
        assert_eq!(steps.len(), 2);
        assert!(steps.iter().all(|step| step.tokens == grids && step.x_t == grids));
    }
}

/// A chain whose network of one scale has NaN in its tensor `name`, at row `at` if given.
fn broken(config: &ChainConfig, scale: u32, name: &str, at: Option<i64>) -> Chain {
    let weights = |network: &imagebart::chain::ScaleConfig| {
        let mut tensors = weights(network)?.into_tensors();
        if network.scales == [scale] {
            let tensor = tensors.get_mut(name).expect("a tensor of that name");
            let _ = match at {
                Some(row) => tensor.get(row).fill_(f64::NAN),
                None => tensor.fill_(f64::NAN),
            };
        }
        Ok(Weights::from_tensors("broken weights", tensors)?)
    };
    Chain::new(config.clone(), Placement::cpu(), weights).unwrap()
}

#[test]
fn unsound_logits_stop_the_batch_and_name_scale_and_rows() {
    let config = three_scales(unconditional());
    for (scale, name) in [(3, "head.weight"), (2, "decoder.to_logits.bias"), (1, "encoder.norm.weight")] {
        let error = broken(&config, scale, name, None).sample(&plain_rows(&config, 2)).unwrap_err().to_string();
        let expected = format!("the network of scale {scale} gave NaN or infinity for row(s) 0, 1 of the batch");
        assert!(error.starts_with(&expected), "{error}");
    }
    let greedy = ScaleSettings { greedy: true, ..ScaleSettings::default() };
    let rows = [row(&config, 0, RowCondition::None, greedy)];
    assert!(broken(&config, 1, "decoder.norm.bias", None).sample(&rows).unwrap_err().to_string().contains("scale 1"));
    // Classes 9.. have rows of the embedding of their own, beyond the codes.
    let config = three_scales(classes(12, false));
    let chain = broken(&config, 3, "tok_emb.weight", Some(10));
    let rows =
        [9, 10, 11, 10].map(|class| row(&config, class as usize, RowCondition::Class(class), ScaleSettings::default()));
    let error = chain.sample(&rows).unwrap_err().to_string();
    assert!(error.contains("scale 3") && error.contains("row(s) 1, 3 "), "{error}");
}

#[test]
fn rows_that_do_not_fit_are_refused_by_number() {
    let fault = |condition: ConditionSection, given: RowCondition| {
        let config = three_scales(condition.clone());
        let good = match config.condition.has_null() {
            true => RowCondition::Null,
            false if condition.kind == "class" => RowCondition::Class(0),
            false => RowCondition::None,
        };
        let rows = [good, given].map(|condition| row(&config, 0, condition, ScaleSettings::default()));
        chain(&config).sample(&rows).unwrap_err().to_string()
    };
    let cases = [
        (fault(classes(4, true), RowCondition::Class(4)), "row 1: class 4 is not below 4, the number of classes"),
        (
            fault(classes(4, false), RowCondition::Null),
            "row 1: the null condition is asked for, but the chain is conditioned on a class, with no null class",
        ),
        (fault(classes(4, true), RowCondition::None), "row 1: no condition is asked for"),
        (fault(unconditional(), RowCondition::Class(0)), "row 1: a class is asked for, but the chain is unconditional"),
        (fault(text(20, 2), RowCondition::Text(vec![1, 2, 3])), "row 1: its text has 3 tokens, the chain takes 2"),
        (fault(text(20, 2), RowCondition::Text(vec![21])), "row 1: text token 21 is not below 20"),
    ];
    for (error, expected) in cases {
        assert!(error.starts_with(expected), "{error}");
    }
    let config = three_scales(unconditional());
    let cold = ScaleSettings { temperature: 0.0, ..ScaleSettings::default() };
    let rows = [row(&config, 0, RowCondition::None, cold)];
    let error = chain(&config).sample(&rows).unwrap_err().to_string();
    assert!(error.starts_with("row 0: temperature = 0 at scale 1"), "{error}");
    let guided = ScaleSettings { guidance: 2.0, ..ScaleSettings::default() };
    let rows = [row(&config, 0, RowCondition::None, guided)];
    assert!(chain(&config).sample(&rows).unwrap_err().to_string().contains("guidance = 2 needs a null condition"));
}

#[test]
fn starts_that_do_not_fit_are_refused() {
    let config = three_scales(unconditional());
    let chain = chain(&config);
    let rows = plain_rows(&config, 1);
    let fault = |scale: u32, grids: &[&[u16]]| {
        let start = Some(Start { scale, grids });
        chain.sample_steps(&rows, SampleOptions { start, ..SampleOptions::default() }).unwrap_err().to_string()
    };
    assert_eq!(fault(4, &[&[0; 6]]), "scale 4 is not one of the chain's, 1 to 3");
    assert_eq!(fault(2, &[]), "1 rows came with 0 token grids to start from");
    assert_eq!(fault(2, &[&[0; 5]]), "row 0: the grid to start from has 5 tokens, the grid has 6");
    assert_eq!(fault(2, &[&[0, 0, 9, 0, 0, 0]]), "row 0: token 9 is not below 9, the number of codes");
}

/// The likelihood of what was drawn is that of the networks themselves, whatever it was drawn with.
#[test]
fn likelihoods_are_the_networks_own() {
    let config = three_scales(classes(5, true));
    let chain = chain(&config);
    let odd = ScaleSettings { temperature: 0.7, top_k: Some(3), guidance: 2.5, ..ScaleSettings::default() };
    let settings = [ScaleSettings::default(), odd, odd, ScaleSettings::default()];
    let rows: Vec<Row> = settings
        .into_iter()
        .enumerate()
        .map(|(index, settings)| row(&config, index, RowCondition::Class(index as u32), settings))
        .collect();
    let scored = chain.sample_scored(&rows, SampleOptions::default()).unwrap();
    assert_eq!(scored.iter().map(|(tokens, _)| tokens.clone()).collect::<Vec<_>>(), chain.sample(&rows).unwrap());
    let plain: Vec<Row> =
        (0..4).map(|index| row(&config, index, RowCondition::Class(index as u32), ScaleSettings::default())).collect();
    let mut expected = vec![0.0; 4];
    for step in chain.sample_steps(&rows, SampleOptions::default()).unwrap() {
        let x_t: Vec<&[u16]> = step.x_t.iter().map(Vec::as_slice).collect();
        let tokens: Vec<&[u16]> = step.tokens.iter().map(Vec::as_slice).collect();
        let p = chain.probabilities(&plain, step.scale, (&x_t, &tokens), Compat::None, None).unwrap();
        for (index, grid) in tokens.iter().enumerate() {
            for (position, &token) in grid.iter().enumerate() {
                expected[index] += p.double_value(&[index as i64, position as i64, i64::from(token)]).ln();
            }
        }
    }
    for ((_, likelihood), expected) in scored.iter().zip(expected) {
        assert!((likelihood - expected).abs() < 1e-3, "{likelihood} {expected}");
    }
}
