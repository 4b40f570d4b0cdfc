//! Which device computes: parsing `--device`, opening CUDA at run time, and saying in one line what is used and why.
//!
//! The binary links to `libtorch_cpu.so` alone. CUDA needs three things, checked in this order: `libtorch_cuda.so` beside the
//! `libtorch_cpu.so` in use, NVIDIA's driver (`libcuda.so.1`) with at least one device, and that libtorch accepts both.
//!
//! ```
//! use imagebart::config::DType;
//! use imagebart::torch::device::{DeviceChoice, kind};
//! let found = "cpu".parse::<DeviceChoice>()?.resolve()?;
//! println!("{}", found.line);
//! let zeros = tch::Tensor::f_zeros([2, 3], (kind(DType::Fp32), found.device))?;
//! assert_eq!((zeros.size(), found.class.as_str()), (vec![2, 3], "cpu"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use super::shim::{self, DriverError};
use crate::config::DType;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::OnceLock;
use tch::{Device, Kind};

/// What the user asks for: `cpu`, `cuda`, `cuda:N` or `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device when CUDA works, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// This CUDA device, or the first one.
    Cuda(Option<usize>),
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<DeviceChoice, DeviceError> {
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(None)),
            _ => {
                let number = text.strip_prefix("cuda:").filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
                let number = number.and_then(|digits| digits.parse().ok());
                number.map(|n| DeviceChoice::Cuda(Some(n))).ok_or_else(|| DeviceError::Unknown(text.to_owned()))
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(None) => f.write_str("cuda"),
            DeviceChoice::Cuda(Some(number)) => write!(f, "cuda:{number}"),
        }
    }
}

/// Why there is no device as asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error("unknown device {0:?}: give cpu, cuda, cuda:N or auto")]
    Unknown(String),
    #[error("{wanted} is not available: {why}; {}", why.remedy())]
    Unavailable { wanted: DeviceChoice, why: NoCuda },
}

/// What CUDA lacks on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoCuda {
    /// libtorch itself cannot be located in this process.
    NoLibtorch,
    /// A CPU-only libtorch.
    CpuOnly,
    /// The loader's message.
    NoDriver(String),
    /// The driver's message.
    DriverRefuses(String),
    /// Fewer devices than asked for.
    TooFew { devices: usize },
    /// `libtorch_cuda.so` is there and cannot be opened: the loader's message.
    NotOpened(String),
    /// Opened, but libtorch reports no usable device; the driver's newest CUDA as 1000·major + 10·minor.
    NotAccepted { driver: u32 },
}

impl fmt::Display for NoCuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoCuda::NoLibtorch => f.write_str("libtorch_cpu.so is not loaded as a shared library"),
            NoCuda::CpuOnly => f.write_str("libtorch_cuda.so is not beside libtorch_cpu.so (CPU-only install)"),
            NoCuda::NoDriver(message) => write!(f, "no NVIDIA driver ({message})"),
            NoCuda::DriverRefuses(message) => write!(f, "the NVIDIA driver gives no device: {message}"),
            NoCuda::TooFew { devices: 0 } => f.write_str("the NVIDIA driver shows no device"),
            NoCuda::TooFew { devices } => {
                write!(f, "the NVIDIA driver shows {devices} device(s), the last one is cuda:{}", devices - 1)
            }
            NoCuda::NotOpened(message) => write!(f, "libtorch_cuda.so cannot be opened: {message}"),
            NoCuda::NotAccepted { driver } => write!(
                f,
                "libtorch does not accept the driver, which serves CUDA up to {}.{}",
                driver / 1000,
                driver % 1000 / 10
            ),
        }
    }
}

impl NoCuda {
    /// What the user can do about it.
    fn remedy(&self) -> &'static str {
        match self {
            NoCuda::NoLibtorch | NoCuda::CpuOnly => {
                "set LIBTORCH to a libtorch with CUDA and build again, or use --device cpu"
            }
            NoCuda::NoDriver(_) => "install NVIDIA's driver, or use --device cpu",
            NoCuda::DriverRefuses(_) | NoCuda::TooFew { .. } => {
                "check nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu"
            }
            NoCuda::NotOpened(_) => {
                "install the full torch wheel with the CUDA libraries it depends on, or use --device cpu"
            }
            NoCuda::NotAccepted { .. } => {
                "update NVIDIA's driver or use a libtorch built for an older CUDA, or use --device cpu"
            }
        }
    }
}

/// The device a run uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInUse {
    /// For tensors.
    pub device: Device,
    /// `cpu`, or `cuda-sm_90` for compute capability 9.0: part of a run's identity.
    pub class: String,
    /// One line for the user: the device and why it is used.
    pub line: String,
}

impl DeviceInUse {
    fn cpu(why: &str) -> DeviceInUse {
        DeviceInUse { device: Device::Cpu, class: "cpu".to_owned(), line: format!("cpu: {why}") }
    }
}

impl DeviceChoice {
    /// Finds the device, and opens CUDA for `cuda` and `auto`. Call it before the first tensor: libtorch looks for CUDA once.
    ///
    /// # Errors
    /// CUDA was asked for and is not available: what is missing, and what to do.
    pub fn resolve(self) -> Result<DeviceInUse, DeviceError> {
        match self {
            DeviceChoice::Cpu => Ok(DeviceInUse::cpu("as asked")),
            DeviceChoice::Auto => Ok(open_cuda(0).unwrap_or_else(|why| DeviceInUse::cpu(&why.to_string()))),
            DeviceChoice::Cuda(number) => {
                open_cuda(number.unwrap_or(0)).map_err(|why| DeviceError::Unavailable { wanted: self, why })
            }
        }
    }
}

fn open_cuda(number: usize) -> Result<DeviceInUse, NoCuda> {
    let library = cuda_library()?;
    let driver = shim::cuda_driver().map_err(driver_error)?;
    if number >= driver.devices {
        return Err(NoCuda::TooFew { devices: driver.devices });
    }
    static OPENED: OnceLock<Result<(), String>> = OnceLock::new();
    OPENED.get_or_init(|| shim::open_library(&library)).clone().map_err(NoCuda::NotOpened)?;
    let usable = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
    if !tch::Cuda::is_available() || number >= usable {
        return Err(NoCuda::NotAccepted { driver: driver.version });
    }
    let found = shim::cuda_device(number).map_err(driver_error)?;
    let (major, minor) = found.capability;
    Ok(DeviceInUse {
        device: Device::Cuda(number),
        class: format!("cuda-sm_{major}{minor}"),
        line: format!("cuda:{number} ({}, sm_{major}{minor})", found.name),
    })
}

/// `libtorch_cuda.so`, beside the `libtorch_cpu.so` of this process.
fn cuda_library() -> Result<PathBuf, NoCuda> {
    let cpu = shim::library_path("libtorch_cpu.so").ok_or(NoCuda::NoLibtorch)?;
    let cuda = cpu.with_file_name("libtorch_cuda.so");
    if cuda.exists() { Ok(cuda) } else { Err(NoCuda::CpuOnly) }
}

fn driver_error(error: DriverError) -> NoCuda {
    match error {
        DriverError::Missing(message) => NoCuda::NoDriver(message),
        DriverError::Refused(message) => NoCuda::DriverRefuses(message),
    }
}

/// libtorch's name for an arithmetic.
pub fn kind(dtype: DType) -> Kind {
    match dtype {
        DType::Fp32 => Kind::Float,
        DType::Bf16 => Kind::BFloat16,
    }
}

/// Sets how many threads one tensor operation uses when **this** thread runs it: OpenMP keeps the number per thread, so the
/// thread that owns the device sets it for itself.
pub fn set_threads(threads: NonZeroUsize) {
    tch::set_num_threads(i32::try_from(threads.get()).unwrap_or(i32::MAX));
}

/// How many threads one tensor operation of this thread uses.
pub fn threads() -> usize {
    usize::try_from(tch::get_num_threads()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_and_written_alike() {
        for text in ["auto", "cpu", "cuda", "cuda:0", "cuda:7"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:+1", "cuda:-1", "CPU", "cuda:99999999999999999999999"] {
            let error = text.parse::<DeviceChoice>().unwrap_err();
            assert_eq!(error, DeviceError::Unknown(text.to_owned()));
            assert!(error.to_string().contains("cuda:N"));
        }
    }

    #[test]
    fn the_cpu_is_always_there() {
        let found = DeviceChoice::Cpu.resolve().unwrap();
        assert_eq!((found.device, found.class.as_str(), found.line.as_str()), (Device::Cpu, "cpu", "cpu: as asked"));
    }

    #[test]
    fn auto_and_cuda_agree_on_whether_cuda_works() {
        let auto = DeviceChoice::Auto.resolve().unwrap();
        match DeviceChoice::Cuda(None).resolve() {
            Ok(cuda) => {
                assert_eq!(auto, cuda);
                assert!(cuda.class.starts_with("cuda-sm_"), "{}", cuda.class);
            }
            Err(error) => {
                let DeviceError::Unavailable { why, .. } = &error else { panic!("{error}") };
                assert_eq!(auto.line, format!("cpu: {why}"));
                assert!(error.to_string().ends_with("or use --device cpu"), "{error}");
            }
        }
    }

    #[test]
    fn every_lack_of_cuda_says_what_to_do() {
        let message = "libx.so: no".to_owned();
        let lacks = [
            (NoCuda::NoLibtorch, "libtorch_cpu.so"),
            (NoCuda::CpuOnly, "CPU-only install"),
            (NoCuda::NoDriver(message.clone()), "no NVIDIA driver (libx.so: no)"),
            (NoCuda::DriverRefuses(message.clone()), "libx.so: no"),
            (NoCuda::TooFew { devices: 0 }, "no device"),
            (NoCuda::TooFew { devices: 2 }, "the last one is cuda:1"),
            (NoCuda::NotOpened(message), "cannot be opened: libx.so: no"),
            (NoCuda::NotAccepted { driver: 12_040 }, "CUDA up to 12.4"),
        ];
        for (why, part) in lacks {
            let error = DeviceError::Unavailable { wanted: DeviceChoice::Cuda(Some(3)), why }.to_string();
            assert!(error.starts_with("cuda:3 is not available: ") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn threads_are_set_for_the_calling_thread() {
        let counted = std::thread::spawn(|| {
            set_threads(NonZeroUsize::MIN);
            threads()
        });
        assert_eq!(counted.join().unwrap(), 1);
    }
}
