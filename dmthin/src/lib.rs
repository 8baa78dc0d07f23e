//! Thin-provisioned block storage for containers and microVMs, straight on the kernel's device
//! mapper.
//!
//! A *pool* is a dm thin-pool over two sparse files or two block devices. An *image* is imported
//! into it layer by layer, each layer a thin snapshot of the one below. A *container* is a
//! writable snapshot of an image's top layer, with a block device of its own. The kernel is spoken
//! to by `ioctl`, without libdevmapper and without starting a program; only mkfs is one.
//!
//! ```no_run
//! use dmthin::graph::{CreateContainer, CreatePool, Host, ImportSource, Removing};
//! use dmthin::ids::PoolName;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let host = Host::new("/var/lib/dmthin".into());
//! let name = PoolName::new("tank")?;
//! host.create_pool(&CreatePool::new(name.clone()))?;
//! let pool = host.pool(&name)?;
//! let images = pool.import(&ImportSource::File("debian.tar".into()), None, &mut |_| {})?;
//! for image in &images {
//!     let container = pool.create_container(&CreateContainer {
//!         image: image.id.to_string(),
//!         name: None,
//!         size: None,
//!     })?;
//!     println!("{} is on {:?}", container.name, container.on.device);
//!     pool.mount_container(&container.name, "/mnt".as_ref())?;
//!     pool.unmount_container(&container.name)?;
//!     pool.remove_container(&container.name, Removing::Now)?;
//! }
//! host.close_pool(&name)?;
//! # Ok(())
//! # }
//! ```
//!
//! # The life of a container's device
//!
//! ```text
//! create_container  catalogue: name, volume, thin id, state creating      (durable)
//!                   pool:      create_snap                                (status read back)
//!                   dm:        create, load, resume; the node checked
//!                   catalogue: state ready
//! mount_container   detached mount with `discard`, then moved to the directory
//! unmount_container the device stays, as it does until close_pool
//! remove_container  catalogue: the name is free, state deleting           (durable)
//!                   dm:        held: deferred remove, the rest is left to run_queue
//!                   dm:        every block discarded, the device removed
//!                   pool:      delete
//!                   catalogue: the volume forgotten
//! ```
//! After a reboot [`graph::Host::open_pool`] makes the pool's device and those of its containers
//! again. What a cut left between two of these steps it settles first.
//!
//! # Layers
//!
//! Imports point down only, which a test checks. [`graph`] is for most callers; the others are
//! useful on their own.
//!
//! | module | what it owns |
//! |---|---|
//! | [`graph`] | the verbs: pools, images, containers, devices; locks; the crash protocol |
//! | [`image`] | archives of images; a layer applied beneath a directory |
//! | [`delta`] | what differs between two snapshots: by blocks, by inodes, or walked |
//! | [`fs`] | ext4 and xfs: made, recognised, mounted without a path, grown, trimmed |
//! | [`store`] | the catalogue: names, states and intents in one SQL file a pool |
//! | [`thinmeta`] | a reader of the thin-pool's superblock |
//! | [`label`] | what a disk says of the pool on it, and the copy of the catalogue on it |
//! | [`backing`] | sparse files on loop devices; block devices |
//! | [`dm`] | names, table and status lines, devices, pools, volumes, events, udev |
//! | [`ioctl`] | the kernel boundary, with the only unsafe code |
//! | `model` | a kernel in memory, for tests without root (feature `test-util`) |
//! | [`ids`], [`units`] | checked identities and quantities with their unit |
//!
//! # Rules for callers
//!
//! - Everything is synchronous and may be shared between threads; any number of processes may work
//!   on one pool. Root is needed for all that touches the kernel.
//! - Errors are enums: [`graph::PoolError`] for the verbs, one a module below. Branch on the
//!   variant or on [`graph::PoolError::code`], never on the text; [`graph::PoolError::hint`] is
//!   for a person.
//! - Nothing is printed, no environment is read. Logs go to `tracing`.

pub mod backing;
mod crc32c;
pub mod delta;
pub mod dm;
pub mod fs;
pub mod graph;
pub mod ids;
pub mod image;
pub mod ioctl;
pub mod label;
#[cfg(feature = "test-util")]
pub mod model;
pub mod store;
pub mod thinmeta;
pub mod units;
