//! The async engine: bounded stages that carry items, and nothing about images.
