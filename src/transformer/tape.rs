//! Activation checkpointing (Chen et al. 2016): a forward pass that keeps the inputs of its segments alone, and a backward pass
//! that runs each segment once more for its gradients.

use super::layers::Torch;
use std::cell::RefCell;
use tch::{TchError, Tensor};

/// Runs the segments of a forward pass, and remembers what the backward pass needs.
pub(super) enum Tape<'a> {
    /// libtorch records everything itself, or nothing under `no_grad`.
    Plain,
    /// The segments' inputs alone.
    Inputs(RefCell<Vec<Segment<'a>>>),
}

/// From a segment's inputs to its output.
type Run<'a> = Box<dyn Fn(&[Tensor]) -> Torch<Tensor> + 'a>;

/// A part of the network, to be run once more.
pub(super) struct Segment<'a> {
    /// Outputs of earlier segments: leaves that gather gradients.
    inputs: Vec<Tensor>,
    run: Run<'a>,
    /// A leaf, like the inputs.
    output: Tensor,
}

impl<'a> Tape<'a> {
    /// A tape that keeps inputs alone.
    pub fn inputs() -> Tape<'a> {
        Tape::Inputs(RefCell::default())
    }

    /// Runs a segment on `inputs`, which must be outputs of segments of this tape. What `run` gives may depend on them and on
    /// parameters only.
    pub fn segment(&self, inputs: &[&Tensor], run: impl Fn(&[Tensor]) -> Torch<Tensor> + 'a) -> Torch<Tensor> {
        let inputs: Vec<Tensor> = inputs.iter().map(|input| input.shallow_clone()).collect();
        let Tape::Inputs(segments) = self else { return run(&inputs) };
        let output = tch::no_grad(|| run(&inputs))?.f_set_requires_grad(true)?;
        segments.borrow_mut().push(Segment { inputs, run: Box::new(run), output: output.shallow_clone() });
        Ok(output)
    }

    /// Carries the gradients that the outputs have gathered back through the segments, the last one first: to the parameters.
    pub fn backward(self) -> Torch<()> {
        let Tape::Inputs(segments) = self else { return Ok(()) };
        let mut segments = segments.into_inner();
        while let Some(Segment { inputs, run, output }) = segments.pop() {
            let gradient = output.f_grad()?;
            drop(output);
            if gradient.defined() {
                // The gradient of this sum with respect to the segment's output is `gradient`.
                run(&inputs)?.f_mul(&gradient)?.f_sum(None)?.f_backward()?;
            }
        }
        Ok(())
    }
}

/// A segment was run on another number of inputs than it has.
pub(super) fn inputs(segment: &str, found: &[Tensor]) -> TchError {
    TchError::Shape(format!("{segment} was run on {} inputs", found.len()))
}
