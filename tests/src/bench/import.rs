//! An image into the pool: by `pool-cli`, and by `tar`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::bench::commands::{run, run_watched, text};
use crate::bench::floor::Floor;
use crate::bench::plan::Way as _;
use crate::bench::samples::Phase;

/// Both ways to bring the image in.
#[derive(Debug)]
pub(super) struct Imports {
    root: String,
    dir: PathBuf,
    image: String,
    /// The layers' names in the archive.
    layers: Vec<String>,
    /// Makes the volume that `tar` fills.
    volume: Floor,
    imported: bool,
}

/// Nobody profits from what another one read or left unwritten.
pub(super) fn level() -> Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("the page cache stays")
}

impl Imports {
    /// The image's name.
    pub(super) const NAME: &'static str = "bench:1";

    pub(super) fn new(root: &Path, dir: &Path, image: &Path, mut volume: Floor) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        volume.mount_on(dir);
        let image = text(image)?;
        let output = Command::new("tar")
            .args(["-xOf", &image, "manifest.json"])
            .output()?;
        let manifest: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("no manifest in {image}"))?;
        let layers = manifest
            .pointer("/0/Layers")
            .and_then(Value::as_array)
            .context("the manifest names no layers")?;
        let layers = layers.iter().filter_map(Value::as_str);
        Ok(Self {
            root: text(root)?,
            dir: dir.to_owned(),
            layers: layers.map(str::to_owned).collect(),
            image,
            volume,
            imported: false,
        })
    }

    /// Removes the image, if there is one.
    pub(super) fn forget_image(&mut self) -> Result<()> {
        if std::mem::take(&mut self.imported) {
            run(
                "pool-cli",
                &["--root", &self.root, "image", "rm", Self::NAME],
            )?;
        }
        Ok(())
    }

    /// The layers' names in the archive, the bottom one first.
    pub(super) fn layers(&self) -> &[String] {
        &self.layers
    }

    /// `pool-cli image import`: how long it took, and the most memory that it had.
    pub(super) fn import(&mut self) -> Result<(Duration, u64)> {
        level()?;
        let started = Instant::now();
        let args = ["--root", &self.root, "image", "import", &self.image];
        let args = [&args[..], &["--name", Self::NAME]].concat();
        let peak = run_watched("pool-cli", &args)?;
        self.imported = true;
        Ok((started.elapsed(), peak))
    }

    /// `tar -x` of every layer, and `sync`, onto a snapshot of the same base volume.
    pub(super) fn tar(&mut self) -> Result<Duration> {
        self.volume.up(&mut Phase::default())?;
        level()?;
        let started = Instant::now();
        for layer in &self.layers {
            self.unpack(layer).with_context(|| layer.clone())?;
        }
        run("sync", &["-f", &text(&self.dir)?])?;
        let took = started.elapsed();
        self.volume.down(&mut Phase::default())?;
        Ok(took)
    }

    fn unpack(&self, layer: &str) -> Result<()> {
        let mut from = Command::new("tar")
            .args(["-xOf", &self.image, layer])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("tar could not be started")?;
        let pipe = from.stdout.take().context("no pipe")?;
        let into = Command::new("tar")
            .args(["-xpf", "-", "--numeric-owner", "--xattrs"])
            // What a whiteout says is no business of tar's; and a directory that a layer turns into
            // a file is beyond it.
            .args(["--xattrs-include=*", "--exclude=.wh.*"])
            .arg("--exclude=usr/share/zoneinfo/Arctic")
            .arg("-C")
            .arg(&self.dir)
            .stdin(Stdio::from(pipe))
            .output()?;
        let from = from.wait()?;
        ensure!(from.success(), "tar -xO: {from}");
        ensure!(
            into.status.success(),
            "tar -x: {}, {}",
            into.status,
            String::from_utf8_lossy(&into.stderr).trim()
        );
        Ok(())
    }
}
