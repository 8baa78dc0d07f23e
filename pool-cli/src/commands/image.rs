//! `pool-cli image`: import, list and remove images.

mod export;
mod inspect;
mod remove;

pub(crate) use export::out_to;

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Subcommand};
use dmthin::graph::{
    HistoryReport, ImageReport, ImportReport, ImportSource, LayerCheck, LayerTree, LayerVerdict,
    require_whole,
};
use dmthin::ids::ImageRef;
use serde::Serialize;

use crate::args::{Cli, Context};
use crate::columns::{Cell, Column, ListArgs, more, shown};
use crate::commands::diff::show_layers;
use crate::commands::image::export::{EXPORT_HELP, ExportArgs};
use crate::commands::image::remove::{PruneArgs, RemoveArgs};
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
    /// Show all there is to know of an image
    #[command(after_help = "\
Examples:
  pool-cli image inspect debian:12
  pool-cli image inspect debian:12 --json | jq .image.config.config.Env")]
    Inspect(ImageArgs),
    /// Write an image as an archive that docker, skopeo and others take
    #[command(after_help = EXPORT_HELP)]
    Export(ExportArgs),
    /// Show what differs between the files of two images
    #[command(after_help = "\
Found as by `container diff`, in the fastest way that is exact.

Prints: A, M or D (added, modified, deleted) and the path, one a line: what becomes of A's files
in B.

Example:
  pool-cli image diff debian:12 web:2")]
    Diff(DiffArgs),
    /// Give an image a name
    #[command(after_help = "\
A name that another image has is taken from it, as `docker tag` does. Without a tag it gets
`latest`.

Prints: the image's id and its names (commas between them), with a tab between the two.

Example:
  pool-cli image tag debian:12 debian:stable")]
    Tag(TagArgs),
    /// Take a name from its image
    #[command(after_help = "\
The image stays, without a name if that was its last one: it is called by its id then, and `image
prune` takes it. `image rm` takes an image with its last name.

Prints: the image's id and its names (- if none), with a tab between the two.

Example:
  pool-cli image untag debian:stable")]
    Untag(UntagArgs),
    /// Remove the images that nothing leads to
    #[command(after_help = "\
Those are images that have neither a name nor a container, and that no image was built on which
stays: the history of what has a name is kept, as git keeps it.

Prints: `deleted` and the id, a line for each, with a tab between the two. With --dry-run it prints
what would go, as `image rm --dry-run` does.

Example:
  pool-cli image prune --dry-run")]
    Prune(PruneArgs),
    /// Read layers again and say which of their files are not what they were
    #[command(after_help = "\
Each layer's tar is put together again from its files, and must have the digest it was imported with. One
that has another ends the command with exit code 8. What is compared is what the files hold; owners, modes
and times are not. Layers that were imported by a version that kept no record, or on another host, are
told as `no-record` and cannot be read this way.

Prints: `whole`, `changed`, `no-record` or `bad-record` and the layer's diff id, a line for each layer;
below one that changed `file`, its diff id and the file's path, a line for each; with tabs between them.

Examples:
  pool-cli image verify debian:12
  pool-cli image verify --all --json | jq -r '.layers[] | select(.verdict == \"changed\") | .changed[]'")]
    Verify(VerifyArgs),
    /// Remove a name of an image; with its last name the image and the layers only it needs
    #[command(
        name = "rm",
        after_help = "\
Refused with exit code 5 while a container was made from it.

With --prune the images go with it that it was built on, have neither a name nor a container, and
that no other image was built on.

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

/// Options of `image verify`.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct VerifyArgs {
    /// Name of the image, its id, or the first digits of its id
    #[arg(value_name = "REF")]
    image: Option<String>,
    /// Every layer of the pool
    #[arg(long)]
    all: bool,
}

/// Options of `image diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Name of the older image, its id, or the first digits of its id
    a: String,
    /// Name of the newer one
    b: String,
}

/// Options of `image tag`.
#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// Name of the image, its id, or the first digits of its id
    #[arg(value_name = "REF")]
    image: String,
    /// Its new name
    name: ImageRef,
}

/// Options of `image untag`.
#[derive(Debug, Args)]
pub(crate) struct UntagArgs {
    /// The name
    name: ImageRef,
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
struct Verified<'a> {
    layers: &'a [LayerCheck],
}

#[derive(Debug, Serialize)]
struct History<'a> {
    history: &'a [HistoryReport],
}

#[derive(Debug, Serialize)]
struct One<'a, T> {
    image: &'a T,
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
        ImageCommand::Verify(VerifyArgs { image, .. }) => {
            let layers = context.pool(None)?.verify_layers(image.as_deref())?;
            out.show(&Verified { layers: &layers }, || verified_text(&layers))?;
            Ok(require_whole(&layers)?)
        }
        ImageCommand::Inspect(ImageArgs { image }) => inspect::run(context, &image),
        ImageCommand::Export(args) => export::run(context, &args),
        ImageCommand::Diff(DiffArgs { a, b }) => {
            show_layers(context, &context.pool(None)?.diff_images(&a, &b)?)
        }
        ImageCommand::Tag(TagArgs { image, name }) => {
            let image = context.pool(None)?.tag_image(&image, &name)?;
            out.done(&One { image: &image }, || id_and_names(&image))
        }
        ImageCommand::Untag(UntagArgs { name }) => {
            let image = context.pool(None)?.untag_image(&name)?;
            out.done(&One { image: &image }, || id_and_names(&image))
        }
        ImageCommand::Prune(args) => remove::prune(context, &args),
        ImageCommand::Remove(args) => remove::run(context, &args),
    }
}

fn id_and_names(image: &ImageReport) -> String {
    record([image.id.to_string(), list(&image.names)])
}

/// The word for a verdict, as in JSON.
const fn verdict_word(verdict: LayerVerdict) -> &'static str {
    match verdict {
        LayerVerdict::Whole => "whole",
        LayerVerdict::Changed => "changed",
        LayerVerdict::NoRecord => "no-record",
        LayerVerdict::BadRecord => "bad-record",
    }
}

fn verified_text(layers: &[LayerCheck]) -> String {
    let mut text = String::new();
    for layer in layers {
        let word = verdict_word(layer.verdict);
        text.push_str(&format!("{word}\t{}\n", layer.diff_id));
        for path in &layer.changed {
            text.push_str(&format!("file\t{}\t{}\n", layer.diff_id, clean(path)));
        }
    }
    text
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
pub(crate) fn source(file: PathBuf, stdin_is_terminal: bool) -> Result<ImportSource, clap::Error> {
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

#[cfg(test)]
mod tests;
