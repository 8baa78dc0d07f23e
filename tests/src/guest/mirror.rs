//! The copy of the catalogue in the pool follows every verb, and all of it comes back.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::thread;

use anyhow::{Context, Result, ensure};
use dmthin::graph::{CreateContainer, Host, Removing};
use dmthin::ids::{ContainerName, PoolName};
use dmthin::label::{HALF_AT, HalfHeader, MIRROR_BLOCK, Record, mirror_of};
use dmthin::store::Catalogue;
use dmthin::units::Bytes;
use serde_json::{Value, json};

use super::build::{Layer, small_image};
use super::damage::{CONTENT, container, is_whole};
use super::growth::make;
use super::harness::{Ctx, Test, text, witness};
use super::steps::cut_after;

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("rebuild_finds_what_each_verb_did", each_verb),
    (
        "rebuild_would_miss_what_was_killed_and_check_says_so",
        killed,
    ),
    ("rebuild_knows_what_threads_did_at_once", at_once),
];

/// The device of the mirror of the pool `tank`.
pub(super) const MIRROR: &str = "/dev/mapper/dmthin-tank-mirror";
pub(super) const REBUILD: [&str; 4] = ["pool", "recover", "tank", "--rebuild"];

/// What the mirror of the open pool `tank` would give.
fn in_mirror() -> Result<Vec<Record>> {
    let device = File::open(MIRROR)?;
    let read = |at: Bytes, len: Bytes| -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(len.get()).expect("a half is in memory")];
        device.read_exact_at(&mut bytes, at.get())?;
        Ok(bytes)
    };
    let pool = mirror_of(&read(Bytes::ZERO, MIRROR_BLOCK)?)?;
    let mut newest: Option<(Bytes, HalfHeader)> = None;
    for at in HALF_AT {
        let found = HalfHeader::decode(&read(at, MIRROR_BLOCK)?, pool);
        newest = newest
            .into_iter()
            .chain(found.map(|header| (at, header)))
            .max_by_key(|(_, h)| h.epoch);
    }
    let (at, header) = newest.context("no half counts")?;
    let replayed = header.replay(&read(at, header.extent)?).context("rows")?;
    Ok(replayed.records)
}

/// That the pool `tank`, which is open and ours, has in it what its catalogue has.
pub(super) fn is_current(ctx: &Ctx) -> Result<()> {
    let rows = Catalogue::open(ctx.root.join("tank/catalogue.db"))?.all_records()?;
    let mirrored = in_mirror()?;
    let odd = |of: &[Record], than: &[Record]| -> Vec<Record> {
        of.iter()
            .filter(|row| !than.contains(row))
            .cloned()
            .collect()
    };
    let (behind, left) = (odd(&rows, &mirrored), odd(&mirrored, &rows));
    ensure!(
        rows == mirrored,
        "not in the copy: {behind:?}; only there: {left:?}"
    );
    Ok(())
}

/// Takes out what changes without a verb.
fn lasting(mut value: Value) -> Value {
    match &mut value {
        Value::Object(map) => {
            for key in ["mapped", "devno"] {
                map.remove(key);
            }
            for value in map.values_mut() {
                *value = lasting(value.take());
            }
        }
        Value::Array(list) => {
            for value in list {
                *value = lasting(value.take());
            }
        }
        _ => {}
    }
    value
}

/// All that is told of what has a name: parents, sizes, digests.
fn told(ctx: &Ctx) -> Result<Vec<Value>> {
    let mut told = Vec::new();
    let mut owners: Vec<Vec<String>> = Vec::new();
    for (noun, list) in [("container", "containers"), ("volume", "volumes")] {
        let found = lasting(ctx.json(&[noun, "list"])?);
        let named = found[list].as_array().into_iter().flatten();
        owners.extend(named.filter_map(|owner| {
            let name = owner["name"].as_str()?;
            Some([noun, "snapshots", name].map(str::to_owned).to_vec())
        }));
        told.push(found);
    }
    for words in [
        &["image", "list"][..],
        &["layer", "list"],
        &["queue", "list"],
    ] {
        told.push(lasting(ctx.json(words)?));
    }
    for words in &owners {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        told.push(lasting(ctx.json(&words)?));
    }
    Ok(told)
}

fn each_verb(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "512M"])?;
    is_current(ctx)?;
    container(ctx, "web")?;
    is_current(ctx).context("container create")?;
    let tar = ctx.dir.join("layer.tar");
    fs::write(&tar, Layer::new().file("new", b"content").bytes())?;
    let again = small_image(&ctx.dir, "again:1")?;
    let verbs: &[&[&str]] = &[
        &["image", "tag", "demo:1", "stable"],
        &["image", "tag", "demo:1", "other:1"],
        &["image", "untag", "other:1"],
        &["container", "snapshot", "web", "before"],
        &["container", "snapshot", "web", "second"],
        &["container", "fork", "web", "--name", "twin"],
        &["container", "rollback", "web", "before"],
        &["container", "reset", "twin"],
        &["container", "snapshot-rm", "web", "before"],
        &["container", "grow", "web", "600M"],
        &["container", "commit", "web", "--name", "app:1"],
        &["layer", "apply", "app:1", text(&tar), "--name", "app:2"],
        &["volume", "create", "pg", "32M"],
        &["volume", "snapshot", "pg", "nightly"],
        &["volume", "rollback", "pg", "nightly"],
        &["volume", "grow", "pg", "48M"],
        &["volume", "create", "gone", "32M"],
        &["volume", "snapshot", "gone", "too"],
        &["volume", "rm", "gone", "--snapshots"],
        &["container", "create", "app:2", "--name", "kept"],
        &["container", "rm", "kept", "--queue"],
        &["queue", "cancel", "kept"],
        &["container", "rm", "twin"],
        &["container", "diff", "web"],
        &["image", "import", text(&again)],
        &["image", "untag", "again:1"],
        &["image", "rm", "stable"],
        &["image", "prune"],
        &["base", "grow", "640M"],
        &["pool", "set", "tank", "--min-free-data", "7"],
        &["pool", "grow", "tank", "--data", "+64M"],
        &["pool", "ballast", "make", "tank", "--size", "1M"],
        &["gc"],
    ];
    for verb in verbs {
        ctx.ok(verb)?;
        is_current(ctx).with_context(|| format!("{verb:?}"))?;
    }
    let before = told(ctx)?;
    witness(
        "sh",
        &["-c", &format!("rm {}/tank/catalogue.db*", text(&ctx.root))],
    )?;
    let output = ctx.cli(&["-q", "pool", "open", "tank"])?;
    ensure!(
        output.code == 8
            && output.stderr.contains("is gone")
            && output
                .stderr
                .contains("pool-cli pool recover tank --rebuild"),
        "{output:?}"
    );
    let rebuilt = ctx.json(&REBUILD)?["rebuilt"].clone();
    ensure!(
        rebuilt["copy"]["found"] == "whole"
            && rebuilt["lost"] == json!([])
            && rebuilt["dropped"] == json!([])
            && rebuilt["aside"].is_null(),
        "{rebuilt}"
    );
    ctx.ok(&["pool", "open", "tank"])?;
    let now = told(ctx)?;
    ensure!(now == before, "{now:?}, and before {before:?}");
    ctx.ok(&["check"])?;
    is_current(ctx)?;
    is_whole(ctx, "web")?;
    witness("e2fsck", &["-fn", "/dev/mapper/dmthin-tank-vol-pg"])?;
    let dir = ctx.mkdir("kept")?;
    ctx.ok(&["container", "mount", "kept", text(&dir)])?;
    ensure!(fs::read(dir.join("file"))? == CONTENT && fs::read(dir.join("new"))? == b"content");
    ctx.ok(&["container", "umount", "kept"])?;
    // The records of layers' tars lie beside the catalogue, and are those of the same volumes still.
    ctx.ok(&["image", "verify", "--all"])?;
    ctx.ok(&["container", "rollback", "web", "second"])
        .map(drop)
}

/// A verb that is killed between its last word in the catalogue and the copy leaves that behind, and nothing that
/// tells so: the next verb appended what it did itself, and `check` found nothing.
fn killed(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "256M"])?;
    let set = |percent| ["pool", "set", "tank", "--min-free-data", percent];
    cut_after(ctx, &set("7"), &["S1"])?;
    ctx.ok(&["image", "tag", "demo:1", "other:1"])?;
    let kinds = || -> Result<Vec<Value>> {
        let found: Value = serde_json::from_str(&ctx.cli(&["--json", "check"])?.stdout)?;
        let found = found["findings"].as_array().context("no findings")?;
        Ok(found
            .iter()
            .map(|finding| finding["kind"].clone())
            .collect())
    };
    ensure!(kinds()? == ["stale-mirror"], "{:?}", kinds()?);
    ctx.ok(&["gc"])?;
    ctx.ok(&["check"])?;
    is_current(ctx)?;
    // So does `pool open`.
    cut_after(ctx, &set("8"), &["S1"])?;
    ctx.ok(&["pool", "open", "tank"])?;
    is_current(ctx)?;
    // What another catalogue says is never written to the copy, though it be behind.
    let dir = ctx.root.join("tank");
    let week = ctx.mkdir("week")?;
    let shell = |script: &str| {
        let script = format!("set -e; cd {}; W={}; {script}", text(&dir), text(&week));
        witness("sh", &["-c", &script]).map(drop)
    };
    shell("cp -a catalogue.db* $W")?;
    container(ctx, "web")?;
    let before = in_mirror()?;
    shell("rm catalogue.db*; cp -a $W/* .")?;
    ensure!(
        kinds()? == ["unpaired", "stray-device", "unknown-thin"],
        "{:?}",
        kinds()?
    );
    let output = ctx.cli(&["gc"])?;
    ensure!(output.code == 8, "{output:?}");
    ensure!(
        in_mirror()? == before,
        "the copy followed an older catalogue"
    );
    ctx.ok(&REBUILD)?;
    ctx.ok(&["pool", "open", "tank"])?;
    is_whole(ctx, "web")
}

/// Threads of one process write what they changed in each other's place, and know where the log ends without reading
/// it, but where somebody else wrote to it.
fn at_once(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "256M"])?;
    let pool = Host::new(ctx.root.clone()).pool(&PoolName::new("tank")?)?;
    let create = |name: &str| -> Result<ContainerName> {
        let name = ContainerName::new(name)?;
        pool.create_container(&CreateContainer {
            image: "demo:1".to_owned(),
            name: Some(name.clone()),
            size: None,
        })?;
        Ok(name)
    };
    let work = |thread: u32| -> Result<()> {
        for round in 0..4 {
            let name = create(&format!("c{thread}-{round}"))?;
            let how = match round {
                0 => continue,
                1 => Removing::Queued,
                _ => Removing::Now,
            };
            pool.remove_container(&name, how)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || work(n))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("no thread panics"))
    })?;
    is_current(ctx)?;
    // Another process wrote what was last.
    create("one")?;
    ctx.ok(&["image", "tag", "demo:1", "other:1"])?;
    create("two")?;
    is_current(ctx)?;
    // The file says what it said before that, or is another one that says the same.
    let tail = ctx.root.join("tank/mirror-tail");
    let before = fs::read(&tail)?;
    create("three")?;
    fs::write(&tail, before)?;
    create("four")?;
    is_current(ctx)?;
    let last = fs::read(&tail)?;
    fs::remove_file(&tail)?;
    fs::write(&tail, last)?;
    create("five")?;
    is_current(ctx)?;
    ctx.ok(&["queue", "run"])?;
    ctx.ok(&["check"]).map(drop)
}
