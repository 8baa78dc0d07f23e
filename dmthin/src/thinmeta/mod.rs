//! Reads the kernel's thin-provisioning metadata, and never writes it.
//!
//! A pool tells its transaction id only once it runs. The superblock tells it before, with the block
//! size the pool was formatted with: so a pool and its catalogue can be matched, and a swapped or
//! damaged metadata device refused, before the kernel is given the device.
//!
//! [`Metadata`] reads on from there: which thin devices there are, what each has mapped, and what would
//! come back if some of them went. Of a pool that runs it reads a metadata snapshot, which does
//! not change under it; or what does not change for other reasons
//! ([`changed_while_running`](Metadata::changed_while_running)).

mod copy;
mod device;
mod difference;
mod kept;
mod metadata;
mod node;
mod running;
mod space;
mod superblock;
#[cfg(test)]
mod testing;
mod walk;

pub use device::ReadAt;
pub use kept::{Answers, Kept, Questions};
pub use metadata::{ChangedRun, Metadata, Run, Span, ThinDevice};
pub use node::Damage;
pub use space::{Exclusives, Owned, Stamp, Union};
pub use superblock::{Corrupt, FirstBlock, ReadError, SpaceMap, Superblock};
