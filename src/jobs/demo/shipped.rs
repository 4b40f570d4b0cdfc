//! The model that the demo draws with.

use super::DemoError;
use crate::chain::ModelDirectory;
use crate::jobs::JobError;
use crate::jobs::model::refused;
use std::fs;
use std::path::{Path, PathBuf};

/// The trained model of `examples/shapes/model`, name and bytes of each file; none where it was not there when this was built.
const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/shipped_model.rs"));

/// Where the demo's networks come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DemoModel {
    /// A tokenizer made on the spot, and no chain.
    Makeshift,
    /// The trained model inside this program.
    Shipped,
    /// A model directory of one's own.
    Directory(PathBuf),
}

impl DemoModel {
    /// The directory, if one is given; else what the program was built with.
    pub fn choose(directory: Option<PathBuf>) -> DemoModel {
        match directory {
            Some(directory) => DemoModel::Directory(directory),
            None if FILES.is_empty() => DemoModel::Makeshift,
            None => DemoModel::Shipped,
        }
    }

    /// Whether it can draw.
    pub fn has_chain(&self) -> bool {
        *self != DemoModel::Makeshift
    }

    /// In words, for the user.
    pub fn describe(&self) -> String {
        match self {
            DemoModel::Makeshift => "a tokenizer made on the spot: no chain was trained yet".to_owned(),
            DemoModel::Shipped => "the trained model inside this program".to_owned(),
            DemoModel::Directory(path) => path.display().to_string(),
        }
    }

    /// Writes its files into the folder `to`. The makeshift one has none.
    pub(super) fn install(&self, to: &Path) -> Result<(), JobError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| JobError::failed(DemoError::Write { path, source })
        };
        fs::create_dir_all(to).map_err(failed(to))?;
        match self {
            DemoModel::Makeshift => Ok(()),
            DemoModel::Shipped => FILES.iter().try_for_each(|(name, bytes)| {
                let path = to.join(name);
                fs::write(&path, bytes).map_err(failed(&path))
            }),
            DemoModel::Directory(from) => {
                let directory = ModelDirectory::open(from).map_err(refused)?;
                if from.canonicalize().ok() == to.canonicalize().ok() {
                    return Ok(());
                }
                let mut files =
                    vec![directory.config_file(), directory.tokenizer_file(), directory.text_tokenizer_file()];
                for network in &directory.config().networks {
                    let first = network.scales.first().copied().unwrap_or(1);
                    files.push(directory.scale_file(first).map_err(refused)?);
                }
                for file in files.iter().filter(|file| file.is_file()) {
                    let path = to.join(file.file_name().unwrap_or_default());
                    fs::copy(file, &path).map_err(failed(&path))?;
                }
                Ok(())
            }
        }
    }
}
