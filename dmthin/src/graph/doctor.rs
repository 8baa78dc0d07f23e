//! `doctor`: whether this host can do the main job, and what to do where it cannot.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{FallocateFlags, Mode, OFlags};

use crate::backing;
use crate::dm::NodePolicy;
use crate::graph::host::Host;
use crate::graph::report::{CheckReport, Verdict};
use crate::ids::FsType;
use crate::ioctl::Control;
use crate::units::Bytes;

/// Before this the data device was not flushed ahead of the metadata's commit, and copied blocks
/// could be garbage after a power cut (`drivers/md/dm-thin.c:metadata_pre_commit_callback`).
const OLDEST_SAFE_KERNEL: (u32, u32) = (5, 5);
/// Less room than this on the host's file system is worth a word.
const LITTLE_ROOM: Bytes = Bytes::from_gib(2);
/// Targets the main job needs.
const TARGETS: [&str; 3] = ["thin-pool", "thin", "linear"];
/// Programs that set-up and repair run, with their packages. None is run on a hot path.
const TOOLS: [(&str, &str, Verdict); 4] = [
    ("mkfs.ext4", "e2fsprogs", Verdict::Fail),
    ("mkfs.xfs", "xfsprogs", Verdict::Warn),
    ("thin_check", "thin-provisioning-tools", Verdict::Warn),
    ("thin_repair", "thin-provisioning-tools", Verdict::Warn),
];
const TOOL_DIRS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

fn check(check: &str, verdict: Verdict, found: impl Into<String>, hint: &str) -> CheckReport {
    CheckReport {
        check: check.to_owned(),
        verdict,
        found: found.into(),
        hint: (verdict != Verdict::Ok).then(|| hint.to_owned()),
    }
}

fn ok(name: &str, found: impl Into<String>) -> CheckReport {
    check(name, Verdict::Ok, found, "")
}

impl Host {
    /// Looks at everything the main job stands on. Changes nothing: the one probe of the root's
    /// file system works in an unnamed file.
    #[must_use]
    pub fn doctor(&self) -> Vec<CheckReport> {
        let mut checks = vec![kernel(), privilege()];
        checks.extend(device_mapper());
        checks.push(self.nodes());
        checks.push(loops());
        checks.extend([FsType::Ext4, FsType::Xfs].map(file_system));
        checks.extend(TOOLS.map(|(tool, package, missing)| find_tool(tool, package, missing)));
        checks.extend(self.root_checks());
        checks.extend(self.pool_checks());
        checks
    }

    fn nodes(&self) -> CheckReport {
        match self.dm().map(crate::dm::Dm::policy) {
            Ok(NodePolicy::Udev) => ok(
                "udev",
                "udevd runs and completes cookies: it makes the nodes",
            ),
            Ok(NodePolicy::Own) => ok(
                "udev",
                "no udevd that completes cookies: nodes are made by ourselves",
            ),
            Err(error) => check(
                "udev",
                Verdict::Fail,
                error.to_string(),
                "see device mapper",
            ),
        }
    }

    /// The file system under the root: room, holes, direct I/O.
    fn root_checks(&self) -> Vec<CheckReport> {
        let root = self.layout().root();
        let Some(there) = root.ancestors().find(|dir| dir.is_dir()) else {
            return vec![check(
                "root",
                Verdict::Fail,
                "no such place",
                "choose another --root",
            )];
        };
        let shown = there.display();
        let mut checks = vec![match backing::host_room(there).map(|room| room.free) {
            Ok(free) if free < LITTLE_ROOM => check(
                "room",
                Verdict::Warn,
                format!("{free} free at {shown}"),
                "a sparse file is only as large as what is left below it: free some space",
            ),
            Ok(free) => ok("room", format!("{free} free at {shown}")),
            Err(error) => check("room", Verdict::Fail, error.to_string(), "see the path"),
        }];
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(there, flags, Mode::from_raw_mode(0o600)) {
            Ok(file) => {
                checks.push(holes(&file, there));
                let direct = rustix::fs::fcntl_setfl(&file, OFlags::DIRECT).is_ok();
                let found = format!(
                    "direct I/O {} at {shown}",
                    if direct { "works" } else { "is refused" }
                );
                let verdict = if direct { Verdict::Ok } else { Verdict::Warn };
                let hint =
                    "data will be cached twice; a file system on a disk (ext4, xfs) takes it";
                checks.push(check("direct I/O", verdict, found, hint));
            }
            Err(errno) => checks.push(check(
                "discard to file",
                Verdict::Warn,
                format!("no unnamed file at {shown} to try it in: {errno}"),
                "see that the directory can be written to",
            )),
        }
        checks
    }

    /// What open pools say of their discards and their health.
    fn pool_checks(&self) -> Vec<CheckReport> {
        let Ok(pools) = self.pools() else {
            return Vec::new();
        };
        let mut checks = Vec::new();
        for summary in pools {
            let name = format!("pool {}", summary.name);
            if let Some(problem) = summary.problem {
                let hint = "put its catalogue back from a copy";
                checks.push(check(&name, Verdict::Fail, problem, hint));
                continue;
            }
            let live = match self.pool(&summary.name).and_then(|pool| pool.status()) {
                Ok(report) => report.live,
                Err(error) => {
                    let hint = error.hint().unwrap_or_default();
                    checks.push(check(&name, Verdict::Fail, error.to_string(), &hint));
                    continue;
                }
            };
            checks.push(match live {
                None => ok(&name, summary_word(summary.state)),
                Some(live) if live.needs_check || live.mode != "rw" => check(
                    &name,
                    Verdict::Fail,
                    format!(
                        "mode {}{}",
                        live.mode,
                        if live.needs_check {
                            ", needs a check"
                        } else {
                            ""
                        }
                    ),
                    "close it and run thin_check on its metadata",
                ),
                Some(live) if !live.discard_passdown => check(
                    &name,
                    Verdict::Warn,
                    "discards end in the pool: freed space stays with the data device",
                    "use a data device that takes discards",
                ),
                Some(_) => ok(&name, "open, writable, discards reach the data device"),
            });
        }
        checks
    }
}

fn summary_word(state: crate::graph::report::PoolWord) -> &'static str {
    use crate::graph::report::PoolWord;
    match state {
        PoolWord::Open => "open",
        PoolWord::Closed => "closed",
        PoolWord::Creating => "half made: pool destroy clears it away",
        PoolWord::Destroying => "half destroyed: pool destroy goes on",
        PoolWord::Damaged => "damaged",
    }
}

fn kernel() -> CheckReport {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().ok());
    let version = (numbers.next().flatten(), numbers.next().flatten());
    match version {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST_SAFE_KERNEL => ok("kernel", release),
        _ => check(
            "kernel",
            Verdict::Warn,
            release,
            "before 5.5 a power cut could leave garbage in copied blocks: use a newer kernel",
        ),
    }
}

fn privilege() -> CheckReport {
    if rustix::process::geteuid().is_root() {
        ok("privilege", "root")
    } else {
        let found = format!("user {}", rustix::process::geteuid().as_raw());
        check("privilege", Verdict::Fail, found, "run it as root")
    }
}

fn device_mapper() -> Vec<CheckReport> {
    let control = match Control::open() {
        Ok(control) => control,
        Err(error) => {
            let hint = "load it: modprobe dm-thin-pool";
            return vec![check(
                "device mapper",
                Verdict::Fail,
                error.to_string(),
                hint,
            )];
        }
    };
    let mut checks = vec![ok(
        "device mapper",
        format!("interface {}", control.version()),
    )];
    match control.list_versions() {
        Ok(targets) => checks.extend(TARGETS.map(|name| {
            let check_name = format!("target {name}");
            match targets.iter().find(|target| target.name == name) {
                Some(target) => ok(&check_name, format!("version {}", target.version)),
                None => {
                    let hint = "load it: modprobe dm-thin-pool";
                    check(&check_name, Verdict::Fail, "not in this kernel", hint)
                }
            }
        })),
        Err(error) => {
            let hint = "see device mapper";
            checks.push(check("targets", Verdict::Fail, error.to_string(), hint));
        }
    }
    checks
}

fn loops() -> CheckReport {
    if Path::new("/dev/loop-control").exists() {
        ok("loop", "/dev/loop-control is there")
    } else {
        let hint = "load it for pools on files: modprobe loop";
        check("loop", Verdict::Warn, "no /dev/loop-control", hint)
    }
}

fn file_system(fs: FsType) -> CheckReport {
    let known = fs::read_to_string("/proc/filesystems")
        .is_ok_and(|list| list.lines().any(|line| line.trim() == fs.as_str()));
    if known {
        ok(fs.as_str(), "in this kernel")
    } else {
        let hint = "it may load by itself at the first mount; if not: modprobe it";
        check(fs.as_str(), Verdict::Warn, "not loaded", hint)
    }
}

fn find_tool(tool: &str, package: &str, missing: Verdict) -> CheckReport {
    match TOOL_DIRS
        .iter()
        .map(|dir| Path::new(dir).join(tool))
        .find(|path| path.exists())
    {
        Some(path) => ok(tool, path.display().to_string()),
        None => check(
            tool,
            missing,
            "not found",
            &format!("install the package {package}"),
        ),
    }
}

/// Whether a hole can be punched into a file here: what discards of a loop device come to.
fn holes(file: impl AsFd, dir: &Path) -> CheckReport {
    const LEN: u64 = 1 << 16;
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let tried = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, LEN)
        .and_then(|()| rustix::fs::fallocate(&file, punch, 0, LEN));
    match tried {
        Ok(()) => ok(
            "discard to file",
            format!("holes can be punched at {}", dir.display()),
        ),
        Err(errno) => check(
            "discard to file",
            Verdict::Warn,
            format!("no holes in files at {}: {errno}", dir.display()),
            "freed space will not return to the host: put the root on ext4, xfs, btrfs or tmpfs",
        ),
    }
}
