//! `pool-cli config`: what the settings come to, and whether a file is sound.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use dmthin::graph::lossy;
use serde::Serialize;

use crate::args::Context;
use crate::config::{Row, Settings, check, load};
use crate::output::{lines, table};

/// What can be done with the settings.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show every setting with its value
    #[command(after_help = "\
An option wins over a DMTHIN_* variable, that over a file, that over what is built in. Of the files
/etc/dmthin/config.toml is read first, then those of /etc/dmthin/conf.d in the order of their names;
the last wins, key by key. With a pool, by --pool or else, the keys of `monitor` are those of that
pool; without one, what is given for single pools follows as pools.NAME.monitor. An empty string is
a setting that nobody gave.

Prints: key, value as a file spells it, and with --origin where it comes from. In --json sizes are
in bytes and times in seconds; what nobody gave is null.

Examples:
  pool-cli config show --origin
  pool-cli config show --pool tank --json | jq '.settings[] | select(.origin.from == \"file\")'")]
    Show(ShowArgs),
    /// Check the settings, or one file of them
    #[command(after_help = "\
Ends with exit code 2 and tells file, line and key if something is wrong; nothing is changed.

Prints: FILE: ok, for each file that was read, one a line.

Examples:
  pool-cli config check
  pool-cli config check new.toml && install -m 644 new.toml /etc/dmthin/conf.d/50-new.toml")]
    Check(CheckArgs),
}

/// Options of `config show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Show where each value comes from
    #[arg(long)]
    origin: bool,
}

/// Options of `config check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// File to check by itself [default: all that are read]
    file: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Shown<'a> {
    #[serde(serialize_with = "lossy::list")]
    files: &'a [PathBuf],
    settings: &'a [Row],
}

#[derive(Debug, Serialize)]
struct Checked<'a> {
    #[serde(serialize_with = "lossy::list")]
    files: &'a [PathBuf],
}

/// Runs one of them.
pub(crate) fn run(context: &Context, command: ConfigCommand) -> anyhow::Result<()> {
    let out = &context.out;
    match command {
        ConfigCommand::Show(ShowArgs { origin }) => {
            let rows = context.settings.rows();
            let body = Shown {
                files: &context.settings.files,
                settings: &rows,
            };
            out.show(&body, || rows_table(&rows, origin))
        }
        ConfigCommand::Check(CheckArgs { file }) => {
            let settings = match file {
                Some(file) => {
                    let mut settings = Settings::default();
                    check(&mut settings, &file)?;
                    settings
                }
                None => load(context.config.as_deref())?,
            };
            let files = &settings.files;
            out.done(&Checked { files }, || {
                lines(files.iter().map(|file| format!("{}: ok", file.display())))
            })
        }
    }
}

fn rows_table(rows: &[Row], origin: bool) -> String {
    let cells = |row: &Row| (row.key.clone(), row.text.clone(), row.origin.text());
    if origin {
        let rows = rows.iter().map(cells);
        table(
            ["KEY", "VALUE", "ORIGIN"],
            rows.map(|(key, value, origin)| [key, value, origin]),
        )
    } else {
        let rows = rows.iter().map(cells);
        table(["KEY", "VALUE"], rows.map(|(key, value, _)| [key, value]))
    }
}
