//! Trees for images of which the diff and the commit are measured, as tars of one layer.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tar::{Archive, Builder, EntryType, Header};

/// As much of each file of the real image as a copy has: what is measured looks at inodes and names.
const CONTENT: u64 = 16 << 10;
/// Files of a directory that has only empty ones.
const PER_DIRECTORY: u64 = 100;

fn writer(out: &Path) -> Result<Builder<BufWriter<File>>> {
    let file = File::create(out).with_context(|| format!("cannot make {}", out.display()))?;
    Ok(Builder::new(BufWriter::with_capacity(1 << 20, file)))
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(0);
    header
}

/// The directories, files and symbolic links of these layers of a docker-archive, so many times, each time below a
/// directory of its own, `1`, `2` and so on.
pub(super) fn copies(image: &Path, layers: &[String], nr: u64, out: &Path) -> Result<()> {
    let mut tar = writer(out)?;
    let mut seen = HashSet::new();
    for layer in layers {
        for member in Archive::new(File::open(image)?).entries()? {
            let member = member?;
            if member.path()?.as_ref() == Path::new(layer) {
                copy_layer(member, nr, &mut seen, &mut tar)?;
            }
        }
    }
    tar.into_inner()?.flush()?;
    Ok(())
}

fn copy_layer(
    layer: impl Read,
    nr: u64,
    seen: &mut HashSet<PathBuf>,
    tar: &mut Builder<impl Write>,
) -> Result<()> {
    for entry in Archive::new(layer).entries()? {
        let mut entry = entry?;
        let path: PathBuf = entry.path()?.components().collect();
        let kind = entry.header().entry_type();
        let is_whiteout = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b".wh."));
        if is_whiteout || !seen.insert(path.clone()) {
            continue;
        }
        let mut head = header(kind, entry.header().mode()?);
        head.set_mtime(entry.header().mtime()?);
        match kind {
            EntryType::Directory | EntryType::Regular => {
                let mut content = Vec::new();
                (&mut entry).take(CONTENT).read_to_end(&mut content)?;
                head.set_size(u64::try_from(content.len())?);
                for copy in 1..=nr {
                    let path = Path::new(&copy.to_string()).join(&path);
                    tar.append_data(&mut head, path, &*content)?;
                }
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.context("a link has no target")?;
                for copy in 1..=nr {
                    let path = Path::new(&copy.to_string()).join(&path);
                    tar.append_link(&mut head, path, &target)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// So many empty files, a hundred in each directory.
pub(super) fn empty(nr: u64, out: &Path) -> Result<()> {
    let mut tar = writer(out)?;
    for file in 0..nr {
        let dir = PathBuf::from(format!("d{}", file / PER_DIRECTORY));
        if file % PER_DIRECTORY == 0 {
            let mut head = header(EntryType::Directory, 0o755);
            tar.append_data(&mut head, &dir, io::empty())?;
        }
        let mut head = header(EntryType::Regular, 0o644);
        tar.append_data(&mut head, dir.join(format!("f{file}")), io::empty())?;
    }
    tar.into_inner()?.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use tar::{Archive, Builder, EntryType};

    use super::{CONTENT, copies, empty, header};

    fn paths(tar: &std::path::Path) -> Vec<(String, u64)> {
        let mut archive = Archive::new(File::open(tar).unwrap());
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            (path, entry.size())
        });
        entries.collect()
    }

    #[test]
    fn a_copy_has_what_layers_have_once_and_no_whiteouts() {
        let dir = tempfile::tempdir().unwrap();
        let large = vec![7; usize::try_from(CONTENT).unwrap() + 1];
        let layer = |names: &[(&str, &[u8])]| {
            let mut tar = Builder::new(Vec::new());
            for (name, content) in names {
                let mut head = header(EntryType::Regular, 0o644);
                head.set_size(content.len().try_into().unwrap());
                tar.append_data(&mut head, name, *content).unwrap();
            }
            let mut head = header(EntryType::Symlink, 0o777);
            tar.append_link(&mut head, "link", "b").unwrap();
            tar.into_inner().unwrap()
        };
        let mut image = Builder::new(File::create(dir.path().join("image")).unwrap());
        for (name, bytes) in [
            ("one", layer(&[("a", &large), ("b", b"x")])),
            ("two", layer(&[("b", b"yy"), (".wh.a", b""), ("c", b"")])),
        ] {
            let mut head = header(EntryType::Regular, 0o644);
            head.set_size(bytes.len().try_into().unwrap());
            image.append_data(&mut head, name, &*bytes).unwrap();
        }
        image.into_inner().unwrap();
        let out = dir.path().join("out");
        let layers = ["one".to_owned(), "two".to_owned()];
        copies(&dir.path().join("image"), &layers, 2, &out).unwrap();
        let expected = [
            ("1/a", CONTENT),
            ("2/a", CONTENT),
            ("1/b", 1),
            ("2/b", 1),
            ("1/link", 0),
            ("2/link", 0),
            ("1/c", 0),
            ("2/c", 0),
        ];
        assert_eq!(
            paths(&out),
            expected.map(|(path, size)| (path.to_owned(), size))
        );
    }

    #[test]
    fn empty_files_are_a_hundred_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        empty(101, &out).unwrap();
        let paths = paths(&out);
        assert_eq!(paths.len(), 103);
        assert_eq!(paths[100].0, "d0/f99");
        assert_eq!(paths[102].0, "d1/f100");
    }
}
