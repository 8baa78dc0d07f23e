//! `pool-cli pool`: make, open, close and look at pools.

mod create;
mod storage_opt;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use dmthin::graph::{
    BackingReport, Change, GrowPool, PoolPlan, PoolReport, PoolSummary, PoolWord, SetPool,
    TimeToFull, UntilGuard,
};
use dmthin::ids::PoolName;
use dmthin::store::{Guard, WhenFull};
use dmthin::units::{Bytes, NewSize, Percent};
use serde::Serialize;

use self::create::CreateArgs;
use crate::args::{Context, new_size};
use crate::commands::ballast::{self, BallastCommand};
use crate::commands::plan;
use crate::commands::trim;
use crate::output::{fields, lines, or_dash, record, table, usage};
use crate::time::span;

/// What can be done with pools.
#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Make a pool and its base volume, and open it
    #[command(after_help = "\
Without --data and --metadata the pool lies on two sparse files in DIR/NAME, made with mode 0600;
files that are there already are never truncated or formatted. They take room on the host only as
the pool is written. The defaults above are those that are built in; [create] in the settings
replaces them: see `pool-cli config show`.

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
    /// Make a pool larger while it is in use
    #[command(after_help = "\
Sizes are new sizes, or with a + what is to be added. Sparse files are made longer; a block device or
LVM volume must have been made larger before, and is taken as large as it is if no size is given.
Nothing shrinks. What was cut in the middle, the next `pool open` ends.

Prints: NAME, the size of its data and of its metadata, with tabs between them.

Examples:
  pool-cli pool grow --data +50G
  pool-cli pool grow tank --data 200G --metadata +1G
  lvextend -L +50G vg/data && pool-cli pool grow fast")]
    Grow(GrowArgs),
    /// Set how a pool deals with want of space
    #[command(after_help = "\
Below what must stay free an import and the making of a container are refused with exit code 6 (data)
or 7 (metadata); what exists goes on, and removing is never refused. 0 turns it off. In a full pool
the writes that need a new block wait for the kernel's no_space_timeout and fail then, or fail at
once.

Prints: NAME, the two percentages, and what a full pool does, with tabs between them.

Examples:
  pool-cli pool set tank --min-free-data 5%
  pool-cli pool set --on-full error")]
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
        required_unless_present_any = ["min_free_metadata", "on_full"]
    )]
    min_free_data: Option<Percent>,
    /// Share of the metadata that must stay free for an import or a new container
    #[arg(long, value_name = "PERCENT")]
    min_free_metadata: Option<Percent>,
    /// What becomes of writes in a full pool: they wait for space (60 s), or fail at once
    #[arg(long, value_name = "WHAT", value_parser = when_full())]
    on_full: Option<WhenFull>,
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
        PoolCommand::Grow(GrowArgs {
            name,
            data,
            metadata,
        }) => {
            let pool = context.pool(name.as_ref())?;
            let (change, pool) = pool.grow(&GrowPool { data, metadata })?;
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
                ])
            })
        }
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

/// The plan, each size with its reason.
fn plan_fields(plan: &PoolPlan) -> String {
    let (block, blocks) = (plan.block_size.to_bytes(), plan.blocks);
    fields([
        ("Pool", plan.name.to_string()),
        ("Data", plan.data.display().to_string()),
        (
            "",
            format!("{} in {blocks} blocks of {block}", plan.data_size),
        ),
        ("Metadata", plan.metadata.display().to_string()),
        (
            "",
            format!(
                "{}: the kernel's formula, 48 bytes a block, asks for {}, and snapshots written \
                 here and there take several times that",
                plan.metadata_size, plan.metadata_least
            ),
        ),
        (
            "Low water",
            format!("the kernel gives notice at {} of free data", plan.low_water),
        ),
        ("Guard", guard_text(plan.guard, None)),
        ("Base", format!("{}, {}", plan.fs, plan.base_size)),
        ("Zeroing", zeroing_text(plan.zeroing).to_owned()),
    ])
}

const fn zeroing_text(zeroing: bool) -> &'static str {
    if zeroing {
        "new blocks are zeroed"
    } else {
        "off (single tenant): containers can read what others wrote before"
    }
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
            ("Guard", guard_text(pool.guard, live.until_guard)),
            ("Full in", full_text(live.time_to_full)),
            ("Discards", discards.to_owned()),
            ("Active volumes", live.active_volumes.to_string()),
            ("Transaction", or_dash(live.transaction_id)),
        ]);
    }
    if let Some(ballast) = pool.ballast {
        rows.push(("Ballast", format!("{ballast}, let go at the red line")));
    }
    rows.push(("Generation", pool.generation.to_string()));
    rows.extend(backing_rows(["Data on", "Metadata on"], pool));
    rows.extend([
        ("Block size", pool.block_size.to_bytes().to_string()),
        ("Zeroing", zeroing_text(pool.zeroing).to_owned()),
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

/// What must stay free, and what is left until then.
fn guard_text(guard: Guard, left: Option<UntilGuard>) -> String {
    let part = |what, share: Percent, left: Option<Bytes>| match left {
        Some(Bytes::ZERO) => format!("{share} of {what} REACHED"),
        Some(left) => format!("{share} of {what} ({left} to go)"),
        None => format!("{share} of {what}"),
    };
    let data = part("data", guard.min_free_data, left.map(|left| left.data));
    let metadata = left.map(|left| left.metadata);
    let metadata = part("metadata", guard.min_free_metadata, metadata);
    format!("nothing new below {data}, {metadata}")
}

/// When the pool will be full, as far as that can be told.
fn full_text(time: TimeToFull) -> String {
    let parts = [("data", time.data), ("metadata", time.metadata)];
    let told: Vec<String> = parts
        .into_iter()
        .filter_map(|(what, left)| Some(format!("{what} {}", span(left?))))
        .collect();
    if told.is_empty() {
        return "not to be told".to_owned();
    }
    told.join(", ")
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
pub(crate) mod tests;
