//! The multinomial diffusion of token grids: noise schedules, forward process, posterior, losses.
//!
//! What one training step needs, for a batch of two rows of four tokens:
//!
//! ```
//! use imagebart::config::ScheduleValue;
//! use imagebart::diffusion::{Posteriors, Schedule, SoftTarget, forward, loss};
//! use imagebart::random::RowKey;
//! use tch::{Device, Kind, Tensor};
//!
//! let (codes, device) = (16, Device::Cpu);
//! let schedule = Schedule::new(&ScheduleValue::Name("geometric".to_owned()), 3)?;
//! let posteriors = Posteriors::new(&schedule, codes, device)?;
//!
//! let x_0 = Tensor::f_from_slice(&[3i64, 1, 4, 1, 5, 9, 2, 6])?.f_view([2, 4])?;
//! let rows = [RowKey::new(23, "a.tar", 0, 0), RowKey::new(23, "a.tar", 1, 0)];
//! let scales = Tensor::f_from_slice(&[2i64, 2])?;
//! let (before, x_t) = forward(&x_0, &schedule, codes, &rows)?.pair(&scales)?;
//! let posterior = posteriors.at(&scales, &x_0, &x_t)?;
//!
//! let logits = Tensor::f_zeros([2, 4, codes], (Kind::Float, device))?; // a network's, from (scales, x_t, before)
//! let loss = loss(&logits, &before, SoftTarget::Posterior(&posterior), 1.0, None)?;
//! assert!((loss.hard.f_double_value(&[])? - f64::ln(16.0)).abs() < 1e-6);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod floors;
mod forward;
mod losses;
mod posterior;
mod schedule;

pub use floors::{noise_floor, uniform_bound};
pub use forward::{StepDraws, Trajectory, forward, redraw};
pub use losses::{Loss, SoftTarget, hard_loss, loss, soft_loss};
pub use posterior::{Posterior, Posteriors};
pub use schedule::{MAX_SCALES, Schedule, ScheduleError};
