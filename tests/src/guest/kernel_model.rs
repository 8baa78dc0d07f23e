//! The library's model of the kernel against this kernel.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::harness::{Ctx, Test, witness};

pub(super) const TESTS: &[Test] = &[("model_is_told_what_the_kernel_is", told_the_same)];

/// A program of the library's own tests (`dmthin/tests/model`).
const PROGRAM: &str = "/usr/lib/tests/model";

fn told_the_same(ctx: &Ctx) -> Result<()> {
    let memory = ctx.dir.to_str().context("the directory is not UTF-8")?;
    witness("mount", &["-t", "tmpfs", "none", memory])?;
    let output = Command::new(PROGRAM)
        .args([
            "--ignored",
            "--nocapture",
            "the_kernel_answers_as_the_model",
        ])
        .env("TMPDIR", &ctx.dir)
        .output()
        .with_context(|| format!("{PROGRAM} could not be started"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && said.contains("1 passed"),
        "{}: {said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
