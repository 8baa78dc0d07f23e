//! Images that behave like git: commit, history, back to any of them; names, and what they lead to.

#![allow(
    clippy::arithmetic_side_effects,
    reason = "the small numbers of a test"
)]

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::build::{self, Image, Layer};
use super::check::clean;
use super::harness::{Ctx, Test, text, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("image_tag_untag_inspect", names),
    ("commit_four_times_and_back_to_any", four_commits),
    ("commit_of_a_container_in_use", in_use),
    ("commit_of_nothing_and_of_what_is_there", nothing_and_again),
    ("commit_changes_the_configuration", configuration),
    ("image_prune_is_exact", prune),
];

pub(super) fn array<'a>(value: &'a Value, what: &str) -> Result<&'a Vec<Value>> {
    value.as_array().with_context(|| format!("{what}: {value}"))
}

/// A pool with `demo:1` and a container `web` of it, mounted at what is given back.
pub(super) fn mounted(ctx: &Ctx) -> Result<std::path::PathBuf> {
    ctx.pool("tank")?;
    let image = build::small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)])?;
    ctx.ok(&["container", "create", "demo:1", "--name", "web"])?;
    let dir = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "web", text(&dir)])?;
    Ok(dir)
}

pub(super) fn commit(ctx: &Ctx, args: &[&str]) -> Result<Value> {
    let args = [&["container", "commit", "web"], args].concat();
    Ok(ctx.json(&args)?["committed"].clone())
}

/// What a container of an image shows, looked at by `look`.
pub(super) fn with_container_of(
    ctx: &Ctx,
    image: &str,
    look: &dyn Fn(&Path) -> Result<()>,
) -> Result<()> {
    ctx.ok(&["container", "create", image, "--name", "look"])?;
    let dir = ctx.mkdir("look")?;
    ctx.ok(&["container", "mount", "look", text(&dir)])?;
    let looked = look(&dir).with_context(|| format!("a container of {image}"));
    ctx.ok(&["container", "umount", "look"])?;
    witness("e2fsck", &["-fn", "/dev/mapper/dmthin-tank-ctr-look"])?;
    ctx.ok(&["container", "rm", "look"])?;
    looked
}

fn names(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let one = build::small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&one)])?;
    let layer = Layer::new().file("other", b"x").bytes();
    let two = Image::new("two:1", vec![layer]).write(&ctx.dir.join("two.tar"))?;
    ctx.ok(&["image", "import", text(&two)])?;
    let tagged = ctx.json(&["image", "tag", "demo:1", "stable"])?;
    ensure!(
        tagged["image"]["names"] == serde_json::json!(["demo:1", "stable:latest"]),
        "{tagged}"
    );
    // A name that another image has moves.
    ctx.ok(&["image", "tag", "two:1", "stable"])?;
    let inspected = ctx.json(&["image", "inspect", "demo:1"])?["image"].clone();
    ensure!(
        inspected["names"] == serde_json::json!(["demo:1"])
            && inspected["config"]["config"]["Cmd"] == serde_json::json!(["/bin/sh"])
            && array(&inspected["layers"], "layers")?.len() == 2,
        "{inspected}"
    );
    ctx.fails(&["image", "tag", "nobody", "a:1"], 3, "nobody")?;
    ctx.fails(&["image", "untag", "nobody"], 3, "nobody:latest")?;
    let untagged = ctx.json(&["image", "untag", "demo:1"])?;
    ensure!(
        untagged["image"]["names"] == serde_json::json!([]),
        "{untagged}"
    );
    let id = inspected["id"].as_str().context("no id")?;
    ctx.ok(&["image", "inspect", id])?;

    let layers = ctx.json(&["layer", "list"])?["layers"].clone();
    let layers = array(&layers, "layers")?;
    let [low, top] = [&layers[0], &layers[1]];
    ensure!(
        layers.len() == 3
            && low["parent"].is_null()
            && low["children"] == serde_json::json!([top["chain_id"]])
            && top["parent"] == low["chain_id"]
            && top["images"] == serde_json::json!([id])
            && layers[2]["images"] == serde_json::json!(["stable:latest", "two:1"]),
        "{layers:?}"
    );
    let chain = top["chain_id"].as_str().context("no chain id")?;
    let by_image = ctx.json(&["layer", "inspect", id])?;
    let by_digits = ctx.json(&["layer", "inspect", &chain["sha256:".len()..][..8]])?;
    ensure!(
        by_image == by_digits && by_image["layer"] == *top,
        "{by_image} {by_digits}"
    );
    ctx.fails(&["layer", "inspect", "nobody"], 3, "nobody")
}

/// The seed's story: four commits, four layers, and back to any of them.
fn four_commits(ctx: &Ctx) -> Result<()> {
    let dir = mounted(ctx)?;
    let (mut ids, mut chains) = (Vec::new(), Vec::new());
    for n in 1..=4_u8 {
        fs::write(dir.join("etc/hostname"), format!("commit {n}\n"))?;
        fs::write(dir.join(format!("new{n}")), [n; 12])?;
        if n > 1 {
            fs::remove_file(dir.join(format!("new{}", n - 1)))?;
        }
        let name = format!("app:{n}");
        let message = format!("message {n}");
        let made = commit(
            ctx,
            &["--name", &name, "--message", &message, "--author", "me"],
        )?;
        ensure!(
            made["names"] == serde_json::json!([name])
                && made["change"] == "changed"
                && made["shared"] == false
                && made["warnings"] == serde_json::json!([]),
            "{made}"
        );
        let told =
            |key: &str| -> Result<String> { Ok(made[key].as_str().context("no text")?.to_owned()) };
        ids.push(told("id")?);
        chains.push(told("chain_id")?);
        // The next one stands on this one.
        ctx.ok(&["container", "umount", "web"])?;
        ctx.ok(&["container", "rm", "web"])?;
        ctx.ok(&["container", "create", &name, "--name", "web"])?;
        ctx.ok(&["container", "mount", "web", text(&dir)])?;
    }
    for list in [&mut ids.clone(), &mut chains.clone()] {
        list.sort();
        list.dedup();
        ensure!(list.len() == 4, "some are the same: {list:?}");
    }
    let history = ctx.json(&["image", "history", "app:4"])?["history"].clone();
    let comments: Vec<_> = array(&history, "history")?
        .iter()
        .map(|step| (step["comment"].clone(), step["diff_id"].is_string()))
        .collect();
    let told = |n: u8| (Value::from(format!("message {n}")), true);
    ensure!(
        comments
            == [
                told(4),
                told(3),
                told(2),
                told(1),
                (Value::Null, true),
                (Value::Null, true)
            ],
        "{history}"
    );
    let layers = ctx.json(&["image", "inspect", "app:4"])?["image"]["layers"].clone();
    let stack: Vec<_> = array(&layers, "layers")?
        .iter()
        .map(|l| l["chain_id"].clone())
        .collect();
    ensure!(stack[2..] == chains, "{stack:?} {chains:?}");
    for n in 1..=4_u8 {
        with_container_of(ctx, &ids[usize::from(n) - 1], &|dir| {
            let hostname = fs::read_to_string(dir.join("etc/hostname"))?;
            let new: Vec<_> = (1..=4)
                .filter(|n| dir.join(format!("new{n}")).exists())
                .collect();
            ensure!(
                hostname == format!("commit {n}\n") && new == [n],
                "{hostname}{new:?}"
            );
            ensure!(!dir.join("etc/gone").exists());
            Ok(())
        })?;
    }
    // Each is in the history of what has a name; without that all of it goes.
    ctx.ok(&["container", "umount", "web"])?;
    ctx.ok(&["container", "rm", "web"])?;
    for name in ["app:1", "app:2", "app:3"] {
        ctx.ok(&["image", "untag", name])?;
    }
    let pruned = ctx.json(&["image", "prune"])?["pruned"].clone();
    ensure!(pruned["images"] == serde_json::json!([]), "{pruned}");
    let removed = ctx.json(&["image", "rm", "app:4", "--prune"])?["removed"].clone();
    ensure!(
        removed["parents"] == serde_json::json!([ids[0], ids[1], ids[2]])
            && removed["layers_removed"] == 4,
        "{removed}"
    );
    clean(ctx)
}

/// Everything that was written is in the image, synced or not; a virtual machine's disk is as after a power cut.
fn in_use(ctx: &Ctx) -> Result<()> {
    let dir = mounted(ctx)?;
    fs::create_dir(dir.join("made"))?;
    for n in 0..50 {
        fs::write(dir.join(format!("made/{n}")), [1; 5000])?;
    }
    // Open and without a name: no part of the image.
    let nameless = fs::File::create(dir.join("nameless"))?;
    fs::remove_file(dir.join("nameless"))?;
    // The tar of what it changed is the layer that a commit makes.
    let tar = ctx.dir.join("changed.tar");
    let told = ctx.json(&[
        "container",
        "diff",
        "web",
        "--format",
        "tar",
        "-o",
        text(&tar),
    ])?;
    let made = commit(ctx, &["--name", "live:1"])?;
    ensure!(
        told["tar"]["diff_id"] == made["diff_id"] && told["tar"]["entries"] == made["entries"],
        "{told}, {made}"
    );
    let sum = witness("sha256sum", &[text(&tar)])?;
    ensure!(
        sum.get(..64)
            .is_some_and(|sum| format!("sha256:{sum}") == made["diff_id"]),
        "{sum}, {made}"
    );
    let piped = format!(
        "pool-cli --root {} container diff web --format tar | cmp - {}",
        text(&ctx.root),
        text(&tar)
    );
    witness("sh", &["-ec", &piped])?;
    ctx.fails(
        &["container", "diff", "web", "-o", text(&tar)],
        2,
        "--format tar",
    )?;
    drop(nameless);
    fs::write(dir.join("later"), "after the commit")?;
    with_container_of(ctx, "live:1", &|dir| {
        ensure!(fs::read_dir(dir.join("made"))?.count() == 50);
        for n in 0..50 {
            ensure!(
                fs::read(dir.join(format!("made/{n}")))? == [1; 5000],
                "file {n}"
            );
        }
        ensure!(!dir.join("later").exists() && !dir.join("nameless").exists());
        Ok(())
    })?;
    // Nobody synced it: the commit does, without stopping anybody.
    commit(ctx, &["--name", "live:2", "--no-pause"])?;
    with_container_of(ctx, "live:2", &|dir| {
        ensure!(fs::read_to_string(dir.join("later"))? == "after the commit");
        Ok(())
    })?;
    clean(ctx)
}

fn nothing_and_again(ctx: &Ctx) -> Result<()> {
    let dir = mounted(ctx)?;
    let none = commit(ctx, &["--name", "same:1"])?;
    let demo = ctx.json(&["image", "inspect", "demo:1"])?["image"].clone();
    let top = &demo["layers"][1]["chain_id"];
    ensure!(
        none["diff_id"].is_null() && none["chain_id"] == *top,
        "{none}"
    );
    let same = ctx.json(&["image", "inspect", "same:1"])?["image"].clone();
    ensure!(
        same["layers"] == demo["layers"] || array(&same["layers"], "layers")?.len() == 2,
        "{same}"
    );
    ensure!(
        same["config"]["history"][2]["empty_layer"] == true,
        "{same}"
    );
    fs::write(dir.join("file"), "content")?;
    let first = commit(ctx, &["--name", "a:1"])?;
    let again = commit(ctx, &["--name", "b:1"])?;
    ensure!(
        again["shared"] == true && again["chain_id"] == first["chain_id"],
        "{first} {again}"
    );
    let status = ctx.json(&["pool", "status"])?["pool"].clone();
    ensure!(status["layers"] == 3, "{status}");
    clean(ctx)
}

fn configuration(ctx: &Ctx) -> Result<()> {
    mounted(ctx)?;
    commit(
        ctx,
        &[
            "--name",
            "run:1",
            "--change",
            "CMD [\"run\"]",
            "--change",
            "ENV A=1 B=$A",
        ],
    )?;
    let run = ctx.json(&["image", "inspect", "run:1"])?["image"]["config"].clone();
    ensure!(
        run["config"] == serde_json::json!({"Cmd": ["run"], "Env": ["A=1", "B="]}),
        "{run}"
    );
    let bad = ["container", "commit", "web", "--change"];
    ctx.fails(&[&bad[..], &["RUN make"]].concat(), 2, "RUN")?;
    ctx.fails(&[&bad[..], &["EXPOSE $NONE"]].concat(), 2, "port")?;
    ctx.fails(&["container", "commit", "nobody"], 3, "nobody")?;
    clean(ctx)
}

/// What a dry run of pruning promises is what comes back.
fn prune(ctx: &Ctx) -> Result<()> {
    let dir = mounted(ctx)?;
    for n in [1_u8, 2] {
        fs::write(dir.join("big"), vec![n; 2 << 20])?;
        // The name moves on, and nothing leads to the first one then.
        commit(ctx, &["--name", "app:1"])?;
    }
    let used = || super::check::used(ctx);
    let plan = ctx.json(&["image", "prune", "--dry-run"])?["plan"].clone();
    ensure!(
        array(&plan["volumes"], "volumes")?.len() == 1
            && plan["pool_bytes"].as_u64() >= Some(2 << 20),
        "{plan}"
    );
    let before = used()?;
    let pruned = ctx.json(&["image", "prune"])?["pruned"].clone();
    let back = before.saturating_sub(used()?);
    ensure!(
        plan["pool_bytes"] == back && pruned["layers_removed"] == 1,
        "{back} came back: {plan} {pruned}"
    );
    let again = ctx.json(&["image", "prune", "--dry-run"])?["plan"].clone();
    ensure!(
        again["pool_bytes"] == 0 && again["names"] == serde_json::json!([]),
        "{again}"
    );
    ctx.ok(&["image", "inspect", "app:1"])?;
    clean(ctx)
}
