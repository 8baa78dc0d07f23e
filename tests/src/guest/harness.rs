//! Runs the tests one by one, and looks after each whether anything is left behind.

mod patience;

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dmthin::ids::ThinId;
use serde_json::Value;

/// A test: its name and its function.
pub(super) type Test = (&'static str, fn(&Ctx) -> Result<()>);

/// What a command answered.
#[derive(Debug)]
pub(crate) struct Output {
    /// Exit status; 128 and the signal for one that was killed.
    pub(crate) code: i32,
    /// What it printed as its result.
    pub(crate) stdout: String,
    /// What it said beside it.
    pub(crate) stderr: String,
}

/// Where a test works.
#[derive(Debug)]
pub(super) struct Ctx {
    /// `--root` of every `pool-cli` call.
    pub(super) root: PathBuf,
    /// A directory for the test's own files, empty at its begin.
    pub(super) dir: PathBuf,
    /// A directory that outlives the test.
    pub(super) shared: PathBuf,
    /// Where the prepared images lie.
    pub(super) images: PathBuf,
}

/// Runs any program to its end.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<Output> {
    run_with_input(program, args, Stdio::null())
}

fn run_with_input(program: &str, args: &[&str], input: Stdio) -> Result<Output> {
    let output = Command::new(program)
        .args(args)
        .stdin(input)
        .output()
        .with_context(|| format!("{program} could not be started"))?;
    Ok(Output {
        code: output.status.code().unwrap_or(128),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs a witness that must succeed, and gives what it printed.
pub(crate) fn witness(program: &str, args: &[&str]) -> Result<String> {
    let output = run(program, args)?;
    ensure!(
        output.code == 0,
        "{program} {args:?} ended with {}: {}{}",
        output.code,
        output.stdout,
        output.stderr
    );
    Ok(output.stdout)
}

impl Ctx {
    /// Runs `pool-cli` to its end, however that is.
    pub(super) fn cli(&self, args: &[&str]) -> Result<Output> {
        run("pool-cli", &self.with_root(args)?)
    }

    fn with_root<'a>(&'a self, args: &[&'a str]) -> Result<Vec<&'a str>> {
        let root = self.root.to_str().context("the root is not UTF-8")?;
        Ok(["--root", root]
            .into_iter()
            .chain(args.iter().copied())
            .collect())
    }

    /// Runs `pool-cli` with a file as its standard input, however that ends.
    pub(super) fn cli_from(&self, args: &[&str], input: &Path) -> Result<Output> {
        let file = fs::File::open(input)?;
        run_with_input("pool-cli", &self.with_root(args)?, Stdio::from(file))
    }

    /// Runs `pool-cli`; it must succeed.
    pub(super) fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.cli(args)?;
        ensure!(
            output.code == 0,
            "pool-cli {args:?} ended with {}: {}",
            output.code,
            output.stderr
        );
        Ok(output.stdout)
    }

    /// Runs `pool-cli --json`; it must succeed and answer in our schema.
    pub(super) fn json(&self, args: &[&str]) -> Result<Value> {
        let args: Vec<_> = ["--json"].into_iter().chain(args.iter().copied()).collect();
        let text = self.ok(&args)?;
        let value: Value =
            serde_json::from_str(&text).with_context(|| format!("{args:?} printed {text:?}"))?;
        ensure!(
            value["schema"] == "dmthin/v1",
            "{args:?} has no schema: {value}"
        );
        Ok(value)
    }

    /// Runs `pool-cli`; it must fail with this exit code, one clear line that holds `says`, and
    /// nothing on standard output.
    pub(super) fn fails(&self, args: &[&str], code: i32, says: &str) -> Result<()> {
        // Without the progress of an import, which is no part of the error.
        let quiet: Vec<_> = ["-q"].into_iter().chain(args.iter().copied()).collect();
        let output = self.cli(&quiet)?;
        ensure!(
            output.code == code && output.stderr.contains(says) && output.stdout.is_empty(),
            "pool-cli {args:?} ended with {} (wanted {code} and {says:?}): {}{}",
            output.code,
            output.stdout,
            output.stderr
        );
        let lines = output
            .stderr
            .lines()
            .filter(|line| !line.starts_with("hint: "))
            .count();
        // A usage error shows the usage below its line.
        ensure!(
            lines == 1 || code == 2,
            "{args:?} says more than one line: {}",
            output.stderr
        );
        Ok(())
    }

    /// Kills `pool-cli` so long after it first wrote to the catalogue: its intent is there then, what
    /// it intends may be.
    pub(super) fn cut(&self, args: &[&str], pool: &str, after: Duration) -> Result<()> {
        let log = self.root.join(pool).join("catalogue.db-wal");
        let written = || -> Result<(i64, i64, u64)> {
            let found = fs::metadata(&log)?;
            Ok((found.mtime(), found.mtime_nsec(), found.len()))
        };
        let before = written()?;
        let mut child = Command::new("pool-cli")
            .args(self.with_root(args)?)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        while written()? == before && child.try_wait()?.is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(after);
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// A pool on sparse files, of a size that leaves room for the tests on a small disk.
    pub(super) fn pool(&self, name: &str) -> Result<()> {
        self.ok(&["pool", "create", name, "--size", "4G", "--base-size", "2G"])
            .map(drop)
    }

    /// An empty directory of this name.
    pub(super) fn mkdir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// A prepared image.
    pub(super) fn image(&self, name: &str) -> Result<String> {
        let path = self.images.join(name);
        ensure!(path.exists(), "{} is not there", path.display());
        Ok(path.to_str().context("not UTF-8")?.to_owned())
    }
}

/// The ids in use in an open pool on files, by `thin_ls` of a metadata snapshot: an independent reader. Without
/// that of the copy of the catalogue, which each pool of ours has.
pub(super) fn thin_ids(ctx: &Ctx, pool: &str) -> Result<String> {
    Ok(without_mirror(&all_thin_ids(ctx, pool)?))
}

/// The same with all of them.
pub(super) fn all_thin_ids(ctx: &Ctx, pool: &str) -> Result<String> {
    let metadata = ctx.root.join(pool).join("metadata.img");
    thin_ids_on(&format!("dmthin-{pool}-pool"), text(&metadata))
}

/// Lines that begin with an id, but for that of the copy of the catalogue.
pub(super) fn without_mirror(listed: &str) -> String {
    let mirror = ThinId::MIRROR.to_string();
    listed
        .lines()
        .filter(|line| line.split_whitespace().next() != Some(mirror.as_str()))
        .fold(String::new(), |all, line| all + line + "\n")
}

/// The ids in a pool's device whose metadata are there.
pub(super) fn thin_ids_on(device: &str, metadata: &str) -> Result<String> {
    let message = |text| witness("dmsetup", &["message", device, "0", text]);
    message("reserve_metadata_snap")?;
    let listed = run("thin_ls", &["-m", "--no-headers", "-o", "DEV", metadata]);
    message("release_metadata_snap")?;
    let listed = listed?;
    ensure!(
        listed.code == 0,
        "thin_ls: {}{}",
        listed.stdout,
        listed.stderr
    );
    Ok(listed.stdout)
}

/// A loop device of `losetup`'s on a new file of the test's own: a block device as far as `pool-cli`
/// can see. Gives the file and the device's node.
pub(super) fn block_device(ctx: &Ctx, name: &str, mib: u64) -> Result<(PathBuf, String)> {
    let path = ctx.dir.join(name);
    fs::File::create(&path)?.set_len(mib << 20)?;
    let node = witness("losetup", &["-f", "--show", text(&path)])?;
    Ok((path, node.trim().to_owned()))
}

/// A number of MiB that `df` tells of a file system: its `size` or what of it is `avail`.
pub(super) fn df_mib(what: &str, path: &Path) -> Result<u64> {
    let told = witness("df", &["-m", &format!("--output={what}"), text(path)])?;
    Ok(told.lines().nth(1).context("df")?.trim().parse()?)
}

/// Text of a path, for a command line.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are ASCII")
}

/// Whether something comes true within seconds, many of them where the machine is slow: where udevd runs,
/// its probe of a device may be that device's last user for a moment.
pub(super) fn eventually(check: impl FnMut() -> Result<bool>) -> Result<bool> {
    within(20, check)
}

/// As [`eventually`], for what takes so many seconds at most.
pub(super) fn within(seconds: u64, mut check: impl FnMut() -> Result<bool>) -> Result<bool> {
    let limit = Duration::from_secs(seconds);
    let started = Instant::now();
    while !check()? {
        if started.elapsed() > limit {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(true)
}

/// What of ours is left in the kernel: dm devices, loops and mounts below the root.
fn leftovers(root: &Path) -> Result<Vec<String>> {
    let mut left = Vec::new();
    let root = text(root);
    for line in witness(
        "dmsetup",
        &["info", "-c", "--noheadings", "-o", "name,uuid"],
    )?
    .lines()
    {
        if line.contains("DMTHIN-") {
            left.push(format!("dm device {line}"));
        }
    }
    for line in witness("losetup", &["-l", "-n", "-O", "NAME,BACK-FILE"])?.lines() {
        if line.contains(root) {
            left.push(format!("loop {line}"));
        }
    }
    for line in fs::read_to_string("/proc/mounts")?.lines() {
        if line.contains("dmthin") {
            left.push(format!("mount {line}"));
        }
    }
    Ok(left)
}

/// Closes every pool, checks its metadata with `thin_check`, destroys it; then nothing may be left.
fn tear_down(ctx: &Ctx) -> Result<()> {
    if let Ok(mounts) = fs::read_to_string("/proc/mounts") {
        for target in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(target).starts_with(&ctx.dir) {
                run("umount", &[target])?;
            }
        }
    }
    let mut problems = Vec::new();
    for pool in fs::read_dir(&ctx.root).into_iter().flatten() {
        let dir = pool?.path();
        let Some(name) = dir.file_name().and_then(|n| n.to_str()) else {
            continue;
        };
        let closed = ctx.cli(&["pool", "close", name])?;
        if closed.code != 0 {
            problems.push(format!("pool close {name}: {}", closed.stderr.trim()));
        }
        let metadata = dir.join("metadata.img");
        if metadata.exists() {
            let check = run("thin_check", &[text(&metadata)])?;
            if check.code != 0 {
                problems.push(format!(
                    "thin_check {name}: {}{}",
                    check.stdout, check.stderr
                ));
            }
        }
        let destroyed = ctx.cli(&["pool", "destroy", name])?;
        if destroyed.code != 0 {
            problems.push(format!("pool destroy {name}: {}", destroyed.stderr.trim()));
        }
    }
    eventually(|| Ok(leftovers(&ctx.root)?.is_empty()))?;
    problems.extend(leftovers(&ctx.root)?);
    for entry in fs::read_dir(&ctx.root).into_iter().flatten() {
        problems.push(format!("left in the root: {}", entry?.path().display()));
    }
    if !problems.is_empty() {
        sweep(ctx);
        bail!("left behind: {}", problems.join("; "));
    }
    Ok(())
}

/// Clears away what a failed test left, so that the next one starts clean: best effort by
/// witnesses' tools, since ours may be what is broken.
fn sweep(ctx: &Ctx) {
    for pass in ["ctr|vol|snap|layer|base", "pool", "tdata|tmeta"] {
        let script = format!(
            "for d in $(dmsetup ls | awk '{{print $1}}' | grep -E '^dmthin-.*({pass})'); do \
             dmsetup resume $d; dmsetup remove --retry $d; done"
        );
        let _ = run("sh", &["-c", &script]);
    }
    let _ = run("losetup", &["-D"]);
    let _ = fs::remove_dir_all(&ctx.root);
}

/// Runs the tests whose name contains one of `only` (all of them where it is empty), prints a line
/// each; true when every one passed. Tests that are not `isolated` find and leave what is there.
pub(super) fn run_all(
    tests: &[Test],
    work: &Path,
    images: &Path,
    only: &[String],
    isolated: bool,
) -> Result<bool> {
    let (mut passed, mut failed) = (0_u32, 0_u32);
    let limit = patience::limit()?;
    let mut out = std::io::stdout();
    for (name, test) in tests {
        if !only.is_empty() && !only.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let dir = work.join("t");
        if isolated {
            let _ = fs::remove_dir_all(&dir);
        }
        fs::create_dir_all(&dir)?;
        let ctx = Ctx {
            root: dir.join("root"),
            dir: dir.join("d"),
            shared: work.to_owned(),
            images: images.to_owned(),
        };
        fs::create_dir_all(&ctx.dir)?;
        let started = Instant::now();
        let result = patience::within(limit, name, || {
            let result = std::panic::catch_unwind(|| test(&ctx))
                .unwrap_or_else(|_| Err(anyhow::anyhow!("the test panicked")));
            let after = if isolated { tear_down(&ctx) } else { Ok(()) };
            match (result, after) {
                (Err(error), Err(after)) => Err(error.context(format!("and {after:#}"))),
                (Ok(()), Err(after)) => Err(after),
                (result, Ok(())) => result,
            }
        });
        let seconds = started.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                passed = passed.saturating_add(1);
                writeln!(out, "ok      {name} ({seconds:.1} s)")?;
            }
            Err(error) => {
                failed = failed.saturating_add(1);
                writeln!(out, "FAILED  {name} ({seconds:.1} s): {error:#}")?;
            }
        }
        out.flush()?;
    }
    ensure!(
        passed.saturating_add(failed) > 0,
        "no test has a name like {only:?}"
    );
    Ok(failed == 0)
}
