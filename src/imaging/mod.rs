//! Encoded bytes to RGB crops and back: plain buffers, no tensors.
