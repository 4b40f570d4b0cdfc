//! libtorch: device choice, CUDA at run time, weights on disk.

pub mod weights;
