//! Who uses a block device: what `/proc`, `/sys` and the loop devices say.
//!
//! ```text
//! /proc/PID/ns/mnt, mountinfo     mounts, in the mount namespaces of all processes
//! /proc/PID/fd/*, cwd, root, exe  the device itself held open, or a file on what is mounted of it
//! /proc/swaps                     swap on it, or in a file on it
//! /sys/dev/block/M:N/holders      dm devices (LVM too) and others made on top
//! LOOP_GET_STATUS64               loop devices over it
//! ```
//! Processes and devices come and go while this reads: one that is gone when it is looked at holds
//! nothing. Not seen: a mount namespace that only a file or a descriptor keeps, and files that are
//! mapped but no longer open.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags};
use serde::Serialize;

use crate::fs::error::FsError;
use crate::fs::mountinfo::{parse_mountinfo, unescape};
use crate::ids::DevNo;
use crate::ioctl;

/// A process, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Pid(u32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A mount namespace, by its inode's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct MountNs(u64);

impl fmt::Display for MountNs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mnt:[{}]", self.0)
    }
}

/// A process that was there when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: Pid,
    /// Its name, as `ps -o comm` shows it.
    pub command: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.command)
    }
}

/// Something that uses a device. Paths are as the holder sees them, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[non_exhaustive]
pub enum Holder {
    /// It is mounted.
    Mount {
        /// Where.
        target: String,
        /// In which mount namespace.
        namespace: MountNs,
        /// Whether that is the caller's own.
        here: bool,
        /// The processes of the namespace, where it is another one.
        processes: Vec<Process>,
    },
    /// A process has it open, or a file on it.
    OpenFile {
        /// Which process.
        process: Process,
        /// The node or the file, one of them where there are several.
        path: String,
        /// Whether it is a file (or a working directory) on it, not the device itself.
        inside: bool,
        /// How many there are.
        count: u64,
    },
    /// A device was made on top of it.
    Device {
        /// Its dm name, else the kernel's.
        name: String,
        /// Its dm uuid, if it has one.
        uuid: Option<String>,
        /// Its number.
        devno: DevNo,
    },
    /// A loop device reads it, or a file on it.
    Loop {
        /// The loop device.
        node: PathBuf,
    },
    /// It is swapped to, or a file on it is.
    Swap {
        /// The node or the file.
        path: String,
    },
}

impl Holder {
    /// What to do to have it let go.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Mount {
                target, here: true, ..
            } => format!("unmount it: umount {target}"),
            Self::Mount {
                target, processes, ..
            } => match processes.first() {
                Some(process) => format!(
                    "unmount it there: nsenter -t {} -m umount {target}; or end the processes there",
                    process.pid
                ),
                None => "end the processes of that mount namespace".to_owned(),
            },
            Self::OpenFile { process, .. } => {
                format!("end process {}, or have it close the file", process.pid)
            }
            Self::Device {
                uuid: Some(uuid), ..
            } if uuid.starts_with("LVM-") => {
                "deactivate the volume group inside: vgchange -an NAME".to_owned()
            }
            Self::Device { name, .. } => format!("remove the device on top: dmsetup remove {name}"),
            Self::Loop { node } => format!("detach the loop device: losetup -d {}", node.display()),
            Self::Swap { path } => format!("stop swapping to it: swapoff {path}"),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount {
                target, here: true, ..
            } => write!(f, "mounted on {target}"),
            Self::Mount {
                target,
                namespace,
                processes,
                ..
            } => {
                write!(f, "mounted on {target} in {namespace}")?;
                match processes.first() {
                    Some(process) => write!(f, " of {process}"),
                    None => Ok(()),
                }
            }
            Self::OpenFile { process, path, .. } => write!(f, "{process} has {path} open"),
            Self::Device { name, .. } => write!(f, "device {name} is on it"),
            Self::Loop { node } => write!(f, "loop device {} is on it", node.display()),
            Self::Swap { path } => write!(f, "swap on {path}"),
        }
    }
}

/// What uses each of these devices, mounts first.
///
/// # Errors
/// [`FsError::ReadMounts`] where `/proc` cannot be read, [`FsError::MountLine`], and
/// [`FsError::Ioctl`] where loop devices cannot be asked.
pub fn holders_of(devices: &[DevNo]) -> Result<Vec<(DevNo, Holder)>, FsError> {
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    let places = Places {
        proc: ioctl::place("/proc"),
        sys: ioctl::place("/sys"),
        own: Pid(std::process::id()),
    };
    let mut found = places.scan(devices)?;
    if ioctl::place("/sys/block").exists() {
        for (device, info) in ioctl::attached_loops()? {
            let below = [info.backing_device, Some(info.backing.dev)];
            if let Some(dev) = below.into_iter().flatten().find(|d| devices.contains(d)) {
                let node = device.path().to_owned();
                found.push((dev, Holder::Loop { node }));
            }
        }
    }
    Ok(found)
}

/// Where to look; elsewhere in tests.
struct Places {
    proc: PathBuf,
    sys: PathBuf,
    own: Pid,
}

/// A mount namespace, and for each root directory in it a process that has it.
#[derive(Default)]
struct Namespace {
    processes: Vec<Process>,
    roots: BTreeMap<PathBuf, Pid>,
}

/// The last file of a process that was found on a device.
struct Opened {
    path: String,
    count: u64,
}

impl Places {
    fn scan(&self, devices: &[DevNo]) -> Result<Vec<(DevNo, Holder)>, FsError> {
        let (mut mounts, mut open) = (Vec::new(), Vec::new());
        let mut namespaces: BTreeMap<MountNs, Namespace> = BTreeMap::new();
        let mut own_namespace = None;
        for pid in self.pids()? {
            let dir = self.proc.join(pid.to_string());
            let Ok(command) = fs::read_to_string(dir.join("comm")) else {
                continue;
            };
            let command = command.trim_end_matches('\n').to_owned();
            let process = Process { pid, command };
            if let Some(id) = fs::read_link(dir.join("ns/mnt")).ok().and_then(namespace) {
                if pid == self.own {
                    own_namespace = Some(id);
                }
                let namespace = namespaces.entry(id).or_default();
                namespace.processes.push(process.clone());
                // Mounts above a process's root are not in its table.
                if let Ok(root) = fs::read_link(dir.join("root")) {
                    namespace.roots.entry(root).or_insert(pid);
                }
            }
            if pid != self.own {
                open.extend(opened_by(&dir, &process, devices));
            }
        }
        for (id, namespace) in namespaces {
            let here = own_namespace == Some(id);
            for pid in namespace.roots.values() {
                for (dev, target) in self.mounts(*pid, devices)? {
                    let holder = Holder::Mount {
                        target,
                        namespace: id,
                        here,
                        processes: if here {
                            Vec::new()
                        } else {
                            namespace.processes.clone()
                        },
                    };
                    if !mounts.contains(&(dev, holder.clone())) {
                        mounts.push((dev, holder));
                    }
                }
            }
        }
        mounts.extend(self.swaps(devices));
        for dev in devices {
            mounts.extend(
                self.devices_on(*dev)
                    .into_iter()
                    .map(|holder| (*dev, holder)),
            );
        }
        mounts.extend(open);
        Ok(mounts)
    }

    fn pids(&self) -> Result<Vec<Pid>, FsError> {
        let entries = fs::read_dir(&self.proc).map_err(|source| FsError::ReadMounts {
            path: self.proc.clone(),
            source,
        })?;
        let mut pids: Vec<_> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Pid))
            .collect();
        pids.sort_unstable();
        Ok(pids)
    }

    /// The mounts of these devices that a process sees.
    fn mounts(&self, pid: Pid, devices: &[DevNo]) -> Result<Vec<(DevNo, String)>, FsError> {
        let path = self.proc.join(pid.to_string()).join("mountinfo");
        // An ended process has no table any more; others of its namespace were rare luck.
        let Ok(table) = fs::read(&path) else {
            return Ok(Vec::new());
        };
        let mut entries = parse_mountinfo(&table)?;
        entries.retain(|entry| devices.contains(&entry.dev));
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        Ok(entries
            .into_iter()
            .map(|entry| (entry.dev, text(entry.target)))
            .collect())
    }

    fn swaps(&self, devices: &[DevNo]) -> Vec<(DevNo, Holder)> {
        let table = fs::read(self.proc.join("swaps")).unwrap_or_default();
        swap_paths(&table)
            .into_iter()
            .filter_map(|path| {
                let place = place_of(&path).ok()?;
                let (dev, _) = place.on(devices)?;
                let path = path.to_string_lossy().into_owned();
                Some((dev, Holder::Swap { path }))
            })
            .collect()
    }

    /// The devices that were made on top of a device and claimed it.
    fn devices_on(&self, dev: DevNo) -> Vec<Holder> {
        let dir = self.sys.join(format!("dev/block/{dev}/holders"));
        let mut holders: Vec<_> = fs::read_dir(dir)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let read = |name: &str| {
                    let text = fs::read_to_string(entry.path().join(name)).ok()?;
                    Some(text.trim_end().to_owned()).filter(|text| !text.is_empty())
                };
                let kernel_name = || entry.file_name().to_string_lossy().into_owned();
                Some((
                    kernel_name(),
                    Holder::Device {
                        name: read("dm/name").unwrap_or_else(kernel_name),
                        uuid: read("dm/uuid"),
                        devno: read("dev")?.parse().ok()?,
                    },
                ))
            })
            .collect();
        holders.sort_by(|(a, _), (b, _)| a.cmp(b));
        holders.into_iter().map(|(_, holder)| holder).collect()
    }
}

/// The number in `mnt:[4026531841]`.
fn namespace(link: PathBuf) -> Option<MountNs> {
    let digits = link.to_str()?.strip_prefix("mnt:[")?.strip_suffix(']')?;
    digits.parse().ok().map(MountNs)
}

/// The first column of `/proc/swaps`, below its header.
fn swap_paths(table: &[u8]) -> Vec<PathBuf> {
    table
        .split(|byte| *byte == b'\n')
        .skip(1)
        .filter_map(|line| line.split(u8::is_ascii_whitespace).next())
        .filter(|path| !path.is_empty())
        .map(unescape)
        .collect()
}

/// Where a file lies, and which block device it is.
struct Place {
    lies_on: DevNo,
    is: Option<DevNo>,
}

impl Place {
    /// The device of these that is meant, and whether the file only lies on it.
    fn on(&self, devices: &[DevNo]) -> Option<(DevNo, bool)> {
        let known = |dev: &DevNo| devices.contains(dev);
        self.is
            .filter(known)
            .map(|dev| (dev, false))
            .or_else(|| Some((self.lies_on, true)).filter(|(dev, _)| known(dev)))
    }
}

/// Looks at what a path leads to, without asking a server for it.
fn place_of(path: &Path) -> io::Result<Place> {
    let wanted = StatxFlags::TYPE;
    let stat = rustix::fs::statx(CWD, path, AtFlags::STATX_DONT_SYNC, wanted)?;
    let mode = u32::from(stat.stx_mode);
    let is_block = FileType::from_raw_mode(mode) == FileType::BlockDevice;
    Ok(Place {
        lies_on: DevNo::new(stat.stx_dev_major, stat.stx_dev_minor),
        is: is_block.then(|| DevNo::new(stat.stx_rdev_major, stat.stx_rdev_minor)),
    })
}

/// What a process has open of these devices: one holder for each device and kind.
fn opened_by(dir: &Path, process: &Process, devices: &[DevNo]) -> Vec<(DevNo, Holder)> {
    let mut links: Vec<PathBuf> = fs::read_dir(dir.join("fd"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    links.extend(["cwd", "root", "exe"].map(|name| dir.join(name)));
    let mut found: BTreeMap<(DevNo, bool), Opened> = BTreeMap::new();
    for link in links {
        let Some(key) = place_of(&link).ok().and_then(|place| place.on(devices)) else {
            continue;
        };
        let Ok(path) = fs::read_link(&link) else {
            continue;
        };
        let opened = found.entry(key).or_insert(Opened {
            path: path.to_string_lossy().into_owned(),
            count: 0,
        });
        opened.count = opened.count.saturating_add(1);
    }
    found
        .into_iter()
        .map(|((dev, inside), Opened { path, count })| {
            let process = process.clone();
            let holder = Holder::OpenFile {
                process,
                path,
                inside,
                count,
            };
            (dev, holder)
        })
        .collect()
}

#[cfg(test)]
mod tests;
