//! File systems on our volumes: made, recognised, mounted without a path, grown, trimmed; and who
//! else uses the devices they are on.
//!
//! Two kinds are made, ext4 and xfs. Work on a volume happens through a [`DetachedMount`]: a
//! descriptor that no mount table shows and that is gone with the process, so a crash leaks nothing.
//! Processes are started only to make a file system; everything else is a system call.

mod error;
mod holders;
mod mkfs;
mod mount;
mod mountinfo;
mod resize;
mod signature;
mod superblock;
mod tool;
mod uuid;

pub use error::FsError;
pub use holders::{Holder, MountNs, Pid, Process, holders_of};
pub use mkfs::{MkfsOptions, mkfs};
pub use mount::{DetachedMount, MountOptions};
pub use mountinfo::{MountEntry, mounts_of, open_mount, parse_mountinfo, unmount};
pub use resize::{grow, trim};
pub use signature::{Signature, SignatureKind, find_signature, wipe_signatures};
pub(crate) use superblock::probe_at;
pub use superblock::{SuperblockInfo, probe};
pub use tool::Tool;
pub use uuid::FsUuid;
