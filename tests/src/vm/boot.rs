//! From a [`Vm`] to a guest whose agent spoke.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::apt;
use crate::vm::base;
use crate::vm::builder::Vm;
use crate::vm::image::Image;
use crate::vm::kernel::{self, Kernel, KernelFiles};
use crate::vm::programs::{add_host_program, static_program};
use crate::vm::qemu::{self, Accel};
use crate::vm::running::{Boot, RunningVm};
use crate::vm::wire::ToHost;

/// The agent is built as this program was, so that what both stand on is built once.
const PROFILE: &str = if cfg!(debug_assertions) {
    "dev"
} else {
    "release"
};

/// Boots that die early before the machine is given up.
const TRIES: u32 = 4;

/// Until the agent speaks, udevd's start included. Under TCG on a busy host a
/// good boot takes up to half a minute.
const PATIENCE: Duration = Duration::from_secs(90);

/// Under KVM a good boot takes a second or two.
const PROBE_PATIENCE: Duration = Duration::from_secs(15);

/// What a machine keeps over reboots and power cuts.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) vm: Vm,
    accel: Accel,
    kernel: KernelFiles,
    /// First root and scratch disks.
    files: TempDir,
    /// Sockets: their paths must be short.
    sockets: TempDir,
    disks: Vec<PathBuf>,
}

/// A QEMU and the line to its guest's agent.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) child: Child,
    pub(super) stream: UnixStream,
    pub(super) messages: Receiver<ToHost>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Prepares and boots a machine.
pub(super) fn start(vm: Vm) -> Result<RunningVm> {
    let machine = Machine::prepare(vm)?;
    let (guest, boot) = machine.boot()?;
    Ok(RunningVm::new(machine, guest, boot))
}

impl Machine {
    fn prepare(vm: Vm) -> Result<Self> {
        let directory = apt::work_directory();
        fs::create_dir_all(directory.join("run"))?;
        // One at a time: everybody would fetch and pack the same things.
        let lock = File::create(directory.join("lock"))?;
        lock.lock()?;
        Self::assemble(vm)
    }

    /// The work of `prepare`; the caller holds the lock.
    fn assemble(vm: Vm) -> Result<Self> {
        let files = tempfile::tempdir_in(apt::work_directory().join("run"))?;
        let sockets = tempfile::Builder::new().prefix("vm").tempdir()?;
        let kernel = kernel::prepare(vm.kernel)?;
        let tools = base::prepare()?;
        let agent = static_program("dmthin-tests", "vm-agent", PROFILE)
            .context("cannot build the guest's agent")?;
        let accel = match vm.accel {
            Some(accel) => accel,
            None => qemu::best(|| kvm_boots(vm.kernel))?,
        };
        let own = files.path().join("own.cpio");
        add_own_files(&own, &vm, &kernel, &agent)?;
        concatenate(
            &files.path().join("initrd"),
            &[&tools, &kernel.modules, &own],
        )?;
        fs::remove_file(own)?;
        let mut disks = Vec::new();
        for disk in &vm.disks {
            let path = match &disk.path {
                Some(path) => path.clone(),
                None => files.path().join(&disk.name),
            };
            if let Some(size) = disk.size.filter(|_| !path.exists()) {
                File::create(&path)?.set_len(size.bytes())?;
            }
            if !path.exists() {
                bail!("the disk {} has no file {}", disk.name, path.display());
            }
            disks.push(path);
        }
        Ok(Self {
            vm,
            accel,
            kernel,
            files,
            sockets,
            disks,
        })
    }

    /// What the guest printed on its console since the last boot.
    pub(super) fn console(&self) -> String {
        let bytes = fs::read(self.console_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    fn console_path(&self) -> PathBuf {
        self.files.path().join("console")
    }

    /// The last lines of the console, for an error.
    pub(super) fn console_tail(&self) -> String {
        tail(&self.console())
    }

    /// Boots until the agent speaks, again if the guest dies before it does.
    pub(super) fn boot(&self) -> Result<(Guest, Boot)> {
        let start = Instant::now();
        let mut tries = 1;
        loop {
            let patience = if self.accel == Accel::Kvm {
                PROBE_PATIENCE
            } else {
                PATIENCE
            };
            let started = Instant::now();
            match self.try_boot(patience)? {
                Ok((guest, release)) => {
                    let took = started.elapsed();
                    let boot = Boot {
                        tries,
                        took,
                        accel: self.accel,
                        release,
                    };
                    return Ok((guest, boot));
                }
                Err(why) if tries < TRIES => {
                    let console = self.console();
                    let last = console.lines().rfind(|line| !line.trim().is_empty());
                    let last = last.unwrap_or("nothing");
                    eprintln!(
                        "kernel {}: boot {tries} of {TRIES} {why} before init \
                         (console: {last:?}); again",
                        self.vm.kernel
                    );
                    tries = tries.saturating_add(1);
                }
                Err(why) => bail!(
                    "the guest {why} before init in each of {TRIES} boots ({:.0} s); \
                     the console's last lines:\n{}",
                    start.elapsed().as_secs_f64(),
                    self.console_tail()
                ),
            }
        }
    }

    /// One boot; the inner error says how the guest died.
    fn try_boot(&self, patience: Duration) -> Result<Result<(Guest, String), String>> {
        let socket = self.sockets.path().join("agent");
        if socket.exists() {
            fs::remove_file(&socket)?;
        }
        let listener = UnixListener::bind(&socket)?;
        listener.set_nonblocking(true)?;
        let log = self.files.path().join("qemu.log");
        let files = qemu::Files {
            kernel: &self.kernel.image,
            initrd: &self.files.path().join("initrd"),
            socket: &socket,
            console: &self.console_path(),
            log: &log,
            disks: &self.disks,
        };
        let mut child = qemu::spawn(&self.vm, self.accel, files)?;
        let deadline = Instant::now()
            .checked_add(patience)
            .context("no such time")?;
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(status) = child.try_wait()? {
                let words = fs::read_to_string(&log).unwrap_or_default();
                bail!(
                    "qemu-system-x86_64 stopped at its start ({status}): {}",
                    words.trim()
                );
            }
            if Instant::now() > deadline {
                drop(child.kill());
                drop(child.wait());
                bail!("qemu-system-x86_64 did not connect to {}", socket.display());
            }
            thread::sleep(Duration::from_millis(5));
        };
        stream.set_nonblocking(false)?;
        let messages = read_messages(stream.try_clone()?);
        let guest = Guest {
            child,
            stream,
            messages,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        Ok(match guest.messages.recv_timeout(left) {
            Ok(ToHost::Hello(release)) => Ok((guest, release)),
            Ok(other) => bail!("the agent began with {other:?}"),
            Err(RecvTimeoutError::Disconnected) => Err("died".to_owned()),
            Err(RecvTimeoutError::Timeout) => {
                Err(format!("said nothing for {} s", patience.as_secs()))
            }
        })
    }
}

fn read_messages(mut stream: UnixStream) -> Receiver<ToHost> {
    let (sender, messages) = channel();
    thread::spawn(move || {
        while let Ok(Some(message)) = ToHost::receive(&mut stream) {
            if sender.send(message).is_err() {
                break;
            }
        }
    });
    messages
}

/// Whether a guest gets as far as its agent under KVM.
fn kvm_boots(kernel: Kernel) -> bool {
    let probe = || -> Result<()> {
        let machine = Machine::assemble(Vm::new(kernel).accel(Accel::Kvm))?;
        machine
            .try_boot(PROBE_PATIENCE)?
            .map_err(anyhow::Error::msg)?;
        Ok(())
    };
    probe().is_ok()
}

fn add_own_files(path: &Path, vm: &Vm, kernel: &KernelFiles, agent: &Path) -> Result<()> {
    let mut image = Image::create(path)?;
    image.host_file("/usr/bin/vm-agent", agent, Some(0o755))?;
    let entries = kernel::loadable(&kernel.entries, &vm.without);
    kernel::add_module_lists(&mut image, &kernel.release, &entries)?;
    let mut config = String::new();
    if vm.udev {
        config.push_str("udev\n");
    }
    for disk in &vm.disks {
        if let Some(place) = &disk.mounted_at {
            config.push_str(&format!("mount {} {place}\n", disk.name));
        }
    }
    image.file("/etc/vm/config", 0o644, config.as_bytes())?;
    for file in &vm.files {
        if file.program {
            add_host_program(&mut image, &file.guest, &file.host)?;
        } else {
            image.host_file(&file.guest, &file.host, file.mode)?;
        }
    }
    image.finish()
}

fn concatenate(to: &Path, parts: &[&Path]) -> Result<()> {
    let mut out = File::create(to)?;
    for part in parts {
        io::copy(&mut File::open(part)?, &mut out)?;
    }
    Ok(out.flush()?)
}

/// The last lines of a console, without the noise before them.
fn tail(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    let skipped = lines.len().saturating_sub(40);
    lines.get(skipped..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::tail;

    #[test]
    fn errors_carry_the_last_lines_of_the_console() {
        let console: String = (0..100).map(|line| format!("{line}\n")).collect();
        assert!(tail(&console).starts_with("60\n61\n"));
        assert!(tail(&console).ends_with("\n99"));
        assert_eq!(tail("one\n"), "one");
    }
}
