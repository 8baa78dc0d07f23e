//! The kernel modules a guest gets: the wanted ones and all they need, in an
//! order in which each can be loaded.
//!
//! Dependencies are read from the modules' own `.modinfo`, so depmod is not
//! needed. Debian ships modules plain or compressed depending on the suite;
//! the guest gets them plain, which keeps their signatures.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::vm::elf::Elf;
use crate::vm::programs::files_below;

/// QEMU's devices; some kernels have them built in, as all that is below.
const VIRTIO: &[&str] = &["virtio_pci", "virtio_console", "virtio_blk"];

/// Without one of these a guest is of no use.
const REQUIRED: &[&str] = &[
    "ext4",
    "xfs",
    "loop",
    "dm_mod",
    "dm_thin_pool",
    "dm_flakey",
    "dm_log_writes",
];

/// Taken where the kernel has them. The checksums are asked for by name, not
/// by dependency (`crypto_alloc_shash("crc32c")`).
const OPTIONAL: &[&str] = &[
    "crc32c_generic",
    "crc32c_intel",
    "dm_delay",
    "dm_dust",
    "dm_snapshot",
    "overlay",
];

/// One module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Module {
    /// Its name, with underscores.
    pub(super) name: String,
    /// Its path below `/lib/modules/<release>`, decompressed.
    pub(super) path: String,
    /// Names of the modules it needs directly.
    pub(super) needs: Vec<String>,
    /// The module itself.
    pub(super) content: Vec<u8>,
}

/// The modules below `root` (`.../lib/modules/<release>`), needed ones first;
/// `builtin` is the kernel's `modules.builtin`. User-mode Linux has devices of
/// its own.
pub(super) fn collect(root: &Path, builtin: &str, user_mode: bool) -> Result<Vec<Module>> {
    let mut found = Collector::default();
    for (path, below) in files_below(root)? {
        if let Some(stem) = below.split(".ko").next().filter(|_| below.contains(".ko")) {
            let name = canonical(stem.rsplit('/').next().unwrap_or_default());
            found
                .files
                .insert(name, (path, format!("{}.ko", stem.trim_start_matches('/'))));
        }
    }
    for line in builtin.lines() {
        let name = line.rsplit('/').next().unwrap_or_default();
        found
            .builtin
            .insert(canonical(name.trim_end_matches(".ko")));
    }
    let devices = if user_mode { &[] } else { VIRTIO };
    for name in devices.iter().chain(REQUIRED) {
        found.add(name)?;
    }
    for name in OPTIONAL {
        if found.files.contains_key(*name) {
            found.add(name)?;
        }
    }
    Ok(found.modules)
}

/// `dm-mod` and `dm_mod` are one module (`kernel/module/main.c` compares so).
pub(super) fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[derive(Default)]
struct Collector {
    files: BTreeMap<String, (PathBuf, String)>,
    builtin: BTreeSet<String>,
    modules: Vec<Module>,
}

impl Collector {
    fn add(&mut self, name: &str) -> Result<()> {
        if self.builtin.contains(name) || self.modules.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let file = self.files.get(name);
        let (file, path) = file
            .with_context(|| format!("the kernel has no module {name}"))?
            .clone();
        let content = decompressed(&file)?;
        let elf = Elf::parse(&content).with_context(|| format!("in {}", file.display()))?;
        let depends = elf.info("depends").unwrap_or_default();
        let needs: Vec<String> = depends
            .split(',')
            .filter(|name| !name.is_empty())
            .map(canonical)
            .collect();
        for need in &needs {
            self.add(need)?;
        }
        self.modules.push(Module {
            name: name.to_owned(),
            path,
            needs,
            content,
        });
        Ok(())
    }
}

fn decompressed(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return Ok(fs::read(file)?),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => bail!("unknown compression of the module {}", file.display()),
    };
    let output = Command::new(program)
        .args(["-d", "-c", "-q"])
        .arg(file)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {program}: run scripts/setup"))?;
    ensure!(
        output.status.success(),
        "{program} could not decompress {}",
        file.display()
    );
    Ok(output.stdout)
}
