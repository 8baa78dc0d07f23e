//! The base volume: an empty file system, made once, that every first layer is a snapshot of.

use rustix::fs::{AtFlags, Mode};

use crate::dm::Device;
use crate::fs::{self, DetachedMount, MkfsOptions, MountOptions};
use crate::graph::error::PoolError;
use crate::graph::live::Live;
use crate::graph::step::Step;
use crate::ids::FsType;
use crate::store::{NewVolume, VolumeRecord};
use crate::units::Bytes;

impl Live<'_> {
    /// The base volume of this file system and size, made if there is none yet.
    ///
    /// Steps: intent in the catalogue; `create_thin`; mkfs; `lost+found` gone and the root 0755, so
    /// that a layer starts from nothing; sealed with its file system's uuid.
    pub(crate) fn ensure_base(
        &self,
        fs: FsType,
        size: Bytes,
        mkfs_args: &[String],
    ) -> Result<VolumeRecord, PoolError> {
        let catalogue = self.pool().catalogue();
        if let Some(base) = catalogue.base(fs, size)? {
            return Ok(base);
        }
        let volume = catalogue.begin_volume(NewVolume::Base { fs, size })?;
        Step::B1.passed_for(self.pool().name(), volume.id);
        match self.make_base(&volume, mkfs_args) {
            Ok(()) => Ok(catalogue.volume(volume.id)?),
            Err(error) => Err(error.with_undo(self.discard_volume(&volume))),
        }
    }

    fn make_base(&self, volume: &VolumeRecord, mkfs_args: &[String]) -> Result<(), PoolError> {
        self.require_kept(Bytes::ZERO)?;
        let volume = &self.create_empty(volume)?;
        let passed = |step: Step| step.passed_for(self.pool().name(), volume.id);
        passed(Step::B2);
        let device = self.activate_internal(volume)?;
        self.make_fs(volume, &device, mkfs_args)?;
        let catalogue = self.pool().catalogue();
        passed(Step::B3);
        self.measure(volume)?;
        self.deactivate(volume)?;
        passed(Step::B4);
        catalogue.set_ready(volume.id)?;
        passed(Step::B5);
        Ok(())
    }

    /// Makes an empty file system, its root 0755 and without `lost+found`, on the disk when this
    /// returns; and records its uuid.
    pub(crate) fn make_fs(
        &self,
        volume: &VolumeRecord,
        device: &Device,
        mkfs_args: &[String],
    ) -> Result<(), PoolError> {
        let options = MkfsOptions {
            uuid: None,
            zeroed: self.record().zeroing,
            extra: mkfs_args.to_vec(),
        };
        fs::mkfs(volume.fs, device.node(), &options)?;
        let mount = DetachedMount::new(volume.fs, device.node(), &MountOptions::default())?;
        let root = mount.root();
        let at =
            |action, errno: rustix::io::Errno| PoolError::io(action, device.node(), errno.into());
        match rustix::fs::unlinkat(root, "lost+found", AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(at("remove lost+found of", errno)),
        }
        rustix::fs::chmodat(root, ".", Mode::from_raw_mode(0o755), AtFlags::empty())
            .map_err(|errno| at("set the mode of the root of", errno))?;
        mount.sync()?;
        mount.close()?;
        let uuid = uuid_of(device)?;
        Ok(self.pool().catalogue().set_fs_uuid(volume.id, &uuid)?)
    }
}

/// The uuid in the superblock that mkfs wrote.
fn uuid_of(device: &Device) -> Result<String, PoolError> {
    let node = device.node();
    let file = std::fs::File::open(node).map_err(|source| PoolError::io("read", node, source))?;
    match fs::probe(&file)? {
        Some(superblock) => Ok(superblock.uuid.to_string()),
        None => Err(PoolError::NoFileSystem {
            path: node.to_owned(),
        }),
    }
}
