//! A cpio archive of guest files, directories made as they are needed.
//!
//! Guest paths are absolute. The guest's `/bin`, `/sbin`, `/lib` and `/lib64`
//! are links into `/usr` (made by the base archive), so every path is written
//! where those links lead: an archive must never replace such a link by a
//! directory.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::vm::cpio::Writer;

/// An archive being filled.
#[derive(Debug)]
pub(super) struct Image {
    writer: Writer<BufWriter<File>>,
    present: BTreeSet<String>,
}

impl Image {
    /// Starts an archive in the new file `path`.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self {
            writer: Writer::new(BufWriter::new(file)),
            present: BTreeSet::new(),
        })
    }

    /// Whether the archive has an entry at this guest path.
    pub(super) fn has(&self, guest: &str) -> bool {
        self.present.contains(&place(guest))
    }

    pub(super) fn directory(&mut self, guest: &str, mode: u32) -> Result<()> {
        let path = place(guest);
        self.parents(&path)?;
        if self.present.insert(path.clone()) {
            self.writer.directory(&path, mode)?;
        }
        Ok(())
    }

    pub(super) fn file(&mut self, guest: &str, mode: u32, content: &[u8]) -> Result<()> {
        ensure!(
            guest.starts_with('/'),
            "the guest path {guest:?} is not absolute"
        );
        let path = place(guest);
        self.parents(&path)?;
        self.present.insert(path.clone());
        Ok(self.writer.file(&path, mode, content)?)
    }

    /// Adds the host's file with its permission bits, or with `mode`.
    pub(super) fn host_file(&mut self, guest: &str, host: &Path, mode: Option<u32>) -> Result<()> {
        let what = || format!("cannot read {} for the guest", host.display());
        let content = fs::read(host).with_context(what)?;
        let mode = match mode {
            Some(mode) => mode,
            None => fs::metadata(host).with_context(what)?.permissions().mode() & 0o7777,
        };
        self.file(guest, mode, &content)
    }

    pub(super) fn symlink(&mut self, guest: &str, target: &str) -> Result<()> {
        let path = place(guest);
        self.parents(&path)?;
        self.present.insert(path.clone());
        Ok(self.writer.symlink(&path, target)?)
    }

    pub(super) fn character(&mut self, guest: &str, mode: u32, dev: (u32, u32)) -> Result<()> {
        let path = place(guest);
        self.parents(&path)?;
        self.present.insert(path.clone());
        Ok(self.writer.character(&path, mode, dev.0, dev.1)?)
    }

    pub(super) fn finish(self) -> Result<()> {
        self.writer.finish()?;
        Ok(())
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        for (at, _) in path.match_indices('/') {
            let parent = path.get(..at).unwrap_or_default();
            if self.present.insert(parent.to_owned()) {
                self.writer.directory(parent, 0o755)?;
            }
        }
        Ok(())
    }
}

/// Where the guest's merged /usr puts a path; without the leading slash.
fn place(guest: &str) -> String {
    let path = guest.trim_start_matches("./").trim_matches('/');
    let top = path.split('/').next().unwrap_or_default();
    if matches!(top, "bin" | "sbin" | "lib" | "lib64") && path != top {
        format!("usr/{path}")
    } else {
        path.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn paths_go_where_the_merged_usr_has_them() {
        assert_eq!(place("/sbin/mkfs.ext4"), "usr/sbin/mkfs.ext4");
        assert_eq!(place("./lib64/ld.so"), "usr/lib64/ld.so");
        assert_eq!(place("/bin"), "bin");
        assert_eq!(place("/binary/x"), "binary/x");
    }
}
