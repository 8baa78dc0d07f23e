//! What to tell the caller to do about an error.

use crate::dm::DmError;
use crate::graph::code::ErrorCode;
use crate::graph::error::PoolError;
use crate::image::ImageError;
use crate::store::StoreError;

impl PoolError {
    /// What to do about it, where the message does not say so already.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoPool { .. } => "make one: pool-cli pool create NAME".to_owned(),
            Self::PoolNotFound { .. } => "see which there are: pool-cli pool list".to_owned(),
            Self::SeveralPools { .. } => "add --pool NAME".to_owned(),
            Self::PoolExists { .. } => {
                "choose another name, or destroy that pool first; nothing was changed".to_owned()
            }
            Self::PoolHalfMade { name } => {
                format!("clear it away: pool-cli pool destroy {name}")
            }
            Self::DataGuard { name, .. } => format!(
                "grow it: pool-cli pool grow {name} --data +SIZE; or remove containers and images"
            ),
            Self::Overcommitted { name, .. } => format!(
                "grow it: pool-cli pool grow {name} --data +SIZE; remove something; or let it: \
                 pool-cli pool set {name} --overcommit yes"
            ),
            Self::MetadataGuard { name, .. } => format!(
                "grow it: pool-cli pool grow {name} --metadata +SIZE; or remove containers and images"
            ),
            Self::PoolDegraded { name, .. } if self.is_out_of_metadata() => format!(
                "it is out of metadata space; with more it works again: \
                 pool-cli pool grow {name} --metadata +SIZE"
            ),
            Self::Dm(_) if self.is_out_of_metadata() => {
                "the pool is out of metadata space; with more it works again: \
                 pool-cli pool grow --metadata +SIZE"
                    .to_owned()
            }
            Self::HostGuard { .. } => {
                "make room on the host's file system, or remove containers and images".to_owned()
            }
            Self::DeviceShort { .. } => {
                "make the device larger first, as with lvextend, or ask for less".to_owned()
            }
            Self::ContainerHalfMade { pool, .. } => {
                format!("have it settled: pool-cli pool open {pool}")
            }
            Self::PoolBusy { .. } => "unmount the containers and close their devices".to_owned(),
            Self::ContainerBusy { name, mounts, .. } if !mounts.is_empty() => {
                format!("unmount it: pool-cli container umount {name}")
            }
            Self::ContainerBusy { .. } => {
                "close what holds the device (virtual machines, mounts in other namespaces)"
                    .to_owned()
            }
            Self::Dm(DmError::NameTaken { .. }) => {
                "a removal that was cut may have left it: pool-cli queue run".to_owned()
            }
            Self::MetadataSnapHeld { name, .. } => format!(
                "try again when it has ended; if none runs: \
                 dmsetup message dmthin-{name}-pool 0 release_metadata_snap"
            ),
            Self::Findings { .. } => "see what can be taken away: pool-cli gc --dry-run".to_owned(),
            Self::Damaged { .. } => {
                "restore the pool's own files, or remove what is lost: see docs/design.md"
                    .to_owned()
            }
            Self::RemovalHeld { .. } => {
                "it stays queued; when nobody holds it any more: pool-cli queue run".to_owned()
            }
            Self::RemovalNotFound { .. } => {
                "see what is there: pool-cli queue list; what is not there any more is gone"
                    .to_owned()
            }
            Self::RemovalAmbiguous { .. } => {
                "say which: pool-cli queue list, then pool-cli queue cancel --volume VOLUME"
                    .to_owned()
            }
            Self::AmbiguousName { .. } => {
                "choose one without -ctr- in it, or -ctr at its end".to_owned()
            }
            Self::TransactionMismatch {
                dir,
                disk: Some(disk),
                ..
            } => format!(
                "nothing was changed; if the disk was open on another host since, what is known of it \
                 here is out of date: move {} away, out of its parent directory, then \
                 pool-cli pool open --device {}",
                dir.display(),
                disk.display()
            ),
            Self::Metadata { .. }
            | Self::Unformatted { .. }
            | Self::BlockSizeMismatch { .. }
            | Self::TransactionMismatch { .. } => {
                "nothing was changed; put the pool's own files or devices back".to_owned()
            }
            Self::ThinPoolInactive { .. } => {
                "activate it first, as with lvchange -ay VG/POOL".to_owned()
            }
            Self::OtherThinPool { .. } => {
                "nothing was changed; activate the thin-pool that the pool was made in".to_owned()
            }
            Self::NotOurThinPool { .. } => {
                "its owner grows it, as with lvextend -L +SIZE VG/POOL".to_owned()
            }
            Self::Copy { .. } => {
                "open the pool on the host that has its catalogue; nothing was changed".to_owned()
            }
            Self::OtherDisk { .. } => {
                "nothing was changed; name the pool's disk: pool-cli pool open --device DEV"
                    .to_owned()
            }
            Self::DeviceInUse { .. } => {
                "use an empty device, or add --force if what is on this one may go".to_owned()
            }
            Self::Store(StoreError::ImageInUse { .. }) => {
                "remove the containers: pool-cli container rm NAME".to_owned()
            }
            Self::Store(StoreError::ImageNotFound { .. }) => {
                "see which there are: pool-cli image list".to_owned()
            }
            Self::Store(StoreError::ContainerNotFound { .. }) => {
                "see which there are: pool-cli container list".to_owned()
            }
            Self::Image(ImageError::NoSpace { .. })
            | Self::Layer {
                source: ImageError::NoSpace { .. },
                ..
            } => "make the base volume larger: pool-cli base grow +SIZE".to_owned(),
            _ if self.code() == ErrorCode::Permission => "run it as root".to_owned(),
            _ => return None,
        })
    }
}
