//! Options of `pool-cli pool create`.

use std::path::PathBuf;

use clap::Args;
use dmthin::graph::{CreatePool, DevicePair};
use dmthin::ids::{FsType, PoolName};
use dmthin::store::Guard;
use dmthin::units::{BlockSize, Bytes, Percent};

use crate::args::{block_size, size};
use crate::config::CreateSettings;

/// Options of `pool create`; what is not given is taken from the settings.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Name of the new pool: letters, digits and _ . -, at most 32
    name: PoolName,
    /// Size of the data file, in bytes or with K, M, G, T [default: 100G]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    size: Option<Bytes>,
    /// Size of the metadata file [default: what the data size needs]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    metadata_size: Option<Bytes>,
    /// The pool's unit of allocation: a multiple of 64K, at most 1G [default: 64K]
    #[arg(long, value_name = "SIZE", value_parser = block_size)]
    block_size: Option<BlockSize>,
    /// Size of the base volume, and of a container that asks for no other [default: 10G]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    base_size: Option<Bytes>,
    /// File system of all volumes: ext4 or xfs [default: ext4]
    #[arg(long, value_name = "TYPE")]
    fs: Option<FsType>,
    /// One more argument for mkfs; give it again for each
    #[arg(long = "mkfs-arg", value_name = "ARG", allow_hyphen_values = true)]
    mkfs_args: Vec<String>,
    /// Do not zero new blocks: faster, but a container can read what another one wrote before
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    single_tenant: Option<bool>,
    /// Share of the data that must stay free for an import or a new container [default: 10%]
    #[arg(long, value_name = "PERCENT")]
    min_free_data: Option<Percent>,
    /// Share of the metadata that must stay free for an import or a new container [default: 10%]
    #[arg(long, value_name = "PERCENT")]
    min_free_metadata: Option<Percent>,
    /// Block device or LVM volume for the data, instead of a sparse file
    #[arg(
        long,
        value_name = "DEV",
        requires = "metadata",
        conflicts_with_all = ["size", "metadata_size"]
    )]
    data: Option<PathBuf>,
    /// Check everything and show the plan, but make nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Block device or LVM volume for the metadata
    #[arg(long, value_name = "DEV", requires = "data")]
    metadata: Option<PathBuf>,
}

impl CreateArgs {
    /// The pool that is wanted.
    pub(crate) fn options(self, defaults: CreateSettings) -> CreatePool {
        CreatePool {
            name: self.name,
            size: self.size.unwrap_or(defaults.size),
            metadata_size: self.metadata_size.or(defaults.metadata_size),
            block_size: self.block_size.unwrap_or(defaults.block_size),
            base_size: self.base_size.unwrap_or(defaults.base_size),
            fs: self.fs.unwrap_or(defaults.fs),
            mkfs_args: if self.mkfs_args.is_empty() {
                defaults.mkfs_args
            } else {
                self.mkfs_args
            },
            single_tenant: self.single_tenant.unwrap_or(defaults.single_tenant),
            guard: Guard {
                min_free_data: self.min_free_data.unwrap_or(defaults.min_free_data),
                min_free_metadata: self.min_free_metadata.unwrap_or(defaults.min_free_metadata),
            },
            devices: self
                .data
                .zip(self.metadata)
                .map(|(data, metadata)| DevicePair { data, metadata }),
        }
    }
}
