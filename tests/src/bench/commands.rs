//! The same by programs: `dmsetup` with its company, and `pool-cli`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use dmthin::ids::ThinId;

use crate::bench::floor::Origin;
use crate::bench::plan::{OwnIds, Way};
use crate::bench::samples::Phase;

/// How often the memory of a program that runs is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Runs a program that must succeed.
pub(super) fn run(program: &str, args: &[&str]) -> Result<()> {
    run_while(program, args, |_| ())
}

/// Runs a program that must succeed, and gives the most memory that it had, in bytes.
pub(super) fn run_watched(program: &str, args: &[&str]) -> Result<u64> {
    let (ended, end) = channel::<()>();
    let watch = run_while(program, args, |pid| {
        thread::spawn(move || {
            let mut peak = 0;
            // The kernel keeps the highest: what is missed is only what comes after the last look.
            while end.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                peak = high_water(pid).unwrap_or(peak);
            }
            peak
        })
    })?;
    drop(ended);
    watch.join().map_err(|_| anyhow!("the watch panicked"))
}

/// The most memory that a process had until now, in bytes.
fn high_water(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Runs a program that must succeed; `begun` is told its pid.
fn run_while<T>(program: &str, args: &[&str], begun: impl FnOnce(u32) -> T) -> Result<T> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if !Path::new("/run/udev/control").exists() {
        // Else libdevmapper leaves the nodes to a udevd that is not there.
        command.env("DM_DISABLE_UDEV", "1");
    }
    let child = command
        .spawn()
        .with_context(|| format!("{program} could not be started"))?;
    let begun = begun(child.id());
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{program} {args:?}: {}, {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(begun)
}

pub(super) fn text(path: &Path) -> Result<String> {
    let text = path.to_str().context("a path is not UTF-8")?;
    Ok(text.to_owned())
}

/// Programs of dmsetup and util-linux.
#[derive(Debug)]
pub(super) struct Dmsetup {
    origin: Origin,
    ids: OwnIds,
    dir: String,
    id: Option<ThinId>,
}

impl Dmsetup {
    const DEVICE: &'static str = "bench-dmsetup";
    const NODE: &'static str = "/dev/mapper/bench-dmsetup";

    pub(super) fn new(origin: Origin, ids: OwnIds, dir: &Path) -> Result<Self> {
        Ok(Self {
            origin,
            ids,
            dir: text(dir)?,
            id: None,
        })
    }

    fn message(&self, message: &str) -> Result<()> {
        run(
            "dmsetup",
            &["message", self.origin.pool.as_str(), "0", message],
        )
    }
}

impl Way for Dmsetup {
    fn name(&self) -> &'static str {
        "dmsetup"
    }

    fn up(&mut self, phase: &mut Phase) -> Result<()> {
        let id = self.ids.take()?;
        self.id = Some(id);
        let Origin {
            pool,
            thin_id,
            size,
        } = &self.origin;
        let table = format!("0 {size} thin /dev/mapper/{pool} {id}");
        let snapshot = format!("create_snap {id} {thin_id}");
        phase.step("message", || self.message(&snapshot))?;
        phase.step("create", || {
            run("dmsetup", &["create", Self::DEVICE, "--table", &table])
        })?;
        phase.step("mount", || {
            run(
                "mount",
                &["-t", "ext4", "-o", "discard", Self::NODE, &self.dir],
            )
        })
    }

    fn down(&mut self, phase: &mut Phase) -> Result<()> {
        let Some(id) = self.id.take() else {
            return Ok(());
        };
        phase.step("umount", || run("umount", &[&self.dir]))?;
        phase.step("blkdiscard", || run("blkdiscard", &[Self::NODE]))?;
        phase.step("remove", || {
            run("dmsetup", &["remove", "--retry", Self::DEVICE])
        })?;
        phase.step("message", || self.message(&format!("delete {id}")))
    }
}

/// Our command, started for every step.
#[derive(Debug)]
pub(super) struct Cli {
    root: String,
    image: String,
    dir: String,
}

impl Cli {
    const NAME: &'static str = "command";

    pub(super) fn new(root: &Path, image: String, dir: &Path) -> Result<Self> {
        Ok(Self {
            root: text(root)?,
            image,
            dir: text(dir)?,
        })
    }

    fn container(&self, args: &[&str]) -> Result<()> {
        let all = ["--root", &self.root, "container"].into_iter();
        let all: Vec<&str> = all.chain(args.iter().copied()).collect();
        run("pool-cli", &all)
    }
}

impl Way for Cli {
    fn name(&self) -> &'static str {
        "pool-cli"
    }

    fn up(&mut self, phase: &mut Phase) -> Result<()> {
        phase.step("create", || {
            self.container(&["create", &self.image, "--name", Self::NAME])
        })?;
        phase.step("mount", || {
            self.container(&["mount", Self::NAME, &self.dir])
        })
    }

    fn down(&mut self, phase: &mut Phase) -> Result<()> {
        phase.step("umount", || self.container(&["umount", Self::NAME]))?;
        phase.step("rm", || self.container(&["rm", Self::NAME]))
    }
}
