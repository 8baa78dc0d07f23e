//! `pool-cli layer`: the layers that images are made of.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use dmthin::graph::{ExportTo, PoolError, StackedLayer, WrittenLayer};
use serde::Serialize;

use crate::args::Context;
use crate::columns::{Cell, Column, ListArgs, more, shown};
use crate::commands::commit::{self, Told};
use crate::commands::diff::show_layers;
use crate::commands::image::{out_to, source};
use crate::output::{fields, lines, list, or_dash, record, short};
use crate::time::utc;

/// What can be done with layers.
#[derive(Debug, Subcommand)]
pub(crate) enum LayerCommand {
    /// List the layers, the lowest first
    #[command(after_help = "\
CHAIN names a layer with all below it, DIFF what it changed. SIZE is that of its archive. With -q
only chain ids are printed.

Examples:
  pool-cli layer list
  pool-cli layer list --sort size -o +images")]
    List(ListArgs),
    /// Apply a layer's tar to a layer, as an image
    #[command(after_help = "\
The tar may be plain, gzip or zstd. The result is an image: that of PARENT with one layer more. On
`scratch`, which is nothing, the tar of a whole root becomes an image of one layer. A layer that is
there already is shared. Without a name it is called by its id, and `image prune` takes it.

Prints: the image's id and its names (- if none), with a tab between the two.

Examples:
  pool-cli layer apply debian:12 changes.tar --name web:3
  debootstrap stable root && tar -C root -c . | pool-cli layer apply scratch - --name debian:stable
  pool-cli layer diff a:1 a:2 -o - | pool-cli layer apply a:1 - --name a:copy")]
    Apply(ApplyArgs),
    /// Show what differs between two layers, or write it as a layer's tar
    #[command(after_help = "\
With -o the tar of a layer is written that, applied to A, gives B; the same layers always give the
same bytes. A file is there when it is whole, and replaces one of its name.

Prints: A, M or D (added, modified, deleted) and the path, one a line; with -o the tar's digest, its
bytes and entries, with tabs between them, where it does not go to stdout.

Examples:
  pool-cli layer diff debian:12 web:2
  pool-cli layer diff debian:12 web:2 -o changes.tar")]
    Diff(DiffArgs),
    /// Show all there is to know of a layer
    #[command(after_help = "\
Examples:
  pool-cli layer inspect debian:12          # the top layer of an image
  pool-cli layer inspect 2f6e --json | jq .layer.children")]
    Inspect(LayerArgs),
}

/// The layer of a command.
#[derive(Debug, Args)]
pub(crate) struct LayerArgs {
    /// Its chain id, its diff id, the first digits of one, or an image that it is the top of
    layer: String,
}

/// Options of `layer apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The layer below: an image that it is the top of, its chain id, its diff id, first digits, or
    /// scratch for none
    parent: String,
    /// The tar; - reads it from stdin
    tar: PathBuf,
    /// What of it is told
    #[command(flatten)]
    told: Told,
}

/// Options of `layer diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The older layer, by chain id, diff id, first digits of one, or an image that it is the top of
    a: String,
    /// The newer one
    b: String,
    /// Write what differs as a tar to this file; - is stdout
    #[arg(short, long, value_name = "TAR")]
    output: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Written<'a> {
    tar: &'a WrittenLayer,
}

#[derive(Debug, Serialize)]
struct Layers<'a> {
    layers: &'a [StackedLayer],
}

#[derive(Debug, Serialize)]
struct OneLayer<'a> {
    layer: &'a StackedLayer,
}

/// Runs one of them.
pub(crate) fn run(context: &Context, command: LayerCommand) -> anyhow::Result<()> {
    let out = &context.out;
    let pool = context.pool(None)?;
    match command {
        LayerCommand::List(args) => {
            let layers = pool.layers()?;
            let text = args.table(COLUMNS, &layers)?;
            out.show(&Layers { layers: &layers }, || {
                if out.quiet() {
                    lines(layers.iter().map(|layer| layer.layer.chain_id.to_string()))
                } else {
                    text
                }
            })
        }
        LayerCommand::Apply(ApplyArgs { parent, tar, told }) => {
            let source = source(tar, io::stdin().is_terminal())?;
            let report = pool.apply_layer(&parent, &source, &told.now())?;
            commit::show(context, &report)
        }
        LayerCommand::Diff(DiffArgs { a, b, output: None }) => {
            show_layers(context, &pool.diff_layers(&a, &b)?)
        }
        LayerCommand::Diff(DiffArgs {
            a,
            b,
            output: Some(path),
        }) => write_tar(context, &path, |to| pool.write_layer_diff(&a, &b, to)),
        LayerCommand::Inspect(LayerArgs { layer }) => {
            let layer = pool.layer(&layer)?;
            out.show(&OneLayer { layer: &layer }, || layer_fields(&layer))
        }
    }
}

/// Has a layer's tar written, and tells of it where it is in a file.
pub(crate) fn write_tar(
    context: &Context,
    path: &Path,
    write: impl FnOnce(ExportTo<'_>) -> Result<WrittenLayer, PoolError>,
) -> anyhow::Result<()> {
    let out = &context.out;
    let mut stdout = None;
    let to = out_to(path, &mut stdout)?;
    let is_file = matches!(to, ExportTo::File(_));
    let tar = write(to)?;
    for warning in &tar.warnings {
        out.warn(warning);
    }
    if !is_file {
        return Ok(());
    }
    out.done(&Written { tar: &tar }, || {
        let (size, entries) = (tar.size.get().to_string(), tar.entries.to_string());
        record([tar.diff_id.to_string(), size, entries])
    })
}

const COLUMNS: &[Column<StackedLayer>] = &[
    shown("chain", |l| Cell::text(short(l.layer.chain_id))),
    shown("diff", |l| Cell::text(short(l.layer.diff_id))),
    shown("parent", |l| Cell::text_or_dash(l.parent.map(short))),
    shown("size", |l| Cell::size(l.layer.size)),
    shown("entries", |l| Cell::number(l.layer.entries)),
    shown("images", |l| Cell::number(l.layer.shared_by)),
    more("names", |l| Cell::text(list(&l.images))),
    more("volume", |l| Cell::text(l.layer.volume)),
    more("thin", |l| Cell::text(l.layer.thin_id)),
    more("made", |l| Cell::moment(l.created_at)),
];

fn layer_fields(layer: &StackedLayer) -> String {
    let digests = |digests: &[dmthin::ids::Digest]| match digests {
        [] => vec!["-".to_owned()],
        some => some.iter().map(ToString::to_string).collect(),
    };
    let mut rows = vec![
        ("Chain", layer.layer.chain_id.to_string()),
        ("Diff", layer.layer.diff_id.to_string()),
        ("Stands on", or_dash(layer.parent)),
        ("Size", layer.layer.size.to_string()),
        ("Entries", layer.layer.entries.to_string()),
        (
            "Volume",
            format!("{} (thin id {})", layer.layer.volume, layer.layer.thin_id),
        ),
        ("Volume size", layer.volume_size.to_string()),
        ("Mapped", or_dash(layer.mapped)),
        ("Made", utc(layer.created_at)),
        ("In images", layer.layer.shared_by.to_string()),
        ("Top of", list(&layer.images)),
        ("Containers", list(&layer.containers)),
    ];
    let names = std::iter::once("Below").chain(std::iter::repeat(""));
    rows.extend(names.zip(digests(&layer.children)));
    fields(rows)
}
