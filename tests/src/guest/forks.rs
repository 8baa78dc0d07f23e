//! Forks of a container beneath fio.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::growth::{make, mounted};
use super::harness::{Ctx, Test, text, witness};
use super::load::{is_a_moment_of, timed_write};
use super::verbs::STALL;
use crate::fio::{Pass, fio};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[("fork_of_a_container_under_fio", forks)];

const FORKS: [&str; 3] = ["one", "two", "three"];

/// Fio writes and flushes one file after the other, and somebody else whose waiting is measured writes too.
/// Each fork is clean, has what an earlier pass of fio had flushed, and keeps nobody waiting for long.
fn forks(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "1G", "--metadata-size", "16M"])?;
    let web = mounted(ctx, "web", "512M")?;
    fio(&[&web], 0, Pass::WriteAndVerify)?;
    let stop = AtomicBool::new(false);
    let (flushed, longest) = (AtomicU64::new(0), AtomicU64::new(0));
    let file = web.join("beside");
    let (passes, forked) = thread::scope(|scope| {
        let passes = scope.spawn(|| {
            let mut passes = 0_u64;
            while !stop.load(Ordering::SeqCst) {
                // Odd numbers have a file of their own.
                fio(&[&web], 1, Pass::Write)?;
                passes = passes.saturating_add(1);
            }
            anyhow::Ok(passes)
        });
        let beside = scope.spawn(|| timed_write(&file, 0, &stop, &flushed, &longest));
        let forked = (|| {
            thread::sleep(Duration::from_secs(2));
            let mut told = Vec::new();
            for name in FORKS {
                let before = flushed.load(Ordering::SeqCst);
                longest.store(0, Ordering::SeqCst);
                ctx.ok(&["container", "fork", "web", "--name", name])?;
                thread::sleep(Duration::from_millis(500));
                let stall = Duration::from_millis(longest.load(Ordering::SeqCst));
                told.push((name, before, stall));
            }
            anyhow::Ok(told)
        })();
        stop.store(true, Ordering::SeqCst);
        let beside = beside.join().expect("no writer panics");
        let passes = passes.join().expect("fio's thread does not panic");
        anyhow::Ok((beside.and(passes)?, forked?))
    })?;
    println!("        {passes} passes of fio; {forked:?}");
    ensure!(passes > 0, "fio came to no end");
    for (name, flushed, stall) in forked {
        let node = format!("/dev/mapper/dmthin-tank-ctr-{name}");
        let dir = ctx.mkdir(name)?;
        ctx.ok(&["container", "mount", name, text(&dir)])?;
        fio(&[&dir], 0, Pass::Verify)?;
        is_a_moment_of(&dir.join("beside"), 0, flushed)?;
        ctx.ok(&["container", "umount", name])?;
        witness("e2fsck", &["-fn", &node])?;
        ensure!(stall <= STALL, "a writer waited for {stall:?}");
    }
    witness("umount", &[text(&web)])?;
    ctx.ok(&["check"]).map(drop)
}
