//! Takes a network's tensors by name and prepares them.

use super::{Placement, TransformerError};
use std::collections::BTreeMap;
use tch::Tensor;

/// A network's tensors by name.
pub(super) struct Parameters<'a> {
    pub tensors: &'a BTreeMap<String, Tensor>,
    pub placement: Placement,
    /// Whether the network may keep tensors of its own: in the placement, those of one input stacked into one. Otherwise it
    /// shares the given ones.
    pub fuse: bool,
}

impl Parameters<'_> {
    /// One tensor: in the placement, or as it was given where it is shared.
    pub fn get(&self, name: &str) -> Result<Tensor, TransformerError> {
        let tensor = self.tensors.get(name).ok_or_else(|| TransformerError::NoTensor { tensor: name.to_owned() })?;
        match self.fuse {
            true => Ok(self.placement.place(tensor)?),
            false => Ok(tensor.shallow_clone()),
        }
    }
}
