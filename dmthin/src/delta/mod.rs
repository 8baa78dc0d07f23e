//! What differs between two file systems of which one began as a snapshot of the other.
//!
//! A [`Change`] names a path of the newer one, or one that it no longer has. [`diff`] finds them in the fastest
//! way that can be proven to be exact, and says which that was and why no faster one: by the blocks that the pool
//! says changed, by the tables of inodes, or by walking both trees. The first two read an ext4 from its
//! device, unmounted; nothing is written.

mod candidates;
mod certificate;
mod change;
mod changes;
mod content;
mod ext4;
mod ladder;
mod names;
mod refusal;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod walk;

pub use change::{Change, ChangeKind};
pub use ext4::Ino;
pub use ladder::{Diff, DiffStats, NotTaken, Rung, Sides, by_devices, diff};
pub use refusal::{DeltaError, Refusal};
pub use walk::walk;
