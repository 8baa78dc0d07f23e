//! `pool-cli man`: the manual pages, written from the same text as `--help`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;
use dmthin::graph::lossy;
use serde::Serialize;

use crate::args::{Cli, Context};
use crate::output::lines;

/// Options of `man`.
#[derive(Debug, Args)]
#[command(after_help = "\
Prints: the files written, one a line.

Example:
  pool-cli man /usr/local/share/man/man8")]
pub(crate) struct ManArgs {
    /// Directory for the pages; it is made if it does not exist
    dir: PathBuf,
}

#[derive(Debug, Serialize)]
struct Files<'a> {
    #[serde(serialize_with = "lossy::list")]
    files: &'a [PathBuf],
}

/// Writes them.
pub(crate) fn run(context: &Context, args: &ManArgs) -> anyhow::Result<()> {
    fs::create_dir_all(&args.dir)
        .with_context(|| format!("cannot make the directory {}", args.dir.display()))?;
    let mut command = Cli::command();
    command.build();
    let mut files = Vec::new();
    write_pages(&command, &args.dir, &mut files)?;
    context.out.done(&Files { files: &files }, || {
        lines(files.iter().map(|file| file.display().to_string()))
    })
}

fn write_pages(command: &Command, dir: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    // Section 8: commands for the administrator.
    let page = Man::new(command.clone()).section("8").manual("dmthin");
    let file = dir.join(page.get_filename());
    let mut text = Vec::new();
    page.render(&mut text)?;
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    files.push(file);
    for subcommand in command.get_subcommands() {
        write_pages(subcommand, dir, files)?;
    }
    Ok(())
}
