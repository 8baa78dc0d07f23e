//! Options of `pool-cli pool create`.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory};
use dmthin::graph::{CreatePool, DevicePair, PoolOn};
use dmthin::ids::{FsType, PoolName};
use dmthin::store::{Guard, WhenFull};
use dmthin::units::{BlockSize, Bytes, Percent};

use crate::args::{Cli, block_size, size};
use crate::commands::pool::storage_opt::StorageOpt;
use crate::commands::pool::when_full;
use crate::config::CreateSettings;

/// Options of `pool create`; what is not given is taken from the settings.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Name of the new pool: letters, digits and _ . -, at most 32
    name: PoolName,
    /// Size of the data file, in bytes or with K, M, G, T [default: 100G]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(super) size: Option<Bytes>,
    /// Size of the metadata file [default: what the data size needs]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(super) metadata_size: Option<Bytes>,
    /// The pool's unit of allocation: a multiple of 64K, at most 1G [default: 64K]
    #[arg(long, value_name = "SIZE", value_parser = block_size)]
    pub(super) block_size: Option<BlockSize>,
    /// Size of the base volume, and of a container that asks for no other [default: 10G]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(super) base_size: Option<Bytes>,
    /// File system of all volumes: ext4 or xfs [default: ext4]
    #[arg(long, value_name = "TYPE")]
    pub(super) fs: Option<FsType>,
    /// One more argument for mkfs; give it again for each
    #[arg(long = "mkfs-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub(super) mkfs_args: Vec<String>,
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
    pub(super) min_free_data: Option<Percent>,
    /// Share of the metadata that must stay free for an import or a new container [default: 10%]
    #[arg(long, value_name = "PERCENT")]
    pub(super) min_free_metadata: Option<Percent>,
    /// What becomes of writes in a full pool: they wait for space (60 s), or fail at once [default:
    /// queue]
    #[arg(long, value_name = "WHAT", value_parser = when_full())]
    on_full: Option<WhenFull>,
    /// Block device or LVM volume for the data, instead of a sparse file
    #[arg(
        long,
        value_name = "DEV",
        requires = "metadata",
        conflicts_with_all = ["size", "metadata_size"]
    )]
    pub(super) data: Option<PathBuf>,
    /// Check everything and show the plan, but make nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Block device or LVM volume for the metadata
    #[arg(long, value_name = "DEV", requires = "data")]
    pub(super) metadata: Option<PathBuf>,
    /// One disk, partition or LVM volume for all of it
    #[arg(long, value_name = "DEV", conflicts_with_all = ["size", "data", "metadata"])]
    device: Option<PathBuf>,
    /// Another's thin-pool to make the pool in: dm name, VG/LV or path
    #[arg(
        long,
        value_name = "THINPOOL",
        conflicts_with_all = [
            "size", "metadata_size", "block_size", "single_tenant", "data", "metadata", "device",
            "no_overcommit", "force"
        ]
    )]
    existing: Option<PathBuf>,
    /// Wipe what the devices hold; one that is in use is refused all the same
    #[arg(long)]
    force: bool,
    /// Promise containers no more than there is
    #[arg(long)]
    no_overcommit: bool,
    /// Option of Docker's devicemapper driver; give it again for each
    #[arg(long = "storage-opt", value_name = "dm.NAME=VALUE")]
    storage_opts: Vec<StorageOpt>,
}

/// A usage error that clap cannot see by itself.
fn refused(kind: ErrorKind, text: &str) -> clap::Error {
    Cli::command().error(kind, text)
}

impl CreateArgs {
    /// Takes Docker's options for the plain ones that mean the same.
    fn with_storage_opts(mut self) -> Result<Self, clap::Error> {
        let plain_mkfs_args = !self.mkfs_args.is_empty();
        for option in std::mem::take(&mut self.storage_opts) {
            option
                .apply(&mut self, plain_mkfs_args)
                .map_err(|(kind, text)| refused(kind, &text))?;
        }
        if self.data.is_some() != self.metadata.is_some() {
            return Err(refused(
                ErrorKind::MissingRequiredArgument,
                "dm.datadev and dm.metadatadev are given together or not at all",
            ));
        }
        if self.data.is_some() && (self.size.is_some() || self.metadata_size.is_some()) {
            return Err(refused(
                ErrorKind::ArgumentConflict,
                "block devices have their own size: leave out dm.loopdatasize and \
                 dm.loopmetadatasize",
            ));
        }
        Ok(self)
    }

    /// The pool that is wanted.
    pub(crate) fn options(self, defaults: CreateSettings) -> Result<CreatePool, clap::Error> {
        let args = self.with_storage_opts()?;
        Ok(CreatePool {
            name: args.name,
            size: args.size.unwrap_or(defaults.size),
            metadata_size: args.metadata_size.or(defaults.metadata_size),
            block_size: args.block_size.unwrap_or(defaults.block_size),
            base_size: args.base_size.unwrap_or(defaults.base_size),
            fs: args.fs.unwrap_or(defaults.fs),
            mkfs_args: if args.mkfs_args.is_empty() {
                defaults.mkfs_args
            } else {
                args.mkfs_args
            },
            single_tenant: args.single_tenant.unwrap_or(defaults.single_tenant),
            guard: Guard {
                min_free_data: args.min_free_data.unwrap_or(defaults.min_free_data),
                min_free_metadata: args.min_free_metadata.unwrap_or(defaults.min_free_metadata),
            },
            when_full: args.on_full.unwrap_or(defaults.on_full),
            on: match (args.device, args.existing, args.data.zip(args.metadata)) {
                (Some(disk), ..) => PoolOn::Disk(disk),
                (None, Some(thin_pool), _) => PoolOn::ThinPool(thin_pool),
                (None, None, Some((data, metadata))) => {
                    PoolOn::Devices(DevicePair { data, metadata })
                }
                (None, None, None) => PoolOn::Files,
            },
            force: args.force,
            overcommit: !args.no_overcommit,
        })
    }
}
