//! A round in the guest: what the last reset left is looked at, then everybody works until the next one.

#![allow(clippy::arithmetic_side_effects, reason = "test helper")]

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::check;
use super::told::{CONTAINERS, HANDS, Hand, Told, Verb, Who};
use crate::fio::{Pass, fio};
use crate::guest::build::{Image, Layer};
use crate::guest::harness::{run, witness};

/// What the first line of a round begins with; what was found follows, as JSON.
pub const DONE: &str = "checked ";
/// The line that says that everybody works.
pub const LOADING: &str = "loading";

/// What a writer writes at a time: a page, which no reset tears.
const BLOCK: usize = 4096;
/// Blocks of a writer's file, which is written from the begin again at its end.
pub(super) const BLOCKS: u64 = 64;
/// A writer replaces a small file after so many blocks.
pub(super) const NAMED: u64 = 8;
/// One removal in so many is left to the queue.
const QUEUED: u64 = 4;

/// The content of the image's own file.
pub(super) fn blob() -> Vec<u8> {
    (0..1_u32 << 16).flat_map(u32::to_le_bytes).collect()
}

/// Block `number` of a writer: no two are alike.
pub(super) fn block(writer: u64, number: u64) -> Vec<u8> {
    let words = [writer, number, 0x9e37_79b9_7f4a_7c15];
    let unit: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    unit.into_iter().cycle().take(BLOCK).collect()
}

/// Where in its file a block is.
pub(super) fn place(number: u64) -> u64 {
    (number % BLOCKS) * u64::try_from(BLOCK).expect("it is small")
}

/// Where a container is mounted.
pub(super) fn mount_point(container: u64) -> PathBuf {
    PathBuf::from(format!("/mnt/c{container}"))
}

pub(super) fn mount_points() -> Vec<PathBuf> {
    (0..CONTAINERS).map(mount_point).collect()
}

pub(super) fn ok(args: &[&str]) -> Result<()> {
    let output = run("pool-cli", &[&["--root", "/srv/root", "-q"], args].concat())?;
    ensure!(
        output.code == 0,
        "pool-cli {} ended with {}: {}",
        args.join(" "),
        output.code,
        output.stderr.trim()
    );
    Ok(())
}

/// Looks, tells what it found, and works until the machine is reset: after so long by itself, if told so.
///
/// # Errors
/// What is not as it must be, or fails.
pub fn round(after: Option<Duration>) -> Result<()> {
    let told = Told::open()?;
    let found = if Path::new("/srv/root/tank").exists() {
        check::check(&told)?
    } else {
        begin()?
    };
    say(&format!("{DONE}{}", serde_json::to_string(&found)?))?;
    work(&told, after)
}

/// A line for the host, at once.
fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Makes the pool and the containers that live through all rounds.
fn begin() -> Result<check::Found> {
    let layer = Layer::new().file("blob", &blob()).bytes();
    let archive = Image::new("demo:1", vec![layer]).write(Path::new("/tmp/demo.tar"))?;
    let archive = archive.to_str().context("not UTF-8")?;
    let options = ["--size", "3G", "--base-size", "64M"];
    ok(&[&["pool", "create", "tank"], &options[..]].concat())?;
    ok(&["image", "import", archive])?;
    for container in 0..CONTAINERS {
        let name = format!("c{container}");
        ok(&["container", "create", "demo:1", "--name", &name])?;
        let dir = mount_point(container);
        fs::create_dir_all(&dir)?;
        let dir = dir.to_str().context("not UTF-8")?;
        ok(&["container", "mount", &name, dir])?;
        let root = Path::new(dir);
        File::create(root.join("blocks"))?.write_all(&block(container, 0).repeat(64))?;
        fs::write(root.join("named"), "0")?;
        witness("sync", &["-f", dir])?;
    }
    Ok(check::Found::default())
}

/// Everybody works until the machine is reset, or somebody fails.
fn work(told: &Told, after: Option<Duration>) -> Result<()> {
    thread::scope(|scope| {
        for container in 0..CONTAINERS {
            scope.spawn(move || for_ever(write(told, container)));
        }
        for number in 0..HANDS {
            scope.spawn(move || for_ever(make_and_remove(told, number)));
        }
        scope.spawn(|| for_ever(fio_passes(told)));
        say(LOADING)?;
        if let Some(after) = after {
            thread::sleep(after);
            fs::write("/proc/sysrq-trigger", "b")?;
        }
        Ok(())
    })
}

/// Who works for ever comes back with an error only; that ends the others too.
fn for_ever(ended: Result<Infallible>) {
    let Err(error) = ended;
    eprintln!("under load: {error:#}");
    std::process::exit(1);
}

/// Writes blocks and flushes each; now and then a file gets its name by a rename.
fn write(told: &Told, container: u64) -> Result<Infallible> {
    let who = Who::Writer(container);
    let [mut number, mut named] = told.read(who)?;
    let dir = mount_point(container);
    let file = File::options().write(true).open(dir.join("blocks"))?;
    loop {
        number += 1;
        file.write_all_at(&block(container, number), place(number))?;
        file.sync_data()?;
        told.write(who, [number, named])?;
        if number % NAMED == 0 {
            let draft = dir.join("named.new");
            let mut written = File::create(&draft)?;
            write!(written, "{number}")?;
            written.sync_all()?;
            fs::rename(draft, dir.join("named"))?;
            File::open(&dir)?.sync_all()?;
            named = number;
            told.write(who, [number, named])?;
        }
    }
}

fn make_and_remove(told: &Told, number: u64) -> Result<Infallible> {
    let who = Who::Hand(number);
    let [made, removed] = told.read(who)?;
    let mut hand = Hand { made, removed };
    loop {
        let verb = hand.next();
        match verb {
            Verb::Make(nr) => {
                let name = format!("h{number}-{nr}");
                ok(&["container", "create", "demo:1", "--name", &name])?;
            }
            Verb::Remove(nr) => {
                let name = format!("h{number}-{nr}");
                let queue = ["--queue"];
                let queue = if nr % QUEUED == 0 { &queue[..] } else { &[] };
                ok(&[&["container", "rm", &name], queue].concat())?;
            }
        }
        hand = hand.after(verb);
        told.write(who, [hand.made, hand.removed])?;
    }
}

fn fio_passes(told: &Told) -> Result<Infallible> {
    let [mut pass, _] = told.read(Who::Fio)?;
    loop {
        pass += 1;
        fio(&mount_points(), pass, Pass::Write)?;
        told.write(Who::Fio, [pass, 0])?;
    }
}
