//! How the one disk is cut: marks first, then what a pool lies on.

use anyhow::Result;
use clap::ValueEnum;

use crate::guest::harness::{run, witness};

/// Size of the whole disk.
pub const DISK_MIB: u64 = 2048;
/// Before this byte there are only marks.
pub(crate) const MARKS: u64 = 1 << 20;

/// What the pool lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// Two block devices, and a file system of its own for the catalogue.
    Devices,
    /// Sparse files on one file system, with the catalogue.
    Files,
}

/// The devices become larger in the course of time; a file system does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// As the pool is made.
    Made,
    /// As it has grown while it was recorded.
    Grown,
    /// With room to grow in yet, for the check.
    Checked,
}

/// Makes a device, and the nodes of all.
pub(crate) fn map(name: &str, table: &str) -> Result<()> {
    witness("dmsetup", &["create", name, "--table", table])?;
    nodes()
}

/// Removes those of these devices that are there.
pub(crate) fn unmap(names: &[&str]) -> Result<()> {
    run("dmsetup", &[&["remove", "--retry"], names].concat())?;
    nodes()
}

/// Makes the nodes of all devices, and takes those away that have none.
fn nodes() -> Result<()> {
    witness("dmsetup", &["mknodes"]).map(drop)
}

/// A linear device on the disk, of which the node is in `/dev/mapper`.
#[derive(Debug)]
struct Part {
    name: &'static str,
    start_mib: u64,
    mib: u64,
}

impl Layout {
    /// As options name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Devices => "devices",
            Self::Files => "files",
        }
    }

    fn parts(self, stage: Stage) -> Vec<Part> {
        let part = |name, start_mib, mib| Part {
            name,
            start_mib,
            mib,
        };
        let (metadata, data) = match stage {
            Stage::Made => (16, 640),
            Stage::Grown => (20, 768),
            Stage::Checked => (24, 832),
        };
        match self {
            Self::Devices => vec![
                part("pc-state", 1, 192),
                part("pc-meta", 200, metadata),
                part("pc-data", 300, data),
            ],
            Self::Files => vec![part("pc-state", 1, 2047)],
        }
    }

    /// Makes the parts of this disk.
    pub(crate) fn assemble(self, disk: &str, stage: Stage) -> Result<()> {
        let all: Vec<String> = self
            .parts(stage)
            .iter()
            .map(|part| format!("{},,,rw,{}", part.name, part.table(disk)))
            .collect();
        witness("dmsetup", &["create", "--concise", &all.join(";")])?;
        nodes()
    }

    /// Makes the parts as long as they are at this stage.
    pub(crate) fn enlarge(self, disk: &str, stage: Stage) -> Result<()> {
        for part in self.parts(stage) {
            witness(
                "dmsetup",
                &["reload", part.name, "--table", &part.table(disk)],
            )?;
            witness("dmsetup", &["resume", part.name])?;
        }
        Ok(())
    }

    /// The names of the parts.
    pub(crate) fn names(self) -> Vec<&'static str> {
        let parts = self.parts(Stage::Made);
        parts.iter().map(|part| part.name).collect()
    }

    /// The options that make the pool here.
    pub(crate) const fn create_options(self) -> &'static [&'static str] {
        match self {
            Self::Devices => &[
                "--data",
                "/dev/mapper/pc-data",
                "--metadata",
                "/dev/mapper/pc-meta",
            ],
            Self::Files => &["--size", "640M", "--metadata-size", "16M"],
        }
    }

    /// The options that make it as large as it is when it is grown.
    pub(crate) const fn grow_options(self) -> &'static [&'static str] {
        match self {
            Self::Devices => &[],
            Self::Files => &["--data", "768M", "--metadata", "20M"],
        }
    }

    /// The options that make it larger than it ever was.
    pub(crate) const fn grow_again_options(self) -> &'static [&'static str] {
        match self {
            Self::Devices => &[],
            Self::Files => &["--data", "832M", "--metadata", "24M"],
        }
    }

    /// Where the metadata are.
    pub(crate) const fn metadata(self) -> &'static str {
        match self {
            Self::Devices => "/dev/mapper/pc-meta",
            Self::Files => "/srv/root/tank/metadata.img",
        }
    }
}

impl Part {
    fn table(&self, disk: &str) -> String {
        let sectors = |mib: u64| mib.saturating_mul(2048);
        format!(
            "0 {} linear {disk} {}",
            sectors(self.mib),
            sectors(self.start_mib)
        )
    }
}
