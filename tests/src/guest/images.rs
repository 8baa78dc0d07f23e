//! Images: the real one against an independent extraction, sharing, names, history.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::build::{self, Layer};
use super::check::{dmsetup, found, words};
use super::harness::{Ctx, Test, run, text, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("image_layers_are_shared_by_chain", layers_are_shared),
    ("image_names_history_and_tree", names_history_tree),
    (
        "image_from_stdin_and_from_directory",
        from_stdin_and_directory,
    ),
    (
        "image_import_reads_only_what_is_new",
        import_reads_only_what_is_new,
    ),
    ("image_rm_keeps_what_others_need", rm_keeps_what_is_needed),
    (
        "image_verify_names_a_changed_file",
        verify_names_a_changed_file,
    ),
];

/// Those that take a whole image.
pub(super) const LONG: &[Test] = &[
    (
        "image_docker_archive_equals_independent_extraction",
        docker_equals_oracle,
    ),
    ("image_oci_equals_independent_extraction", oci_equals_oracle),
];

/// Imports the real image, makes a container of it, and compares it file by file with what GNU tar
/// and a script of whiteouts make of the same layers.
fn equals_oracle(ctx: &Ctx, file: &str) -> Result<()> {
    ctx.ok(&[
        "pool",
        "create",
        "tank",
        "--size",
        "6G",
        "--base-size",
        "3G",
    ])?;
    let imported = ctx.json(&["image", "import", &ctx.image(file)?, "--name", "real:1"])?;
    ensure!(
        imported["imported"][0]["layers_new"].as_u64() >= Some(3),
        "{imported}"
    );
    ensure!(
        imported["imported"][0]["bytes"].as_u64() >= Some(200 << 20),
        "{imported}"
    );
    ctx.ok(&["container", "create", "real:1", "--name", "real"])?;
    let mount = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "real", text(&mount)])?;
    // One extraction serves both forms of the image.
    let oracle = ctx.shared.join("oracle");
    if !oracle.exists() {
        let archive = ctx.image("docker.tar")?;
        witness("oracle-extract", &[&archive, text(&oracle)])?;
    }
    let compared = run("compare-trees", &[text(&oracle), text(&mount)])?;
    ensure!(
        compared.code == 0,
        "the trees differ:\n{}{}",
        compared.stdout,
        compared.stderr
    );
    ctx.ok(&["container", "umount", "real"])?;
    witness("e2fsck", &["-fn", "/dev/mapper/dmthin-tank-ctr-real"]).map(drop)
}

/// Every layer's tar comes back with its digest; once a file is changed below the pool's back, that file is
/// named. The record of a layer goes with it, and a stray one with `gc`.
fn verify_names_a_changed_file(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let mut layers = build::two_layers();
    let twice = Layer::new()
        .file("twice", b"first")
        .file("twice", b"second");
    layers.push(twice.file("victim", &[7; 9000]).bytes());
    let file = build::Image::new("demo:1", layers).write(&ctx.dir.join("demo.tar"))?;
    ctx.ok(&["image", "import", text(&file)])?;
    let checked = ctx.json(&["image", "verify", "demo:1"])?;
    let layers = checked["layers"].as_array().context("no layers")?;
    ensure!(
        layers.len() == 3 && layers.iter().all(|layer| layer["verdict"] == "whole"),
        "{checked}"
    );
    let left = dmsetup(&["ls"])?;
    ensure!(!left.contains("-layer-"), "{left}");
    let images = ctx.json(&["image", "list"])?;
    let top = &images["images"][0]["layers"][2];
    let records = ctx.root.join("tank/layers");
    let record = records.join(format!("{}.split", top["volume"]));
    ensure!(record.exists(), "no {}", record.display());

    let table = format!(
        "0 4194304 thin /dev/mapper/dmthin-tank-pool {}",
        top["thin_id"]
    );
    dmsetup(&["create", "damage", "--table", &table])?;
    // Where no udevd makes it.
    dmsetup(&["mknodes", "damage"])?;
    let mount = ctx.mkdir("mnt")?;
    witness("mount", &["/dev/mapper/damage", text(&mount)])?;
    fs::write(mount.join("victim"), [8; 9000])?;
    witness("umount", &[text(&mount)])?;
    dmsetup(&["remove", "--retry", "damage"])?;
    let output = ctx.cli(&["image", "verify", "--all"])?;
    let id = top["diff_id"].as_str().context("no diff id")?;
    ensure!(
        output.code == 8
            && output.stdout.matches("whole\t").count() == 2
            && output
                .stdout
                .ends_with(&format!("changed\t{id}\nfile\t{id}\tvictim\n")),
        "{}: {}{}",
        output.code,
        output.stdout,
        output.stderr
    );

    // A reader that is killed leaves the layer's device, for reading only; whoever removes the layer got that
    // one, and could not discard by it.
    let columns = ["info", "-c", "--noheadings", "-o", "uuid"];
    let pool = dmsetup(&[&columns[..], &["dmthin-tank-pool"]].concat())?;
    let uuid = pool
        .trim()
        .replace("-pool", &format!("-layer-{}", top["volume"]));
    let name = format!("dmthin-tank-layer-{}", top["volume"]);
    let left = ["create", &name, "--readonly", "--uuid", &uuid];
    dmsetup(&[&left[..], &["--table", &table]].concat())?;

    ctx.ok(&["image", "rm", "demo:1"])?;
    ensure!(!records.exists(), "records of removed layers stay");
    fs::create_dir(&records)?;
    fs::write(records.join("999.split"), "")?;
    let (code, items) = found(ctx, &["check"])?;
    ensure!(
        code == 1 && words(&items, "kind") == ["stray-record"],
        "{code} {items:?}"
    );
    ctx.ok(&["gc"])?;
    ensure!(
        !records.join("999.split").exists(),
        "the stray record stays"
    );
    ctx.ok(&["check"]).map(drop)
}

fn docker_equals_oracle(ctx: &Ctx) -> Result<()> {
    equals_oracle(ctx, "docker.tar")
}

fn oci_equals_oracle(ctx: &Ctx) -> Result<()> {
    equals_oracle(ctx, "oci.tar")
}

fn layers_are_shared(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let below = build::two_layers();
    let one = build::Image::new("one:1", below.clone()).write(&ctx.dir.join("one.tar"))?;
    let mut layers = below;
    layers.push(Layer::new().file("extra", b"third").bytes());
    let two = build::Image::new("two:1", layers.clone()).write(&ctx.dir.join("two.tar"))?;
    // The same layers in another order are another stack: nothing is shared.
    layers.swap(0, 1);
    let three = build::Image::new("three:1", layers).write(&ctx.dir.join("three.tar"))?;
    for (file, new, shared) in [(&one, 2, 0), (&two, 1, 2), (&three, 3, 0), (&two, 0, 3)] {
        let report = ctx.json(&["image", "import", text(file)])?;
        let image = &report["imported"][0];
        ensure!(
            image["layers_new"] == new && image["layers_shared"] == shared,
            "{}: {image}",
            file.display()
        );
    }
    let status = ctx.json(&["pool", "status"])?;
    ensure!(
        status["pool"]["layers"] == 6 && status["pool"]["images"] == 3,
        "{status}"
    );
    Ok(())
}

fn names_history_tree(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let image = build::small_image(&ctx.dir, "demo:latest")?;
    ctx.ok(&["image", "import", text(&image)])?;
    ctx.ok(&["image", "import", text(&image), "--name", "other:2"])?;
    let list = ctx.json(&["image", "list"])?;
    let images = list["images"].as_array().context("no images")?;
    ensure!(images.len() == 1, "one image with two names: {list}");
    let mut names: Vec<_> = images[0]["names"]
        .as_array()
        .context("names")?
        .iter()
        .collect();
    names.sort_by_key(|name| name.to_string());
    ensure!(names == ["demo:latest", "other:2"], "{names:?}");
    let id = images[0]["id"].as_str().context("no id")?.to_owned();
    let short = &id["sha256:".len()..][..12];
    // Without a tag, by the whole id and by its first digits: the same image.
    for name in ["demo", "other:2", &id, short] {
        let history = ctx.json(&["image", "history", name])?;
        let steps = history["history"].as_array().context("no history")?;
        ensure!(
            steps.len() == 2 && steps[0]["created_by"] == "step 2",
            "{name}: {history}"
        );
        ensure!(
            steps[0]["diff_id"] == build::digest(&build::two_layers()[1]),
            "{history}"
        );
    }
    let tree = ctx.json(&["image", "tree"])?;
    let root = &tree["layers"][0];
    ensure!(
        root["children"][0]["images"]
            .as_array()
            .is_some_and(|i| i.len() == 2),
        "{tree}"
    );
    // A name goes first, the image with its last name.
    ctx.ok(&["image", "rm", "other:2"])?;
    ensure!(
        ctx.json(&["image", "list"])?["images"]
            .as_array()
            .is_some_and(|i| i.len() == 1)
    );
    ctx.ok(&["image", "rm", "demo"])?;
    ensure!(
        ctx.json(&["image", "list"])?["images"]
            .as_array()
            .is_some_and(Vec::is_empty)
    );
    ctx.fails(&["image", "rm", "demo"], 3, "demo")
}

fn from_stdin_and_directory(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let image = build::small_image(&ctx.dir, "demo:1")?;
    let piped = ctx.cli_from(&["image", "import", "-"], &image)?;
    ensure!(piped.code == 0, "{}", piped.stderr);
    let layout = ctx.mkdir("layout")?;
    oci_layout(&layout)?;
    let report = ctx.json(&["image", "import", text(&layout), "--name", "oci:1"])?;
    // The layers are those of the archive, compressed: the diff ids are the same.
    ensure!(report["imported"][0]["layers_shared"] == 2, "{report}");
    Ok(())
}

/// Of layers that are in the pool no blob is read: it may be missing, or be something else.
fn import_reads_only_what_is_new(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let mut layers = build::two_layers();
    layers.push(Layer::new().file("extra", b"third").bytes());
    let without = |name: &str| -> Result<PathBuf> {
        let mut image = build::Image::new(name, layers.clone());
        image.manifest["Layers"][0] = serde_json::json!("nowhere/layer.tar");
        image.layers[1] = b"BZh9 no layer".to_vec();
        image.write(&ctx.dir.join("without.tar"))
    };
    let without = without("three:1")?;
    let import = ["image", "import", text(&without)];
    ctx.fails(&import, 11, "nowhere/layer.tar")?;
    ensure!(ctx.json(&["layer", "list"])?["layers"] == serde_json::json!([]));
    let below = build::small_image(&ctx.dir, "two:1")?;
    ctx.ok(&["image", "import", text(&below)])?;
    let report = ctx.json(&import)?;
    ensure!(
        report["imported"][0]["layers_shared"] == 2 && report["imported"][0]["layers_new"] == 1,
        "{report}"
    );
    let mount = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "create", "three:1", "--name", "c"])?;
    ctx.ok(&["container", "mount", "c", text(&mount)])?;
    ensure!(fs::read(mount.join("extra"))? == b"third");
    ctx.ok(&["container", "umount", "c"]).map(drop)
}

/// Writes the two-layer image as an OCI layout, one layer by gzip and one plain.
fn oci_layout(dir: &Path) -> Result<()> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let put = |bytes: &[u8], media_type: &str| -> Result<serde_json::Value> {
        let digest = build::digest(bytes);
        fs::write(blobs.join(&digest["sha256:".len()..]), bytes)?;
        Ok(serde_json::json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
    };
    let layers = build::two_layers();
    let image = build::Image::new("unused", layers.clone());
    let config = put(
        &serde_json::to_vec(&image.config)?,
        "application/vnd.oci.image.config.v1+json",
    )?;
    let first = put(
        &build::gzip(&layers[0])?,
        "application/vnd.oci.image.layer.v1.tar+gzip",
    )?;
    let second = put(&layers[1], "application/vnd.oci.image.layer.v1.tar")?;
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": [first, second],
    });
    let manifest = put(
        &serde_json::to_vec(&manifest)?,
        "application/vnd.oci.image.manifest.v1+json",
    )?;
    fs::write(
        dir.join("index.json"),
        serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": [manifest]}))?,
    )?;
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}

fn rm_keeps_what_is_needed(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let below = build::two_layers();
    let one = build::Image::new("one:1", below.clone()).write(&ctx.dir.join("one.tar"))?;
    let mut layers = below;
    layers.push(Layer::new().file("extra", b"third").bytes());
    let two = build::Image::new("two:1", layers).write(&ctx.dir.join("two.tar"))?;
    ctx.ok(&["image", "import", text(&one)])?;
    ctx.ok(&["image", "import", text(&two)])?;
    let removed = ctx.json(&["image", "rm", "one:1"])?;
    ensure!(removed["removed"]["layers_removed"] == 0, "{removed}");
    ctx.ok(&["container", "create", "two:1", "--name", "web"])?;
    let mount = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "web", text(&mount)])?;
    ensure!(fs::read(mount.join("etc/hostname"))? == b"two\n");
    ctx.ok(&["container", "umount", "web"])?;
    ctx.fails(&["image", "rm", "two:1"], 5, "web")?;
    ctx.ok(&["container", "rm", "web"])?;
    let removed = ctx.json(&["image", "rm", "two:1"])?;
    ensure!(removed["removed"]["layers_removed"] == 3, "{removed}");
    Ok(())
}
