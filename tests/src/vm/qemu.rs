//! QEMU: its command line, and which accelerator works here.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

use crate::apt;
use crate::vm::builder::Vm;
use crate::vm::wire::PORT;

/// How QEMU runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// By the processor's virtualisation.
    Kvm,
    /// By translation: works everywhere, slower.
    Tcg,
    /// Not by QEMU: user-mode Linux, of which the instructions are this machine's own.
    Uml,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
            Self::Uml => "user-mode Linux",
        })
    }
}

impl FromStr for Accel {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            _ => bail!("unknown accelerator {text:?}: there are kvm and tcg"),
        }
    }
}

/// The best accelerator that works here. A KVM that is there may still be of
/// no use (nested, or filtered), so `probe` tries to boot under it; the answer
/// is kept for this machine and kernel.
pub(super) fn best(probe: impl FnOnce() -> bool) -> Result<Accel> {
    let usable = File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    if !usable {
        return Ok(Accel::Tcg);
    }
    let host = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let key = format!("{} {}", host.trim(), boot.trim());
    let kept = apt::work_directory().join("cache/accelerator");
    let verdict = fs::read_to_string(&kept).unwrap_or_default();
    if let Some(accel) = verdict.strip_prefix(&format!("{key} ")) {
        return accel.trim().parse();
    }
    let accel = if probe() { Accel::Kvm } else { Accel::Tcg };
    eprintln!("virtual machines run under {accel} on this machine");
    fs::write(kept, format!("{key} {accel}\n"))?;
    Ok(accel)
}

/// What every guest's kernel is told: a panic must end the machine at once, not wait.
pub(super) const EVERY: &str =
    "loglevel=4 panic=-1 rdinit=/usr/bin/vm-agent random.trust_cpu=on cryptomgr.notests";

/// The files of one boot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Files<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initrd: &'a Path,
    pub(super) socket: &'a Path,
    pub(super) console: &'a Path,
    /// Where QEMU's own messages go.
    pub(super) log: &'a Path,
    /// The file of each of the machine's disks.
    pub(super) disks: &'a [PathBuf],
}

/// Starts QEMU.
pub(super) fn spawn(vm: &Vm, accel: Accel, files: Files<'_>) -> Result<Child> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-no-user-config",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
    ]);
    qemu.args([
        "-machine",
        "pc,usb=off,vmport=off",
        "-smp",
        &vm.cpus.to_string(),
    ]);
    qemu.args(["-m", &format!("{}B", vm.memory)]);
    match accel {
        Accel::Kvm => qemu.args(["-accel", "kvm", "-cpu", "host"]),
        // Five levels of page tables would only cost time.
        Accel::Tcg => qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"]),
        Accel::Uml => bail!("user-mode Linux is not run by QEMU"),
    };
    qemu.arg("-kernel")
        .arg(files.kernel)
        .arg("-initrd")
        .arg(files.initrd);
    // A panic reboots, which -no-reboot turns into an exit.
    let mut line = format!(
        "console=ttyS0 earlyprintk=ttyS0 {EVERY} mitigations=off no_timer_check tsc=reliable"
    );
    for argument in &vm.arguments {
        line.push(' ');
        line.push_str(argument);
    }
    qemu.args(["-append", &line]);
    qemu.args([
        "-chardev",
        &format!("file,id=console,path={}", text(files.console)?),
    ]);
    qemu.args(["-serial", "chardev:console"]);
    qemu.args(["-device", "virtio-serial-pci"]);
    qemu.args([
        "-chardev",
        &format!("socket,id=agent,path={}", text(files.socket)?),
    ]);
    qemu.args([
        "-device",
        &format!("virtserialport,chardev=agent,name={PORT}"),
    ]);
    if vm.terminal {
        qemu.args(["-chardev", "stdio,id=terminal,signal=off"]);
        qemu.args(["-device", "virtconsole,chardev=terminal"]);
    } else {
        qemu.stdin(Stdio::null());
    }
    for (disk, path) in vm.disks.iter().zip(files.disks) {
        let (name, path) = (&disk.name, text(path)?);
        let snapshot = if disk.forgets { "on" } else { "off" };
        let cache = if disk.careless { "unsafe" } else { "writeback" };
        if let Some(log) = &disk.log {
            let log = text(log)?;
            let file = format!("file.driver=file,file.filename={path},file.discard=unmap");
            qemu.args([
                "-blockdev",
                &format!(
                    "driver=blklogwrites,node-name={name},log-sector-size=512,discard=unmap,\
                     {file},log.driver=file,log.filename={log}"
                ),
            ]);
        } else {
            qemu.args([
                "-drive",
                &format!(
                    "id={name},file={path},format=raw,if=none,discard=unmap,\
                     snapshot={snapshot},cache={cache}"
                ),
            ]);
        }
        // Merged requests have up to IOV_MAX pieces; the log's header is one more, which the host refuses.
        let merging = if disk.log.is_some() { "off" } else { "on" };
        qemu.args([
            "-device",
            &format!("virtio-blk-pci,drive={name},serial={name},request-merging={merging}"),
        ]);
    }
    qemu.stderr(File::create(files.log)?);
    match qemu.spawn() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("qemu-system-x86_64 is not installed: run scripts/setup")
        }
        result => result.context("cannot start qemu-system-x86_64"),
    }
}

/// A path as QEMU's option lists want it: a comma is doubled.
fn text(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(text.replace(',', ",,"))
}
