//! `pool-cli df`: how much room there is, a pool a line; and who takes it.

mod space;
mod tree;

use clap::Args;
use dmthin::graph::{PoolReport, Space, Usage};
use dmthin::units::Bytes;
use serde::Serialize;

use crate::args::Context;
use crate::columns::{Cell, Column, ListArgs, more, shown};
use crate::commands::plan;
use crate::output::{Colour, bar, colour_of, lines};

pub(crate) const DF_HELP: &str = "\
Of open pools. USED and FREE are of the pool's data, UNTIL GUARD is what is left before new
things are refused, HOST FREE is what the file system below a sparse file has left, PROMISED are
the sizes of all containers. On a terminal shares are green, yellow from 80 % or near the guard,
red where the guard refuses or 5 % are left. Columns beside these: bar, metadata, metadata-used,
allocated, mode, full-in (seconds).

With -v, or --volumes, of one pool: a line for each image and each volume. MAPPED is what it
takes, each block once; EXCLUSIVE what nobody else has (of an image: no other image); SHARED the
rest. FREED is what comes back if it is removed: of an image that has containers nothing, for
they go first. It is exact, read from the pool's metadata while the pool is in use, and read
anew only when something has changed. Columns beside these: bar, state, volume, thin-id.

--tree shows what stands on what: # is a volume's own, = what others have too, of its size.

--freed-if tells what would come back if all of these were removed, containers first: more than
the sum of FREED where they share it with nobody else. `container:`, `volume:` or `image:` before
a name says which is meant; containers and data volumes go with their snapshots. Prints: `name`,
`volume` and `device` and which, and `bytes`; with tabs between them.

Examples:
  pool-cli df
  pool-cli df -o +metadata-used,mode --sort=-used
  pool-cli df -v --sort=-freed
  pool-cli df --freed-if web db image:debian:12
  pool-cli df --json | jq '.pools[] | {name, full: .live.time_to_full.data}'";

/// Options of `df`.
#[derive(Debug, Args)]
pub(crate) struct DfArgs {
    #[command(flatten)]
    list: ListArgs,
    /// Show who takes the room of one pool; so does -v
    #[arg(long, conflicts_with_all = ["tree", "freed_if"])]
    volumes: bool,
    /// The same as a tree of what stands on what
    #[arg(long, conflicts_with_all = ["freed_if", "columns", "sort", "no_headings"])]
    tree: bool,
    /// Containers, data volumes and images of which to tell what removing all of them would free
    #[arg(
        long,
        value_name = "NAME",
        num_args = 1..,
        conflicts_with_all = ["columns", "sort", "no_headings"]
    )]
    freed_if: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Pools<'a> {
    pools: &'a [PoolReport],
}

fn data(pool: &PoolReport) -> Option<Usage> {
    pool.live.as_ref()?.data
}

fn metadata(pool: &PoolReport) -> Option<Usage> {
    pool.live.as_ref()?.metadata
}

fn colour(pool: &PoolReport, space: Space) -> Option<Colour> {
    pool.live.as_ref()?.level(space).map(colour_of)
}

fn share(usage: Option<Usage>) -> Cell {
    let percent = usage.and_then(|Usage { used, total }| {
        let hundredths = u128::from(used.get()).checked_mul(100)?;
        u64::try_from(hundredths.checked_div(u128::from(total.get()))?).ok()
    });
    percent.map_or_else(
        || Cell::text_or_dash(None::<u64>),
        |percent| Cell::with_unit(percent, "%"),
    )
}

const COLUMNS: &[Column<PoolReport>] = &[
    shown("pool", |p| Cell::text(&p.name)),
    shown("size", |p| Cell::size_or_dash(data(p).map(|d| d.total))),
    shown("used", |p| Cell::size_or_dash(data(p).map(|d| d.used))),
    shown("free", |p| {
        Cell::size_or_dash(data(p).map(|d| d.total.saturating_sub(d.used)))
    }),
    shown("use%", |p| share(data(p)).coloured(colour(p, Space::Data))),
    shown("meta%", |p| {
        share(metadata(p)).coloured(colour(p, Space::Metadata))
    }),
    shown("until-guard", |p| {
        let left = p.live.as_ref().and_then(|live| live.until_guard);
        Cell::size_or_dash(left.map(|left| left.data))
    }),
    shown("host-free", |p| Cell::size_or_dash(p.data.host_free)),
    shown("promised", |p| Cell::size(p.virtual_size)),
    more("bar", |p| {
        Cell::text_or_dash(data(p).map(bar)).coloured(colour(p, Space::Data))
    }),
    more("metadata", |p| {
        Cell::size_or_dash(metadata(p).map(|m| m.total))
    }),
    more("metadata-used", |p| {
        Cell::size_or_dash(metadata(p).map(|m| m.used))
    }),
    more("allocated", |p| Cell::size(p.data.allocated)),
    more("ballast", |p| Cell::size(p.ballast.unwrap_or(Bytes::ZERO))),
    more("mode", |p| {
        Cell::text_or_dash(p.live.as_ref().map(|live| &live.mode))
    }),
    more("full-in", |p| {
        let left = p.live.as_ref().and_then(|live| live.time_to_full.data);
        left.map_or_else(
            || Cell::text_or_dash(None::<u64>),
            |left| Cell::number(left.as_secs()),
        )
    }),
];

/// Shows them, or with `by_name` who takes the room of one.
pub(crate) fn run(context: &Context, args: &DfArgs, by_name: bool) -> anyhow::Result<()> {
    if !args.freed_if.is_empty() {
        return plan::show(context, &context.pool(None)?.plan_removals(&args.freed_if)?);
    }
    if args.tree {
        return tree::run(context);
    }
    if args.volumes || by_name {
        return space::run(context, &args.list);
    }
    let list = &args.list;
    let names = match &context.pool {
        Some(name) => vec![context.host.pick_pool(Some(name))?],
        None => {
            let all = context.host.pools()?;
            all.into_iter().map(|pool| pool.name).collect()
        }
    };
    let mut pools = Vec::new();
    for name in names {
        match context.host.pool(&name).and_then(|pool| pool.status()) {
            Ok(pool) if pool.live.is_some() => pools.push(pool),
            Ok(_) => {}
            Err(error) if context.pool.is_some() => return Err(error.into()),
            // A damaged one must not hide the others.
            Err(error) => context.out.warn(&format!("pool {name}: {error}")),
        }
    }
    let out = &context.out;
    let text = list.painted(out, COLUMNS, &pools)?;
    out.show(&Pools { pools: &pools }, || {
        if out.quiet() {
            lines(pools.iter().map(|pool| pool.name.to_string()))
        } else {
            text
        }
    })
}

/// A report to show, for other commands' tests too.
#[cfg(test)]
pub(crate) use space::tests::report as tests_report;
