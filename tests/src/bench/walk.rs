//! Two trees compared as a driver does that knows nothing of blocks: by what `lstat` says of every path, and by its
//! capabilities. It reads no content, so that it is faster than what is exact; each tree has a thread. Of a path only
//! a sum is kept, as there may be a million.

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Result, anyhow};

/// What is compared of a path.
#[derive(Debug, Hash)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    device: u64,
    /// Not of a directory: it says nothing of what is in it.
    size: u64,
    mtime: (i64, i64),
    capability: Vec<u8>,
}

fn sum(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What is seen of each path.
fn look(root: &Path) -> Result<HashMap<u64, u64>> {
    let mut buffer = [0; 64];
    let mut found = HashMap::new();
    let mut rest = vec![PathBuf::new()];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(root.join(&dir))? {
            let entry = entry?;
            let meta = entry.metadata()?;
            let name = "security.capability";
            let len = rustix::fs::lgetxattr(entry.path(), name, &mut buffer).unwrap_or(0);
            let path = dir.join(entry.file_name());
            if meta.is_dir() {
                rest.push(path.clone());
            }
            let seen = Seen {
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                device: meta.rdev(),
                size: if meta.is_dir() { 0 } else { meta.size() },
                mtime: (meta.mtime(), meta.mtime_nsec()),
                capability: buffer.get(..len).unwrap_or_default().to_vec(),
            };
            found.insert(sum(path), sum(seen));
        }
    }
    Ok(found)
}

/// How many paths there are, and how many of them differ.
pub(super) fn compare(old: &Path, new: &Path) -> Result<(u64, u64)> {
    let (old, new) = thread::scope(|scope| {
        let old = scope.spawn(|| look(old));
        let new = look(new);
        let old = old.join().map_err(|_| anyhow!("a walk panicked"))?;
        anyhow::Ok((old?, new?))
    })?;
    let gone = old.keys().filter(|path| !new.contains_key(*path)).count();
    let changed = new
        .iter()
        .filter(|(path, seen)| old.get(*path) != Some(*seen));
    let differ = changed.count().saturating_add(gone);
    Ok((u64::try_from(new.len())?, u64::try_from(differ)?))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::compare;

    #[test]
    fn finds_what_is_new_changed_and_gone() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [old, new] = [dirs[0].path(), dirs[1].path()];
        for root in [old, new] {
            fs::create_dir(root.join("dir")).unwrap();
            for name in ["same", "dir/mode", "dir/size", "gone"] {
                fs::write(root.join(name), "1").unwrap();
            }
        }
        fs::remove_file(new.join("gone")).unwrap();
        fs::write(new.join("dir/size"), "22").unwrap();
        fs::write(new.join("dir/new"), "").unwrap();
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(new.join("dir/mode"), mode).unwrap();
        // One time for all, so that it is not what differs.
        let time = fs::File::options().write(true).open(new.join("same"));
        let time = time.unwrap().metadata().unwrap().modified().unwrap();
        for root in [old, new] {
            for name in ["dir/new", "dir/size", "dir/mode", "same", "gone", "dir"] {
                if let Ok(file) = fs::File::open(root.join(name)) {
                    file.set_modified(time).unwrap();
                }
            }
        }
        assert_eq!(compare(old, new).unwrap(), (5, 4));
    }
}
