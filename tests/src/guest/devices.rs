//! What `device` and `doctor` say, against what `dmsetup` and `losetup` say.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::build;
use super::harness::{Ctx, Test, run, text, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("device_inspect_agrees_with_dmsetup", agrees_with_dmsetup),
    ("device_tree_agrees_with_dmsetup", tree_agrees),
    ("device_witness_crate_reads_our_pool", witness_crate_agrees),
    ("doctor_sees_a_host_that_works", doctor_sees),
    ("cli_without_root_says_so", without_root),
];

fn agrees_with_dmsetup(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let image = build::small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)])?;
    ctx.ok(&["container", "create", "demo:1", "--name", "web"])?;
    let mount = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "web", text(&mount)])?;
    let list = ctx.json(&["device", "list"])?;
    let devices = list["devices"].as_array().context("no devices")?;
    let ours: Vec<_> = devices.iter().filter_map(|d| d["name"].as_str()).collect();
    let theirs = witness("dmsetup", &["info", "-c", "--noheadings", "-o", "name"])?;
    let mut theirs: Vec<_> = theirs
        .lines()
        .filter(|name| name.starts_with("dmthin-"))
        .collect();
    theirs.sort_unstable();
    ensure!(ours == theirs, "we list {ours:?}, dmsetup {theirs:?}");
    for name in ours {
        let device = &ctx.json(&["device", "inspect", name])?["device"];
        for what in ["table", "status"] {
            let args = if what == "status" {
                vec![what, "--noflush", name]
            } else {
                vec![what, name]
            };
            let theirs = witness("dmsetup", &args)?;
            let ours: Vec<_> = device[what].as_array().context("lines")?.iter().collect();
            ensure!(
                ours == theirs.lines().collect::<Vec<_>>(),
                "{what} of {name}: {ours:?}, dmsetup says {theirs:?}"
            );
        }
        let columns = "uuid,open,events,major,minor,attr";
        let info = witness(
            "dmsetup",
            &["info", "-c", "--noheadings", "-o", columns, name],
        )?;
        let info: Vec<_> = info.trim().split(':').collect();
        let number = |value: &Value| value.as_u64().map(|n| n.to_string());
        ensure!(device["uuid"] == info[0], "{name}: {info:?}");
        ensure!(
            number(&device["open_count"]).as_deref() == Some(info[1]),
            "{name}: {info:?}"
        );
        ensure!(
            number(&device["event_nr"]).as_deref() == Some(info[2]),
            "{name}: {info:?}"
        );
        ensure!(
            device["devno"] == format!("{}:{}", info[3], info[4]),
            "{name}: {info:?}"
        );
        ensure!(
            device["suspended"] == info[5].contains('s'),
            "{name}: {info:?}"
        );
    }
    let web = &ctx.json(&["device", "inspect", "dmthin-tank-ctr-web"])?["device"];
    ensure!(web["mounts"][0] == text(&mount) && web["owner"] == "web" && web["pool"] == "tank");
    // A container's own name is a name of its device too.
    ensure!(ctx.json(&["device", "inspect", "web"])?["device"]["name"] == web["name"]);
    ctx.fails(&["device", "inspect", "nothing"], 3, "nothing")?;
    ctx.ok(&["container", "umount", "web"]).map(drop)
}

fn tree_agrees(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let image = build::small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)])?;
    ctx.ok(&["container", "create", "demo:1", "--name", "web"])?;
    let tree = witness("dmsetup", &["ls", "--tree", "-o", "nodevice,ascii"])?;
    let shape: Vec<_> = tree
        .lines()
        .map(|line| line.trim_start_matches([' ', '|', '`', '-']))
        .collect();
    ensure!(shape.first() == Some(&"dmthin-tank-ctr-web"), "{tree}");
    ensure!(shape.get(1) == Some(&"dmthin-tank-pool"), "{tree}");
    let devices = ctx.json(&["device", "list"])?;
    let find = |name: &str| {
        devices["devices"]
            .as_array()
            .and_then(|all| all.iter().find(|d| d["name"] == name).cloned())
    };
    let pool = find("dmthin-tank-pool").context("no pool device")?;
    let web = find("dmthin-tank-ctr-web").context("no container device")?;
    ensure!(
        web["below"]
            .as_array()
            .is_some_and(|below| below == &[pool["devno"].clone()])
    );
    let deps = witness("dmsetup", &["deps", "-o", "devno", "dmthin-tank-pool"])?;
    for below in pool["below"].as_array().context("nothing below the pool")? {
        let (major, minor) = below
            .as_str()
            .and_then(|b| b.split_once(':'))
            .context("devno")?;
        ensure!(
            deps.contains(&format!("({major}, {minor})")),
            "{below} is not in {deps}"
        );
    }
    // Layers and the base take no device while nobody works in them; the copy of the catalogue keeps its own.
    ensure!(
        find("dmthin-tank-mirror").is_some_and(|mirror| mirror["kind"] == "mirror")
            && devices["devices"]
                .as_array()
                .is_some_and(|all| all.len() == 3),
        "{devices}"
    );
    Ok(())
}

fn witness_crate_agrees(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let image = build::small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)])?;
    ctx.ok(&["container", "create", "demo:1", "--name", "web"])?;
    let seen: Value = serde_json::from_str(&witness("dm-witness", &[])?)?;
    let devices = ctx.json(&["device", "list"])?;
    for ours in devices["devices"].as_array().context("no devices")? {
        let theirs = seen["devices"]
            .as_array()
            .and_then(|all| all.iter().find(|d| d["name"] == ours["name"]))
            .with_context(|| format!("the crate does not list {}", ours["name"]))?;
        for same in ["devno", "uuid", "open_count", "table", "status"] {
            ensure!(
                ours[same] == theirs[same],
                "{same}: {} and {}",
                ours[same],
                theirs[same]
            );
        }
    }
    Ok(())
}

fn doctor_sees(ctx: &Ctx) -> Result<()> {
    std::fs::create_dir_all(&ctx.root)?;
    let report = ctx.json(&["doctor"])?;
    let checks = report["checks"].as_array().context("no checks")?;
    let bad: Vec<_> = checks
        .iter()
        .filter(|check| check["verdict"] == "fail")
        .collect();
    ensure!(bad.is_empty(), "doctor fails on a host that works: {bad:?}");
    let targets = witness("dmsetup", &["targets"])?;
    let version = targets
        .lines()
        .find_map(|line| line.strip_prefix("thin-pool"))
        .context("dmsetup lists no thin-pool")?
        .trim()
        .trim_start_matches('v');
    ensure!(
        checks
            .iter()
            .any(|check| check["found"].as_str().is_some_and(|f| f.contains(version))),
        "the target's version {version} is not told: {checks:?}"
    );
    std::fs::remove_dir_all(&ctx.root)?;
    Ok(())
}

fn without_root(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let root = text(&ctx.root).to_owned();
    for args in [
        "pool status tank",
        "pool create other --size 1G",
        "container list",
        "device list",
    ] {
        let command = format!("pool-cli --root {root} {args}");
        let output = run(
            "setpriv",
            &["--reuid=65534", "--clear-groups", "sh", "-c", &command],
        )?;
        ensure!(
            output.code == 9,
            "{args} as nobody ended with {}: {}",
            output.code,
            output.stderr
        );
        ensure!(
            output.stderr.contains("root"),
            "{args} as nobody: {}",
            output.stderr
        );
    }
    Ok(())
}
