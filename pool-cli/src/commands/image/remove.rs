//! `pool-cli image rm` and `image prune`.

use clap::Args;
use dmthin::graph::{Parents, PrunedImages, RemovedImage};
use dmthin::ids::Digest;
use serde::Serialize;

use crate::args::Context;
use crate::commands::plan;
use crate::output::record;

/// Options of `image rm`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Name of the image, its id, or the first digits of its id
    #[arg(value_name = "REF")]
    image: String,
    /// Remove the images too that it was built on and that nothing leads to then
    #[arg(long)]
    prune: bool,
    /// Show what would go and what would come back, but change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Options of `image prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Show what would go and what would come back, but change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Pruned<'a> {
    pruned: &'a PrunedImages,
}

#[derive(Debug, Serialize)]
struct Removed<'a> {
    removed: &'a RemovedImage,
}

/// Runs `image rm`.
pub(super) fn run(context: &Context, args: &RemoveArgs) -> anyhow::Result<()> {
    let pool = context.pool(None)?;
    let parents = match args.prune {
        true => Parents::Prune,
        false => Parents::Keep,
    };
    if args.dry_run {
        return plan::show(context, &pool.plan_remove_image(&args.image, parents)?);
    }
    let removed = pool.remove_image(&args.image, parents)?;
    let body = Removed { removed: &removed };
    context.out.done(&body, || removed_text(&removed))
}

/// Runs `image prune`.
pub(super) fn prune(context: &Context, args: &PruneArgs) -> anyhow::Result<()> {
    let pool = context.pool(None)?;
    if args.dry_run {
        return plan::show(context, &pool.plan_prune()?);
    }
    let pruned = pool.prune_images()?;
    let body = Pruned { pruned: &pruned };
    context.out.done(&body, || deleted(&pruned.images))
}

fn deleted(ids: &[Digest]) -> String {
    ids.iter()
        .map(|id| record(["deleted".to_owned(), id.to_string()]))
        .collect()
}

pub(super) fn removed_text(removed: &RemovedImage) -> String {
    let names = removed
        .names
        .iter()
        .map(|name| record(["untagged".to_owned(), name.to_string()]));
    let image = removed.removed.then(|| deleted(&[removed.id]));
    names
        .chain(image)
        .chain([deleted(&removed.parents)])
        .collect()
}
