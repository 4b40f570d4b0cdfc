//! Safe functions over the C++ shim `shim.cpp`: the only `unsafe` code of the crate.
#![allow(unsafe_code)]

pub mod kernels;

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};

unsafe extern "C" {
    fn imagebart_open_library(path: *const c_char, error: *mut c_char, capacity: usize) -> c_int;
    fn imagebart_tf32(allowed: c_int) -> c_int;
    fn imagebart_steady_heap();
    fn imagebart_library_path(name: *const c_char, path: *mut c_char, capacity: usize) -> c_int;
    fn imagebart_cuda_driver(count: *mut c_int, version: *mut c_int, error: *mut c_char, capacity: usize) -> c_int;
    fn imagebart_cuda_device(
        ordinal: c_int,
        major: *mut c_int,
        minor: *mut c_int,
        name: *mut c_char,
        name_capacity: usize,
        error: *mut c_char,
        capacity: usize,
    ) -> c_int;
}

/// Why the CUDA driver gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriverError {
    /// `libcuda.so.1` cannot be opened; the loader's message.
    Missing(String),
    /// The driver is there and refuses; its message.
    Refused(String),
}

/// What the CUDA driver says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Driver {
    /// Number of devices this process may use (`CUDA_VISIBLE_DEVICES` applies).
    pub devices: usize,
    /// The newest CUDA it serves, as 1000·major + 10·minor.
    pub version: u32,
}

/// What the CUDA driver says about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaDevice {
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
}

/// Text that C code writes: a buffer with a terminating zero.
struct Text([u8; 4096]);

impl Text {
    fn new() -> Text {
        Text([0; 4096])
    }

    fn pointer(&mut self) -> *mut c_char {
        self.0.as_mut_ptr().cast()
    }

    /// One byte less than there is, so that the last one stays zero whatever is written.
    fn capacity(&self) -> usize {
        self.0.len() - 1
    }

    fn read(&self) -> String {
        CStr::from_bytes_until_nul(&self.0).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// Opens a shared library for the whole process (`RTLD_NOW | RTLD_GLOBAL`); it stays open. The error is the loader's message.
pub fn open_library(path: &Path) -> Result<(), String> {
    let name =
        CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| "the path holds a zero byte".to_owned())?;
    let mut error = Text::new();
    let capacity = error.capacity();
    // SAFETY: `name` is a zero-terminated string and `error` a buffer of more than `capacity` bytes, both alive for the call.
    // Opening a library runs its initialisers: callers pass libraries of the libtorch this process already runs.
    let status = unsafe { imagebart_open_library(name.as_ptr(), error.pointer(), capacity) };
    if status == 0 { Ok(()) } else { Err(error.read()) }
}

/// Says whether float32 on CUDA may be TF32, unless `NVIDIA_TF32_OVERRIDE` or `TORCH_ALLOW_TF32_CUBLAS_OVERRIDE` is set. With it
/// tokens near a tie differ from the CPU's, and products of matrices are several times as fast. Call it first thing in `main`:
/// once there are other threads it does nothing, and returns false.
pub fn tf32(allowed: bool) -> bool {
    // SAFETY: sets a variable of the environment, and only while no other thread exists that could be reading it.
    unsafe { imagebart_tf32(allowed.into()) == 0 }
}

/// Settles how glibc's allocator keeps memory: call it first thing in `main`, before there are threads.
///
/// Left alone, glibc gives every thread an arena and never gives back what fragments in them: the peak memory of a run then
/// grows with its length (1.2 to 1.5 times over ten times the shards), without one byte more in use.
pub fn steady_heap() {
    // SAFETY: sets three numbers of the allocator, which may be done at any time.
    unsafe { imagebart_steady_heap() }
}

/// The path of a shared library of this process, by its name (`libtorch_cpu.so`); `None` when it is not loaded.
pub fn library_path(name: &str) -> Option<PathBuf> {
    let name = CString::new(name).ok()?;
    let mut path = Text::new();
    let capacity = path.capacity();
    // SAFETY: `name` is a zero-terminated string and `path` a buffer of more than `capacity` bytes, both alive for the call.
    let status = unsafe { imagebart_library_path(name.as_ptr(), path.pointer(), capacity) };
    let path = path.read();
    (status == 0 && !path.is_empty()).then(|| PathBuf::from(path))
}

/// Opens the CUDA driver and asks what there is.
pub fn cuda_driver() -> Result<Driver, DriverError> {
    let (mut count, mut version) = (0, 0);
    let mut error = Text::new();
    let capacity = error.capacity();
    // SAFETY: two integers and a buffer of more than `capacity` bytes, alive for the call.
    let status = unsafe { imagebart_cuda_driver(&mut count, &mut version, error.pointer(), capacity) };
    driver_status(status, &error)?;
    Ok(Driver { devices: usize::try_from(count).unwrap_or(0), version: u32::try_from(version).unwrap_or(0) })
}

/// Name and compute capability of device `ordinal`, counted as libtorch counts them.
pub fn cuda_device(ordinal: usize) -> Result<CudaDevice, DriverError> {
    let number = c_int::try_from(ordinal).map_err(|_| DriverError::Refused(format!("no device {ordinal}")))?;
    let (mut major, mut minor) = (0, 0);
    let (mut name, mut error) = (Text::new(), Text::new());
    let (name_capacity, capacity) = (name.capacity(), error.capacity());
    // SAFETY: two integers and two buffers of more than the capacities passed, alive for the call.
    let status = unsafe {
        imagebart_cuda_device(number, &mut major, &mut minor, name.pointer(), name_capacity, error.pointer(), capacity)
    };
    driver_status(status, &error)?;
    let capability = (u32::try_from(major).unwrap_or(0), u32::try_from(minor).unwrap_or(0));
    Ok(CudaDevice { name: name.read(), capability })
}

fn driver_status(status: c_int, error: &Text) -> Result<(), DriverError> {
    match status {
        0 => Ok(()),
        1 => Err(DriverError::Missing(error.read())),
        _ => Err(DriverError::Refused(error.read())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_an_error_with_the_loaders_words() {
        let error = open_library(Path::new("/nowhere/libnothing.so")).unwrap_err();
        assert!(error.contains("/nowhere/libnothing.so"), "{error}");
        assert!(open_library(Path::new("a\0b")).is_err());
    }

    #[test]
    fn the_environment_is_left_alone_once_there_are_threads() {
        // Tests run on a thread of their own, beside the main one.
        std::thread::scope(|scope| {
            let (release, released) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || released.recv());
            assert!(!tf32(false) && !tf32(true));
            drop(release);
        });
    }

    #[test]
    fn loaded_libraries_are_found_by_name() {
        let path = library_path("libc.so.6").expect("every Linux process has libc");
        assert!(path.is_absolute() && path.exists(), "{}", path.display());
        assert_eq!(library_path("libnothing-of-the-kind.so"), None);
    }
}
