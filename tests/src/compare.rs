//! Two directory trees, compared entry by entry: the judge of an import.
//!
//! Compared are type, permission bits, owner, size, content, modification
//! time to the nanosecond, xattrs, link targets, device numbers, and which
//! paths are one inode. Not compared: inode numbers, other times, and the time
//! of the two roots themselves, which no layer names.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{BufReader, Read};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

const BUFFER: usize = 1 << 18;

/// One thing in which the trees differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The path below the roots.
    pub path: PathBuf,
    /// What differs: `type`, `mode`, `content`, ...
    pub what: String,
    /// How it is in the first tree.
    pub left: String,
    /// How it is in the second.
    pub right: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            what,
            left,
            right,
        } = self;
        write!(f, "{}: {what}: {left} | {right}", path.display())
    }
}

/// What was compared, and what was found.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Entries that both trees have.
    pub nr_entries: u64,
    /// Everything in which the trees differ, by path.
    pub differences: Vec<Difference>,
}

/// Compares the trees below two directories. Needs to be root where owners
/// hide files, or for `trusted.*` xattrs.
pub fn compare(left: &Path, right: &Path) -> Result<Comparison> {
    let mut state = State {
        left,
        right,
        found: Comparison::default(),
        groups: Default::default(),
    };
    state.visit(Path::new(""))?;
    let [left_groups, right_groups] = &state.groups;
    for (path, first) in left_groups.first_paths() {
        let other = right_groups.first_path(path);
        if other != Some(first) {
            state.found.differences.push(Difference {
                path: path.to_owned(),
                what: "one inode with".to_owned(),
                left: first.display().to_string(),
                right: other.map_or("no other".to_owned(), |other| other.display().to_string()),
            });
        }
    }
    for (path, first) in right_groups.first_paths() {
        if left_groups.first_path(path).is_none() {
            state.found.differences.push(Difference {
                path: path.to_owned(),
                what: "one inode with".to_owned(),
                left: "no other".to_owned(),
                right: first.display().to_string(),
            });
        }
    }
    Ok(state.found)
}

/// Paths of one inode, by inode.
#[derive(Debug, Default)]
struct Groups {
    first_by_inode: BTreeMap<(u64, u64), PathBuf>,
    first_by_path: BTreeMap<PathBuf, PathBuf>,
}

impl Groups {
    fn note(&mut self, path: &Path, metadata: &Metadata) {
        if !metadata.is_dir() && metadata.nlink() > 1 {
            let inode = (metadata.dev(), metadata.ino());
            let first = self
                .first_by_inode
                .entry(inode)
                .or_insert_with(|| path.to_owned());
            self.first_by_path.insert(path.to_owned(), first.clone());
        }
    }

    fn first_path(&self, path: &Path) -> Option<&Path> {
        self.first_by_path.get(path).map(PathBuf::as_path)
    }

    fn first_paths(&self) -> impl Iterator<Item = (&Path, &Path)> {
        self.first_by_path
            .iter()
            .map(|(path, first)| (path.as_path(), first.as_path()))
    }
}

struct State<'a> {
    left: &'a Path,
    right: &'a Path,
    found: Comparison,
    groups: [Groups; 2],
}

impl State<'_> {
    fn differ(&mut self, path: &Path, what: &str, left: String, right: String) {
        if left != right {
            let (path, what) = (path.to_owned(), what.to_owned());
            self.found.differences.push(Difference {
                path,
                what,
                left,
                right,
            });
        }
    }

    fn visit(&mut self, path: &Path) -> Result<()> {
        let (left, right) = (self.left.join(path), self.right.join(path));
        let l = metadata(&left)?;
        let r = metadata(&right)?;
        self.found.nr_entries = self.found.nr_entries.saturating_add(1);
        self.groups[0].note(path, &l);
        self.groups[1].note(path, &r);
        self.differ(path, "type", kind(&l).to_owned(), kind(&r).to_owned());
        self.differ(path, "mode", mode(&l), mode(&r));
        self.differ(path, "owner", owner(&l), owner(&r));
        if path != Path::new("") {
            self.differ(path, "mtime", mtime(&l), mtime(&r));
        }
        self.differ(path, "device", l.rdev().to_string(), r.rdev().to_string());
        self.xattrs(path, &left, &right)?;
        if l.file_type() != r.file_type() {
            return Ok(());
        }
        if l.is_dir() {
            return self.directories(path, &left, &right);
        }
        if l.is_symlink() {
            let target = |path: &Path| -> Result<String> {
                Ok(fs::read_link(path)?
                    .as_os_str()
                    .as_bytes()
                    .escape_ascii()
                    .to_string())
            };
            self.differ(path, "target", target(&left)?, target(&right)?);
        } else if l.is_file() {
            self.differ(path, "size", l.size().to_string(), r.size().to_string());
            if l.size() == r.size()
                && let Some(at) = first_difference(&left, &right)?
            {
                let (same, other) = (format!("as it is to byte {at}"), "differs there".to_owned());
                self.differ(path, "content", same, other);
            }
        }
        Ok(())
    }

    fn directories(&mut self, path: &Path, left: &Path, right: &Path) -> Result<()> {
        let (l, r) = (names(left)?, names(right)?);
        for name in l.union(&r) {
            let below = path.join(name);
            match (l.contains(name), r.contains(name)) {
                (true, true) => self.visit(&below)?,
                (true, false) => self.differ(&below, "entry", "there".into(), "missing".into()),
                _ => self.differ(&below, "entry", "missing".into(), "there".into()),
            }
        }
        Ok(())
    }

    fn xattrs(&mut self, path: &Path, left: &Path, right: &Path) -> Result<()> {
        let (l, r) = (xattrs(left)?, xattrs(right)?);
        let names: BTreeSet<&OsString> = l.keys().chain(r.keys()).collect();
        for name in names {
            let show = |value: Option<&Vec<u8>>| {
                value.map_or("missing".to_owned(), |v| {
                    format!("\"{}\"", v.escape_ascii())
                })
            };
            let what = format!("xattr {}", name.display());
            self.differ(path, &what, show(l.get(name)), show(r.get(name)));
        }
        Ok(())
    }
}

fn metadata(path: &Path) -> Result<Metadata> {
    fs::symlink_metadata(path).with_context(|| format!("cannot look at {}", path.display()))
}

fn kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    match () {
        () if kind.is_file() => "file",
        () if kind.is_dir() => "directory",
        () if kind.is_symlink() => "symlink",
        () if kind.is_char_device() => "character device",
        () if kind.is_block_device() => "block device",
        () if kind.is_fifo() => "fifo",
        () => "socket",
    }
}

fn mode(metadata: &Metadata) -> String {
    format!("{:04o}", metadata.mode() & 0o7777)
}

fn owner(metadata: &Metadata) -> String {
    format!("{}:{}", metadata.uid(), metadata.gid())
}

fn mtime(metadata: &Metadata) -> String {
    format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec())
}

fn names(directory: &Path) -> Result<BTreeSet<OsString>> {
    let entries = fs::read_dir(directory);
    let entries = entries.with_context(|| format!("cannot read {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.file_name())).collect()
}

fn xattrs(path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>> {
    let what = || format!("cannot read the xattrs of {}", path.display());
    let mut list = vec![0; 1 << 16];
    let length = rustix::fs::llistxattr(path, &mut list).with_context(what)?;
    list.truncate(length);
    let mut found = BTreeMap::new();
    for name in list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let name = OsStr::from_bytes(name);
        let mut value = vec![0; 1 << 16];
        let length = rustix::fs::lgetxattr(path, name, &mut value).with_context(what)?;
        value.truncate(length);
        found.insert(OsString::from_vec(name.as_bytes().to_vec()), value);
    }
    Ok(found)
}

/// Offset of the first buffer in which two files of one size differ.
fn first_difference(left: &Path, right: &Path) -> Result<Option<u64>> {
    let mut left = BufReader::new(File::open(left)?);
    let mut right = BufReader::new(File::open(right)?);
    let (mut l, mut r) = (Vec::with_capacity(BUFFER), Vec::with_capacity(BUFFER));
    let mut at = 0_u64;
    let limit = u64::try_from(BUFFER)?;
    loop {
        l.clear();
        r.clear();
        let count = left.by_ref().take(limit).read_to_end(&mut l)?;
        right.by_ref().take(limit).read_to_end(&mut r)?;
        if l != r {
            let same = l.iter().zip(&r).take_while(|(a, b)| a == b).count();
            return Ok(Some(at.saturating_add(u64::try_from(same)?)));
        }
        if count == 0 {
            return Ok(None);
        }
        at = at.saturating_add(u64::try_from(count)?);
    }
}

#[cfg(test)]
mod tests {
    use super::compare;
    use std::fs::{self, FileTimes, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    fn tree(root: &Path) {
        fs::create_dir_all(root.join("d")).unwrap();
        fs::write(root.join("d/file"), "content").unwrap();
        fs::hard_link(root.join("d/file"), root.join("hard")).unwrap();
        symlink("d/file", root.join("link")).unwrap();
        settle(root);
    }

    fn time(nanoseconds: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH
            .checked_add(Duration::new(1_700_000_000, nanoseconds))
            .unwrap()
    }

    fn settle(root: &Path) {
        let modified = time(7);
        for path in ["d/file", "d"] {
            let file = fs::File::open(root.join(path)).unwrap();
            file.set_times(FileTimes::new().set_modified(modified))
                .unwrap();
        }
        let link = rustix::fs::Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        let times = rustix::fs::Timestamps {
            last_access: link,
            last_modification: link,
        };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, root.join("link"), &times, flags).unwrap();
    }

    /// The differences after `change` was made to one of two equal trees.
    fn after(change: impl FnOnce(&Path)) -> Vec<String> {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (left, right) = (directory.path().join("l"), directory.path().join("r"));
        tree(&left);
        tree(&right);
        change(&right);
        let found = compare(&left, &right).unwrap();
        found.differences.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn equal_trees_have_no_differences() {
        assert_eq!(after(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let file = |root: &Path| root.join("d/file");
        let changed = after(|root| {
            fs::write(file(root), "Content").unwrap();
            settle(root);
        });
        let content = "content: as it is to byte 0 | differs there";
        assert_eq!(
            changed,
            [format!("d/file: {content}"), format!("hard: {content}")]
        );
        let changed = after(|root| {
            fs::set_permissions(root.join("d"), Permissions::from_mode(0o700)).unwrap();
        });
        assert_eq!(changed, ["d: mode: 0755 | 0700"]);
        let changed = after(|root| {
            let file = fs::File::open(root.join("d")).unwrap();
            let modified = time(8);
            file.set_times(FileTimes::new().set_modified(modified))
                .unwrap();
        });
        assert_eq!(
            changed,
            ["d: mtime: 1700000000.000000007 | 1700000000.000000008"]
        );
        let changed = after(|root| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(root.join("d"), "user.a", b"\x01", flags).unwrap();
        });
        assert_eq!(changed, ["d: xattr user.a: missing | \"\\x01\""]);
        let changed = after(|root| fs::remove_file(root.join("link")).unwrap());
        assert_eq!(changed, ["link: entry: there | missing"]);
    }

    #[test]
    fn a_copy_is_not_a_hardlink() {
        let changed = after(|root| {
            fs::remove_file(root.join("hard")).unwrap();
            fs::copy(root.join("d/file"), root.join("hard")).unwrap();
            let modified = time(7);
            let file = fs::File::open(root.join("hard")).unwrap();
            file.set_times(FileTimes::new().set_modified(modified))
                .unwrap();
        });
        let expected = [
            "d/file: one inode with: d/file | no other",
            "hard: one inode with: d/file | no other",
        ];
        assert_eq!(changed, expected);
    }
}
