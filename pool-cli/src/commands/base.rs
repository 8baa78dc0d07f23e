//! `pool-cli base`: the empty file system that every image stands on.

use clap::{Args, Subcommand};
use dmthin::graph::Change;
use dmthin::units::{Bytes, NewSize};
use serde::Serialize;

use crate::args::{Context, new_size};
use crate::output::record;

/// What can be done with the base volume.
#[derive(Debug, Subcommand)]
pub(crate) enum BaseCommand {
    /// Make the base volume larger, and with it every container made from now on
    #[command(after_help = "\
Images that are there already need no new import: a container made from one has its own file system
grown. Containers that are there already keep their size: see `container grow`. Nothing shrinks.

Prints: the size of the base volume.

Examples:
  pool-cli base grow 50G
  pool-cli base grow +10G")]
    Grow(GrowArgs),
}

/// Options of `base grow`.
#[derive(Debug, Args)]
pub(crate) struct GrowArgs {
    /// Its new size, or + and how much is to be added
    #[arg(value_parser = new_size)]
    size: NewSize,
}

#[derive(Debug, Serialize)]
struct Grown {
    change: Change,
    base_size: Bytes,
}

/// Runs one of them.
pub(crate) fn run(context: &Context, command: BaseCommand) -> anyhow::Result<()> {
    let BaseCommand::Grow(GrowArgs { size }) = command;
    let (change, pool) = context.pool(None)?.grow_base(size)?;
    if change == Change::Unchanged {
        context.out.note("the base volume had that size already");
    }
    let base_size = pool.base_size;
    context.out.done(&Grown { change, base_size }, || {
        record([base_size.to_string()])
    })
}
