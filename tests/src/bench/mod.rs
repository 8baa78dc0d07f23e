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
//! - Opening a pool of many volumes, and who takes its room.
//! - An image: `pool-cli image import`, against `tar -x` of the same layers and a sync, onto a file
//!   system on the same pool.
//! - What a container changed of its image: against walks of both trees, and against `thin_delta`.
//! - A commit of twelve bytes: against the making of a container.

mod commands;
mod commit;
mod crowd;
mod diff;
mod floor;
mod import;
mod library;
mod machine;
mod opening;
mod page;
mod parts;
mod plan;
mod removal;
mod report;
mod samples;
mod space;
mod trees;
mod walk;

pub use crowd::Crowd;
pub use diff::DiffCase;
pub use machine::Machine;
pub use opening::Opening;
pub use page::renewed;
pub use parts::Only;
pub use plan::{Settings, run};
pub use report::Report;
pub use samples::{Measured, Phase, Rounds, Samples, Series};
pub use space::Space;
