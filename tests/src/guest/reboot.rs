//! What a reboot leaves: made before it, looked at after it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::build;
use super::harness::{Ctx, text, witness};

const CONTENT: &str = "written before the reboot";

/// Fills a pool and leaves it open, one container mounted.
pub(super) fn before(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let image = build::small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)])?;
    for name in ["web", "db"] {
        ctx.ok(&["container", "create", "demo:1", "--name", name])?;
        let mount = ctx.mkdir(name)?;
        ctx.ok(&["container", "mount", name, text(&mount)])?;
        fs::write(mount.join("kept"), format!("{CONTENT} by {name}"))?;
    }
    ctx.ok(&["container", "umount", "db"])?;
    let said = [
        ctx.ok(&["--json", "image", "list"])?,
        ctx.ok(&["--json", "container", "list"])?,
    ];
    fs::write(ctx.dir.join("said"), without_kernel_state(&said.concat())?)?;
    rustix::fs::sync();
    Ok(())
}

/// The same records without what only a live device has.
fn without_kernel_state(text: &str) -> Result<String> {
    let mut records = Vec::new();
    for record in serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>() {
        let mut record = record?;
        if let Some(containers) = record["containers"].as_array_mut() {
            for container in containers {
                for live in ["mounts", "devno", "mapped"] {
                    container[live].take();
                }
            }
        }
        records.push(record.to_string());
    }
    ensure!(records.len() == 2, "two records were asked for");
    Ok(records.join("\n"))
}

/// Opens the pool and finds everything as it was.
pub(super) fn after(ctx: &Ctx) -> Result<()> {
    ensure!(
        !witness("dmsetup", &["ls"])?.contains("dmthin"),
        "the machine was not rebooted: devices are there"
    );
    ensure!(
        Path::new(&ctx.dir.join("said")).exists(),
        "nothing was prepared"
    );
    ctx.ok(&["pool", "open", "tank"])?;
    let said = [
        ctx.ok(&["--json", "image", "list"])?,
        ctx.ok(&["--json", "container", "list"])?,
    ];
    let before = fs::read_to_string(ctx.dir.join("said"))?;
    let now = without_kernel_state(&said.concat())?;
    ensure!(
        before == now,
        "before the reboot:\n{before}\nafter it:\n{now}"
    );
    for name in ["web", "db"] {
        let mount = ctx.mkdir(&format!("{name}-again"))?;
        ctx.ok(&["container", "mount", name, text(&mount)])
            .with_context(|| format!("mounting {name} after the reboot"))?;
        ensure!(fs::read_to_string(mount.join("kept"))? == format!("{CONTENT} by {name}"));
        ensure!(fs::read(mount.join("etc/hostname"))? == b"two\n");
        ctx.ok(&["container", "umount", name])?;
    }
    Ok(())
}
