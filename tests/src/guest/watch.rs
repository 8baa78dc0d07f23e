//! What `pool status` tells as time goes by.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::growth::{make, number, status};
use super::harness::{Ctx, Test, text, witness};
use super::monitor::Monitor;

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("status_tells_when_a_pool_will_be_full", time_to_full),
    ("status_watch_shows_it_again_until_interrupted", watch),
];

const SIGINT: i32 = 2;

/// A pool that is written a MiB a second is full when it must be, within a factor of two.
fn time_to_full(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "1G"])?;
    let create = ["container", "create", "demo:1", "--name", "web"];
    ctx.ok(&[&create[..], &["--size", "2G"]].concat())?;
    ensure!(status(ctx)?["live"]["time_to_full"]["data"].is_null());
    let args = ["--interval", "1", "--threshold", "off"];
    let _monitor = Monitor::start(ctx, &args)?;
    let node = File::options()
        .write(true)
        .open("/dev/mapper/dmthin-tank-ctr-web")?;
    let used = || -> Result<u64> { number(&status(ctx)?["live"]["data"]["used"]) };
    let (began, before) = (Instant::now(), used()?);
    for n in 0..40_u64 {
        let begun = Instant::now();
        // Behind what the file system has written.
        let at = n.saturating_add(700).saturating_mul(1 << 20);
        node.write_all_at(&[1; 1 << 20], at)?;
        node.sync_all()?;
        thread::sleep(Duration::from_secs(1).saturating_sub(begun.elapsed()));
    }
    let pool = status(ctx)?;
    let data = &pool["live"]["data"];
    let (now, total) = (number(&data["used"])?, number(&data["total"])?);
    let elapsed = began.elapsed().as_secs();
    let written = now.saturating_sub(before);
    ensure!(written >= 38 << 20, "{written} written");
    let left = total.saturating_sub(now).saturating_mul(elapsed);
    let expected = left.checked_div(written).context("nothing written")?;
    let told = number(&pool["live"]["time_to_full"]["data"])?;
    ensure!(
        told >= expected / 2 && told <= expected.saturating_mul(2),
        "{told} s are told, {expected} s expected"
    );
    Ok(())
}

/// A frame each second, until Ctrl-C ends it as it ends any command.
fn watch(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "1G"])?;
    let mut child = Command::new("pool-cli")
        .args(["--json", "--root", text(&ctx.root)])
        .args(["pool", "status", "--watch=1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let frames = BufReader::new(child.stdout.take().context("no stdout")?);
    let mut frames = frames.lines();
    let mut frame = || -> Result<Value> {
        let line = frames.next().context("no more frames")??;
        Ok(serde_json::from_str(&line)?)
    };
    let first = frame()?;
    let containers = |frame: &Value| number(&frame["pool"]["containers"]);
    ensure!(
        first["schema"] == "dmthin/v1" && containers(&first)? == 0,
        "{first}"
    );
    ctx.ok(&["container", "create", "demo:1", "--name", "web"])?;
    let began = Instant::now();
    while containers(&frame()?)? != 1 {
        ensure!(
            began.elapsed().as_secs() < 30,
            "it shows the first frame again"
        );
    }
    witness("kill", &["-INT", &child.id().to_string()])?;
    let ended = child.wait_with_output()?;
    ensure!(ended.status.signal() == Some(SIGINT), "{:?}", ended.status);
    ensure!(ended.stderr.is_empty(), "{:?}", ended.stderr);
    Ok(())
}
