//! `pool-cli pool`: make, open, close and look at pools.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use dmthin::graph::{
    BackingReport, Change, CreatePool, DevicePair, PoolReport, PoolSummary, PoolWord,
};
use dmthin::ids::{FsType, PoolName};
use dmthin::units::{BlockSize, Bytes};
use serde::Serialize;

use crate::args::{Context, block_size, size};
use crate::commands::trim;
use crate::output::{fields, lines, or_dash, record, table, usage};

/// What can be done with pools.
#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Make a pool and its base volume, and open it
    #[command(after_help = "\
Without --data and --metadata the pool lies on two sparse files in DIR/NAME, made with mode 0600;
files that are there already are never truncated or formatted. They take room on the host only as
the pool is written.

Prints: NAME, its state, and the number of its device (major:minor), with tabs between them.

Examples:
  pool-cli pool create tank
  pool-cli pool create ci --size 500G --block-size 128K --base-size 20G --fs xfs
  pool-cli pool create ci --mkfs-arg -O --mkfs-arg ^metadata_csum
  pool-cli pool create fast --data /dev/vg/data --metadata /dev/vg/meta")]
    Create(CreateArgs),
    /// List the pools
    #[command(after_help = "\
States: open, closed, creating, destroying, damaged. With -q only names are printed.

Examples:
  pool-cli pool list
  pool-cli pool list -q | xargs -n 1 pool-cli pool open")]
    List,
    /// Show how a pool is doing: space, mode, devices
    #[command(after_help = "\
Sizes in --json are in bytes, the block size is in sectors of 512 bytes.

Examples:
  pool-cli pool status
  pool-cli pool status tank --json | jq .pool.live.data")]
    Status(StatusArgs),
    /// Open a pool, as after a reboot
    #[command(after_help = "\
Attaches the loop devices, makes the thin-pool device, settles what a crash left and brings back the
devices of the containers. A pool that is open already is settled again, unless a command works on
it.

Prints: NAME, its state, and the number of its device (major:minor), with tabs between them.

Example:
  pool-cli pool open tank")]
    Open(NameArgs),
    /// Close a pool: take its devices away, keep its data
    #[command(after_help = "\
Refused with exit code 5 while a container of the pool is mounted or in use. A pool that is closed
already is left as it is.

Prints: NAME and its state, with a tab between them.

Example:
  pool-cli pool close tank")]
    Close(NameArgs),
    /// Give back what the file systems of all containers do not use
    #[command(after_help = "\
As `container trim --all`. What is mounted with `discard`, as `container mount` does, gives its room
back by itself; this is for all else, from a timer once a week.

Prints: each container's name and how much was trimmed, with a tab between them, one a line. One
that fails does not stop the others; the command ends with its exit code.

Example:
  pool-cli pool trim tank")]
    Trim(StatusArgs),
    /// Destroy a pool with all images and containers in it
    #[command(after_help = "\
Refused with exit code 5 while a container of the pool is mounted or in use. There is no way back.

Prints: NAME and `destroyed`, with a tab between them.

Example:
  pool-cli pool destroy tank")]
    Destroy(NameArgs),
}

/// Options of `pool create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Name of the new pool: letters, digits and _ . -, at most 32
    name: PoolName,
    /// Size of the data file, in bytes or with K, M, G, T
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "100G")]
    size: Bytes,
    /// Size of the metadata file [default: what the data size needs]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    metadata_size: Option<Bytes>,
    /// The pool's unit of allocation: a multiple of 64K, at most 1G
    #[arg(long, value_name = "SIZE", value_parser = block_size, default_value = "64K")]
    block_size: BlockSize,
    /// Size of the base volume, and of a container that asks for no other
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "10G")]
    base_size: Bytes,
    /// File system of all volumes: ext4 or xfs
    #[arg(long, value_name = "TYPE", default_value = "ext4")]
    fs: FsType,
    /// One more argument for mkfs; give it again for each
    #[arg(long = "mkfs-arg", value_name = "ARG", allow_hyphen_values = true)]
    mkfs_args: Vec<String>,
    /// Do not zero new blocks: faster, but a container can read what another one wrote before
    #[arg(long)]
    single_tenant: bool,
    /// Block device or LVM volume for the data, instead of a sparse file
    #[arg(
        long,
        value_name = "DEV",
        requires = "metadata",
        conflicts_with_all = ["size", "metadata_size"]
    )]
    data: Option<PathBuf>,
    /// Block device or LVM volume for the metadata
    #[arg(long, value_name = "DEV", requires = "data")]
    metadata: Option<PathBuf>,
}

impl From<CreateArgs> for CreatePool {
    fn from(args: CreateArgs) -> Self {
        Self {
            name: args.name,
            size: args.size,
            metadata_size: args.metadata_size,
            block_size: args.block_size,
            base_size: args.base_size,
            fs: args.fs,
            mkfs_args: args.mkfs_args,
            single_tenant: args.single_tenant,
            devices: args
                .data
                .zip(args.metadata)
                .map(|(data, metadata)| DevicePair { data, metadata }),
        }
    }
}

/// Options of `pool status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Name of the pool [default: the one of --pool, else the only one]
    name: Option<PoolName>,
}

/// The pool of a command that wants its name told.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// Name of the pool
    name: PoolName,
}

#[derive(Debug, Serialize)]
struct Pools<'a> {
    pools: &'a [PoolSummary],
}

#[derive(Debug, Serialize)]
struct OnePool<'a> {
    pool: &'a PoolReport,
}

#[derive(Debug, Serialize)]
struct Opened<'a> {
    change: Change,
    pool: &'a PoolReport,
}

#[derive(Debug, Serialize)]
struct Changed<'a> {
    change: Change,
    name: &'a PoolName,
}

/// Runs one of them.
pub(crate) fn run(context: &Context, command: PoolCommand) -> anyhow::Result<()> {
    let out = &context.out;
    match command {
        PoolCommand::Create(args) => {
            let pool = context.host.create_pool(&args.into())?;
            out.done(&OnePool { pool: &pool }, || opened(&pool))
        }
        PoolCommand::List => {
            let pools = context.host.pools()?;
            out.show(&Pools { pools: &pools }, || {
                if out.quiet() {
                    lines(pools.iter().map(|pool| pool.name.to_string()))
                } else {
                    pool_table(&pools)
                }
            })
        }
        PoolCommand::Status(StatusArgs { name }) => {
            let pool = context.pool(name.as_ref())?.status()?;
            out.show(&OnePool { pool: &pool }, || pool_fields(&pool))
        }
        PoolCommand::Trim(StatusArgs { name }) => {
            trim::run(context, &context.pool(name.as_ref())?, None)
        }
        PoolCommand::Open(NameArgs { name }) => {
            let (change, pool) = context.host.open_pool(&name)?;
            if change == Change::Unchanged {
                out.note(&format!("pool {name} was open already"));
            }
            let body = Opened {
                change,
                pool: &pool,
            };
            out.done(&body, || opened(&pool))
        }
        PoolCommand::Close(NameArgs { name }) => {
            let change = context.host.close_pool(&name)?;
            if change == Change::Unchanged {
                out.note(&format!("pool {name} was closed already"));
            }
            let body = Changed {
                change,
                name: &name,
            };
            out.done(&body, || record([name.to_string(), "closed".to_owned()]))
        }
        PoolCommand::Destroy(NameArgs { name }) => {
            context.host.destroy_pool(&name)?;
            let body = Changed {
                change: Change::Changed,
                name: &name,
            };
            out.done(&body, || record([name.to_string(), "destroyed".to_owned()]))
        }
    }
}

const fn word(state: PoolWord) -> &'static str {
    match state {
        PoolWord::Open => "open",
        PoolWord::Closed => "closed",
        PoolWord::Creating => "creating",
        PoolWord::Destroying => "destroying",
        PoolWord::Damaged => "damaged",
    }
}

fn opened(pool: &PoolReport) -> String {
    record([
        pool.name.to_string(),
        word(pool.state).to_owned(),
        or_dash(pool.live.as_ref().map(|live| live.device)),
    ])
}

fn pool_table(pools: &[PoolSummary]) -> String {
    table(
        ["NAME", "STATE", "SIZE", "IMAGES", "CONTAINERS", "PROBLEM"],
        pools.iter().map(|pool| {
            [
                pool.name.to_string(),
                word(pool.state).to_owned(),
                or_dash(pool.data_size),
                pool.images.to_string(),
                pool.containers.to_string(),
                or_dash(pool.problem.as_ref()),
            ]
        }),
    )
}

fn pool_fields(pool: &PoolReport) -> String {
    let mut rows = vec![
        ("Pool", pool.name.to_string()),
        ("UUID", pool.uuid.to_string()),
        ("State", word(pool.state).to_owned()),
    ];
    if let Some(live) = &pool.live {
        let mut mode = live.mode.clone();
        if live.needs_check {
            mode.push_str(", the metadata needs a check");
        }
        let discards = if live.discard_passdown {
            "passed down to the data device"
        } else {
            "kept in the pool: the data device does not get them"
        };
        rows.extend([
            ("Device", live.device.to_string()),
            ("Mode", mode),
            ("Data", live.data.map_or_else(|| "-".to_owned(), usage)),
            (
                "Metadata",
                live.metadata.map_or_else(|| "-".to_owned(), usage),
            ),
            ("When full", or_dash(live.on_full.as_ref())),
            ("Discards", discards.to_owned()),
            ("Active volumes", live.active_volumes.to_string()),
            ("Transaction", or_dash(live.transaction_id)),
        ]);
    }
    rows.push(("Generation", pool.generation.to_string()));
    rows.extend(backing_rows(["Data on", "Metadata on"], pool));
    let zeroing = if pool.zeroing {
        "new blocks are zeroed"
    } else {
        "off (single tenant): containers can read what others wrote before"
    };
    rows.extend([
        ("Block size", pool.block_size.to_bytes().to_string()),
        ("Zeroing", zeroing.to_owned()),
        ("Base", format!("{}, {}", pool.fs, pool.base_size)),
        ("Images", format!("{}, {} layers", pool.images, pool.layers)),
        (
            "Containers",
            format!(
                "{}, {} if all were full",
                pool.containers, pool.virtual_size
            ),
        ),
    ]);
    fields(rows)
}

fn backing_rows(names: [&'static str; 2], pool: &PoolReport) -> Vec<(&'static str, String)> {
    let [data, metadata] = names;
    let mut rows = Vec::new();
    for (name, backing) in [(data, &pool.data), (metadata, &pool.metadata)] {
        rows.push((name, backing.path.display().to_string()));
        rows.push(("", backing_line(backing)));
    }
    rows
}

fn backing_line(backing: &BackingReport) -> String {
    let mut parts = Vec::new();
    if backing.file {
        parts.push(format!(
            "{} of {} allocated",
            backing.allocated, backing.size
        ));
    } else {
        parts.push(backing.size.to_string());
    }
    if let Some(free) = backing.host_free {
        parts.push(format!("{free} free on the host"));
    }
    if let Some(device) = backing.device {
        let node = backing.node.as_ref();
        parts.push(node.map_or_else(
            || format!("device {device}"),
            |node| format!("{} ({device})", node.display()),
        ));
    }
    if let Some(size) = backing.block_size {
        parts.push(format!("{} byte blocks", size.get()));
    }
    if let Some(direct) = backing.direct_io {
        parts.push(if direct { "direct I/O" } else { "buffered I/O" }.to_owned());
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests;
