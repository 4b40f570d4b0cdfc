//! libtorch: device choice, CUDA at run time, weights on disk.

pub mod checkpoint;
pub mod device;
mod shim;
pub mod spec;
pub mod weights;
