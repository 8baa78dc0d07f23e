//! `pool-cli trim`, `container trim` and `pool trim`.

use clap::Args;
use dmthin::graph::{Pool, TrimReport};
use dmthin::ids::{ContainerName, WritableName};
use dmthin::units::Bytes;
use serde::Serialize;

use crate::args::Context;
use crate::output::{or_dash, record};

pub(crate) const TRIM_HELP: &str = "\
As fstrim does, for a container that is mounted and for one that is not: that one is mounted for the
time where nobody sees it. Needed after it was mounted without `discard`, as by a virtual machine.
A block of the pool goes back only when all of it is unused, so more may be trimmed than comes back.

Prints: the container's name and how much was trimmed, with a tab between them, one a line. One that
fails does not stop the others; the command ends with its exit code. One whose device a virtual
machine has open is left to that, with a dash; named alone it is refused with exit code 5.

Examples:
  pool-cli trim web
  pool-cli trim --all --json | jq .trimmed";

/// Options of `trim`.
#[derive(Debug, Args)]
pub(crate) struct TrimArgs {
    /// Name of the container
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    name: Option<ContainerName>,
    /// Trim every container and data volume of the pool
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Serialize)]
struct Trimmed<'a> {
    trimmed: &'a [TrimReport],
}

/// Trims one container, or all of a pool's.
pub(crate) fn run(context: &Context, args: TrimArgs) -> anyhow::Result<()> {
    trim(context, &context.pool(None)?, args.name)
}

/// The same in a pool that was found.
pub(crate) fn trim(
    context: &Context,
    pool: &Pool,
    name: Option<ContainerName>,
) -> anyhow::Result<()> {
    let reports = match name {
        Some(name) => vec![report((&name).into(), pool.trim_container(&name)?)],
        None => pool.trim_all()?,
    };
    tell(context, reports)
}

/// What trimming one came to that was named.
pub(crate) fn report(name: WritableName, trimmed: Bytes) -> TrimReport {
    TrimReport {
        kind: name.kind(),
        name,
        trimmed: Some(trimmed),
        problem: None,
        error: None,
    }
}

/// Prints what was trimmed.
pub(crate) fn tell(context: &Context, mut reports: Vec<TrimReport>) -> anyhow::Result<()> {
    let body = Trimmed { trimmed: &reports };
    context.out.done(&body, || {
        reports
            .iter()
            .map(|report| record([report.name.to_string(), or_dash(report.trimmed)]))
            .collect()
    })?;
    match reports.iter_mut().find_map(|report| report.error.take()) {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}
