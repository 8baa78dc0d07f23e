//! The benchmarks: what the library and the command take, against the same work done without them.
//!
//! All of it happens in one boot on one pool, whose files lie on the guest's disk. The ways to do a
//! thing take turns, so that what disturbs the machine disturbs all of them; numbers of different
//! boots are not to be compared. [`run`] measures, inside the guest; [`Report`] makes text of it.
//!
//! - A container's device, from nothing to mounted ("up") and back ("down"): by raw ioctls and
//!   `mount(2)` in a loop (the floor), by the library, by `dmsetup` and friends, by `pool-cli`.
//! - What a removal takes until it returns, where its slow part is left to others, against one commit of
//!   the catalogue.
//! - Containers made and removed by many at once, by raw ioctls and by the library.
//! - An image: `pool-cli image import`, against `tar -x` of the same layers and a sync, onto a file
//!   system on the same pool.

mod commands;
mod crowd;
mod floor;
mod import;
mod library;
mod plan;
mod removal;
mod report;
mod samples;

pub use crowd::Crowd;
pub use plan::{Settings, run};
pub use report::{Machine, Report};
pub use samples::{Measured, Phase, Rounds, Samples, Series};
