//! A container's life: its device, its mount, its size, its space.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::build;
use super::harness::{Ctx, Test, df_mib, text, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("container_gets_its_device_and_its_files", gets_its_device),
    ("container_base_is_bare", base_is_bare),
    (
        "container_twins_do_not_see_each_others_writes",
        twins_are_apart,
    ),
    ("container_size_grows_and_never_shrinks", size_grows),
    (
        "container_removed_file_gives_space_back",
        removed_file_gives_space_back,
    ),
    ("container_rm_gives_space_back", removal_gives_space_back),
    ("container_names_and_states_are_checked", names_are_checked),
    ("container_sees_no_byte_of_a_deleted_one", sees_no_old_bytes),
    ("container_mounted_on_no_text_is_told", mounted_on_no_text),
    (
        "container_names_no_other_pools_device",
        names_of_other_pools,
    ),
];

/// A pool with the two-layer image in it.
fn pool_with_image(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let image = build::small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)]).map(drop)
}

fn gets_its_device(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    let made = ctx.json(&["container", "create", "demo:1", "--name", "web"])?;
    let device = made["container"]["device"]
        .as_str()
        .context("no device")?
        .to_owned();
    ensure!(
        device == "/dev/mapper/dmthin-tank-ctr-web",
        "its device is {device}"
    );
    ensure!(witness("blockdev", &["--getsize64", &device])?.trim() == (2_u64 << 30).to_string());
    let uuid = witness("blkid", &["-p", "-o", "value", "-s", "UUID", &device])?;
    ensure!(
        made["container"]["fs_uuid"] == uuid.trim(),
        "blkid says {uuid}"
    );
    let mount = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "web", text(&mount)])?;
    let options = witness("findmnt", &["-n", "-o", "SOURCE,OPTIONS", text(&mount)])?;
    ensure!(
        options.contains("discard") && options.contains("ctr-web"),
        "findmnt: {options}"
    );
    ensure!(
        fs::read(mount.join("etc/hostname"))? == b"two\n",
        "the upper layer's file"
    );
    ensure!(!mount.join("etc/gone").exists(), "a whited-out file shows");
    let seen = ctx.json(&["container", "inspect", "web"])?;
    ensure!(
        seen["container"]["mounts"][0] == text(&mount),
        "inspect: {seen}"
    );
    ensure!(seen["container"]["image"] == "demo:1");
    ctx.fails(&["image", "rm", "demo:1"], 5, "web")?;
    ctx.ok(&["container", "umount", "web"])?;
    ctx.ok(&["container", "rm", "web"])?;
    ensure!(
        !Path::new(&device).exists(),
        "the node outlives the container"
    );
    ctx.fails(&["container", "inspect", "web"], 3, "web")?;
    ctx.ok(&["image", "rm", "demo:1"])?;
    let status = ctx.json(&["pool", "status"])?;
    ensure!(
        status["pool"]["layers"] == 0 && status["pool"]["images"] == 0,
        "{status}"
    );
    Ok(())
}

fn base_is_bare(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let image = build::Image::new("empty:1", vec![build::Layer::new().bytes()]);
    let image = image.write(&ctx.dir.join("empty.tar"))?;
    ctx.ok(&["image", "import", text(&image)])?;
    ctx.ok(&["container", "create", "empty:1", "--name", "bare"])?;
    let mount = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "bare", text(&mount)])?;
    let root = fs::metadata(&mount)?;
    ensure!(root.mode() & 0o7777 == 0o755 && root.uid() == 0 && root.gid() == 0);
    let names: Vec<_> = fs::read_dir(&mount)?.collect::<Result<_, _>>()?;
    ensure!(names.is_empty(), "an empty image holds {names:?}");
    ctx.ok(&["container", "umount", "bare"]).map(drop)
}

fn twins_are_apart(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    let mut mounts = Vec::new();
    for name in ["one", "two"] {
        ctx.ok(&["container", "create", "demo:1", "--name", name])?;
        let mount = ctx.mkdir(name)?;
        ctx.ok(&["container", "mount", name, text(&mount)])?;
        fs::write(mount.join("etc/hostname"), name)?;
        fs::write(mount.join(format!("only-{name}")), name)?;
        mounts.push(mount);
    }
    for name in ["one", "two"] {
        ctx.ok(&["container", "umount", name])?;
    }
    for (name, mount) in ["one", "two"].iter().zip(&mounts) {
        ctx.ok(&["container", "mount", name, text(mount)])?;
    }
    for (name, mount) in ["one", "two"].iter().zip(&mounts) {
        ensure!(fs::read_to_string(mount.join("etc/hostname"))? == *name);
        let only: Vec<_> = fs::read_dir(mount)?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|file| file.starts_with("only-"))
            .collect();
        ensure!(only == [format!("only-{name}")], "{name} sees {only:?}");
    }
    // The image itself is as it was.
    ctx.ok(&["container", "create", "demo:1", "--name", "three"])?;
    let third = ctx.mkdir("three")?;
    ctx.ok(&["container", "mount", "three", text(&third)])?;
    ensure!(
        fs::read(third.join("etc/hostname"))? == b"two\n",
        "a container changed its image"
    );
    ["one", "two", "three"]
        .iter()
        .try_for_each(|name| ctx.ok(&["container", "umount", name]).map(drop))
}

fn size_grows(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    ctx.fails(
        &[
            "container",
            "create",
            "demo:1",
            "--name",
            "small",
            "--size",
            "1G",
        ],
        2,
        "2 GiB",
    )?;
    ensure!(
        ctx.json(&["container", "list"])?["containers"]
            .as_array()
            .is_some_and(Vec::is_empty)
    );
    ctx.ok(&[
        "container",
        "create",
        "demo:1",
        "--name",
        "big",
        "--size",
        "8G",
    ])?;
    let device = "/dev/mapper/dmthin-tank-ctr-big";
    ensure!(witness("blockdev", &["--getsize64", device])?.trim() == (8_u64 << 30).to_string());
    let mount = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "big", text(&mount)])?;
    let mib = df_mib("size", &mount)?;
    ensure!(
        (7500..=8192).contains(&mib),
        "the file system has {mib} MiB"
    );
    ensure!(fs::read(mount.join("etc/hostname"))? == b"two\n");
    ctx.ok(&["container", "umount", "big"])?;
    witness("e2fsck", &["-fn", device]).map(drop)
}

/// Bytes the pool's data file takes on its file system.
pub(super) fn allocated(ctx: &Ctx) -> Result<u64> {
    rustix::fs::sync();
    Ok(fs::metadata(ctx.root.join("tank/data.img"))?.blocks() << 9)
}

/// Writes 300 MB that no layer below can compress or share.
pub(super) fn write_300_mb(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let mut buffer = Vec::with_capacity(1 << 20);
    for _ in 0..300 {
        buffer.clear();
        while buffer.len() < 1 << 20 {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            buffer.extend_from_slice(&word.to_le_bytes());
        }
        file.write_all(&buffer)?;
    }
    file.sync_all().map_err(Into::into)
}

/// At least 99 % of what `full` took above `empty` is back at `after`.
pub(super) fn given_back(empty: u64, full: u64, after: u64) -> Result<()> {
    let took = full.saturating_sub(empty);
    ensure!(
        took >= 300 << 20,
        "300 MB of file took only {took} bytes of the host"
    );
    let kept = after.saturating_sub(empty);
    ensure!(
        kept.saturating_mul(100) <= took,
        "of {took} bytes {kept} were not given back"
    );
    Ok(())
}

fn removed_file_gives_space_back(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    ctx.ok(&["container", "create", "demo:1", "--name", "web"])?;
    let mount = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "web", text(&mount)])?;
    // A first write makes the journal and the group's tables, which stay.
    fs::write(mount.join("first"), "x")?;
    let empty = allocated(ctx)?;
    write_300_mb(&mount.join("big"))?;
    let full = allocated(ctx)?;
    fs::remove_file(mount.join("big"))?;
    // ext4 discards when the removal's transaction commits.
    rustix::fs::syncfs(File::open(&mount)?)?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    let after = allocated(ctx)?;
    ctx.ok(&["container", "umount", "web"])?;
    given_back(empty, full, after)
}

fn removal_gives_space_back(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    let empty = allocated(ctx)?;
    ctx.ok(&["container", "create", "demo:1", "--name", "web"])?;
    let mount = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "web", text(&mount)])?;
    write_300_mb(&mount.join("big"))?;
    let full = allocated(ctx)?;
    ctx.ok(&["container", "umount", "web"])?;
    ctx.ok(&["container", "rm", "web"])?;
    given_back(empty, full, allocated(ctx)?)
}

fn names_are_checked(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    ctx.ok(&["container", "create", "demo:1", "--name", "web"])?;
    ctx.fails(
        &["container", "create", "demo:1", "--name", "web"],
        4,
        "web",
    )?;
    ctx.fails(
        &["container", "create", "demo:1", "--name", "a/b"],
        2,
        "a/b",
    )?;
    ctx.fails(&["container", "create", "nope:1"], 3, "nope:1")?;
    ctx.fails(
        &["container", "mount", "web", text(&ctx.dir.join("missing"))],
        3,
        "missing",
    )?;
    ctx.fails(&["container", "umount", "nobody"], 3, "nobody")?;
    // Not mounted is what umount wants: nothing to do is no failure.
    ctx.ok(&["container", "umount", "web"])?;
    ctx.ok(&["container", "rm", "web"])?;
    ctx.fails(&["container", "rm", "web"], 3, "web")?;
    // The name is free again, and an unnamed container gets one.
    ctx.ok(&["container", "create", "demo:1", "--name", "web"])?;
    ctx.ok(&["container", "create", "demo:1"])?;
    let list = ctx.json(&["container", "list"])?;
    ensure!(
        list["containers"]
            .as_array()
            .is_some_and(|all| all.len() == 2),
        "{list}"
    );
    Ok(())
}

fn sees_no_old_bytes(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    let secret = b"THE-SECRET-OF-THE-FIRST-TENANT";
    ctx.ok(&["container", "create", "demo:1", "--name", "first"])?;
    let device = "/dev/mapper/dmthin-tank-ctr-first";
    let mut out = fs::OpenOptions::new().write(true).open(device)?;
    let page = secret.repeat(136);
    for _ in 0..4096 {
        out.write_all(&page)?;
    }
    out.sync_all()?;
    drop(out);
    ctx.ok(&["container", "rm", "first"])?;
    ctx.ok(&["container", "create", "demo:1", "--name", "second"])?;
    let device = "/dev/mapper/dmthin-tank-ctr-second";
    // A byte into many blocks maps them; the rest of each block must read as zeros or our file system.
    let file = fs::OpenOptions::new().read(true).write(true).open(device)?;
    // In the middle of a block group, where mkfs wrote nothing.
    let at = (1_u64 << 30) + (300 << 20);
    for block in 0..256_u64 {
        std::os::unix::fs::FileExt::write_at(&file, b"x", at.saturating_add(block << 16))?;
    }
    file.sync_all()?;
    let mut blocks = vec![0; 256 << 16];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut blocks, at)?;
    let found = blocks.windows(secret.len()).any(|window| window == secret);
    ensure!(!found, "the second tenant reads the first one's bytes");
    let marks = blocks.iter().filter(|byte| **byte != 0).count();
    ensure!(
        marks == 256,
        "{marks} bytes are not zero where 256 were written"
    );
    Ok(())
}

/// A directory whose name is no UTF-8, as `--json` tells it.
fn mounted_on_no_text(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    ctx.ok(&["container", "create", "demo:1", "--name", "web"])?;
    let dir = ctx.dir.join(OsStr::from_bytes(b"odd\xff"));
    fs::create_dir_all(&dir)?;
    let mut mount = Command::new("pool-cli");
    mount.args(["--root", text(&ctx.root), "container", "mount", "web"]);
    ensure!(mount.arg(&dir).output()?.status.success());
    let told = dir.to_string_lossy().into_owned();
    ensure!(told.ends_with("odd\u{fffd}"), "{told}");
    let asked = [
        ctx.cli(&["--json", "container", "list"])?,
        ctx.cli(&["--json", "device", "inspect", "web"])?,
        // Whatever they said: nobody else here reads such a mount.
        ctx.cli(&["--json", "container", "umount", "web"])?,
    ];
    let at = ["/containers/0/mounts/0", "/device/mounts/0", "/unmounted/0"];
    for (output, at) in asked.iter().zip(at) {
        ensure!(output.code == 0, "{}", output.stderr);
        let answer: Value = serde_json::from_str(&output.stdout)?;
        ensure!(
            answer.pointer(at) == Some(&told.as_str().into()),
            "{answer}"
        );
    }
    Ok(())
}

/// `dmthin-tank-ctr-y-pool` is a container's of tank, and was a pool's too.
fn names_of_other_pools(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    for name in ["tank-ctr-y", "tank-ctr"] {
        ctx.fails(&["pool", "create", name], 2, "no name for a new pool")?;
        ensure!(!ctx.root.join(name).exists(), "{name} left something");
    }
    ctx.ok(&[
        "pool",
        "create",
        "tank-y",
        "--size",
        "512M",
        "--base-size",
        "256M",
    ])?;
    for name in ["y-pool", "pool"] {
        ctx.ok(&[
            "--pool",
            "tank",
            "container",
            "create",
            "demo:1",
            "--name",
            name,
        ])?;
    }
    ctx.ok(&["pool", "destroy", "tank-y"]).map(drop)
}
