//! Images and layers out and in again, and the verbs of a graph driver.

use std::fs;

use anyhow::{Context, Result, ensure};
use dmthin::graph::{Driver, ErrorCode, Host, LayerMetadata};
use dmthin::ids::{ContainerName, ImageRef, PoolName};
use dmthin::store::Timestamp;
use serde_json::Value;

use super::build::{self, Image, Layer};
use super::check::clean;
use super::commits::{array, commit, mounted, with_container_of};
use super::harness::{Ctx, Test, run, text, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("export_is_the_same_image_elsewhere", export),
    (
        "export_without_records_is_exact_or_refused",
        without_records,
    ),
    ("layer_diff_and_apply_give_the_layer_back", diff_and_apply),
    ("driver_has_every_verb", driver),
];

/// Those that take many layers.
pub(super) const LONG: &[Test] = &[("layers_127_are_a_stack", stack_of_127)];

/// Ids of an image and its layers.
fn identity(ctx: &Ctx, pool: &str, image: &str) -> Result<(Value, Vec<Value>)> {
    let image = ctx.json(&["--pool", pool, "image", "inspect", image])?["image"].clone();
    let layers = array(&image["layers"], "layers")?;
    let layers = layers
        .iter()
        .map(|layer| serde_json::json!([layer["diff_id"], layer["chain_id"]]));
    Ok((image["id"].clone(), layers.collect()))
}

/// One image that was imported and one that was committed on it, out of one pool and into another.
fn export(ctx: &Ctx) -> Result<()> {
    let dir = mounted(ctx)?;
    fs::create_dir(dir.join("d"))?;
    fs::write(dir.join("d/big"), vec![9; 200_000])?;
    fs::hard_link(dir.join("d/big"), dir.join("d/link"))?;
    std::os::unix::fs::symlink("big", dir.join("d/sym"))?;
    fs::remove_file(dir.join("etc/hostname"))?;
    fs::File::create(dir.join("sparse"))?.set_len(8 << 20)?;
    commit(ctx, &["--name", "app:1"])?;
    ctx.ok(&["container", "umount", "web"])?;
    ctx.pool("other")?;
    for (image, form) in [
        ("demo:1", "docker-archive"),
        ("app:1", "oci"),
        ("app:1", "docker-archive"),
    ] {
        let told = || format!("{image} as {form}");
        let file = ctx.dir.join("out.tar");
        let out = text(&file);
        let args = [
            "--pool", "tank", "image", "export", image, "--format", form, "-o", out,
        ];
        let exported = ctx.json(&args)?["exported"].clone();
        ensure!(
            exported["names"] == serde_json::json!([image])
                && exported["bytes"] == fs::metadata(&file)?.len(),
            "{exported}"
        );
        let imported = ctx.json(&["--pool", "other", "image", "import", out])?["imported"].clone();
        ensure!(
            imported[0]["id"] == exported["id"],
            "{}: {imported}",
            told()
        );
        let (here, there) = (
            identity(ctx, "tank", image)?,
            identity(ctx, "other", image)?,
        );
        ensure!(here == there, "{}: {here:?} {there:?}", told());
        // The same bytes again, and through a pipe.
        let first = fs::read(&file)?;
        let piped = ctx.cli(&[
            "--pool",
            "tank",
            "image",
            "export",
            image,
            "--format",
            form,
            "-o",
            "/dev/null",
        ])?;
        ensure!(piped.code == 0, "{}", piped.stderr);
        ctx.ok(&args)?;
        ensure!(fs::read(&file)? == first, "{}: other bytes", told());
    }
    ctx.ok(&[
        "--pool",
        "other",
        "container",
        "create",
        "app:1",
        "--name",
        "look",
    ])?;
    let look = ctx.mkdir("look")?;
    ctx.ok(&["--pool", "other", "container", "mount", "look", text(&look)])?;
    ctx.ok(&["--pool", "tank", "container", "mount", "web", text(&dir)])?;
    let compared = run("compare-trees", &[text(&dir), text(&look)])?;
    ensure!(compared.code == 0, "{}{}", compared.stdout, compared.stderr);
    ctx.ok(&["--pool", "other", "container", "umount", "look"])?;
    ctx.ok(&["--pool", "tank", "container", "umount", "web"])?;
    ctx.fails(
        &["--pool", "tank", "image", "export", "nobody", "-o", "/x"],
        3,
        "nobody",
    )?;
    let nowhere = ctx.dir.join("no/such/dir/out.tar");
    let args = [
        "--pool",
        "tank",
        "image",
        "export",
        "app:1",
        "-o",
        text(&nowhere),
    ];
    ctx.fails(&args, 3, "out.tar")?;
    // What cannot be written whole is not there at all.
    ensure!(fs::read_dir(&ctx.dir)?.all(|entry| {
        entry.is_ok_and(|entry| !entry.file_name().to_string_lossy().ends_with(".new"))
    }));
    Ok(())
}

/// A pool that has lost the records of its layers' tars, or never had any: a layer whose tar is as we write it is
/// exported all the same, another one is refused, and new ones are recorded.
fn without_records(ctx: &Ctx) -> Result<()> {
    let dir = mounted(ctx)?;
    fs::create_dir(dir.join("d"))?;
    fs::write(dir.join("d/file"), vec![3; 70_000])?;
    fs::hard_link(dir.join("d/file"), dir.join("d/link"))?;
    commit(ctx, &["--name", "app:1"])?;
    let tar = ctx.dir.join("layer.tar");
    let diff = ["layer", "diff", "demo:1", "app:1", "-o", text(&tar)];
    ctx.ok(&diff)?;
    let layer = fs::read(&tar)?;
    let ours = Image::new("ours:1", vec![layer.clone()]).write(&ctx.dir.join("ours.tar"))?;
    ctx.ok(&["image", "import", text(&ours)])?;
    let out = ctx.dir.join("out.tar");
    let export = ["image", "export", "ours:1", "-o", text(&out)];
    ctx.ok(&export)?;
    let exported = fs::read(&out)?;

    fs::remove_dir_all(ctx.root.join("tank/layers"))?;
    let verdicts = |image: &str| -> Result<Vec<Value>> {
        let checked = ctx.json(&["image", "verify", image])?;
        let layers = array(&checked["layers"], "layers")?.iter();
        Ok(layers.map(|layer| layer["verdict"].clone()).collect())
    };
    ensure!(verdicts("ours:1")? == ["no-record"]);
    fs::remove_file(&out)?;
    ctx.ok(&export)?;
    ensure!(fs::read(&out)? == exported, "the image is another");
    fs::remove_file(&tar)?;
    ctx.ok(&diff)?;
    ensure!(fs::read(&tar)? == layer, "the layer is another");
    fs::remove_file(&out)?;
    // What others wrote is not as we write it.
    for image in ["demo:1", "app:1"] {
        let refused = ["image", "export", image, "-o", text(&out)];
        ctx.fails(&refused, 10, "there is no record of the tar of layer")?;
    }
    ensure!(!out.exists(), "half an archive is there");

    fs::write(dir.join("d/more"), "x")?;
    commit(ctx, &["--name", "app:2"])?;
    let whole = verdicts("app:2")?.pop();
    ensure!(whole == Some("whole".into()), "{whole:?}");
    clean(ctx)
}

fn diff_and_apply(ctx: &Ctx) -> Result<()> {
    let dir = mounted(ctx)?;
    fs::write(dir.join("added"), "x")?;
    fs::remove_file(dir.join("etc/hostname"))?;
    let made = commit(ctx, &["--name", "app:1"])?;
    let diff = ctx.json(&["image", "diff", "demo:1", "app:1"])?["diff"].clone();
    let changes = serde_json::json!([
        {"path": "/", "kind": "modified"},
        {"path": "/added", "kind": "added"},
        {"path": "/etc", "kind": "modified"},
        {"path": "/etc/hostname", "kind": "deleted"},
    ]);
    ensure!(diff["changes"] == changes, "{diff}");
    ensure!(ctx.json(&["layer", "diff", "demo:1", "app:1"])?["diff"]["changes"] == changes);
    let none = ctx.json(&["image", "diff", "app:1", "app:1"])?["diff"].clone();
    ensure!(none["changes"] == serde_json::json!([]), "{none}");

    let tar = ctx.dir.join("layer.tar");
    let written = ctx.json(&["layer", "diff", "demo:1", "app:1", "-o", text(&tar)])?;
    ensure!(
        written["tar"]["diff_id"] == made["diff_id"],
        "{written} {made}"
    );
    ensure!(
        build::digest(&fs::read(&tar)?) == made["diff_id"],
        "{written}"
    );
    let apply = ["layer", "apply", "demo:1", text(&tar), "--name", "again:1"];
    let applied = ctx.json(&apply)?["committed"].clone();
    ensure!(
        applied["shared"] == true && applied["chain_id"] == made["chain_id"],
        "{applied}"
    );
    // On another layer it is another one.
    let low = ctx.json(&["layer", "inspect", "demo:1"])?["layer"]["parent"].clone();
    let low = low.as_str().context("no parent")?;
    let applied = ctx.json(&["layer", "apply", low, text(&tar), "--name", "low:1"])?;
    ensure!(applied["committed"]["shared"] == false, "{applied}");
    with_container_of(ctx, "low:1", &|dir| {
        ensure!(fs::read_to_string(dir.join("added"))? == "x" && dir.join("etc/gone").exists());
        Ok(())
    })?;
    // A whole root is an image of one layer, on which there can be others.
    let root = ctx.dir.join("root.tar");
    let layer = Layer::new().file("etc/hostname", b"whole\n").bytes();
    fs::write(&root, &layer)?;
    let applied = ctx.json(&["layer", "apply", "scratch", text(&root), "--name", "root:1"])?;
    ensure!(
        applied["committed"]["diff_id"] == build::digest(&layer),
        "{applied}"
    );
    ctx.ok(&["layer", "apply", "root:1", text(&tar), "--name", "root:2"])?;
    let layers = |image: &str| -> Result<usize> { Ok(identity(ctx, "tank", image)?.1.len()) };
    ensure!((layers("root:1")?, layers("root:2")?) == (1, 2));
    with_container_of(ctx, "root:1", &|dir| {
        ensure!(fs::read_to_string(dir.join("etc/hostname"))? == "whole\n");
        ensure!(!dir.join("added").exists());
        Ok(())
    })?;
    with_container_of(ctx, "root:2", &|dir| {
        ensure!(dir.join("added").exists() && !dir.join("etc/hostname").exists());
        Ok(())
    })?;
    fs::write(&tar, "no tar at all")?;
    ctx.fails(&["layer", "apply", "demo:1", text(&tar)], 11, "layer.tar")?;
    ctx.fails(&["layer", "apply", "nobody", text(&tar)], 3, "nobody")?;
    clean(ctx)
}

/// As many layers as Docker takes: imported, mounted, committed on, exported.
fn stack_of_127(ctx: &Ctx) -> Result<()> {
    const LAYERS: usize = 127;
    ctx.pool("tank")?;
    let layers: Vec<_> = (0..LAYERS)
        .map(|n| {
            let layer = Layer::new().file(&format!("file{n}"), format!("{n}").as_bytes());
            layer.file("last", n.to_string().as_bytes()).bytes()
        })
        .collect();
    let image = Image::new("deep:1", layers).write(&ctx.dir.join("deep.tar"))?;
    ctx.ok(&["image", "import", text(&image)])?;
    ctx.ok(&["container", "create", "deep:1", "--name", "web"])?;
    let dir = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "web", text(&dir)])?;
    ensure!(fs::read_to_string(dir.join("last"))? == "126");
    for n in 0..LAYERS {
        ensure!(fs::read_to_string(dir.join(format!("file{n}")))? == n.to_string());
    }
    fs::write(dir.join("last"), "127")?;
    commit(ctx, &["--name", "deep:2"])?;
    let out = ctx.dir.join("out.tar");
    ctx.ok(&["image", "export", "deep:2", "-o", text(&out)])?;
    let imported = ctx.json(&["image", "import", text(&out), "--name", "deep:3"])?;
    ensure!(
        imported["imported"][0]["layers_shared"] == 128,
        "{imported}"
    );
    ctx.ok(&["container", "umount", "web"])?;
    ctx.ok(&["container", "rm", "web"])?;
    ctx.ok(&["image", "rm", "deep:3"])?;
    let removed = ctx.json(&["image", "rm", "deep:2"])?["removed"].clone();
    ensure!(removed["layers_removed"] == 1, "{removed}");
    clean(ctx)
}

/// Every verb of a graph driver, by the library, as an engine would call them.
fn driver(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let host = Host::new(ctx.root.clone());
    let pool = host.pool(&PoolName::new("tank")?)?;
    let driver = Driver::new(&pool);
    let id = |text: &str| ImageRef::new(text);
    let now = Timestamp::from_unix(1_700_000_000);
    let dir = ctx.mkdir("mnt")?;
    driver.create(&id("low:1")?, None)?;
    ensure!(driver.exists("low:1")? && !driver.exists("nobody")?);
    ensure!(
        driver
            .create(&id("low:1")?, None)
            .is_err_and(|error| error.code() == ErrorCode::Exists)
    );
    let [lower, upper] =
        <[Vec<u8>; 2]>::try_from(build::two_layers()).map_err(|_| anyhow::anyhow!("two layers"))?;
    driver.apply_diff(&id("low:1")?, "low:1", &*lower, now)?;
    driver.create(&id("top:1")?, Some("low:1"))?;
    let size = driver.apply_diff(&id("top:1")?, "low:1", &*upper, now)?;
    ensure!(size.get() == u64::try_from(upper.len())?, "{size}");

    let web = ContainerName::new("web")?;
    driver.create_read_write(&web, "top:1", None)?;
    driver.get("web", &dir)?;
    ensure!(
        fs::read_to_string(dir.join("etc/hostname"))? == "two\n" && !dir.join("etc/gone").exists()
    );
    fs::write(dir.join("new"), "x")?;
    let changes = driver.changes("web", Some("top:1"))?.changes;
    let paths: Vec<_> = changes.iter().map(|change| text(&change.path)).collect();
    ensure!(paths == ["/", "/new"], "{paths:?}");
    let mut tar = Vec::new();
    let written = driver.diff("web", Some("top:1"), &mut tar)?;
    ensure!(
        build::digest(&tar) == written.diff_id.to_string()
            && driver.diff_size("web", Some("top:1"))? == written.size
    );
    // All that is in it, where no parent is named.
    let whole = driver.changes("web", None)?.changes;
    ensure!(
        whole
            .iter()
            .any(|change| text(&change.path) == "/etc/hostname"),
        "{whole:?}"
    );
    driver.put("web")?;
    ensure!(!dir.join("new").exists());

    // A read-only layer cannot be written to where it is mounted, and is read by others meanwhile.
    driver.get("top:1", &dir)?;
    ensure!(fs::read_to_string(dir.join("etc/hostname"))? == "two\n");
    ensure!(fs::write(dir.join("new"), "x").is_err());
    let mut again = Vec::new();
    driver.diff("top:1", Some("low:1"), &mut again)?;
    ctx.ok(&["image", "verify", "top:1"])?;
    driver.put("top:1")?;

    let LayerMetadata::Writable(container) = driver.metadata("web")? else {
        anyhow::bail!("web is a container");
    };
    ensure!(container.name == web);
    let LayerMetadata::Sealed(image) = driver.metadata("top:1")? else {
        anyhow::bail!("top:1 is an image");
    };
    ensure!(image.layers.len() == 2 && driver.status()?.name.as_str() == "tank");
    ensure!(
        driver
            .remove("top:1")
            .is_err_and(|error| error.code() == ErrorCode::Busy)
    );
    driver.remove("web")?;
    driver.remove("top:1")?;
    driver.remove("low:1")?;
    clean(ctx)?;
    driver.cleanup()?;
    ensure!(!witness("dmsetup", &["ls"])?.contains("dmthin-tank"));
    Ok(())
}
