//! `pool-cli image`: import, list and remove images.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Subcommand};
use dmthin::graph::{
    HistoryReport, ImageReport, ImportReport, ImportSource, LayerTree, RemovedImage,
};
use dmthin::ids::ImageRef;
use serde::Serialize;

use crate::args::{Cli, Context};
use crate::columns::{Cell, Column, ListArgs, more, shown};
use crate::commands::plan;
use crate::output::{clean, lines, list, or_dash, record, short, table};
use crate::progress::Progress;

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Import the images of an archive, layer by layer
    #[command(after_help = "\
Takes what `docker save` writes, and OCI image layouts as a directory or a tar; layers may be plain,
gzip or zstd. Every digest is verified. Layers that are in the pool already are shared. An import
that fails leaves nothing behind.

Prints: the image's id and its names (commas between them, - if none), with a tab between the two.
Attributes that the file system would not take are told on stderr.

Examples:
  pool-cli image import debian.tar
  docker save debian:12 | pool-cli image import -
  pool-cli image import ./oci-layout --name app:v1")]
    Import(ImportArgs),
    /// List the images
    #[command(after_help = "\
SIZE is that of all layers, unpacked, shared ones included. With -q only ids are printed.

Examples:
  pool-cli image list
  pool-cli image list --json | jq -r '.images[].names[]'")]
    List(ListArgs),
    /// Show layers as a tree: what stands on what
    #[command(after_help = "\
A line is a layer: its diff id, its size, the images it is the top of, [containers on it].

Examples:
  pool-cli image tree
  pool-cli image tree debian:12")]
    Tree(TreeArgs),
    /// Show the steps an image was built in, newest first
    #[command(after_help = "\
Long commands are cut to 60 characters; --json has all of them.

Example:
  pool-cli image history debian:12")]
    History(ImageArgs),
    /// Remove a name of an image; with its last name the image and the layers only it needs
    #[command(
        name = "rm",
        after_help = "\
Refused with exit code 5 while a container was made from it.

Prints: `untagged` and a name, or `deleted` and the id, a line for each, with a tab between the two.
With --dry-run it prints what would go, `name`, `volume` or `device` and which, and `bytes` that come
back to the pool, exactly; with tabs between them. Nothing is changed then.

Examples:
  pool-cli image rm debian:12
  pool-cli image rm debian:12 --dry-run --json | jq .plan.pool_bytes"
    )]
    Remove(RemoveArgs),
}

/// Options of `image import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Archive or directory to import; - reads an archive from stdin
    file: PathBuf,
    /// Name for the image, instead of those in the archive
    #[arg(long, value_name = "REF")]
    name: Option<ImageRef>,
}

/// Options of `image tree`.
#[derive(Debug, Args)]
pub(crate) struct TreeArgs {
    /// Name of the image, its id, or the first digits of its id [default: all of them]
    #[arg(value_name = "REF")]
    image: Option<String>,
}

/// The image of a command.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    /// Name of the image, its id, or the first digits of its id
    #[arg(value_name = "REF")]
    image: String,
}

/// Options of `image rm`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Name of the image, its id, or the first digits of its id
    #[arg(value_name = "REF")]
    image: String,
    /// Show what would go and what would come back, but change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Imported<'a> {
    imported: &'a [ImportReport],
}

#[derive(Debug, Serialize)]
struct Images<'a> {
    images: &'a [ImageReport],
}

#[derive(Debug, Serialize)]
struct Layers<'a> {
    layers: &'a [LayerTree],
}

#[derive(Debug, Serialize)]
struct History<'a> {
    history: &'a [HistoryReport],
}

#[derive(Debug, Serialize)]
struct Removed<'a> {
    removed: &'a RemovedImage,
}

/// Runs one of them.
pub(crate) fn run(context: &Context, command: ImageCommand) -> anyhow::Result<()> {
    let out = &context.out;
    match command {
        ImageCommand::Import(args) => import(context, args),
        ImageCommand::List(list) => {
            let images = context.pool(None)?.images()?;
            let text = list.table(&columns(), &named(&images))?;
            out.show(&Images { images: &images }, || {
                if out.quiet() {
                    lines(images.iter().map(|image| image.id.to_string()))
                } else {
                    text
                }
            })
        }
        ImageCommand::Tree(TreeArgs { image }) => {
            let layers = context.pool(None)?.image_tree(image.as_deref())?;
            out.show(&Layers { layers: &layers }, || tree_text(&layers))
        }
        ImageCommand::History(ImageArgs { image }) => {
            let history = context.pool(None)?.history(&image)?;
            out.show(&History { history: &history }, || history_table(&history))
        }
        ImageCommand::Remove(RemoveArgs {
            image,
            dry_run: true,
        }) => plan::show(context, &context.pool(None)?.plan_remove_image(&image)?),
        ImageCommand::Remove(RemoveArgs { image, .. }) => {
            let removed = context.pool(None)?.remove_image(&image)?;
            out.done(&Removed { removed: &removed }, || removed_text(&removed))
        }
    }
}

fn import(context: &Context, args: ImportArgs) -> anyhow::Result<()> {
    let source = source(args.file, io::stdin().is_terminal())?;
    let pool = context.pool(None)?;
    let mut progress = Progress::new(&context.out);
    let result = pool.import(&source, args.name.as_ref(), &mut |event| {
        progress.event(&event);
    });
    progress.finish();
    let imported = result?;
    for image in &imported {
        context.out.note(&summary(image));
        for warning in &image.warnings {
            context.out.warn(warning);
        }
    }
    let body = Imported {
        imported: &imported,
    };
    context.out.done(&body, || {
        imported
            .iter()
            .map(|image| record([image.id.to_string(), list(&image.names)]))
            .collect()
    })
}

/// Where the archive comes from; nobody types one.
fn source(file: PathBuf, stdin_is_terminal: bool) -> Result<ImportSource, clap::Error> {
    if file.as_os_str() != "-" {
        return Ok(ImportSource::File(file));
    }
    if stdin_is_terminal {
        let message = "stdin is a terminal: give a file, or pipe an archive in";
        return Err(Cli::command().error(ErrorKind::InvalidValue, message));
    }
    Ok(ImportSource::Stdin)
}

fn summary(image: &ImportReport) -> String {
    format!(
        "image {}: {} layers unpacked ({}), {} there already",
        short(image.id),
        image.layers_new,
        image.bytes,
        image.layers_shared
    )
}

/// An image under one of its names.
#[derive(Debug)]
struct Named<'a> {
    name: String,
    image: &'a ImageReport,
}

/// A line for each name, and one for an image that has none.
fn named(images: &[ImageReport]) -> Vec<Named<'_>> {
    let rows = images.iter().flat_map(|image| {
        let nameless = image.names.is_empty().then(|| "<none>".to_owned());
        let names = image.names.iter().map(ToString::to_string).chain(nameless);
        names.map(move |name| Named { name, image })
    });
    rows.collect()
}

fn columns<'a>() -> Vec<Column<Named<'a>>> {
    vec![
        shown("name", |n| Cell::text(&n.name)),
        shown("id", |n| Cell::text(short(n.image.id))),
        shown("layers", |n| Cell::count(n.image.layers.len())),
        shown("size", |n| Cell::size(n.image.size)),
        shown("platform", |n| {
            Cell::text(format!("{}/{}", n.image.os, n.image.architecture))
        }),
        shown("imported", |n| Cell::moment(n.image.imported_at)),
        shown("containers", |n| Cell::count(n.image.containers.len())),
        more("digest", |n| Cell::text(n.image.id)),
        more("created", |n| Cell::text_or_dash(n.image.created.as_ref())),
    ]
}

fn tree_text(layers: &[LayerTree]) -> String {
    let mut text = String::new();
    for layer in layers {
        tree_branch(layer, "", "", &mut text);
    }
    text
}

fn tree_branch(tree: &LayerTree, first: &str, rest: &str, text: &mut String) {
    let mut line = format!("{first}{}  {}", short(tree.layer.diff_id), tree.layer.size);
    if !tree.images.is_empty() {
        line.push_str("  ");
        line.push_str(&list(&tree.images));
    }
    if !tree.containers.is_empty() {
        line.push_str(&format!("  [{}]", list(&tree.containers)));
    }
    text.push_str(&clean(&line));
    text.push('\n');
    if let Some((last, others)) = tree.children.split_last() {
        for child in others {
            tree_branch(child, &format!("{rest}|- "), &format!("{rest}|  "), text);
        }
        tree_branch(last, &format!("{rest}`- "), &format!("{rest}   "), text);
    }
}

fn history_table(history: &[HistoryReport]) -> String {
    table(
        ["LAYER", "CREATED", "SIZE", "CREATED BY", "COMMENT"],
        history.iter().map(|step| {
            [
                or_dash(step.diff_id.map(short)),
                or_dash(step.created.as_ref()),
                or_dash(step.size),
                or_dash(step.created_by.as_deref().map(cut)),
                or_dash(step.comment.as_ref()),
            ]
        }),
    )
}

/// The first 60 characters, the last three of them dots if there were more.
fn cut(text: &str) -> String {
    const WIDTH: usize = 60;
    if text.chars().count() <= WIDTH {
        return text.to_owned();
    }
    text.chars().take(WIDTH - 3).chain("...".chars()).collect()
}

fn removed_text(removed: &RemovedImage) -> String {
    let names = removed
        .names
        .iter()
        .map(|name| record(["untagged".to_owned(), name.to_string()]));
    let image = removed
        .removed
        .then(|| record(["deleted".to_owned(), removed.id.to_string()]));
    names.chain(image).collect()
}

#[cfg(test)]
mod tests;
