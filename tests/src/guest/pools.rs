//! A pool's life: made, opened, closed, destroyed; on files and on block devices.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::harness::{Ctx, Test, block_device, df_mib, eventually, run, text, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    (
        "pool_files_are_sparse_private_and_never_overwritten",
        files_are_sparse_and_private,
    ),
    (
        "pool_loops_are_configured_and_found_again",
        loops_are_configured,
    ),
    (
        "pool_close_and_open_leave_and_find_everything",
        close_and_open,
    ),
    (
        "pool_create_undoes_itself_when_it_fails",
        create_undoes_itself,
    ),
    ("pool_on_two_block_devices", on_block_devices),
    ("pool_on_lvm_volumes", on_lvm_volumes),
    (
        "pool_refuses_devices_that_hold_something",
        refuses_used_devices,
    ),
    ("pool_of_xfs", of_xfs),
    ("pool_zeroing_is_on_unless_single_tenant", zeroing),
    ("pool_makes_loop_devices_when_they_run_out", loops_run_out),
];

fn files_are_sparse_and_private(ctx: &Ctx) -> Result<()> {
    ctx.ok(&["pool", "create", "tank", "--size", "40G"])?;
    let dir = ctx.root.join("tank");
    ensure!(
        fs::metadata(&dir)?.permissions().mode() & 0o7777 == 0o700,
        "mode of the directory"
    );
    for file in ["data.img", "metadata.img", "catalogue.db"] {
        let mode = fs::metadata(dir.join(file))?.permissions().mode();
        ensure!(mode & 0o7777 == 0o600, "{file} has mode {mode:o}");
    }
    let data = fs::metadata(dir.join("data.img"))?;
    ensure!(
        data.len() == 40 << 30,
        "the data file is {} long",
        data.len()
    );
    let used = data.blocks() << 9;
    ensure!(used < 150 << 20, "an empty pool takes {used} bytes");
    let before = (
        data.ino(),
        data.mtime(),
        fs::metadata(dir.join("catalogue.db"))?.ino(),
    );
    ctx.fails(&["pool", "create", "tank", "--size", "1G"], 4, "tank")?;
    ctx.ok(&["pool", "close", "tank"])?;
    ctx.fails(&["pool", "create", "tank", "--size", "1G"], 4, "tank")?;
    let data = fs::metadata(dir.join("data.img"))?;
    ensure!(data.len() == 40 << 30, "a refused create changed the file");
    ensure!(before.0 == data.ino() && before.2 == fs::metadata(dir.join("catalogue.db"))?.ino());

    // A file somebody else left where ours would go is never taken over.
    let stray = ctx.root.join("other");
    fs::create_dir_all(&stray)?;
    fs::write(stray.join("data.img"), "precious")?;
    ctx.fails(&["pool", "create", "other", "--size", "1G"], 4, "data.img")?;
    ensure!(
        fs::read(stray.join("data.img"))? == b"precious",
        "the stray file was touched"
    );
    fs::remove_dir_all(stray)?;
    Ok(())
}

fn loops_are_configured(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let status = ctx.json(&["pool", "status", "tank"])?;
    for which in ["data", "metadata"] {
        let node = status["pool"][which]["node"]
            .as_str()
            .context("no node")?
            .to_owned();
        let line = witness(
            "losetup",
            &[
                "-n",
                "-l",
                "--raw",
                "-O",
                "NAME,AUTOCLEAR,BACK-FILE,LOG-SEC,DIO",
                &node,
            ],
        )?;
        let fields: Vec<_> = line.split_whitespace().collect();
        let file = ctx.root.join("tank").join(format!("{which}.img"));
        ensure!(
            fields.get(1) == Some(&"1") && fields.get(2) == Some(&text(&file)),
            "losetup says {line}"
        );
        let direct = status["pool"][which]["direct_io"]
            .as_bool()
            .context("no direct_io")?;
        ensure!(
            fields.get(4) == Some(&if direct { "1" } else { "0" }),
            "losetup says {line}"
        );
        let sector = status["pool"][which]["block_size"]
            .as_u64()
            .context("no block size")?;
        ensure!(
            fields.get(3) == Some(&sector.to_string().as_str()),
            "losetup says {line}"
        );
        // The tests' disk takes both.
        ensure!(
            direct && sector == 4096,
            "direct I/O {direct}, sectors of {sector}"
        );
    }
    ctx.ok(&["pool", "close", "tank"])?;
    ensure!(
        eventually(|| Ok(!witness("losetup", &["-a"])?.contains("/tank/")))?,
        "autoclear did not free the loops at close"
    );
    // A loop somebody set up on our file already is found by inode, not doubled.
    let data = ctx.root.join("tank/data.img");
    let theirs = witness("losetup", &["-f", "--show", "-b", "4096", text(&data)])?;
    ctx.ok(&["pool", "open", "tank"])?;
    let status = ctx.json(&["pool", "status", "tank"])?;
    ensure!(
        status["pool"]["data"]["node"] == theirs.trim(),
        "a second loop on the same file"
    );
    ctx.ok(&["pool", "close", "tank"])?;
    run("losetup", &["-d", theirs.trim()])?;
    Ok(())
}

fn close_and_open(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let image = super::build::small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)])?;
    ctx.ok(&["container", "create", "demo:1", "--name", "web"])?;
    let mount = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "web", text(&mount)])?;
    fs::write(mount.join("mine"), "kept")?;
    ctx.fails(&["pool", "close", "tank"], 5, "web")?;
    ctx.fails(&["pool", "destroy", "tank"], 5, "web")?;
    ctx.ok(&["container", "umount", "web"])?;
    let before = ctx.json(&["pool", "status", "tank"])?;
    ctx.ok(&["pool", "close", "tank"])?;
    ensure!(
        witness("dmsetup", &["ls"])?.contains("No devices found"),
        "devices after close"
    );
    ensure!(ctx.json(&["pool", "list"])?["pools"][0]["state"] == "closed");
    // Closed is closed: asking again changes nothing, and what needs the pool says so.
    ctx.ok(&["pool", "close", "tank"])?;
    ctx.fails(&["container", "create", "demo:1"], 1, "pool open")?;
    ctx.ok(&["pool", "open", "tank"])?;
    ctx.ok(&["pool", "open", "tank"])?;
    let after = ctx.json(&["pool", "status", "tank"])?;
    for same in [
        "uuid",
        "images",
        "layers",
        "containers",
        "virtual_size",
        "block_size",
    ] {
        ensure!(
            before["pool"][same] == after["pool"][same],
            "{same} changed"
        );
    }
    ctx.ok(&["container", "mount", "web", text(&mount)])?;
    ensure!(
        fs::read(mount.join("mine"))? == b"kept",
        "the container lost a file"
    );
    ensure!(
        fs::read(mount.join("etc/hostname"))? == b"two\n",
        "the image changed"
    );
    ctx.ok(&["container", "umount", "web"]).map(drop)
}

fn create_undoes_itself(ctx: &Ctx) -> Result<()> {
    // Asked only what it would do, it makes nothing, and refuses what it would refuse.
    let create = ["pool", "create", "tank", "--dry-run", "--size"];
    let plan = ctx.json(&[&create[..], &["10G"]].concat())?;
    ensure!(plan["plan"]["metadata_size"] == 64 << 20, "{plan}");
    ctx.fails(&[&create[..], &["1M"]].concat(), 2, "too small")?;
    ensure!(!ctx.root.join("tank").exists(), "a dry run made something");
    // mkfs refuses the argument, when all but the base is there already.
    ctx.fails(
        &[
            "pool",
            "create",
            "tank",
            "--size",
            "1G",
            "--mkfs-arg=--bogus",
        ],
        1,
        "mkfs.ext4",
    )?;
    ensure!(!ctx.root.join("tank").exists(), "the directory is left");
    ctx.fails(&["pool", "status", "tank"], 3, "tank")?;
    ensure!(
        witness("dmsetup", &["ls"])?.contains("No devices found"),
        "devices are left"
    );
    ensure!(
        !witness("losetup", &["-a"])?.contains("tank"),
        "loops are left"
    );
    // Sizes that cannot be are refused before anything is made.
    ctx.fails(&["pool", "create", "tank", "--size", "100"], 2, "size")?;
    ctx.fails(
        &["pool", "create", "tank", "--block-size", "65K"],
        2,
        "64 KiB",
    )?;
    ctx.fails(
        &["pool", "create", "tank", "--metadata-size", "1M"],
        2,
        "2 MiB",
    )?;
    ensure!(
        !ctx.root.join("tank").exists(),
        "a refused create left something"
    );
    Ok(())
}

/// Two block devices, for data and for metadata.
fn two_devices(ctx: &Ctx) -> Result<(String, String)> {
    let (_, data) = block_device(ctx, "disk0", 3 << 10)?;
    let (_, metadata) = block_device(ctx, "disk1", 64)?;
    Ok((data, metadata))
}

fn on_block_devices(ctx: &Ctx) -> Result<()> {
    let (data, metadata) = two_devices(ctx)?;
    ctx.ok(&[
        "pool",
        "create",
        "raw",
        "--data",
        &data,
        "--metadata",
        &metadata,
        "--base-size",
        "1G",
    ])?;
    let image = super::build::small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)])?;
    ctx.ok(&["container", "create", "demo:1", "--name", "web"])?;
    ensure!(
        !ctx.root.join("raw/data.img").exists(),
        "a file beside the device"
    );
    ctx.ok(&["pool", "close", "raw"])?;
    witness("thin_check", &[&metadata])?;
    ctx.ok(&["pool", "open", "raw"])?;
    ensure!(ctx.json(&["container", "list"])?["containers"][0]["name"] == "web");
    ctx.ok(&["pool", "destroy", "raw"])?;
    // Free again, and bare: a new pool may have them.
    ctx.ok(&[
        "pool",
        "create",
        "raw2",
        "--data",
        &data,
        "--metadata",
        &metadata,
        "--base-size",
        "1G",
    ])?;
    ctx.ok(&["pool", "destroy", "raw2"])?;
    witness("losetup", &["-d", &data, &metadata]).map(drop)
}

fn on_lvm_volumes(ctx: &Ctx) -> Result<()> {
    let (_, node) = block_device(ctx, "disk", 4 << 10)?;
    // LVM must neither wait for a udevd that is not there nor look elsewhere.
    let udev = PathBuf::from("/run/udev/control").exists();
    let config = format!(
        "devices {{ filter = [ \"a|^{node}$|\", \"r|.*|\" ] use_devicesfile = 0 }} \
         activation {{ udev_sync = {0} udev_rules = {0} }}",
        u8::from(udev)
    );
    let lvm = |args: &[&str]| -> Result<String> {
        let args: Vec<_> = args.iter().copied().chain(["--config", &config]).collect();
        witness("lvm", &args)
    };
    lvm(&["vgcreate", "vg", &node])?;
    lvm(&["lvcreate", "-q", "-y", "-n", "data", "-L", "3G", "vg"])?;
    lvm(&["lvcreate", "-q", "-y", "-n", "meta", "-L", "64M", "vg"])?;
    let volumes = ["--data", "/dev/vg/data", "--metadata", "/dev/vg/meta"];
    let create = ["pool", "create", "onlvm", "--base-size", "1G"];
    ctx.ok(&[&create[..], &volumes[..]].concat())?;
    let image = super::build::small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)])?;
    ctx.ok(&["container", "create", "demo:1", "--name", "web"])?;
    ctx.ok(&["pool", "close", "onlvm"])?;
    ctx.ok(&["pool", "open", "onlvm"])?;
    ensure!(ctx.json(&["container", "list"])?["containers"][0]["name"] == "web");
    let tree = witness("dmsetup", &["ls", "--tree", "-o", "nodevice"])?;
    ensure!(
        tree.contains("vg-data") && tree.contains("vg-meta"),
        "{tree}"
    );
    ctx.ok(&["pool", "destroy", "onlvm"])?;
    lvm(&["vgchange", "-q", "-an", "vg"])?;
    witness("losetup", &["-d", &node]).map(drop)
}

fn refuses_used_devices(ctx: &Ctx) -> Result<()> {
    let (data, metadata) = two_devices(ctx)?;
    let create = |data: &str, metadata: &str, code, says| {
        ctx.fails(
            &[
                "pool",
                "create",
                "raw",
                "--data",
                data,
                "--metadata",
                metadata,
                "--base-size",
                "1G",
            ],
            code,
            says,
        )
    };
    witness("mkfs.ext4", &["-q", &data])?;
    create(&data, &metadata, 5, "ext4")?;
    let mount = ctx.mkdir("held")?;
    witness("mount", &[&data, text(&mount)])?;
    create(&data, &metadata, 5, &data)?;
    witness("umount", &[text(&mount)])?;
    create("/dev/null", &metadata, 2, "block device")?;
    create("/dev/not-there", &metadata, 3, "/dev/not-there")?;
    create(&data, &data, 2, "same")?;
    ensure!(
        !ctx.root.join("raw").exists(),
        "a refused create left something"
    );
    witness("e2fsck", &["-fn", &data])?;
    witness("losetup", &["-d", &data, &metadata]).map(drop)
}

fn of_xfs(ctx: &Ctx) -> Result<()> {
    ctx.ok(&[
        "pool",
        "create",
        "x",
        "--size",
        "4G",
        "--base-size",
        "1G",
        "--fs",
        "xfs",
    ])?;
    let image = super::build::small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)])?;
    let (one, two) = (ctx.mkdir("one")?, ctx.mkdir("two")?);
    ctx.ok(&["container", "create", "demo:1", "--name", "one"])?;
    ctx.ok(&[
        "container",
        "create",
        "demo:1",
        "--name",
        "two",
        "--size",
        "2G",
    ])?;
    // Twins bear one uuid: xfs mounts the second only with nouuid.
    ctx.ok(&["container", "mount", "one", text(&one)])?;
    ctx.ok(&["container", "mount", "two", text(&two)])?;
    ensure!(fs::read(two.join("etc/hostname"))? == b"two\n");
    let mib = df_mib("size", &two)?;
    ensure!((1900..=2048).contains(&mib), "xfs was not grown: {mib} MiB");
    ensure!(witness("findmnt", &["-n", "-o", "FSTYPE", text(&one)])?.trim() == "xfs");
    ctx.ok(&["container", "umount", "one"])?;
    ctx.ok(&["container", "umount", "two"]).map(drop)
}

fn zeroing(ctx: &Ctx) -> Result<()> {
    ctx.pool("safe")?;
    ctx.ok(&[
        "pool",
        "create",
        "fast",
        "--size",
        "2G",
        "--base-size",
        "1G",
        "--single-tenant",
    ])?;
    for (pool, skips) in [("safe", false), ("fast", true)] {
        let table = witness("dmsetup", &["table", &format!("dmthin-{pool}-pool")])?;
        ensure!(
            table.contains("skip_block_zeroing") == skips,
            "{pool}: {table}"
        );
        let status = ctx.json(&["pool", "status", pool])?;
        ensure!(status["pool"]["zeroing"] == !skips);
    }
    Ok(())
}

fn loops_run_out(ctx: &Ctx) -> Result<()> {
    let file = ctx.dir.join("filler");
    fs::File::create(&file)?.set_len(1 << 20)?;
    let mut held = Vec::new();
    // Every loop node there is gets taken.
    while let Some(free) = fs::read_dir("/sys/block")?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| {
            name.starts_with("loop") && !PathBuf::from(format!("/sys/block/{name}/loop")).exists()
        })
    {
        let node = format!("/dev/{free}");
        witness("losetup", &[&node, text(&file)])?;
        held.push(node);
    }
    ensure!(!held.is_empty(), "there was no loop device to take");
    let made = ctx.pool("tank");
    for node in &held {
        run("losetup", &["-d", node])?;
    }
    made
}
