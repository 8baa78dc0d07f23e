//! A test that hangs is told, with what hangs, while there is still somebody to read it.

use std::fs;
use std::io::Write as _;
use std::process;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// The longest that a test may take, where `DMTHIN_TEST_MINUTES` does not say otherwise: several times what the
/// longest needs.
const MINUTES: u32 = 20;

/// How long each test may take.
pub(super) fn limit() -> Result<Duration> {
    let minutes = match std::env::var("DMTHIN_TEST_MINUTES") {
        Ok(given) => given
            .parse()
            .with_context(|| format!("DMTHIN_TEST_MINUTES={given}"))?,
        Err(_) => MINUTES,
    };
    Ok(Duration::from_secs(60).saturating_mul(minutes))
}

/// Runs a test; where it takes longer than that, tells of it and ends the program: what hangs in the kernel can
/// be neither stopped nor cleared away, and everything after it would hang with it.
pub(super) fn within<T>(limit: Duration, name: &str, test: impl FnOnce() -> T) -> T {
    let (ended, waits) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if waits.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                let mut out = std::io::stdout().lock();
                let seconds = limit.as_secs();
                let _ = writeln!(out, "FAILED  {name}: it runs still after {seconds} s");
                let _ = out.write_all(processes().as_bytes());
                let _ = out.flush();
                process::exit(1);
            }
        });
        let value = test();
        drop(ended);
        value
    })
}

/// Every program that runs, with where in the kernel it sleeps.
fn processes() -> String {
    let mut text = String::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for entry in entries {
        let Some(pid) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let command = read("cmdline").replace('\0', " ");
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) || command.is_empty() {
            continue;
        }
        let status = read("status");
        let state = status.lines().find_map(|line| line.strip_prefix("State:"));
        let state = state.unwrap_or_default().trim();
        text.push_str(&format!("  {pid} {state} {command}\n"));
        for line in read("stack").lines() {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text
}
