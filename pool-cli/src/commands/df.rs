//! `pool-cli df`: how much room there is, a pool a line.

use dmthin::graph::{PoolReport, Space, Usage};
use dmthin::units::Bytes;
use serde::Serialize;

use crate::args::Context;
use crate::columns::{Cell, Column, ListArgs, more, shown};
use crate::output::{Colour, bar, colour_of, lines};

pub(crate) const DF_HELP: &str = "\
Of open pools. USED and FREE are of the pool's data, UNTIL GUARD is what is left before new things are
refused, HOST FREE is what the file system below a sparse file has left, PROMISED are the sizes of all
containers. On a terminal shares are green, yellow from 80 % or near the guard, red where the guard
refuses or 5 % are left. Columns beside these: bar, metadata, metadata-used, allocated, mode, full-in (seconds).

Examples:
  pool-cli df
  pool-cli df -o +metadata-used,mode --sort=-used
  pool-cli df --json | jq '.pools[] | {name, full: .live.time_to_full.data}'";

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

/// Shows them.
pub(crate) fn run(context: &Context, list: &ListArgs) -> anyhow::Result<()> {
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
