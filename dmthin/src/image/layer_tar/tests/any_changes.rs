//! Any tree, any changes: applied to a copy of the tree the layer gives the changed one.

use std::ffi::OsString;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use proptest::prelude::{ProptestConfig, Strategy, any, prop_oneof, proptest};
use proptest::sample::select;
use rustix::fs::{AtFlags, FileType, Mode, Timespec, Timestamps, XattrFlags};

use super::*;

/// Something done to a tree; what cannot be is not done.
#[derive(Debug, Clone)]
enum Op {
    Write(PathBuf, Vec<u8>),
    Edit(PathBuf, u64, Vec<u8>),
    Holes(PathBuf, Vec<u32>),
    Dir(PathBuf),
    Symlink(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Empty(PathBuf),
    Mode(PathBuf, u32),
    Time(PathBuf, i64, i64),
    Xattr(PathBuf, &'static str, Vec<u8>),
    LoseXattr(PathBuf, &'static str),
    Fifo(PathBuf),
    Socket(PathBuf),
    /// These take root.
    Owner(PathBuf, u32, u32),
    Device(PathBuf, u32, u32),
}

const USER: &[&str] = &["user.x", "user.a=b%c"];
const ROOT: &[&str] = &[
    "user.x",
    "user.a=b%c",
    "trusted.t",
    "security.capability",
    "system.posix_acl_access",
    "system.posix_acl_default",
];

/// Lists of access: owner, one user, group, mask and others (`include/uapi/linux/posix_acl_xattr.h`).
fn acl(user: u32) -> Vec<u8> {
    let mut out = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [
        (1_u16, 7_u16, u32::MAX),
        (2, 6, user),
        (4, 5, u32::MAX),
        (16, 7, u32::MAX),
        (32, 1, u32::MAX),
    ] {
        out.extend(tag.to_le_bytes());
        out.extend(perm.to_le_bytes());
        out.extend(id.to_le_bytes());
    }
    out
}

impl Op {
    fn act(&self, root: &Path) -> std::io::Result<()> {
        let at = |path: &PathBuf| root.join(path);
        match self {
            Self::Write(path, data) => {
                let _ = fs::remove_file(at(path));
                fs::write(at(path), data)
            }
            Self::Edit(path, offset, data) => {
                let path = at(path);
                if !fs::symlink_metadata(&path)?.is_file() {
                    return Ok(());
                }
                let file = File::options().write(true).open(path)?;
                file.write_all_at(data, *offset)
            }
            Self::Holes(path, blocks) => {
                let mut file = File::create_new(at(path))?;
                file.set_len(5 << 20)?;
                for block in blocks {
                    file.seek(SeekFrom::Start(u64::from(*block) * 4096))?;
                    file.write_all(&block.to_be_bytes())?;
                }
                Ok(())
            }
            Self::Dir(path) => fs::create_dir(at(path)),
            Self::Symlink(path, target) => symlink(target, at(path)),
            Self::Link(from, to) => {
                if fs::symlink_metadata(at(from))?.is_dir() {
                    return Ok(());
                }
                fs::hard_link(at(from), at(to))
            }
            Self::Rename(from, to) => fs::rename(at(from), at(to)),
            Self::Remove(path) if fs::symlink_metadata(at(path))?.is_dir() => {
                fs::remove_dir_all(at(path))
            }
            Self::Remove(path) => fs::remove_file(at(path)),
            Self::Empty(path) => {
                for entry in fs::read_dir(at(path))? {
                    Self::Remove(path.join(entry?.file_name())).act(root)?;
                }
                Ok(())
            }
            Self::Mode(path, mode) => {
                if fs::symlink_metadata(at(path))?.is_symlink() {
                    return Ok(());
                }
                fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))
            }
            Self::Time(path, seconds, nanos) => {
                let time = Timespec {
                    tv_sec: *seconds,
                    tv_nsec: *nanos,
                };
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                Ok(rustix::fs::utimensat(
                    rustix::fs::CWD,
                    at(path),
                    &times,
                    flags,
                )?)
            }
            Self::Xattr(path, name, value) => {
                let mut value = value.clone();
                if name.starts_with("system.") {
                    value = acl(value.len().try_into().unwrap());
                } else if name.starts_with("security.") {
                    // `include/uapi/linux/capability.h`, revision 2.
                    value = [&[1, 0, 0, 2][..], &[0, 32], &[0; 14]].concat();
                }
                Ok(rustix::fs::lsetxattr(
                    at(path),
                    *name,
                    &value,
                    XattrFlags::empty(),
                )?)
            }
            Self::LoseXattr(path, name) => Ok(rustix::fs::lremovexattr(at(path), *name)?),
            Self::Fifo(path) => mknod(&at(path), FileType::Fifo, 0),
            Self::Socket(path) => UnixListener::bind(at(path)).map(drop),
            Self::Owner(path, uid, gid) => {
                std::os::unix::fs::lchown(at(path), Some(*uid), Some(*gid))
            }
            Self::Device(path, major, minor) => {
                let device = rustix::fs::makedev(*major, *minor);
                mknod(&at(path), FileType::CharacterDevice, device)
            }
        }
    }
}

fn mknod(path: &Path, kind: FileType, device: u64) -> std::io::Result<()> {
    let mode = Mode::from_raw_mode(0o640);
    Ok(rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        kind,
        mode,
        device,
    )?)
}

fn path() -> impl Strategy<Value = PathBuf> {
    let long = "l".repeat(120).into_bytes();
    let names = vec![
        b"a".to_vec(),
        b"a".to_vec(),
        b"b".to_vec(),
        b"b".to_vec(),
        b"c".to_vec(),
        b"-x".to_vec(),
        b"n\xff\n".to_vec(),
        long,
    ];
    proptest::collection::vec(select(names), 1..4)
        .prop_map(|names| names.into_iter().map(OsString::from_vec).collect())
}

fn op(xattrs: &'static [&'static str], root: bool) -> impl Strategy<Value = Op> {
    let data = || proptest::collection::vec(any::<u8>(), 0..1500);
    let of_all = prop_oneof![
        6 => (path(), data()).prop_map(|(path, data)| Op::Write(path, data)),
        3 => (path(), 0..1000_u64, data()).prop_map(|(path, at, data)| Op::Edit(path, at, data)),
        1 => (path(), proptest::collection::vec(0..1280_u32, 0..5)).prop_map(|(p, b)| Op::Holes(p, b)),
        6 => path().prop_map(Op::Dir),
        2 => (path(), path()).prop_map(|(path, target)| Op::Symlink(path, target)),
        3 => (path(), path()).prop_map(|(from, to)| Op::Link(from, to)),
        3 => (path(), path()).prop_map(|(from, to)| Op::Rename(from, to)),
        3 => path().prop_map(Op::Remove),
        2 => path().prop_map(Op::Empty),
        2 => (path(), select(vec![0o700, 0o1755, 0o6711, 0o444])).prop_map(|(p, m)| Op::Mode(p, m)),
        2 => (path(), select(vec![-5_i64, 0, 7, 1 << 33]), 0..1_000_000_000_i64)
            .prop_map(|(path, seconds, nanos)| Op::Time(path, seconds, nanos)),
        3 => (path(), select(xattrs), proptest::collection::vec(any::<u8>(), 0..9))
            .prop_map(|(path, name, value)| Op::Xattr(path, name, value)),
        2 => (path(), select(xattrs)).prop_map(|(path, name)| Op::LoseXattr(path, name)),
        1 => path().prop_map(Op::Fifo),
        1 => path().prop_map(Op::Socket),
    ];
    let of_root = prop_oneof![
        3 => (path(), 0..2_100_000_000_u32, 0..70_000_u32).prop_map(|(p, u, g)| Op::Owner(p, u, g)),
        1 => (path(), 0..4096_u32, 0..1_u32 << 20).prop_map(|(p, a, b)| Op::Device(p, a, b)),
    ];
    if root {
        prop_oneof![5 => of_all, 1 => of_root].boxed()
    } else {
        of_all.boxed()
    }
}

/// What a layer can say of a tree: no sockets, nor that they were there.
fn sayable(root: &Path) -> lister::Listing {
    let mut listing = list(root);
    listing.retain(|_, seen| !seen.is_socket());
    listing
}

/// Makes a tree, changes a copy of it, and applies what changed to the tree.
fn check(make: &[Op], change: &[Op]) {
    let older = TempDir::new().unwrap();
    for op in make {
        let _ = op.act(older.path());
    }
    let newer = copy(older.path());
    for op in change {
        let _ = op.act(newer.path());
    }
    let (tar, written) = layer(older.path(), newer.path());
    assert_eq!(written.diff_id, crate::image::digest_of(&tar));
    assert_eq!(written.tar_bytes.get(), u64::try_from(tar.len()).unwrap());
    // The same change elsewhere: other inode numbers, other orders of names in directories.
    let elsewhere = copy(newer.path());
    assert_eq!(layer(older.path(), elsewhere.path()).0, tar);
    let applied = apply_to(older.path(), &tar).unwrap();
    assert_eq!(
        (applied.entries, applied.tar_bytes),
        (written.entries, u64::try_from(tar.len()).unwrap())
    );
    let (found, expected) = (sayable(older.path()), sayable(newer.path()));
    for (path, seen) in &expected {
        assert_eq!(found.get(path), Some(seen), "{path:?} is not as it was");
    }
    assert_eq!(found.len(), expected.len());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(120) })]

    #[test]
    fn any_change_applied_gives_the_changed_tree(
        make in proptest::collection::vec(op(USER, false), 0..40),
        change in proptest::collection::vec(op(USER, false), 0..15),
    ) {
        check(&make, &change);
    }

    #[test]
    #[ignore = "needs root"]
    fn priv_any_change_applied_gives_the_changed_tree(
        make in proptest::collection::vec(op(ROOT, true), 0..40),
        change in proptest::collection::vec(op(ROOT, true), 0..15),
    ) {
        check(&make, &change);
    }
}
