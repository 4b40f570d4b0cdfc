//! Features of a whole set: sums, and the rows that neighbours and kernels need; kept in a file with what pins them, or read from the
//! files that others publish.

use super::{Features, Gaussian, MetricError, Moments};
use crate::torch::weights::{WeightsError, WeightsFile, write};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, TchError, Tensor};

/// What files of statistics call their format.
const FORMAT: (&str, &str) = ("format", "imagebart feature statistics 1");

/// Why statistics cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StatisticsError {
    #[error(transparent)]
    File(#[from] WeightsError),
    #[error(transparent)]
    Metric(#[from] MetricError),
    #[error("{} is not a file of feature statistics: {detail}", path.display())]
    Format { path: PathBuf, detail: String },
    #[error(
        "the reference statistics in {} do not go with this evaluation: {field} is {found} there, {expected} here; \
         give another evaluate.reference, or delete the file to make it anew",
        path.display()
    )]
    Other { path: PathBuf, field: String, found: String, expected: String },
    #[error("features could not be kept: {0}")]
    Torch(#[from] TchError),
}

/// Collects the features of a set as they come.
#[derive(Debug)]
pub struct Collector {
    moments: Moments,
    features: Vec<Tensor>,
    logits: Vec<Tensor>,
}

/// What is known of a set's features.
#[derive(Debug)]
pub struct Statistics {
    pub gaussian: Gaussian,
    /// float32 `[rows, dims]` on the CPU, where the rows themselves are known.
    pub features: Option<Tensor>,
    /// float32 `[rows, classes]` on the CPU.
    pub logits: Option<Tensor>,
}

impl Collector {
    /// Nothing yet, for features of `dims` dimensions; sums are kept on the device.
    ///
    /// # Errors
    /// No memory on the device.
    pub fn new(dims: i64, device: Device) -> Result<Collector, MetricError> {
        Ok(Collector { moments: Moments::new(dims, device)?, features: Vec::new(), logits: Vec::new() })
    }

    /// Rows so far.
    pub fn count(&self) -> u64 {
        self.moments.count()
    }

    /// Adds a batch.
    ///
    /// # Errors
    /// As [`Moments::add`].
    pub fn add(&mut self, batch: &Features) -> Result<(), MetricError> {
        self.moments.add(&batch.features)?;
        self.features.push(batch.features.f_to_device(Device::Cpu)?);
        if let Some(logits) = &batch.logits {
            self.logits.push(logits.f_to_device(Device::Cpu)?);
        }
        Ok(())
    }

    /// All of them.
    ///
    /// # Errors
    /// [`MetricError::TooFew`] below two rows.
    pub fn finish(self) -> Result<Statistics, MetricError> {
        let gaussian = self.moments.gaussian()?.to_device(Device::Cpu)?;
        let logits = if self.logits.is_empty() { None } else { Some(Tensor::f_cat(&self.logits, 0)?) };
        Ok(Statistics { gaussian, features: Some(Tensor::f_cat(&self.features, 0)?), logits })
    }
}

impl Statistics {
    /// Writes mean, covariance and features as safetensors, with `facts` that must be the same where they are read.
    ///
    /// # Errors
    /// Failures to write.
    pub fn write(&self, path: &Path, facts: &BTreeMap<String, String>) -> Result<(), StatisticsError> {
        let mut tensors = BTreeMap::from([
            ("mean".to_owned(), self.gaussian.mean.shallow_clone()),
            ("covariance".to_owned(), self.gaussian.covariance.shallow_clone()),
        ]);
        if let Some(features) = &self.features {
            tensors.insert("features".to_owned(), features.shallow_clone());
        }
        let mut metadata = facts.clone();
        metadata.insert(FORMAT.0.to_owned(), FORMAT.1.to_owned());
        metadata.insert("rows".to_owned(), self.gaussian.rows.unwrap_or(0).to_string());
        Ok(write(path, &tensors, &metadata)?)
    }

    /// Reads what [`write`](Statistics::write) wrote, with the same facts.
    ///
    /// # Errors
    /// [`StatisticsError::Other`] where a fact differs.
    pub fn read(path: &Path, facts: &BTreeMap<String, String>) -> Result<Statistics, StatisticsError> {
        let mut file = WeightsFile::open(path)?;
        let wrong = |detail: &str| StatisticsError::Format { path: path.to_owned(), detail: detail.to_owned() };
        let metadata = file.metadata().clone();
        if metadata.get(FORMAT.0).map(String::as_str) != Some(FORMAT.1) {
            return Err(wrong("its metadata do not say that it is one"));
        }
        for (field, expected) in facts {
            let found = metadata.get(field).cloned().unwrap_or_else(|| "not told".to_owned());
            if found != *expected {
                let (path, field, expected) = (path.to_owned(), field.clone(), expected.clone());
                return Err(StatisticsError::Other { path, field, found, expected });
            }
        }
        let rows = metadata.get("rows").and_then(|rows| rows.parse().ok()).filter(|rows| *rows > 0);
        let gaussian = Gaussian::new(&file.read("mean")?, &file.read("covariance")?, rows)?;
        let features = file.shape("features").is_some().then(|| file.read("features")).transpose()?;
        Ok(Statistics { gaussian, features, logits: None })
    }
}

/// What a published `.npz` holds.
#[derive(Debug)]
pub enum Published {
    /// `mu` and `sigma`: clean-fid, pytorch-fid, and the ADM evaluator's files. Of which network and preprocessing, they do not say.
    Statistics(Gaussian),
    /// `arr_0` alone, uint8 `[rows, height, width, 3]`: a sample batch of the ADM evaluator.
    Images(Tensor),
}

impl Published {
    /// Reads a `.npz` file.
    ///
    /// # Errors
    /// [`StatisticsError::Format`] for a file that holds neither.
    pub fn read(path: &Path) -> Result<Published, StatisticsError> {
        let wrong = |detail: String| StatisticsError::Format { path: path.to_owned(), detail };
        let arrays = Tensor::read_npz(path).map_err(|error| wrong(error.to_string()))?;
        let find = |name: &str| arrays.iter().find(|(found, _)| found == name).map(|(_, array)| array);
        if let (Some(mean), Some(covariance)) = (find("mu"), find("sigma")) {
            let doubles = |array: &Tensor| array.f_to_kind(Kind::Double);
            return Ok(Published::Statistics(Gaussian::new(&doubles(mean)?, &doubles(covariance)?, None)?));
        }
        match find("arr_0") {
            Some(images) if images.f_kind()? == Kind::Uint8 && images.size().get(3) == Some(&3) => {
                Ok(Published::Images(images.shallow_clone()))
            }
            Some(other) => Err(wrong(format!("arr_0 must be uint8 [rows, height, width, 3], not {:?}", other.size()))),
            None => {
                let names: Vec<&str> = arrays.iter().map(|(name, _)| name.as_str()).collect();
                Err(wrong(format!("it has neither mu and sigma nor arr_0, but {}", names.join(", "))))
            }
        }
    }
}
