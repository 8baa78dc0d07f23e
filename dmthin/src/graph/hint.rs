//! What to tell the caller to do about an error.

use crate::dm::DmError;
use crate::graph::code::ErrorCode;
use crate::graph::error::PoolError;
use crate::graph::pairing::restore;
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
            Self::PoolDegraded { name, .. } if self.is_out_of_metadata() => format!(
                "it is out of metadata space; with more it works again: \
                 pool-cli pool grow {name} --metadata +SIZE"
            ),
            Self::Dm(_) if self.is_out_of_metadata() => {
                "the pool is out of metadata space; with more it works again: \
                 pool-cli pool grow --metadata +SIZE"
                    .to_owned()
            }
            Self::PoolDegraded { name, .. } => format!(
                "nothing more is written to it; find out what is wrong below it (dmesg, pool-cli doctor), then: \
                 pool-cli pool repair {name}"
            ),
            Self::Dm(DmError::PoolDegraded { .. }) => {
                "nothing more is written to the pool; find out what is wrong below it (dmesg), then: \
                 pool-cli pool repair NAME"
                    .to_owned()
            }
            Self::Pairing(error) => error.hint(),
            Self::Guard(error) => error.hint(),
            Self::Existing(error) => error.hint()?.to_owned(),
            Self::Rebuild(error) => return error.hint(),
            Self::Rollback { cause, .. } => return cause.hint(),
            Self::Store(StoreError::Corrupt { path, .. }) => restore(path, "NAME"),
            Self::Store(StoreError::ThinIdsSpent) => {
                "close the pool and open it: ids that are free again are looked for then".to_owned()
            }
            Self::Store(StoreError::NoSpace { path }) => format!(
                "make room on the file system of {}; what was begun is settled by: pool-cli pool open",
                path.display()
            ),
            Self::DeviceShort { .. } => {
                "make the device larger first, as with lvextend, or ask for less".to_owned()
            }
            Self::ContainerHalfMade { pool, .. } | Self::VolumeHalfMade { pool, .. } => {
                format!("have it settled: pool-cli pool open {pool}")
            }
            Self::PoolOpen { name } => format!("close it first: pool-cli pool close {name}"),
            Self::PoolBusy { .. } => "unmount the containers and close their devices".to_owned(),
            Self::ContainerBusy { name, mounts, .. } if !mounts.is_empty() => {
                format!("unmount it: pool-cli container umount {name}")
            }
            Self::VolumeBusy { name, mounts, .. } if !mounts.is_empty() => {
                format!("unmount it: pool-cli volume umount {name}")
            }
            Self::ContainerBusy { .. } | Self::VolumeBusy { .. } => {
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
            Self::NoMetadataCopy { name } => format!(
                "without --from-copy it is made of what can be read: pool-cli pool repair {name}"
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
                "choose one without -ctr- or -vol- in it, or -ctr or -vol at its end".to_owned()
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
            | Self::BlockSizeMismatch { .. } => {
                "nothing was changed; put the pool's own files or devices back".to_owned()
            }
            Self::TransactionMismatch { name, .. } => format!(
                "nothing was changed; put the pool's own files or devices back, or its latest catalogue.db; or \
                 have that made again of what is in the pool: pool-cli pool recover {name} --rebuild"
            ),
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
            Self::Store(StoreError::HasSnapshots { of, .. }) => {
                format!("with it, for ever: pool-cli {} rm {of} --snapshots", of.noun())
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
