//! Reads the kernel's thin-provisioning metadata, and never writes it.
//!
//! A pool tells its transaction id only once it runs. The superblock tells it before, with the block
//! size the pool was formatted with: so a pool and its catalogue can be matched, and a swapped or
//! damaged metadata device refused, before the kernel is given the device.

mod superblock;

pub use superblock::{Corrupt, FirstBlock, ReadError, SpaceMap, Superblock};
