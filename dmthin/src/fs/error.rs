//! What can go wrong with a file system, one variant per cause.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use crate::ids::FsType;
use crate::ioctl::{Errno, IoctlError};
use crate::units::Bytes;

/// A file system could not be made, recognised, mounted, grown or unmounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FsError {
    /// The program that makes the file system is not installed.
    #[error("{tool} is not installed: install the package {package}")]
    ToolMissing {
        /// The program.
        tool: &'static str,
        /// The package that Debian has it in.
        package: &'static str,
    },
    /// The program could not be started.
    #[error("cannot run {tool}")]
    ToolStart {
        /// The program.
        tool: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program failed.
    #[error("{tool} failed on {node} ({status}): {stderr}", node = node.display())]
    ToolFailed {
        /// The program.
        tool: &'static str,
        /// The device it was to work on.
        node: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// The device could not be read.
    #[error("cannot read {what} at byte {at}")]
    Read {
        /// What was looked for.
        what: &'static str,
        /// Where.
        at: u64,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The device could not be written.
    #[error("cannot wipe {what} at byte {at}")]
    Write {
        /// What was to be wiped.
        what: &'static str,
        /// Where.
        at: u64,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It has the mark of a file system we make, but its sizes make no sense.
    #[error("the {fs} superblock is damaged: {field} is {found}")]
    DamagedSuperblock {
        /// Which file system.
        fs: FsType,
        /// The field.
        field: &'static str,
        /// What it holds.
        found: u64,
    },
    /// The kernel does not know the file system.
    #[error("this kernel has no {fs}: load it with `modprobe {fs}`")]
    Unsupported {
        /// Which file system.
        fs: FsType,
    },
    /// The kernel does not take a mount option.
    #[error("the {fs} on {node} does not take the mount option {option:?} ({errno}){}", said(messages), node = node.display())]
    MountOption {
        /// Which file system.
        fs: FsType,
        /// Its device.
        node: PathBuf,
        /// The option as given.
        option: String,
        /// The kernel's number.
        errno: Errno,
        /// The kernel's own words; often none.
        messages: Vec<String>,
    },
    /// The kernel does not mount the file system.
    #[error("cannot mount the {fs} on {node} ({errno}){}", said(messages), node = node.display())]
    Mount {
        /// Which file system.
        fs: FsType,
        /// Its device.
        node: PathBuf,
        /// The kernel's number.
        errno: Errno,
        /// The kernel's own words; often none: the system log has more.
        messages: Vec<String>,
    },
    /// A mounted file system refused a call.
    #[error("cannot {action} the mounted {fs} of {node}: {errno}", node = node.display())]
    Mounted {
        /// What was tried, as a verb.
        action: &'static str,
        /// Which file system.
        fs: FsType,
        /// Its device.
        node: PathBuf,
        /// The kernel's number.
        errno: Errno,
    },
    /// The mount could not be put at a path.
    #[error("cannot put the {fs} of {node} at {dir}: {errno}", node = node.display(), dir = dir.display())]
    Attach {
        /// Which file system.
        fs: FsType,
        /// Its device.
        node: PathBuf,
        /// Where it was to be seen.
        dir: PathBuf,
        /// The kernel's number.
        errno: Errno,
    },
    /// The block size of a mounted file system could not be read.
    #[error("cannot read the block size of a mounted {fs}: {errno}")]
    BlockSize {
        /// Which file system.
        fs: FsType,
        /// The kernel's number.
        errno: Errno,
    },
    /// A file system can grow only.
    #[error("the {fs} has {found}; it cannot be made smaller, {asked}")]
    Shrink {
        /// Which file system.
        fs: FsType,
        /// Its size.
        found: Bytes,
        /// The size asked for.
        asked: Bytes,
    },
    /// Growing or trimming failed.
    #[error(transparent)]
    Ioctl(#[from] IoctlError),
    /// The table of mounts could not be read.
    #[error("cannot read {path}", path = path.display())]
    ReadMounts {
        /// The table.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A line of the table of mounts is not of the form proc(5) gives.
    #[error("line {number} of the mount table is not understood: {line:?}")]
    MountLine {
        /// The line's number, from 1.
        number: usize,
        /// The line.
        line: String,
    },
    /// Somebody works inside the mount.
    #[error("{path} is in use: stop what has files open or a working directory there", path = path.display())]
    UnmountBusy {
        /// The mount point.
        path: PathBuf,
    },
    /// Nothing is mounted there.
    #[error("nothing is mounted at {path}", path = path.display())]
    NotMounted {
        /// The path given.
        path: PathBuf,
    },
    /// The kernel does not unmount it.
    #[error("cannot unmount {path}: {errno}", path = path.display())]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// The kernel's number.
        errno: Errno,
    },
}

/// The kernel's words behind a message, where there are any.
fn said(messages: &[String]) -> String {
    if messages.is_empty() {
        String::new()
    } else {
        format!(": {}", messages.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_shown_where_there_are_any() {
        let error = |messages: &[&str]| FsError::Mount {
            fs: FsType::Ext4,
            node: "/dev/x".into(),
            errno: Errno::INVAL,
            messages: messages.iter().map(|text| (*text).to_owned()).collect(),
        };
        let bare = error(&[]).to_string();
        assert!(bare.starts_with("cannot mount the ext4 on /dev/x (") && bare.ends_with(')'));
        assert_eq!(error(&["a", "b"]).to_string(), format!("{bare}: a; b"));
    }
}
