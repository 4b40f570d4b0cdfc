//! Small chains with weights that make lively distributions.

use imagebart::chain::{Chain, ChainConfig, Condition, ModelError, Row, RowCondition, ScaleConfig, ScaleSettings};
use imagebart::config::{ChainSection, ConditionSection, ScaleSection, ScheduleValue};
use imagebart::random::RowKey;
use imagebart::torch::weights::{Init, Weights};
use imagebart::transformer::Placement;

/// An encoder-decoder of a `variant`.
pub fn encoder_decoder(variant: &str) -> ScaleSection {
    ScaleSection {
        network: "encoder-decoder".to_owned(),
        variant: Some(variant.to_owned()),
        dim: 16,
        encoder_depth: Some(1),
        decoder_depth: Some(1),
        heads: Some(1),
        ..ScaleSection::default()
    }
}

pub fn gpt() -> ScaleSection {
    ScaleSection { network: "gpt".to_owned(), dim: 16, depth: Some(1), heads: Some(2), ..ScaleSection::default() }
}

/// A chain of these networks.
pub fn config(codes: u32, grid: [u32; 2], scale: Vec<ScaleSection>, condition: ConditionSection) -> ChainConfig {
    let schedule = ScheduleValue::Name("geometric".to_owned());
    let chain = ChainSection { schedule, codebook_size: codes, grid, scale, ..ChainSection::default() };
    ChainConfig::from_sections(&chain, &condition, None).expect("a chain")
}

pub fn unconditional() -> ConditionSection {
    ConditionSection::default()
}

pub fn classes(classes: u32, null: bool) -> ConditionSection {
    ConditionSection { kind: "class".to_owned(), classes: Some(classes), null, ..ConditionSection::default() }
}

pub fn text(vocabulary: u32, length: u32) -> ConditionSection {
    ConditionSection {
        kind: "text".to_owned(),
        vocabulary: Some(vocabulary),
        length: Some(length),
        ..ConditionSection::default()
    }
}

/// Fresh weights, embeddings and output layers enlarged so that tokens matter and probabilities differ.
pub fn weights(network: &ScaleConfig) -> Result<Weights, ModelError> {
    let specs = network.network.tensors();
    let mut tensors = Weights::init(&specs, u64::from(network.scales[0]))?.into_tensors();
    for spec in &specs {
        let factor = match spec.init {
            Init::Normal(_) if spec.name != "head.weight" => 50.0,
            _ if spec.name.ends_with("head.weight") || spec.name.ends_with("to_logits.weight") => 25.0,
            Init::Constant(0.0) => continue,
            _ => 1.5,
        };
        let factor = if spec.name.ends_with("to_logits.weight") { 3.0 } else { factor };
        let tensor = tensors.get_mut(&spec.name).expect("a tensor of the list");
        *tensor = &*tensor * factor;
    }
    Ok(Weights::from_tensors("test weights", tensors)?)
}

pub fn chain(config: &ChainConfig) -> Chain {
    Chain::new(config.clone(), Placement::cpu(), weights).expect("a chain")
}

/// Two encoder-decoders and a GPT over 3 × 2 tokens of 9 codes.
pub fn three_scales(condition: ConditionSection) -> ChainConfig {
    let scales = vec![encoder_decoder("plain"), encoder_decoder("residual-scaled"), gpt()];
    config(9, [3, 2], scales, condition)
}

/// The key of row `index`.
pub fn key(index: usize) -> RowKey {
    RowKey::new(5, "tests", index as u64, 0)
}

/// Row `index`, with the same settings at all scales.
pub fn row(config: &ChainConfig, index: usize, condition: RowCondition, settings: ScaleSettings) -> Row {
    Row { key: key(index), condition, settings: vec![settings; config.scales() as usize].into() }
}

/// Rows of an unconditional chain, drawn from the model's own distribution.
pub fn plain_rows(config: &ChainConfig, count: usize) -> Vec<Row> {
    assert_eq!(config.condition, Condition::None);
    (0..count).map(|index| row(config, index, RowCondition::None, ScaleSettings::default())).collect()
}

/// All grids of `tokens` tokens out of `codes` codes, in the order of their [`number`].
pub fn all_grids(tokens: usize, codes: usize) -> Vec<Vec<u16>> {
    let grid = |number: usize| (0..tokens).map(|place| (number / codes.pow(place as u32) % codes) as u16).collect();
    (0..codes.pow(tokens as u32)).map(grid).collect()
}

/// A grid's place in [`all_grids`].
pub fn number(grid: &[u16], codes: usize) -> usize {
    grid.iter().rev().fold(0, |number, &token| number * codes + usize::from(token))
}
