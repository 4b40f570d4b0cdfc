//! The metrics: as the Python implementations in wide use have them, and moving the way they must.

mod properties;
mod reference;
