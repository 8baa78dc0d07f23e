//! What somebody else does beside the verbs.

use std::path::{Path, PathBuf};

use dmthin::fs::{DetachedMount, FsError, MountOptions};
use dmthin::ids::FsType;
use dmthin::ioctl::{Access, open_exclusive};
use rustix::fs::{Mode, OFlags};

use super::{Checked, World, container_name, pick, told};
use crate::plan::Guest;

/// Mounts what is on a device and makes a file there, on the disk when this returns.
fn save(node: &Path, file: &str) -> Result<(), FsError> {
    let mount = DetachedMount::new(FsType::Ext4, node, &MountOptions::default())?;
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    let made = rustix::fs::openat(mount.root(), file, flags, Mode::from_raw_mode(0o644)).unwrap();
    rustix::io::write(&made, file.as_bytes()).unwrap();
    mount.sync()?;
    mount.close()
}

impl World {
    /// The node of a container that nobody has, by its number among these.
    fn free_node(&self, nr: u64) -> Option<(String, PathBuf)> {
        let names = self.seen.named('c').filter(|name| !self.is_held(name));
        let name = pick(names.collect(), nr)?.clone();
        let node = self
            .pool()
            .ok()?
            .container(&container_name(&name))
            .ok()?
            .on
            .device?;
        Some((name, node))
    }

    pub(crate) fn visit(&mut self, guest: Guest) -> Checked<()> {
        let device = |world: &Self, nr| {
            let (name, node) = world.free_node(nr)?;
            let file = open_exclusive(&node, Access::ReadWrite).ok()?;
            Some((name, file))
        };
        match guest {
            Guest::Writes(nr) => {
                if let Some((_, file)) = device(self, nr) {
                    let at = (20 + nr % 8) << 16;
                    rustix::io::pwrite(&file, &[1; 4096], at).map_err(told)?;
                }
            }
            Guest::Saves(nr) => {
                if let Some((name, node)) = self.free_node(nr) {
                    let file = self.made_up("f");
                    save(&node, &file).map_err(told)?;
                    self.thing(&name).files.insert(file);
                }
            }
            Guest::Holds(nr) if self.held.is_none() => self.held = device(self, nr),
            Guest::Holds(_) => {}
            Guest::LetsGo => self.held = None,
        }
        Ok(())
    }
}
