//! Who takes a pool's room, and what comes back; that the numbers are those of thin-provisioning-tools is
//! shown by `dmthin/tests/thin_tools.rs`.

#![allow(
    clippy::arithmetic_side_effects,
    reason = "the small numbers of a test"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::build;
use super::check::{pool_with, used, write_blocks};
use super::harness::{Ctx, Test, text};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("space_promised_to_be_freed_comes_back", promised_comes_back),
    (
        "space_is_read_anew_only_when_it_changed",
        kept_while_unchanged,
    ),
];

const BLOCK: u64 = 65536;

/// The same numbers each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// The line of `df -v` that has this name.
fn told(ctx: &Ctx, list: &str, name: &str) -> Result<Value> {
    let space = ctx.json(&["df", "-v"])?["space"].clone();
    let mut lines = space[list].as_array().context("a list")?.iter();
    let line = lines.find(|line| line["name"] == name || line["names"][0] == name);
    Ok(line
        .with_context(|| format!("{name} is not in {space}"))?
        .clone())
}

/// Containers of two images that share a layer are removed in random sets, the images with the last of
/// theirs; each time what was promised is what comes back, to the byte.
fn promised_comes_back(ctx: &Ctx) -> Result<()> {
    let mut random = Random(0xdecade);
    pool_with(ctx, &[])?;
    let lower = build::two_layers().remove(0);
    let upper = build::Layer::new().file("big", &[5; 3 << 20]).bytes();
    let image = build::Image::new("second:1", vec![lower, upper]).write(&ctx.dir.join("2.tar"))?;
    ctx.ok(&["image", "import", text(&image)])?;
    let mut left: BTreeMap<String, &str> = BTreeMap::new();
    for (n, image) in (0..9).zip(["demo:1", "second:1", "demo:1"].iter().cycle()) {
        let name = format!("c{n}");
        ctx.ok(&["container", "create", image, "--name", &name])?;
        left.insert(name, image);
    }
    let mut images = vec!["demo:1", "second:1"];
    let mut sets = 0;
    while !left.is_empty() || !images.is_empty() {
        let mut set: Vec<String> = Vec::new();
        for name in left.keys() {
            write_blocks(
                name,
                (0..random.below(20)).map(|n| n * 31 + random.below(31)),
            )?;
        }
        // The last but one time one of the two images goes with its layers, then the other.
        let containers: Vec<&String> = left.keys().collect();
        for _ in 0..random.below(3) + 1 {
            if let Some(name) = containers.get(usize::try_from(random.below(9))?) {
                set.push((*name).clone());
            }
        }
        set.sort();
        set.dedup();
        let free = images.iter().filter(|image| {
            let mut users = left.iter().filter(|(_, of)| of == image);
            users.all(|(name, _)| set.contains(name))
        });
        let gone: Vec<&str> = free.copied().collect();
        let names: Vec<String> = gone.iter().map(|image| format!("image:{image}")).collect();
        let args: Vec<&str> = set.iter().chain(&names).map(String::as_str).collect();
        if args.is_empty() {
            continue;
        }
        let plan = ctx.json(&[&["df", "--freed-if"][..], &args].concat())?["plan"].clone();
        let promised = plan["pool_bytes"].as_u64().context("no promise")?;
        let one = match args.as_slice() {
            [name] if names.is_empty() => Some(told(ctx, "volumes", name)?["freed"].clone()),
            [_] => Some(told(ctx, "images", gone[0])?["freed"].clone()),
            _ => None,
        };
        ensure!(one.is_none_or(|one| one == promised), "{args:?}: {plan}");
        let before = used(ctx)?;
        for name in &set {
            ctx.ok(&["container", "rm", name])?;
            left.remove(name);
        }
        for image in &gone {
            ctx.ok(&["image", "rm", image])?;
            images.retain(|left| left != image);
        }
        let back = before - used(ctx)?;
        ensure!(
            back == promised,
            "{args:?}: {promised} were promised, {back} came back"
        );
        sets += 1;
    }
    ensure!(sets > 3, "only {sets} sets");
    ctx.fails(&["df", "--freed-if", "nobody"], 3, "nobody")
}

fn kept_while_unchanged(ctx: &Ctx) -> Result<()> {
    pool_with(ctx, &["web", "db"])?;
    write_blocks("web", 0..50)?;
    let kept = ctx.root.join("tank/space");
    // A miss leaves a new file in its place.
    let file = || -> Result<u64> { Ok(fs::metadata(&kept)?.ino()) };
    let space = || -> Result<Value> { Ok(ctx.json(&["df", "-v"])?["space"].clone()) };
    let first = space()?;
    let inode = file()?;
    ensure!(fs::metadata(&kept)?.mode() & 0o777 == 0o600);
    ensure!(
        space()? == first && file()? == inode,
        "asked again, read again"
    );
    let freed = |space: &Value| space["volumes"][3]["freed"].as_u64().context("freed");
    ensure!(freed(&first)? >= 50 * BLOCK, "{first}");
    // Written over, which changes nothing; then a block of its own for what it shared.
    write_blocks("web", 0..50)?;
    ensure!(space()? == first && file()? == inode, "{first}");
    write_blocks("web", 50..53)?;
    let second = space()?;
    ensure!(freed(&second)? == freed(&first)? + 3 * BLOCK, "{second}");
    ensure!(file()? != inode, "what has changed was not read");
    // A damaged one is nothing.
    let mut bytes = fs::read(&kept)?;
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&kept, &bytes)?;
    ensure!(space()? == second, "a damaged file was believed");
    fs::write(&kept, [0xff; 9])?;
    ensure!(space()? == second);
    fs::remove_file(&kept)?;
    ensure!(space()? == second && kept.exists());
    // The picture is of the same numbers.
    let picture = ctx.dir.join("tank.svg");
    let map = ctx.json(&["pool", "map", "tank", "-o", text(&picture)])?["map"].clone();
    let own: u64 = map["owners"]
        .as_array()
        .context("owners")?
        .iter()
        .filter_map(|owner| owner["own"].as_u64())
        .sum();
    let exclusive: u64 = second["volumes"]
        .as_array()
        .context("volumes")?
        .iter()
        .filter_map(|volume| volume["exclusive"].as_u64())
        .sum();
    // The copy of the catalogue is nobody's volume, and all its own.
    let copy = second["mirror"]["mapped"].as_u64().context("no copy")?;
    let exclusive = exclusive + copy;
    ensure!(own == exclusive, "{own} and {exclusive}: {map}");
    let mapped: u64 = map["cells"]
        .as_array()
        .context("cells")?
        .iter()
        .filter_map(|cell| cell["mapped"].as_u64())
        .sum();
    ensure!(mapped * BLOCK == second["mapped"] && second["mapped"] == used(ctx)?);
    let drawn = fs::read_to_string(&picture)?;
    ensure!(drawn.starts_with("<svg") && drawn.contains(">web</text>"));
    let tree = ctx.ok(&["df", "--tree"])?;
    ensure!(
        tree.lines().count() == 6 && tree.contains("`- db"),
        "{tree}"
    );
    ctx.ok(&["pool", "close", "tank"])?;
    ctx.fails(&["df", "-v"], 1, "tank")?;
    ctx.ok(&["pool", "open", "tank"]).map(drop)
}
