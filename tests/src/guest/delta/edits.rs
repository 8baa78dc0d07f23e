//! Every kind of change that is made to a tree.

#![allow(clippy::arithmetic_side_effects, reason = "small numbers of a test")]

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use rustix::fs::{CWD, FallocateFlags, FileType, Mode, RenameFlags, XattrFlags};

use crate::guest::dice::Dice;

/// What is in a tree at the moment.
#[derive(Debug)]
struct Tree {
    files: Vec<PathBuf>,
    dirs: Vec<PathBuf>,
    links: Vec<PathBuf>,
    count: u64,
}

impl Tree {
    fn look(root: &Path, generation: u64) -> Result<Self> {
        let mut tree = Self {
            files: Vec::new(),
            dirs: vec![root.to_owned()],
            links: Vec::new(),
            count: generation * 10_000,
        };
        let mut rest = vec![root.to_owned()];
        while let Some(dir) = rest.pop() {
            let mut entries: Vec<_> = fs::read_dir(dir)?.collect::<Result<_, _>>()?;
            // The order of a directory is by a hash with a seed of the file system's own.
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                let (path, kind) = (entry.path(), entry.file_type()?);
                if kind.is_dir() {
                    rest.push(path.clone());
                    tree.dirs.push(path);
                } else if kind.is_file() {
                    tree.files.push(path);
                } else if kind.is_symlink() {
                    tree.links.push(path);
                }
            }
        }
        Ok(tree)
    }

    fn file(&self, dice: &mut Dice) -> Result<PathBuf> {
        dice.pick(&self.files).cloned().context("no file")
    }

    /// A directory that is not the root.
    fn dir(&self, dice: &mut Dice) -> Result<PathBuf> {
        let below = self.dirs.get(1..).unwrap_or_default();
        dice.pick(below).cloned().context("no directory")
    }

    fn new_path(&mut self, dice: &mut Dice) -> Result<PathBuf> {
        self.count += 1;
        let dir = dice.pick(&self.dirs).context("no directory")?;
        let long = if dice.below(4) == 0 {
            "-of-a-longer-name".repeat(6)
        } else {
            String::new()
        };
        Ok(dir.join(format!("new-{}{long}", self.count)))
    }
}

fn write_at(path: &Path, bytes: &[u8], at: u64) -> Result<()> {
    Ok(OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all_at(bytes, at)?)
}

fn open(path: &Path) -> Result<File> {
    Ok(OpenOptions::new().read(true).write(true).open(path)?)
}

fn with_time_kept(path: &Path, change: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let before = fs::metadata(path)?.modified()?;
    change(path)?;
    Ok(open(path)?.set_modified(before)?)
}

fn mode(path: &Path, bits: u32) -> Result<()> {
    Ok(fs::set_permissions(path, Permissions::from_mode(bits))?)
}

fn xattr(path: &Path, name: &str, value: &[u8]) -> Result<()> {
    match rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()) {
        // It has others that fill its block.
        Err(rustix::io::Errno::NOSPC) => Ok(()),
        result => Ok(result?),
    }
}

fn node(path: &Path, kind: FileType, device: u64) -> Result<()> {
    Ok(rustix::fs::mknodat(
        CWD,
        path,
        kind,
        Mode::from_raw_mode(0o640),
        device,
    )?)
}

fn exchange(one: &Path, other: &Path, flags: RenameFlags) -> Result<()> {
    Ok(rustix::fs::renameat_with(CWD, one, CWD, other, flags)?)
}

/// One change; its number says which. Changes that do not fit what is there are left out.
pub(super) const KINDS: u64 = 48;

/// Makes a change of a kind.
pub(super) fn edit(root: &Path, dice: &mut Dice, kind: u64, generation: u64) -> Result<()> {
    let mut tree = Tree::look(root, generation * 1000 + kind + dice.below(900))?;
    let (file, other) = (tree.file(dice)?, tree.file(dice)?);
    let (dir, new) = (tree.dir(dice)?, tree.new_path(dice)?);
    let size = fs::metadata(&file)?.size();
    let at = dice.below(size.max(1));
    match kind {
        0 => fs::write(&new, dice.bytes(12))?,
        1 => write_at(&file, &dice.bytes(size.min(9)), 0)?,
        2 => with_time_kept(&file, |path| write_at(path, &dice.bytes(1), at))?,
        3 => mode(&file, 0o600 + u32::try_from(dice.below(64))?)?,
        4 => chown(&file, Some(u32::try_from(dice.below(100_000))?), Some(7))?,
        5 => fs::rename(&file, file.with_extension("moved"))?,
        6 => fs::rename(&file, &new)?,
        7 => fs::remove_file(&file)?,
        8 => fs::hard_link(&file, &new)?,
        9 => {
            fs::hard_link(&file, &new)?;
            write_at(&new, b"through another name", at)?;
        }
        10 => xattr(&file, "user.small", &dice.bytes(9))?,
        11 => xattr(&file, "user.large", &dice.bytes(700))?,
        12 => {
            xattr(&file, "user.there", b"and gone")?;
            rustix::fs::removexattr(&file, "user.there")?;
        }
        13 => {
            // The kernel keeps equal blocks once.
            let value = vec![7; 1000];
            xattr(&file, "user.shared", &value)?;
            xattr(&other, "user.shared", &value)?;
        }
        14 => fs::create_dir(&new)?,
        15 => {
            if tree.dirs.len() > 6 {
                fs::remove_dir_all(&dir)?;
            }
        }
        16 => fs::rename(&dir, dir.with_extension("moved"))?,
        17 => {
            fs::create_dir(&new)?;
            fs::write(new.join("inside"), dice.bytes(100))?;
            fs::remove_dir_all(&new)?;
            fs::create_dir(&new)?;
        }
        18 => mode(&dir, 0o700 + u32::try_from(dice.below(64))?)?,
        19 => {
            // An equal copy takes its place.
            let (meta, bytes) = (fs::metadata(&file)?, fs::read(&file)?);
            let copy = file.with_extension("copy");
            fs::write(&copy, bytes)?;
            chown(&copy, Some(meta.uid()), Some(meta.gid()))?;
            fs::set_permissions(&copy, meta.permissions())?;
            open(&copy)?.set_modified(meta.modified()?)?;
            fs::rename(&copy, &file)?;
        }
        20 => {
            fs::remove_file(&file)?;
            fs::create_dir(&file)?;
            fs::write(file.join("inside"), dice.bytes(5000))?;
        }
        21 => {
            if tree.dirs.len() > 6 {
                fs::remove_dir_all(&dir)?;
                fs::write(&dir, dice.bytes(20))?;
            }
        }
        22 => OpenOptions::new()
            .append(true)
            .open(&file)?
            .write_all(&dice.bytes(3000))?,
        23 => open(&file)?.set_len(size / 2)?,
        24 => open(&file)?.set_len(size + 70_000)?,
        25 => {
            let before = fs::metadata(&file)?.permissions();
            mode(&file, 0o777)?;
            fs::set_permissions(&file, before)?;
        }
        26 => symlink("somewhere", &new)?,
        27 => {
            if let Some(link) = dice.pick(&tree.links) {
                fs::remove_file(link)?;
                symlink("somewhere else", link)?;
            }
        }
        28 => symlink("a/long/way/".repeat(20), &new)?,
        29 => node(&new, FileType::Fifo, 0)?,
        30 => node(
            &new,
            FileType::CharacterDevice,
            rustix::fs::makedev(300, 70_000),
        )?,
        31 => {
            let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(dice.next() >> 2);
            open(&file)?.set_modified(time)?;
        }
        32 => drop(fs::read(&file)?),
        33 => exchange(&file, &other, RenameFlags::EXCHANGE)?,
        34 => rustix::fs::fallocate(open(&file)?, FallocateFlags::KEEP_SIZE, 0, size + 50_000)?,
        35 => {
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(open(&file)?, hole, at, 9000)?;
        }
        36 => {
            if size > 16_384 {
                rustix::fs::fallocate(open(&file)?, FallocateFlags::COLLAPSE_RANGE, 4096, 4096)?;
            }
        }
        37 => {
            // Two files that grow by turns lie in pieces.
            let (mut one, mut two) = (
                File::create(&new)?,
                File::create(new.with_extension("two"))?,
            );
            for _ in 0..40 {
                one.write_all(&dice.bytes(4096))?;
                one.sync_data()?;
                two.write_all(&dice.bytes(4096))?;
                two.sync_data()?;
            }
        }
        38 => {
            fs::create_dir(&new)?;
            for n in 0..300 {
                fs::write(new.join(format!("one-of-many-files-in-here-{n}")), b"x")?;
            }
        }
        39 => {
            let entries: Vec<_> = fs::read_dir(&dir)?.collect::<Result<_, _>>()?;
            for entry in entries.iter().step_by(2) {
                if entry.file_type()?.is_file() {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        40 => node(&new, FileType::Socket, 0)?,
        41 => {
            // Of a file in a directory that is moved another name stays.
            let inside = dir.join(format!("linked-{}", tree.count));
            fs::write(&inside, dice.bytes(64))?;
            fs::hard_link(&inside, &new)?;
            if !new.starts_with(&dir) {
                fs::rename(&dir, dir.with_extension("elsewhere"))?;
            }
        }
        42 => {
            let mut old = Vec::new();
            File::open(&file)?.read_to_end(&mut old)?;
            File::create(&file)?.write_all(&dice.bytes(size / 2 + 1))?;
        }
        43 => {
            // An inode is soon used anew.
            fs::remove_file(&file)?;
            fs::write(&file, dice.bytes(size.min(10_000)))?;
        }
        44 => mode(&file, 0o6755)?,
        45 => fs::create_dir_all(new.join("a/b/c/d/e/f"))?,
        46 => rustix::fs::fallocate(
            open(&file)?,
            FallocateFlags::ZERO_RANGE,
            at / 2,
            size.max(1),
        )?,
        _ => {
            let into = tree.dir(dice)?.join(format!("moved-{}", tree.count));
            if !into.starts_with(&dir) {
                fs::rename(&dir, into)?;
            }
        }
    }
    Ok(())
}

/// Fills a new file system: a tree of some hundred entries.
pub(super) fn fill(root: &Path, dice: &mut Dice) -> Result<()> {
    for n in 0..14 {
        let dir = match n {
            0..4 => root.join(format!("dir-{n}")),
            _ => root.join(format!("dir-{}/below-{n}", n % 4)),
        };
        fs::create_dir(&dir)?;
        for k in 0..12 {
            let size = match k {
                0 => 0,
                1 => dice.below(200_000),
                _ => dice.below(9000),
            };
            fs::write(dir.join(format!("file-{k}")), dice.bytes(size))?;
        }
        symlink("file-3", dir.join("link"))?;
    }
    fs::hard_link(root.join("dir-0/file-2"), root.join("dir-1/hard"))?;
    for n in 0..4 {
        xattr(
            &root.join(format!("dir-{n}/file-4")),
            "user.shared",
            &[7; 1000],
        )?;
    }
    Ok(())
}
