//! What a container changed of its image: in each of the ways to find it, in use or not.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::build::{Image, Layer};
use super::harness::{Ctx, Test, text, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("diff_of_a_container_in_each_way", each_way),
    ("diff_of_a_container_on_xfs", on_xfs),
    ("diff_of_a_container_under_writes", under_writes),
    (
        "diff_finds_a_block_changed_under_the_file_system",
        under_the_file_system,
    ),
];

const WEB: &str = "/dev/mapper/dmthin-tank-ctr-web";

/// A container of an image with a few files of each kind, mounted.
fn container(ctx: &Ctx, fs: &str) -> Result<std::path::PathBuf> {
    let size = if fs == "xfs" { "512M" } else { "128M" };
    let create = ["pool", "create", "tank", "--size", "2G", "--fs", fs];
    ctx.ok(&[&create[..], &["--base-size", size]].concat())?;
    let layer = Layer::new()
        .dir("etc/")
        .file("etc/hostname", b"one\n")
        .file("etc/gone", b"removed\n")
        .file("etc/same", b"as it was\n")
        .file("large", &vec![7; 300_000])
        .symlink("link", "etc/hostname")
        .dir("old/")
        .file("old/inside", b"in it\n")
        .bytes();
    let image = Image::new("demo:1", vec![layer]).write(&ctx.dir.join("demo.tar"))?;
    ctx.ok(&["image", "import", text(&image)])?;
    ctx.ok(&["container", "create", "demo:1", "--name", "web"])?;
    let mount = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "web", text(&mount)])?;
    Ok(mount)
}

const CHANGED: &str = "\
M /
M /etc
D /etc/gone
M /etc/hostname
M /large
M /link
A /new
A /new/file
D /old
";

fn change(root: &Path) -> Result<()> {
    fs::write(root.join("etc/hostname"), "two\n")?;
    fs::remove_file(root.join("etc/gone"))?;
    // Touched and put back.
    let same = root.join("etc/same");
    let mode = fs::metadata(&same)?.permissions();
    fs::set_permissions(&same, PermissionsExt::from_mode(0o600))?;
    fs::set_permissions(&same, mode)?;
    fs::create_dir(root.join("new"))?;
    fs::write(root.join("new/file"), "new\n")?;
    // In the middle, with the time of before.
    let large = fs::File::options().write(true).open(root.join("large"))?;
    let time = large.metadata()?.modified()?;
    std::os::unix::fs::FileExt::write_all_at(&large, b"x", 150_000)?;
    large.set_modified(time)?;
    fs::remove_file(root.join("link"))?;
    symlink("etc/same", root.join("link"))?;
    fs::remove_dir_all(root.join("old"))?;
    Ok(())
}

/// The diff in JSON: its rung and the reasons against others.
fn rung(ctx: &Ctx) -> Result<(String, Value)> {
    let diff = ctx.json(&["container", "diff", "web"])?["diff"].clone();
    let rung = diff["rung"].as_str().context("no rung")?.to_owned();
    Ok((rung, diff))
}

fn expect(ctx: &Ctx, wanted: &str, list: &str) -> Result<Value> {
    let (rung, diff) = rung(ctx)?;
    ensure!(rung == wanted, "{diff}");
    let told = ctx.ok(&["container", "diff", "web"])?;
    ensure!(told == list, "{told}\n{diff}");
    Ok(diff)
}

fn each_way(ctx: &Ctx) -> Result<()> {
    let mount = container(ctx, "ext4")?;
    // A mount alone changes no path.
    expect(ctx, "blocks", "")?;
    change(&mount)?;
    // Mounted, and nothing synced.
    let diff = expect(ctx, "blocks", CHANGED)?;
    let nodes = diff["stats"]["metadata_nodes"].as_u64();
    ensure!(
        nodes.is_some_and(|nodes| (2..50).contains(&nodes)),
        "{diff}"
    );
    let json = ctx.ok(&["container", "diff", "web", "--format", "json"])?;
    let json: Value = serde_json::from_str(&json)?;
    ensure!(json["diff"]["changes"] == diff["changes"], "{json}");
    // As a virtual machine has it, or a power cut leaves it: with a journal that is to be replayed.
    let copy = ctx.dir.join("copy");
    let (from, to) = (format!("if={WEB}"), format!("of={}", copy.display()));
    witness("dd", &[&from, &to, "bs=1M", "conv=sparse"])?;
    ctx.ok(&["container", "umount", "web"])?;
    expect(ctx, "blocks", CHANGED)?;
    let (from, to) = (format!("if={}", copy.display()), format!("of={WEB}"));
    witness("dd", &[&from, &to, "bs=1M", "conv=fsync,notrunc"])?;
    let told = witness("dumpe2fs", &["-h", WEB])?;
    ensure!(told.contains("needs_recovery"), "{told}");
    expect(ctx, "blocks", CHANGED)?;
    // Another tool has the metadata snapshot: it keeps it.
    let message = |text| witness("dmsetup", &["message", "dmthin-tank-pool", "0", text]);
    message("reserve_metadata_snap")?;
    let diff = expect(ctx, "inodes", CHANGED)?;
    let why = diff["not_taken"][0]["why"].as_str().unwrap_or_default();
    ensure!(why.contains("another tool"), "{diff}");
    message("release_metadata_snap")?;
    // One that is larger than its image has another file system: it is walked.
    ctx.ok(&["container", "grow", "web", "160M"])?;
    let (rung, diff) = rung(ctx)?;
    ensure!(rung == "walk", "{diff}");
    Ok(())
}

fn on_xfs(ctx: &Ctx) -> Result<()> {
    let mount = container(ctx, "xfs")?;
    change(&mount)?;
    expect(ctx, "walk", CHANGED)?;
    ctx.ok(&["container", "umount", "web"])?;
    expect(ctx, "walk", CHANGED).map(drop)
}

fn under_writes(ctx: &Ctx) -> Result<()> {
    let mount = container(ctx, "ext4")?;
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| -> Result<u64> {
            let mut n = 0_u64;
            while !end.load(Ordering::Relaxed) {
                fs::write(mount.join(format!("file-{n}")), vec![1; 10_000])?;
                n = n.saturating_add(1);
                if n > 100 {
                    fs::remove_file(mount.join(format!("file-{}", n.saturating_sub(100))))?;
                }
            }
            Ok(n)
        });
        let look = || -> Result<()> {
            for _ in 0..3 {
                let (rung, diff) = rung(ctx)?;
                ensure!(rung == "blocks", "{diff}");
                let changes = diff["changes"].as_array().context("no changes")?;
                let strange = changes.iter().find(|change| {
                    let path = change["path"].as_str().unwrap_or_default();
                    let is_file = path.starts_with("/file-") && change["kind"] == "added";
                    let is_root = path == "/" && change["kind"] == "modified";
                    !is_file && !is_root
                });
                ensure!(strange.is_none(), "{strange:?}");
            }
            Ok(())
        };
        let looked = look();
        end.store(true, Ordering::Relaxed);
        let written = writer.join().expect("the writer does not panic")?;
        looked?;
        ensure!(written > 0);
        Ok(())
    })?;
    ctx.ok(&["container", "umount", "web"]).map(drop)
}

/// A block of a file is written past its file system: no inode tells, and no time.
fn under_the_file_system(ctx: &Ctx) -> Result<()> {
    let mount = container(ctx, "ext4")?;
    ctx.ok(&["container", "umount", "web"])?;
    let told = witness("debugfs", &["-R", "bmap /etc/same 0", WEB])?;
    let block: u64 = told.trim().parse()?;
    let bytes = ctx.dir.join("bytes");
    fs::write(&bytes, "Not as it was\n")?;
    let (input, output) = (format!("if={}", bytes.display()), format!("of={WEB}"));
    let seek = format!("seek={}", block.saturating_mul(4096));
    let flags = ["oflag=seek_bytes", "conv=fsync,notrunc"];
    witness("dd", &[&[&input[..], &output, &seek], &flags[..]].concat())?;
    let diff = expect(ctx, "walk", "M /etc/same\n")?;
    let why = diff["not_taken"][0]["why"].as_str().unwrap_or_default();
    ensure!(
        why == format!("block {block} changed, and no file that it is of did"),
        "{diff}"
    );
    drop(mount);
    Ok(())
}
