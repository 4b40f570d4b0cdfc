//! The scales of a chain together: what it is made of, its model directory, the sampler and the editor.
//!
//! [`ModelDirectory`] is a trained chain on disk, [`Chain`] the same on a device. [`Chain::sample`] draws images as token grids,
//! [`Chain::edit`] draws parts of them anew. Every random number belongs to a row's key, a scale, a pass and a position, so a
//! row's image does not depend on what shares its batch.
//!
//! ```
//! use imagebart::chain::{Chain, ChainConfig, EditOptions, EditRow, Row, RowCondition, SettingsLists};
//! use imagebart::config::{ChainSection, ConditionSection};
//! use imagebart::random::RowKey;
//! use imagebart::torch::weights::Weights;
//! use imagebart::transformer::Placement;
//!
//! // A chain of two scales with random weights; a trained one comes from `ModelDirectory::open(path)?.load(placement)?`.
//! let section: ChainSection = toml::from_str(r#"
//!     codebook_size = 20
//!     grid = [4, 4]
//!     scale = [{network = "encoder-decoder", dim = 16, encoder_depth = 1, decoder_depth = 1, heads = 1},
//!              {network = "gpt", dim = 16, depth = 1, heads = 2}]
//! "#)?;
//! let config = ChainConfig::from_sections(&section, &ConditionSection::default(), None)?;
//! let chain = Chain::new(config, Placement::cpu(), |network| Ok(Weights::init(&network.network.tensors(), 0)?))?;
//!
//! let lists = SettingsLists { temperature: vec![0.9], top_k: vec![10, 20], ..SettingsLists::default() };
//! let settings = lists.resolve(chain.config().scales(), 20, &chain.config().condition)?;
//! let row = Row { key: RowKey::new(0, "doc", 0, 0), condition: RowCondition::None, settings };
//! let images = chain.sample(&[row.clone()])?;
//!
//! // The upper half stays, the lower half is drawn anew.
//! let known = (0..16).map(|token| token < 8).collect();
//! let edit = EditRow { row, tokens: images[0].clone(), known };
//! let edited = chain.edit(&[edit], &EditOptions::default())?;
//! assert_eq!(edited[0][..8], images[0][..8]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bound;
mod candidates;
mod config;
pub mod directory;
pub mod draw;
mod edit;
mod error;
mod loaded;
mod mask;
mod rows;
mod sampler;
mod sections;
mod settings;
mod walk;
mod windows;

pub use bound::Noised;
pub use config::{ChainConfig, ChainError, Condition, ScaleConfig};
pub use directory::{ModelDirectory, ModelError};
pub use edit::{EditNoise, EditOptions, EditRow, default_repeats};
pub use error::SampleError;
pub use loaded::Chain;
pub use mask::{MaskError, MaskRule, PixelMask};
pub use rows::{Row, RowCondition};
pub use sampler::{SampleOptions, Start};
pub use settings::{ScaleSettings, SettingsError, SettingsLists};
pub use walk::{Compat, Step};
pub use windows::LargeGrid;
