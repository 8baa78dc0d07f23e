//! What is installed on a host, and its settings: udev rules, units, LVM's filter, config.toml.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::build;
use super::harness::{Ctx, Output, Test, block_device, eventually, run, text, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("host_udev_rule_hides_what_is_internal", udev_rule_hides),
    ("host_udev_cookies_of_the_dead_are_freed", cookies),
    ("host_units_run_with_the_rights_they_have", units_run),
    ("host_lvm_filter_keeps_lvm_out", lvm_filter),
    ("host_settings_are_a_new_pools_defaults", settings_apply),
    ("host_storage_opts_make_the_pool_they_name", storage_opts),
];

const RULE: &str = include_str!("../../../dist/udev/11-dm-dmthin.rules");
const RULE_FILE: &str = "/etc/udev/rules.d/11-dm-dmthin.rules";
const POOL_UNIT: &str = include_str!("../../../dist/systemd/dmthin-pool@.service");
const TRIM_UNIT: &str = include_str!("../../../dist/systemd/dmthin-trim@.service");
const LVM_FILTER: &str = include_str!("../../../dist/lvm/dmthin-filter.conf");

/// A udevd with our rule, started where none runs.
struct Udevd {
    ours: bool,
}

impl Udevd {
    fn with_rule() -> Result<Self> {
        let ours = !Path::new("/run/udev/control").exists();
        fs::create_dir_all("/etc/udev/rules.d")?;
        fs::write(RULE_FILE, RULE)?;
        let udevd = Self { ours };
        // Started anew: a reload reads the rules only where a directory of them looks younger than what
        // was read before.
        if !ours {
            stop_udevd()?;
        }
        witness(UDEVD, &["--daemon"])?;
        Ok(udevd)
    }
}

const UDEVD: &str = "/usr/lib/systemd/systemd-udevd";

fn stop_udevd() -> Result<()> {
    witness("udevadm", &["settle", "--timeout=30"])?;
    witness("udevadm", &["control", "--exit"])?;
    let runs = || -> Result<bool> {
        for entry in fs::read_dir("/proc")? {
            let comm = fs::read_to_string(entry?.path().join("comm")).unwrap_or_default();
            if comm.trim() == "systemd-udevd" {
                return Ok(true);
            }
        }
        Ok(false)
    };
    ensure!(eventually(|| Ok(!runs()?))?, "udevd does not end");
    Ok(())
}

impl Drop for Udevd {
    fn drop(&mut self) {
        // Best effort: the test has its verdict.
        let _ = fs::remove_file(RULE_FILE);
        let _ = stop_udevd();
        if self.ours {
            let _ = eventually(|| Ok(fs::remove_dir_all("/run/udev").is_ok()));
        } else {
            let _ = run(UDEVD, &["--daemon"]);
        }
    }
}

/// What udev knows of a device, once it is done with all events.
fn properties(node: &str) -> Result<Vec<String>> {
    witness("udevadm", &["settle", "--timeout=30"])?;
    let name = format!("--name={node}");
    let told = witness("udevadm", &["info", "--query=property", &name])?;
    Ok(told.lines().map(str::to_owned).collect())
}

fn has(node: &str, wanted: &[&str], unwanted: &[&str]) -> Result<()> {
    let found = properties(node)?;
    for property in wanted {
        ensure!(
            found.iter().any(|one| one == property),
            "{node} has no {property}: {found:?}"
        );
    }
    for start in unwanted {
        ensure!(
            !found.iter().any(|one| one.starts_with(start)),
            "{node} has {start}: {found:?}"
        );
    }
    Ok(())
}

const INTERNAL: &[&str] = &[
    "UDISKS_IGNORE=1",
    "SYSTEMD_READY=0",
    "DM_UDEV_DISABLE_DISK_RULES_FLAG=1",
    "DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG=1",
    "DM_UDEV_DISABLE_OTHER_RULES_FLAG=1",
];
const CONTAINER: &[&str] = &[
    "UDISKS_IGNORE=1",
    "DM_UDEV_DISABLE_DISK_RULES_FLAG=1",
    "DM_UDEV_LOW_PRIORITY_FLAG=1",
];

/// A device of some uuid that stands on nothing.
fn other_device(name: &str, uuid: &str) -> Result<String> {
    let table = ["--table", "0 8 error"];
    witness(
        "dmsetup",
        &[&["create", name, "--uuid", uuid][..], &table[..]].concat(),
    )?;
    Ok(format!("/dev/mapper/{name}"))
}

/// The semaphores that udev's cookies are.
fn nr_cookies() -> Result<usize> {
    let list = fs::read_to_string("/proc/sysvipc/sem")?;
    let keys = list
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let keys = keys.filter_map(|key| key.parse::<u32>().ok());
    Ok(keys.filter(|key| key >> 16 == 0x0d4d).count())
}

/// A command that is killed while it has a cookie leaves it; the next opening frees it, and not those of
/// others.
fn cookies(ctx: &Ctx) -> Result<()> {
    let udevd = Udevd::with_rule()?;
    ctx.pool("tank")?;
    let image = build::small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)])?;
    witness("udevadm", &["settle", "--timeout=30"])?;
    let before = nr_cookies()?;
    let [with_theirs, with_both] = [1, 2].map(|more| before.saturating_add(more));
    let theirs = witness("dmsetup", &["udevcreatecookie"])?;
    for call in 1..=2 {
        let inject = format!("inject=semtimedop:signal=KILL:when={call}");
        let create = ["container", "create", "demo:1"];
        let options = ["-f", "-o", "/dev/null", "-e", &inject, "pool-cli", "--root"];
        let words = [&options[..], &[text(&ctx.root)], &create].concat();
        ensure!(run("strace", &words)?.code == 128, "it was not killed");
        ensure!(nr_cookies()? == with_both, "{} cookies", nr_cookies()?);
        ctx.ok(&["pool", "open", "tank"])?;
        ensure!(nr_cookies()? == with_theirs, "{} cookies", nr_cookies()?);
    }
    witness("dmsetup", &["udevreleasecookie", theirs.trim()])?;
    ensure!(nr_cookies()? == before, "{} cookies", nr_cookies()?);
    drop(udevd);
    Ok(())
}

fn udev_rule_hides(ctx: &Ctx) -> Result<()> {
    let udevd = Udevd::with_rule()?;
    // Names that could be read in two ways.
    ctx.pool("a-pool")?;
    let image = build::small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)])?;
    ctx.ok(&["container", "create", "demo:1", "--name", "c-ctr-d"])?;
    let pool = "/dev/mapper/dmthin-a-pool-pool";
    let container = "/dev/mapper/dmthin-a-pool-ctr-c-ctr-d";
    let link = Path::new("/dev/dmthin/a-pool/c-ctr-d");
    let whole = || -> Result<()> {
        has(pool, INTERNAL, &["ID_FS_", "DEVLINKS=/dev/dmthin"])?;
        has(container, CONTAINER, &["ID_FS_", "SYSTEMD_READY"])?;
        let same = fs::canonicalize(link).context("no link to the container")?
            == fs::canonicalize(container)?;
        ensure!(same, "{} is another device", link.display());
        Ok(())
    };
    whole()?;
    // dmsetup's cookies do not ask for any of it.
    for node in [pool, container] {
        witness("dmsetup", &["suspend", node])?;
        witness("dmsetup", &["resume", node])?;
    }
    whole().context("after dmsetup resume")?;
    witness("udevadm", &["trigger", "--subsystem-match=block"])?;
    whole().context("after udevadm trigger")?;

    for name in ["layer-7", "base-8"] {
        let uuid = format!("DMTHIN-{}-{name}", "0".repeat(32));
        let node = other_device(&format!("dmthin-x-{name}"), &uuid)?;
        has(&node, INTERNAL, &["ID_FS_"])?;
        witness("dmsetup", &["remove", &node])?;
    }
    let stranger = other_device("stranger", "OTHER-DMTHIN-1")?;
    has(&stranger, &[], &["UDISKS_IGNORE", "SYSTEMD_READY=0"])?;
    witness("dmsetup", &["remove", &stranger])?;

    // What udev has to complain about in a rule it says here.
    let block = fs::canonicalize(container)?;
    let path = format!(
        "/sys/block/{}",
        text(block.as_path()).trim_start_matches("/dev/")
    );
    let Output { stdout, stderr, .. } = run("udevadm", &["test", "--action=change", &path])?;
    let said = stdout + &stderr;
    ensure!(said.contains(&format!("file: {RULE_FILE}")), "{said}");
    let complaints: Vec<&str> = said
        .lines()
        .filter(|line| line.contains(&format!("{RULE_FILE}:")))
        .filter(|line| !line.contains(" Running PROGRAM ") && !line.contains(" LINK "))
        .collect();
    ensure!(complaints.is_empty(), "{complaints:?}");

    ctx.ok(&["container", "rm", "c-ctr-d"])?;
    ensure!(
        eventually(|| Ok(fs::symlink_metadata(link).is_err()))?,
        "the link stays"
    );
    ctx.ok(&["pool", "close", "a-pool"])?;
    drop(udevd);
    Ok(())
}

/// The value of a line of a unit.
fn setting<'a>(unit: &'a str, key: &str) -> Result<&'a str> {
    let start = format!("{key}=");
    let mut lines = unit.lines().filter_map(|line| line.strip_prefix(&start));
    lines.next().with_context(|| format!("no {key}"))
}

/// Runs a command of a unit with the capabilities that the unit has.
fn start(ctx: &Ctx, unit: &str, key: &str, pool: &str) -> Result<String> {
    let capabilities = setting(unit, "CapabilityBoundingSet")?
        .split(' ')
        .map(|word| word.to_ascii_lowercase().replace("cap_", ",+"))
        .collect::<String>();
    ensure!(setting(unit, "NoNewPrivileges")? == "yes");
    let bounds = format!("--bounding-set=-all{capabilities}");
    let root = format!("DMTHIN_ROOT={}", text(&ctx.root));
    let line = setting(unit, key)?.replace("%i", pool);
    let words = line.split(' ');
    let args: Vec<&str> = ["--no-new-privs", &bounds, "env", &root]
        .into_iter()
        .chain(words)
        .collect();
    witness("setpriv", &args)
}

fn units_run(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let image = build::small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)])?;
    for name in ["web", "db"] {
        ctx.ok(&["container", "create", "demo:1", "--name", name])?;
    }
    // A removal that is still to be done is what the unit finds after a crash.
    ctx.ok(&["container", "rm", "--queue", "db"])?;
    ctx.ok(&["pool", "close", "tank"])?;
    let opened = start(ctx, POOL_UNIT, "ExecStart", "tank")?;
    ensure!(opened.starts_with("tank\topen\t"), "{opened}");
    let queue = &ctx.json(&["queue", "list"])?;
    ensure!(
        queue["queue"].as_array().is_some_and(Vec::is_empty),
        "{queue}"
    );
    let mount = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "web", text(&mount)])?;
    fs::write(mount.join("file"), "kept")?;
    let trimmed = start(ctx, TRIM_UNIT, "ExecStart", "tank")?;
    ensure!(trimmed.starts_with("web\t"), "{trimmed}");
    ctx.ok(&["container", "umount", "web"])?;
    // Not mounted it is trimmed through a mount that nobody sees.
    let trimmed = start(ctx, TRIM_UNIT, "ExecStart", "tank")?;
    ensure!(
        trimmed.starts_with("web\t") && !trimmed.contains("\t-"),
        "{trimmed}"
    );
    // The condition of its timer is a node that is there while the pool is open.
    let node = setting(TRIM_UNIT, "ConditionPathExists")?.replace("%i", "tank");
    ensure!(Path::new(&node).exists(), "{node}");
    let closed = start(ctx, POOL_UNIT, "ExecStop", "tank")?;
    ensure!(closed == "tank\tclosed\n", "{closed}");
    ensure!(!Path::new(&node).exists(), "{node}");
    start(ctx, POOL_UNIT, "ExecStart", "tank")?;
    ctx.ok(&["container", "mount", "web", text(&mount)])?;
    ensure!(fs::read_to_string(mount.join("file"))? == "kept");
    ctx.ok(&["container", "umount", "web"]).map(drop)
}

fn lvm_filter(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let image = build::small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)])?;
    ctx.ok(&["container", "create", "demo:1", "--name", "guest"])?;
    let (_, disk) = block_device(ctx, "disk", 64)?;
    let container = "/dev/mapper/dmthin-tank-ctr-guest";
    let base = "devices { use_devicesfile = 0 }";
    let pvs = |config: &str| {
        let columns = ["--noheadings", "-o", "pv_name"];
        let args = [&["pvs", "--config", config][..], &columns[..]].concat();
        witness("lvm", &args)
    };
    for node in [disk.as_str(), container] {
        witness(
            "lvm",
            &["pvcreate", "-qq", "-y", "-ff", "--config", base, node],
        )?;
    }
    let open = pvs(base)?;
    ensure!(open.contains(container) && open.contains(&disk), "{open}");
    let filtered = pvs(&format!("{LVM_FILTER}{base}"))?;
    ensure!(filtered.trim() == disk, "{filtered}");
    witness("losetup", &["-d", &disk]).map(drop)
}

fn settings_apply(ctx: &Ctx) -> Result<()> {
    let file = ctx.dir.join("config.toml");
    fs::write(
        &file,
        "pool = \"tank\"\n[create]\nsize = \"3G\"\nmetadata_size = \"16M\"\nblock_size = \"128K\"\n\
         base_size = \"1G\"\nfs = \"xfs\"\nsingle_tenant = true\nmin_free_data = 7\n",
    )?;
    let config = ["--config", text(&file)];
    let with = |args: &[&str]| ctx.json(&[&config[..], args].concat());
    let checked = |plan: &Value, size: u64, zeroing: bool| {
        ensure!(plan["data_size"] == size << 30, "{plan}");
        ensure!(plan["metadata_size"] == 16 << 20, "{plan}");
        ensure!(plan["zeroing"] == zeroing && plan["fs"] == "xfs", "{plan}");
        Ok(())
    };
    let plan = with(&["pool", "create", "tank", "--dry-run"])?;
    checked(&plan["plan"], 3, false)?;
    let said = ["--size", "4G", "--single-tenant=false"];
    let create = ["pool", "create", "tank", "--dry-run"];
    checked(&with(&[&create[..], &said[..]].concat())?["plan"], 4, true)?;
    with(&["pool", "create", "tank"])?;
    let pool = &with(&["pool", "status"])?["pool"];
    ensure!(pool["name"] == "tank" && pool["fs"] == "xfs", "{pool}");
    ensure!(
        pool["block_size"] == 256 && pool["zeroing"] == false,
        "{pool}"
    );
    ensure!(pool["base_size"] == 1 << 30, "{pool}");
    ensure!(pool["guard"]["min_free_data"] == 7, "{pool}");
    ensure!(pool["guard"]["min_free_metadata"] == 10, "{pool}");
    // A slip of the pen stops a command before it does anything.
    fs::write(&file, "[create]\nsise = \"3G\"\n")?;
    let destroy = [&config[..], &["pool", "destroy", "tank"]].concat();
    ctx.fails(&destroy, 2, "config.toml:2: unknown key create.sise")?;
    ensure!(ctx.json(&["pool", "status", "tank"])?["pool"]["state"] == "open");
    Ok(())
}

fn storage_opts(ctx: &Ctx) -> Result<()> {
    let options = [
        "dm.loopdatasize=3G",
        "dm.loopmetadatasize=16M",
        "dm.basesize=1G",
        "dm.blocksize=128K",
        "dm.fs=xfs",
        "dm.min_free_space=5%",
        "dm.use_deferred_removal=true",
    ];
    let mut create = vec!["pool", "create", "docker"];
    for option in options {
        create.extend(["--storage-opt", option]);
    }
    ctx.ok(&create)?;
    let pool = &ctx.json(&["pool", "status", "docker"])?["pool"];
    ensure!(pool["data"]["size"] == 3_u64 << 30, "{pool}");
    ensure!(pool["metadata"]["size"] == 16 << 20, "{pool}");
    ensure!(
        pool["base_size"] == 1 << 30 && pool["fs"] == "xfs",
        "{pool}"
    );
    ensure!(pool["block_size"] == 256, "{pool}");
    ensure!(pool["guard"]["min_free_data"] == 5, "{pool}");
    ensure!(pool["guard"]["min_free_metadata"] == 5, "{pool}");
    let thinpool = ["--storage-opt", "dm.thinpooldev=docker-pool"];
    ctx.fails(
        &[&["pool", "create", "other"][..], &thinpool[..]].concat(),
        2,
        "dm.thinpooldev is refused",
    )
}
