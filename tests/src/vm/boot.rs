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
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::apt;
use crate::vm::base;
use crate::vm::builder::Vm;
use crate::vm::image::Image;
use crate::vm::kernel::{self, Kernel, KernelFiles};
use crate::vm::programs::{add_host_program, static_program};
use crate::vm::qemu::{self, Accel};
use crate::vm::running::{Boot, RunningVm};
use crate::vm::uml;
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
    /// Disks that need not outlive the host, in memory: user-mode Linux flushes each when the guest does.
    _careless: Option<TempDir>,
    disks: Vec<PathBuf>,
}

/// A QEMU and the line to its guest's agent.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) child: Child,
    /// Whether it leads a group of processes, all of which are the guest.
    group: bool,
    pub(super) stream: UnixStream,
    pub(super) messages: Receiver<ToHost>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        // User-mode Linux is many processes.
        if self.group
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process_group(pid, Signal::KILL);
        }
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
            _ if vm.kernel.user_mode() => Accel::Uml,
            Some(accel) => accel,
            None => qemu::best(|| kvm_boots(vm.kernel))?,
        };
        let own = files.path().join("own.cpio");
        add_own_files(&own, &vm, &kernel, &agent)?;
        let more = vm.packages.iter().map(|name| base::package(name));
        let more = more.collect::<Result<Vec<_>>>()?;
        let parts: Vec<&Path> = [&tools, &kernel.modules]
            .into_iter()
            .chain(&more)
            .chain([&own])
            .map(PathBuf::as_path)
            .collect();
        concatenate(&files.path().join("initrd"), &parts)?;
        fs::remove_file(own)?;
        let mut disks = Vec::new();
        let careless = match vm.kernel.user_mode() {
            true => Some(tempfile::tempdir_in("/dev/shm")?),
            false => None,
        };
        for disk in &vm.disks {
            let scratch = careless.as_ref().filter(|_| disk.careless);
            let path = match &disk.path {
                Some(path) => path.clone(),
                None => scratch.unwrap_or(&files).path().join(&disk.name),
            };
            if let Some(size) = disk.size.filter(|_| !path.exists()) {
                File::create(&path)?.set_len(size.bytes())?;
            }
            if !path.exists() {
                bail!("the disk {} has no file {}", disk.name, path.display());
            }
            if let Some(log) = &disk.log {
                File::create(log)?;
            }
            disks.push(path);
        }
        Ok(Self {
            vm,
            accel,
            kernel,
            files,
            sockets,
            _careless: careless,
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
        let deadline = Instant::now()
            .checked_add(patience)
            .context("no such time")?;
        let group = self.accel == Accel::Uml;
        let (child, stream) = if group {
            uml::spawn(&self.vm, files)?
        } else {
            let child = qemu::spawn(&self.vm, self.accel, files)?;
            connect(child, &listener, deadline, &log)?
        };
        let messages = read_messages(stream.try_clone()?);
        let guest = Guest {
            child,
            group,
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

/// Waits until QEMU connects to the agent's socket.
fn connect(
    mut child: Child,
    listener: &UnixListener,
    deadline: Instant,
    log: &Path,
) -> Result<(Child, UnixStream)> {
    let stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(status) = child.try_wait()? {
            let words = fs::read_to_string(log).unwrap_or_default();
            bail!(
                "qemu-system-x86_64 stopped at its start ({status}): {}",
                words.trim()
            );
        }
        if Instant::now() > deadline {
            drop(child.kill());
            drop(child.wait());
            bail!("qemu-system-x86_64 did not connect");
        }
        thread::sleep(Duration::from_millis(5));
    };
    stream.set_nonblocking(false)?;
    Ok((child, stream))
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
    add_host_program(&mut image, "/usr/bin/vm-agent", agent)?;
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

/// The last lines of a console, without the noise before them: from the last
/// panic on, where there is one, as the trace that follows it may be longer.
fn tail(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    let last = lines.len().saturating_sub(40);
    let panic = lines.iter().rposition(|line| line.contains(PANIC));
    let skipped = panic.map_or(last, |line| line.min(last));
    lines.get(skipped..).unwrap_or_default().join("\n")
}

/// What the kernel says as it gives up (`kernel/panic.c:vpanic`). Its last line
/// (`end Kernel panic`) is not it: it may never reach the console.
const PANIC: &str = "] Kernel panic - not syncing";

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

    /// A guest that panicked with a trace of more than forty lines was told of
    /// without the line that says so: the machine was off before the kernel's
    /// last line, which says it again, was out.
    #[test]
    fn a_panic_is_told_however_long_its_trace_is() {
        let panic = "[    4.6] Kernel panic - not syncing: sysrq triggered crash";
        let trace: String = (0..60).map(|line| format!("[    4.7] {line}\n")).collect();
        let told = tail(&format!("[    4.5] before\n{panic}\n{trace}"));
        assert!(told.starts_with(panic), "{told}");
        assert!(told.ends_with("] 59"), "{told}");
        // One that is near the end leaves what came before it in sight.
        let told = tail(&format!("{trace}{panic}\n"));
        assert!(told.starts_with("[    4.7] 21\n"), "{told}");
    }
}
