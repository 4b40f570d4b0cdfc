//! Pipeline files: one TOML file is one experiment, and every command reads it.
//!
//! [`Pipeline::load`] reads a file, applies `--set section.key=value` overrides and validates everything before any work
//! starts. Errors name the file, the line and, for an unknown key, the nearest known one.
//!
//! ```
//! use imagebart::config::Pipeline;
//! # fn main() -> Result<(), imagebart::config::ConfigError> {
//! let text = r#"
//!     [dataset]
//!     format = "folder"
//!     url = "photos"
//!
//!     [tokenizer]
//!     weights = "models/vqgan.safetensors"
//!
//!     [output]
//!     url = "out/photos"
//! "#;
//! let pipeline = Pipeline::parse(text, "photos.toml", &["image.size=128".to_owned()])?;
//! assert_eq!(pipeline.image.size, 128);
//!
//! let wrong = Pipeline::parse("[image]\nsiez = 3", "photos.toml", &[]).unwrap_err();
//! assert_eq!(wrong.to_string(), "photos.toml:2: unknown key `siez` in [image]; did you mean `size`?");
//! # Ok(())
//! # }
//! ```

mod card;
mod check;
mod choosing;
mod evaluation;
mod filtering;
mod load;
mod sampling;
mod sections;
mod training;
mod values;

pub use card::CardSection;
pub use choosing::ChooseSection;
pub use evaluation::{EvaluateRun, EvaluateSection};
pub use filtering::FilterSection;
pub use load::{ConfigError, Needs};
pub(crate) use load::{nearest, parse_toml};
pub use sampling::{EditSection, SampleSection};
pub use sections::{
    ChainSection, ConditionSection, DType, DatasetSection, ImageSection, OutputSection, Pipeline, RunSection,
    ScaleSection, ScheduleValue, ShrinkSection, TokenizerSection,
};
pub use training::{TrainSection, TrainTokenizerSection};
pub use values::{Auto, ByteSize, LabelChoice, PerScale};
