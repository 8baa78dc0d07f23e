//! `pool-cli container diff`: what a container changed of its image.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, ValueEnum};
use dmthin::delta::ChangeKind;
use dmthin::graph::{DiffReport, Differences, ExportTo, LayersDiff, PathChange, Pool};
use dmthin::ids::ContainerName;
use serde::Serialize;

use crate::args::{Cli, Context};
use crate::commands::layer;
use crate::output::lines;

pub(crate) const DIFF_HELP: &str = "\
Of a container in use the file system is frozen for a moment, and a snapshot of it compared, which
is removed again. A path is told as modified where its type, content, mode, owner, device number,
extended attributes, link target, time or set of hard links differs; a directory also where only its
time does, as what is in it changed. Of what is gone only the topmost directory is told.

Both are compared in the fastest way that is exact (`rung` in the JSON, with why no faster one):
`blocks`, what the pool says that changed, which takes as long as the change is large; `inodes`, all
inodes; `walk`, every file of both is read.

As a tar it is the layer that `container commit` would make: `layer apply` makes the same of the image.

Prints: A, M or D (added, modified, deleted) and the path, one a line; of a tar in a file its digest,
its size and its number of entries, with tabs between them.

Examples:
  pool-cli container diff web
  pool-cli container diff web --format json | jq .diff.rung
  pool-cli container diff web --format tar | ssh host pool-cli layer apply debian:12 -";

/// Options of `container diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Name of the container
    name: ContainerName,
    /// How the changes are printed
    #[arg(long, value_enum, default_value_t = Format::List)]
    format: Format,
    /// Write the tar to this file; - is stdout
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "-",
        hide_default_value = true
    )]
    output: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line for each path
    List,
    /// As with --json
    Json,
    /// A layer's tar
    Tar,
}

#[derive(Debug, Serialize)]
struct Body<'a> {
    diff: &'a DiffReport,
}

/// A line for each path.
pub(crate) fn listed(differences: &Differences) -> String {
    lines(differences.changes.iter().map(line))
}

fn line(change: &PathChange) -> String {
    let word = match change.kind {
        ChangeKind::Added => 'A',
        ChangeKind::Modified => 'M',
        ChangeKind::Deleted => 'D',
    };
    format!("{word} {}", change.path.display())
}

/// Runs it.
pub(crate) fn run(context: &Context, pool: &Pool, args: &DiffArgs) -> anyhow::Result<()> {
    let json = context.out.in_json();
    let out = match args.format {
        Format::List => &context.out,
        Format::Json => &json,
        Format::Tar => {
            let write = |to: ExportTo<'_>| pool.write_container_diff(&args.name, to);
            return layer::write_tar(context, &args.output, write);
        }
    };
    if args.output.as_os_str() != "-" {
        let message = "only a tar is written to a file: add --format tar";
        return Err(Cli::command()
            .error(ErrorKind::ArgumentConflict, message)
            .into());
    }
    let report = pool.diff_container(&args.name)?;
    out.show(&Body { diff: &report }, || listed(&report.differences))
}

#[derive(Debug, Serialize)]
struct LayersBody<'a> {
    diff: &'a LayersDiff,
}

/// Prints what differs between two layers.
pub(crate) fn show_layers(context: &Context, diff: &LayersDiff) -> anyhow::Result<()> {
    let body = LayersBody { diff };
    context.out.show(&body, || listed(&diff.differences))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_a_letter_and_a_path() {
        for (kind, told) in [
            (ChangeKind::Added, "A /a b"),
            (ChangeKind::Modified, "M /a b"),
            (ChangeKind::Deleted, "D /a b"),
        ] {
            let path = "/a b".into();
            assert_eq!(line(&PathChange { path, kind }), told);
        }
    }
}
