//! `pool-cli pool`: make, open, close and look at pools.

mod create;
mod map;
mod storage_opt;

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use dmthin::graph::{
    Adopted, Change, GrowPool, Lvextend, PoolPlan, PoolReport, PoolSummary, SetPool,
};
use dmthin::ids::PoolName;
use dmthin::store::WhenFull;
use dmthin::units::{NewSize, Percent};
use serde::Serialize;

use self::create::CreateArgs;
use self::map::{MAP_HELP, MapArgs};
use crate::args::{Context, new_size};
use crate::columns::ListArgs;
use crate::commands::ballast::{self, BallastCommand};
use crate::commands::plan;
use crate::commands::recover::{self, RECOVER_HELP, RecoverArgs};
use crate::commands::repair::{self, BACKUP_HELP, BackupArgs, REPAIR_HELP, RepairArgs};
use crate::commands::trim;
use crate::output::{lines, record};
use show::{COLUMNS, adopted_text, opened, painted_fields, plan_fields};

/// What can be done with pools.
#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Make a pool and its base volume, and open it
    #[command(after_help = "\
Without --device, --data or --existing the pool lies on two sparse files in DIR/NAME, made with mode
0600; files that are there already are never truncated or formatted. They take room on the host only
as the pool is written. The defaults above are those that are built in; [create] in the settings
replaces them: see `pool-cli config show`.

--device takes a disk, partition or LVM volume whole: a label, by which other hosts find the pool,
metadata with room to grow, data. --data and --metadata take one for each. What holds anything is
refused with exit code 5; --force wipes it, but nothing that is in use.

--existing makes the pool inside a thin-pool of somebody else, as of lvm2, which stays theirs: only
volumes of our own are made and removed in it. Block size and zeroing are as they made it.

With --no-overcommit a container is refused with exit code 6 that could not be filled.

--storage-opt takes what Docker's devicemapper driver was started with: dm.basesize, dm.loopdatasize,
dm.loopmetadatasize, dm.datadev, dm.metadatadev, dm.blocksize, dm.fs, dm.mkfsarg, dm.min_free_space;
of its other options it says why they are refused and what to do instead (docs/storage-opt.md).

Prints: NAME, its state, and the number of its device (major:minor), with tabs between them.

Examples:
  pool-cli pool create tank
  pool-cli pool create tank --size 1T --dry-run
  pool-cli pool create ci --size 500G --block-size 128K --base-size 20G --fs xfs
  pool-cli pool create ci --mkfs-arg -O --mkfs-arg ^metadata_csum
  pool-cli pool create old --storage-opt dm.basesize=20G --storage-opt dm.fs=xfs
  pool-cli pool create fast --data /dev/vg/data --metadata /dev/vg/meta
  pool-cli pool create disk --device /dev/disk/by-id/nvme-X --no-overcommit
  pool-cli pool create shared --existing vg/thinpool")]
    Create(Box<CreateArgs>),
    /// List the pools
    #[command(after_help = "\
States: open, closed, creating, destroying, damaged. With -q only names are printed.

Examples:
  pool-cli pool list
  pool-cli pool list -q | xargs -n 1 pool-cli pool open")]
    List(ListArgs),
    /// Show how a pool is doing: space, mode, devices
    #[command(after_help = "\
On a terminal the bars are green, yellow from 80 % or near the guard, red where the guard refuses or
5 % are left. Sizes in --json are in bytes, the block size is in sectors of 512 bytes. With --watch it is shown again
and again until Ctrl-C (exit code 130 in a shell); in --json it is a line each time. When the pool is full is told from what the monitor saw.

Examples:
  pool-cli pool status
  pool-cli pool status --watch
  pool-cli pool status tank --json | jq .pool.live.data")]
    Status(WatchArgs),
    /// Open a pool, as after a reboot
    #[command(after_help = "\
Attaches the loop devices, makes the thin-pool device, settles what a crash left and brings back the
devices of the containers. A pool that is open already is settled again, unless a command works on
it.

With --device the pool is found by the label of its disk, which may come from another host: its
catalogue is taken from the disk then. NAME is what it is called here; its own name if left out.

Prints: NAME, its state, and the number of its device (major:minor), with tabs between them.

Examples:
  pool-cli pool open tank
  pool-cli pool open --device /dev/sdb")]
    Open(OpenArgs),
    /// Make a pool larger while it is in use
    #[command(after_help = "\
Sizes are new sizes, or with a + what is to be added. Sparse files are made longer; a block device must
have been made larger before, and is taken as large as it is if no size is given. LVM volumes are
extended by lvextend first, with --lvextend or where the settings allow it. Nothing shrinks. What was
cut in the middle, the next `pool open` ends.

Prints: NAME, the size of its data and of its metadata, with tabs between them.

Examples:
  pool-cli pool grow --data +50G
  pool-cli pool grow tank --data 200G --metadata +1G
  pool-cli pool grow fast --data +50G --lvextend
  lvextend -L +50G vg/data && pool-cli pool grow fast")]
    Grow(GrowArgs),
    /// Set how a pool deals with want of space
    #[command(after_help = "\
Below the free shares an import and the making of a container are refused with exit code 6 (data) or
7 (metadata); what exists goes on, and removing is never refused. 0 turns it off. In a full pool the
writes that need a new block wait for the kernel's no_space_timeout and fail then, or fail at once.

With --overcommit no a container is made or grown only if all containers could be filled to the last
byte, and a layer is imported only if one of the base's size fits beside them; else it is refused
with exit code 6. Refused itself while more is promised than there is.

Prints: NAME, the two percentages, what a full pool does, and `yes` or `no` for overcommitment, with
tabs between them.

Examples:
  pool-cli pool set tank --min-free-data 5%
  pool-cli pool set --on-full error
  pool-cli pool set tank --overcommit no")]
    Set(SetArgs),
    /// Close a pool: take its devices away, keep its data
    #[command(after_help = "\
Refused with exit code 5 while a container of the pool is mounted or in use. A pool that is closed
already is left as it is.

Prints: NAME and its state, with a tab between them.

Example:
  pool-cli pool close tank")]
    Close(NameArgs),
    /// Keep room for the day when the pool is full, or let it go
    #[command(subcommand)]
    Ballast(BallastCommand),
    /// Give back what the file systems of all containers do not use
    #[command(after_help = "\
As `container trim --all`. What is mounted with `discard`, as `container mount` does, gives its room
back by itself; this is for all else, from a timer once a week.

Prints: each container's name and how much was trimmed, with a tab between them, one a line. One
that fails does not stop the others; the command ends with its exit code. One whose device a
virtual machine has open is left to that, with a dash.

Example:
  pool-cli pool trim tank")]
    Trim(StatusArgs),
    /// Draw where in a pool's data the blocks of images and containers lie
    #[command(after_help = MAP_HELP)]
    Map(MapArgs),
    /// Make a pool work again whose metadata are damaged, and check what is in it
    #[command(after_help = REPAIR_HELP)]
    Repair(RepairArgs),
    /// Make the catalogue of a pool again that is lost, out of the pool
    #[command(after_help = RECOVER_HELP)]
    Recover(RecoverArgs),
    /// Copy a pool's metadata, for the day when they cannot be repaired
    #[command(after_help = BACKUP_HELP)]
    BackupMetadata(BackupArgs),
    /// Destroy a pool with all images and containers in it
    #[command(after_help = "\
Refused with exit code 5 while a container of the pool is mounted or in use. There is no way back.

Prints: NAME and `destroyed`, with a tab between them. With --dry-run it prints what would go, `name`,
`volume`, `device`, `file` or `wiped` and which, and `host-bytes` that come back with the files; with
tabs between them. Nothing is changed then.

Examples:
  pool-cli pool destroy tank
  pool-cli pool destroy tank --dry-run")]
    Destroy(DestroyArgs),
}

/// Reads what a full pool does.
fn when_full() -> impl TypedValueParser<Value = WhenFull> {
    PossibleValuesParser::new([WhenFull::Queue, WhenFull::Error].map(WhenFull::as_str))
        .try_map(|word| word.parse::<WhenFull>())
}

/// Options of `pool status`.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Name of the pool [default: the one of --pool, else the only one]
    name: Option<PoolName>,
    /// Show it again and again, every so many seconds [default of SECONDS: 2]
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    watch: Option<u64>,
}

/// Options of `pool trim`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Name of the pool [default: the one of --pool, else the only one]
    name: Option<PoolName>,
}

/// Options of `pool grow`.
#[derive(Debug, Args)]
pub(crate) struct GrowArgs {
    /// Name of the pool [default: the one of --pool, else the only one]
    name: Option<PoolName>,
    /// Size of its data, or + and how much is to be added
    #[arg(long, value_name = "SIZE", value_parser = new_size)]
    data: Option<NewSize>,
    /// Size of its metadata, or + and how much is to be added
    #[arg(long, value_name = "SIZE", value_parser = new_size)]
    metadata: Option<NewSize>,
    /// Extend LVM volumes that are too short for that, by lvextend [default: as the settings say]
    #[arg(long)]
    lvextend: bool,
}

/// Options of `pool set`.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Name of the pool [default: the one of --pool, else the only one]
    name: Option<PoolName>,
    /// Share of the data that must stay free for an import or a new container
    #[arg(
        long,
        value_name = "PERCENT",
        required_unless_present_any = ["min_free_metadata", "on_full", "overcommit"]
    )]
    min_free_data: Option<Percent>,
    /// Share of the metadata that must stay free for an import or a new container
    #[arg(long, value_name = "PERCENT")]
    min_free_metadata: Option<Percent>,
    /// What becomes of writes in a full pool: they wait for space (60 s), or fail at once
    #[arg(long, value_name = "WHAT", value_parser = when_full())]
    on_full: Option<WhenFull>,
    /// Whether containers may be promised more than there is
    #[arg(long, value_name = "yes|no")]
    overcommit: Option<YesNo>,
}

/// A word for a switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum YesNo {
    /// On.
    Yes,
    /// Off.
    No,
}

/// Options of `pool open`.
#[derive(Debug, Args)]
pub(crate) struct OpenArgs {
    /// Name of the pool
    #[arg(required_unless_present = "device")]
    name: Option<PoolName>,
    /// The disk that the pool lies on
    #[arg(long, value_name = "DEV")]
    device: Option<PathBuf>,
}

/// The pool of a command that wants its name told.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// Name of the pool
    name: PoolName,
}

/// Options of `pool destroy`.
#[derive(Debug, Args)]
pub(crate) struct DestroyArgs {
    /// Name of the pool
    name: PoolName,
    /// Show what would go and what would come back, but change nothing
    #[arg(long)]
    dry_run: bool,
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
struct Planned<'a> {
    plan: &'a PoolPlan,
}

#[derive(Debug, Serialize)]
struct Opened<'a> {
    change: Change,
    pool: &'a PoolReport,
}

#[derive(Debug, Serialize)]
struct OpenedDisk<'a> {
    change: Change,
    pool: &'a PoolReport,
    adopted: Option<Adopted>,
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
            let dry_run = args.dry_run;
            let new = args.options(context.settings.create())?;
            if dry_run {
                let plan = context.host.plan_pool(&new)?;
                return out.show(&Planned { plan: &plan }, || plan_fields(&plan));
            }
            let pool = context.host.create_pool(&new)?;
            out.done(&OnePool { pool: &pool }, || opened(&pool))
        }
        PoolCommand::List(list) => {
            let pools = context.host.pools()?;
            let text = list.table(COLUMNS, &pools)?;
            out.show(&Pools { pools: &pools }, || {
                if out.quiet() {
                    lines(pools.iter().map(|pool| pool.name.to_string()))
                } else {
                    text
                }
            })
        }
        PoolCommand::Status(WatchArgs { name, watch }) => {
            let pool = context.pool(name.as_ref())?;
            loop {
                let pool = pool.status()?;
                if watch.is_some() {
                    out.clear()?;
                }
                out.show(&OnePool { pool: &pool }, || painted_fields(out, &pool))?;
                match watch {
                    Some(seconds) => thread::sleep(Duration::from_secs(seconds)),
                    None => return Ok(()),
                }
            }
        }
        PoolCommand::Trim(StatusArgs { name }) => {
            trim::trim(context, &context.pool(name.as_ref())?, None)
        }
        PoolCommand::Open(OpenArgs { name, device }) => {
            let (change, pool, adopted) = match (device, name) {
                (Some(device), name) => context.host.open_disk(&device, name.as_ref())?,
                (None, name) => {
                    let name = context.host.pick_pool(name.as_ref())?;
                    let (change, pool) = context.host.open_pool(&name)?;
                    (change, pool, None)
                }
            };
            if change == Change::Unchanged {
                out.note(&format!("pool {} was open already", pool.name));
            }
            if let Some(adopted) = adopted {
                out.note(&adopted_text(&pool, adopted));
            }
            let body = OpenedDisk {
                change,
                pool: &pool,
                adopted,
            };
            out.done(&body, || opened(&pool))
        }
        PoolCommand::Grow(GrowArgs {
            name,
            data,
            metadata,
            lvextend,
        }) => {
            let pool = context.pool(name.as_ref())?;
            let may = lvextend || context.settings.monitor(pool.name()).lvextend;
            let (change, pool) = pool.grow(&GrowPool {
                data,
                metadata,
                lvextend: if may {
                    Lvextend::Exactly
                } else {
                    Lvextend::Never
                },
            })?;
            if change == Change::Unchanged {
                out.note(&format!("pool {} was that large already", pool.name));
            }
            let body = Opened {
                change,
                pool: &pool,
            };
            out.done(&body, || {
                record([
                    pool.name.to_string(),
                    pool.data.size.to_string(),
                    pool.metadata.size.to_string(),
                ])
            })
        }
        PoolCommand::Set(args) => {
            let pool = context.pool(args.name.as_ref())?;
            if let Some(word) = args.overcommit {
                pool.set_overcommit(word == YesNo::Yes)?;
            }
            let pool = pool.set(SetPool {
                min_free_data: args.min_free_data,
                min_free_metadata: args.min_free_metadata,
                when_full: args.on_full,
            })?;
            out.done(&OnePool { pool: &pool }, || {
                record([
                    pool.name.to_string(),
                    pool.guard.min_free_data.to_string(),
                    pool.guard.min_free_metadata.to_string(),
                    pool.when_full.to_string(),
                    if pool.overcommit { "yes" } else { "no" }.to_owned(),
                ])
            })
        }
        PoolCommand::Map(args) => map::run(context, &args),
        PoolCommand::Repair(args) => repair::run(context, &args),
        PoolCommand::Recover(args) => recover::run(context, args),
        PoolCommand::BackupMetadata(args) => repair::backup(context, &args),
        PoolCommand::Ballast(command) => ballast::run(context, command),
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
        PoolCommand::Destroy(DestroyArgs {
            name,
            dry_run: true,
        }) => plan::show(context, &context.host.plan_destroy(&name)?),
        PoolCommand::Destroy(DestroyArgs { name, .. }) => {
            context.host.destroy_pool(&name)?;
            let body = Changed {
                change: Change::Changed,
                name: &name,
            };
            out.done(&body, || record([name.to_string(), "destroyed".to_owned()]))
        }
    }
}

mod show;

#[cfg(test)]
pub(crate) mod tests;
