//! `pool-cli pool ballast`: room that is kept for the day when the pool is full.

use clap::{Args, Subcommand};
use dmthin::ids::PoolName;
use dmthin::units::Bytes;
use serde::Serialize;

use crate::args::{Context, size};
use crate::output::record;

/// What can be done with a ballast.
#[derive(Debug, Subcommand)]
pub(crate) enum BallastCommand {
    /// Fill a volume with zeros that takes so much of the pool
    #[command(after_help = "\
A monitor lets it go at the red line, and you can: writers have room again at once, without waiting
for a disk. It takes blocks of the pool, but next to no room of the host's below a sparse file.

Prints: NAME and what the ballast keeps, with a tab between them.

Example:
  pool-cli pool ballast make tank --size 2G")]
    Make(MakeArgs),
    /// Let the ballast go
    #[command(after_help = "\
Prints: NAME and what the ballast kept, with a tab between them. Exit code 3 if there is none.

Example:
  pool-cli pool ballast release tank")]
    Release(ReleaseArgs),
}

/// Options of `pool ballast make`.
#[derive(Debug, Args)]
pub(crate) struct MakeArgs {
    /// Name of the pool [default: the one of --pool, else the only one]
    name: Option<PoolName>,
    /// How much it keeps
    #[arg(long, value_name = "SIZE", value_parser = size)]
    size: Bytes,
}

/// Options of `pool ballast release`.
#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    /// Name of the pool [default: the one of --pool, else the only one]
    name: Option<PoolName>,
}

#[derive(Debug, Serialize)]
struct Ballast<'a> {
    name: &'a PoolName,
    ballast: Bytes,
}

/// Runs one of them.
pub(crate) fn run(context: &Context, command: BallastCommand) -> anyhow::Result<()> {
    let (pool, ballast) = match command {
        BallastCommand::Make(MakeArgs { name, size }) => {
            let pool = context.pool(name.as_ref())?;
            let size = pool.make_ballast(size)?;
            (pool, size)
        }
        BallastCommand::Release(ReleaseArgs { name }) => {
            let pool = context.pool(name.as_ref())?;
            let size = pool.release_ballast()?;
            (pool, size)
        }
    };
    let name = pool.name();
    context.out.done(&Ballast { name, ballast }, || {
        record([name.to_string(), ballast.to_string()])
    })
}
