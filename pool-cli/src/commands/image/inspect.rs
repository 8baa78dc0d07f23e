//! `pool-cli image inspect`.

use dmthin::graph::ImageDetails;

use super::One;
use crate::args::Context;
use crate::output::{fields, list, or_dash};
use crate::time::utc;

pub(super) fn run(context: &Context, image: &str) -> anyhow::Result<()> {
    let image = context.pool(None)?.image(image)?;
    context
        .out
        .show(&One { image: &image }, || image_fields(&image))
}

fn image_fields(details: &ImageDetails) -> String {
    let (image, config) = (&details.image, &details.config);
    let or_root = |text: &str, root: &str| if text.is_empty() { root } else { text }.to_owned();
    let mut rows = vec![
        ("Id", image.id.to_string()),
        ("Names", list(&image.names)),
        ("Manifest", or_dash(details.manifest)),
        ("Platform", config.platform.to_string()),
        ("Created", or_dash(image.created.as_ref())),
        ("Imported", utc(image.imported_at)),
        ("Size", image.size.to_string()),
        ("Containers", list(&image.containers)),
        ("Entry point", words(&config.entrypoint)),
        ("Command", words(&config.cmd)),
        ("Directory", or_root(&config.working_dir, "/")),
        ("User", or_root(&config.user, "root")),
    ];
    let mut under = |name, lines: Vec<String>| {
        let names = std::iter::once(name).chain(std::iter::repeat(""));
        rows.extend(names.zip(lines));
    };
    under("Environment", config.env.clone());
    let layers = image.layers.iter();
    under(
        "Layers",
        layers
            .map(|layer| format!("{}  {}", layer.chain_id, layer.size))
            .collect(),
    );
    fields(rows)
}

/// The words as a JSON array: where one ends is seen.
fn words(words: &[String]) -> String {
    match words {
        [] => "-".to_owned(),
        words => serde_json::Value::from(words).to_string(),
    }
}
