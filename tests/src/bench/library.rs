//! The library, with one pool kept open, as a daemon has it.

use std::path::PathBuf;

use anyhow::Result;
use dmthin::graph::{CreateContainer, Pool, Removing};
use dmthin::ids::ContainerName;

use crate::bench::plan::Way;
use crate::bench::samples::Phase;

#[derive(Debug)]
pub(super) struct Library<'a> {
    pool: &'a Pool,
    new: CreateContainer,
    name: ContainerName,
    dir: PathBuf,
}

impl<'a> Library<'a> {
    pub(super) fn new(pool: &'a Pool, image: String, dir: PathBuf) -> Result<Self> {
        let name = ContainerName::new("library")?;
        Ok(Self {
            pool,
            new: CreateContainer {
                image,
                name: Some(name.clone()),
                size: None,
            },
            name,
            dir,
        })
    }
}

impl Way for Library<'_> {
    fn name(&self) -> &'static str {
        "library"
    }

    fn up(&mut self, phase: &mut Phase) -> Result<()> {
        phase.step("create", || Ok(self.pool.create_container(&self.new)?))?;
        phase.step("mount", || {
            Ok(self.pool.mount_container(&self.name, &self.dir)?)
        })?;
        Ok(())
    }

    fn down(&mut self, phase: &mut Phase) -> Result<()> {
        phase.step("unmount", || Ok(self.pool.unmount_container(&self.name)?))?;
        phase.step("remove", || {
            Ok(self
                .pool
                .remove_container(&self.name, Removing::Now)
                .map(drop)?)
        })
    }
}
