//! libtorch: device choice, CUDA at run time, kernels for the CPU, weights on disk.

pub mod checkpoint;
pub mod device;
mod shim;
pub mod spec;
pub mod weights;

pub use shim::{kernels, steady_heap, tf32};
