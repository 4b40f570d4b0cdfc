//! How rows are drawn: the run's settings, and those of single rows in their place.

use crate::chain::{ChainConfig, Compat, Condition, ScaleSettings, SettingsError, SettingsLists};
use crate::config::SampleSection;
use crate::tables::RowSettings;
use crate::transformer::NetworkConfig;
use std::sync::Arc;

/// How one row is drawn, as the networks and as the table take it. Rows that are drawn alike share it.
#[derive(Clone, Debug, PartialEq)]
pub struct RowDraw {
    /// At scales 1..=T (index t - 1).
    pub scales: Arc<[ScaleSettings]>,
    pub recorded: Arc<RowSettings>,
}

/// The settings of `section`, as the pipeline has them.
pub fn lists(section: &SampleSection) -> SettingsLists {
    SettingsLists {
        temperature: section.temperature.0.clone(),
        top_k: section.top_k.0.clone(),
        top_p: section.top_p.0.clone(),
        guidance: section.guidance.0.clone(),
        greedy: section.greedy,
    }
}

/// Makes the settings of the rows of one run.
#[derive(Clone, Debug)]
pub struct RunSettings {
    /// The run's, as the pipeline has them.
    usual: SettingsLists,
    condition: Condition,
    codes: u32,
    /// Of scales 1..=T, whether it takes no temperature.
    tepid: Vec<bool>,
}

impl RunSettings {
    /// The settings of `section` for a chain.
    pub fn new(section: &SampleSection, config: &ChainConfig, compat: Compat) -> RunSettings {
        // The authors' encoder-decoders take no temperature.
        let tepid = |scale| {
            let network = config.network(scale).map(|network| &network.network);
            compat == Compat::Authors && !matches!(network, Some(NetworkConfig::Gpt(_)))
        };
        let tepid = (1..=config.scales()).map(tepid).collect();
        RunSettings { usual: lists(section), condition: config.condition, codes: config.codebook_size, tepid }
    }

    /// The settings of rows that say nothing of their own.
    ///
    /// # Errors
    /// A value out of range, or a list of another length than the chain has scales.
    pub fn usual(&self) -> Result<RowDraw, SettingsError> {
        self.row(&SettingsLists::default())
    }

    /// The settings of a row: its `own` where it gives any, else the run's.
    ///
    /// # Errors
    /// As of [`RunSettings::usual`].
    pub fn row(&self, own: &SettingsLists) -> Result<RowDraw, SettingsError> {
        let lists = SettingsLists {
            temperature: either(&own.temperature, &self.usual.temperature),
            top_k: either(&own.top_k, &self.usual.top_k),
            top_p: either(&own.top_p, &self.usual.top_p),
            guidance: either(&own.guidance, &self.usual.guidance),
            greedy: self.usual.greedy,
        };
        let scales = lists.resolve(self.tepid.len() as u32, self.codes, &self.condition)?;
        let recorded = Arc::new(self.recorded(&scales));
        Ok(RowDraw { scales, recorded })
    }

    /// Settings as the table has them.
    fn recorded(&self, scales: &[ScaleSettings]) -> RowSettings {
        let temperature = |(row, tepid): (&ScaleSettings, &bool)| match () {
            () if row.greedy => 0.0,
            () if *tepid => 1.0,
            () => row.temperature,
        };
        RowSettings {
            temperature: scales.iter().zip(&self.tepid).map(temperature).collect(),
            top_k: scales.iter().map(|row| row.top_k.unwrap_or(self.codes)).collect(),
            top_p: scales.iter().map(|row| row.top_p.unwrap_or(1.0)).collect(),
            guidance: scales.iter().map(|row| row.guidance).collect(),
        }
    }
}

fn either<T: Clone>(own: &[T], usual: &[T]) -> Vec<T> {
    if own.is_empty() { usual.to_vec() } else { own.to_vec() }
}
