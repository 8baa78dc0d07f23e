//! User-mode Linux: its command line.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::vm::builder::Vm;
use crate::vm::qemu::{EVERY, Files};

/// Starts it, as the leader of a group of processes; the agent's line is its standard input, which goes both
/// ways.
pub(super) fn spawn(vm: &Vm, files: Files<'_>) -> Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut uml = Command::new(files.kernel);
    uml.args(EVERY.split(' '))
        .arg(format!("mem={}", vm.memory))
        .arg(format!("initrd={}", files.initrd.display()))
        .args(["con=null", "con0=null,fd:1", "ssl=null", "ssl0=fd:0"])
        .args(["console=tty0", "noreboot"])
        .args(&vm.arguments);
    for (n, (disk, path)) in vm.disks.iter().zip(files.disks).enumerate() {
        ensure!(
            disk.log.is_none(),
            "user-mode Linux cannot log what the disk {} gets",
            disk.name
        );
        // One whose writes are to be forgotten takes none, and others may have it too.
        let flags = if disk.forgets { "rc" } else { "" };
        uml.arg(format!("ubd{n}{flags}={},,{}", path.display(), disk.name));
    }
    let child = uml
        .process_group(0)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(File::create(files.console)?)
        .stderr(File::create(files.log)?)
        .spawn()
        .context("cannot start user-mode Linux")?;
    Ok((child, ours))
}
