//! PID 1 of the virtual machines: prepares the guest and runs commands as the
//! host asks over a virtio-serial port (`dmthin_tests::vm::wire`).
//!
//! It is the only process the guest starts with, so it does the work of a
//! whole user space: mounts the kernel's file systems, loads the modules in
//! `/etc/vm/modules`, names and mounts disks, starts udevd when told to in
//! `/etc/vm/config`, reaps orphans, and unmounts at the end. What goes wrong
//! before the port is open goes to the console, and the machine stops: the
//! host then says so with the console's last lines.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use dmthin_tests::vm::wire::{PORT, Run, ToGuest, ToHost};
use rustix::fs::symlink;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group};
use rustix::system::{RebootCommand, finit_module, reboot};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How often ended processes are looked for.
const REAP: Duration = Duration::from_millis(5);

/// How long output may trail the end of the process that wrote it; a daemon
/// left behind may hold the pipe for ever.
const TRAILING: Duration = Duration::from_millis(500);

fn main() {
    if !rustix::process::getpid().is_init() {
        eprintln!("vm-agent is PID 1 of a virtual machine and nothing else");
        std::process::exit(2);
    }
    if let Err(error) = serve() {
        eprintln!("vm-agent: {error:#}");
    }
    stop();
}

fn serve() -> Result<()> {
    mount_kernel_file_systems()?;
    for path in fs::read_to_string("/etc/vm/modules")?.lines() {
        load_module(path).with_context(|| format!("cannot load {path}"))?;
    }
    let port = open_port()?;
    let config = fs::read_to_string("/etc/vm/config").unwrap_or_default();
    let udev = config.lines().any(|line| line == "udev");
    if udev {
        start_udev()?;
    }
    name_disks()?;
    for line in config.lines() {
        if let Some((name, path)) = line.strip_prefix("mount ").and_then(|l| l.split_once(' ')) {
            mount_disk(name, path).with_context(|| format!("cannot mount the disk {name}"))?;
        }
    }
    let out = Arc::new(Mutex::new(port.try_clone()?));
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    tell(&out, &ToHost::Hello(release.trim().to_owned()))?;
    answer(port, &out)
}

fn mount_kernel_file_systems() -> Result<()> {
    let none = MountFlags::empty();
    for (kind, place, flags, data) in [
        ("proc", "/proc", none, c""),
        ("sysfs", "/sys", none, c""),
        ("devtmpfs", "/dev", none, c"mode=0755"),
        ("devpts", "/dev/pts", none, c"mode=0620,ptmxmode=0666"),
        ("tmpfs", "/dev/shm", none, c"mode=1777"),
        ("tmpfs", "/run", MountFlags::NOSUID, c"mode=0755"),
        ("tmpfs", "/tmp", MountFlags::NOSUID, c"mode=1777"),
        ("debugfs", "/sys/kernel/debug", none, c""),
    ] {
        // User-mode Linux has no debugfs.
        if kind == "debugfs" && !Path::new(place).exists() {
            continue;
        }
        fs::create_dir_all(place)?;
        mount(kind, place, kind, flags, data).with_context(|| format!("cannot mount {place}"))?;
    }
    Ok(())
}

fn load_module(path: &str) -> Result<()> {
    match finit_module(File::open(path)?, c"", 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The port is known by its name in sysfs; it appears shortly after its driver. User-mode Linux has a serial
/// line in its place.
fn open_port() -> Result<File> {
    if fs::read_to_string("/proc/cpuinfo")?.contains("User Mode Linux") {
        let line = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/ttyS0")
            .context("cannot open the serial line")?;
        let mut settings = tcgetattr(&line).context("the serial line is none")?;
        settings.make_raw();
        tcsetattr(&line, OptionalActions::Now, &settings)?;
        return Ok(line);
    }
    for _ in 0..500 {
        for entry in fs::read_dir("/sys/class/virtio-ports")
            .into_iter()
            .flatten()
        {
            let entry = entry?;
            if fs::read_to_string(entry.path().join("name")).is_ok_and(|n| n.trim() == PORT) {
                let node = Path::new("/dev").join(entry.file_name());
                if node.exists() {
                    return Ok(OpenOptions::new().read(true).write(true).open(node)?);
                }
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
    bail!("the machine has no virtio port named {PORT}")
}

/// Starts udevd and lets it see the devices that are there already.
fn start_udev() -> Result<()> {
    for arguments in [
        &["/usr/lib/systemd/systemd-udevd", "--daemon"][..],
        &["udevadm", "trigger", "--type=subsystems", "--action=add"],
        &[
            "udevadm",
            "trigger",
            "--type=devices",
            "--action=add",
            "--subsystem-match=block",
            "--subsystem-match=misc",
            "--subsystem-match=virtio-ports",
        ],
        &["udevadm", "settle", "--timeout=30"],
    ] {
        run_tool(arguments)?;
    }
    Ok(())
}

fn run_tool(arguments: &[&str]) -> Result<()> {
    let (program, rest) = arguments.split_first().context("no program")?;
    let status = Command::new(program)
        .args(rest)
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {program}"))?;
    ensure!(status.success(), "{} failed: {status}", arguments.join(" "));
    Ok(())
}

/// `/dev/vm/<serial>` for each disk, with or without udevd.
fn name_disks() -> Result<()> {
    fs::create_dir_all("/dev/vm")?;
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let serial = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        if !serial.trim().is_empty() {
            let node = PathBuf::from("/dev").join(entry.file_name());
            symlink(&node, format!("/dev/vm/{}", serial.trim()))?;
        }
    }
    Ok(())
}

/// Mounts a disk, making an ext4 file system first where there is none.
fn mount_disk(name: &str, place: &str) -> Result<()> {
    let device = format!("/dev/vm/{name}");
    fs::create_dir_all(place)?;
    let mut start = [0; 2048];
    File::open(&device)?.read_exact(&mut start)?;
    // The magic number of ext4's superblock (fs/ext4/ext4.h:EXT4_SUPER_MAGIC).
    if start.get(1080..1082) != Some(&[0x53, 0xef]) {
        run_tool(&[
            "mkfs.ext4",
            "-q",
            "-F",
            "-E",
            "nodiscard,lazy_itable_init=1",
            &device,
        ])?;
    }
    let mount_as = |flags| mount(device.as_str(), place, "ext4", flags, c"discard");
    match mount_as(MountFlags::empty()) {
        // A disk that takes no writes: user-mode Linux has those that are to forget them so.
        Err(rustix::io::Errno::ACCESS) => Ok(mount_as(MountFlags::RDONLY)?),
        mounted => Ok(mounted?),
    }
}

type Port = Arc<Mutex<File>>;

fn tell(out: &Port, message: &ToHost) -> io::Result<()> {
    message.send(&mut *out.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The running command; held while one is started so that the reaper cannot
/// take a process that nobody has noted yet.
type Running = Arc<Mutex<Option<Child>>>;

#[derive(Debug)]
struct Child {
    pid: Pid,
    drained: Receiver<()>,
}

fn answer(mut port: File, out: &Port) -> Result<()> {
    let running = Running::default();
    let (reaper_out, reaped) = (Arc::clone(out), Arc::clone(&running));
    thread::spawn(move || reap(&reaper_out, &reaped));
    while let Some(message) = ToGuest::receive(&mut port)? {
        match message {
            ToGuest::Run(run) => {
                let mut child = running.lock().unwrap_or_else(PoisonError::into_inner);
                match start(&run, out) {
                    Ok(started) => *child = Some(started),
                    Err(error) => tell(out, &ToHost::Failed(format!("{error:#}")))?,
                }
            }
            ToGuest::Put {
                path,
                mode,
                append,
                data,
            } => {
                let reply = match put(Path::new(&path), mode, append, &data) {
                    Ok(()) => ToHost::Done,
                    Err(error) => ToHost::Failed(format!("cannot write {path}: {error}")),
                };
                tell(out, &reply)?;
            }
            ToGuest::Kill => {
                // Where blocked tasks hang, for the console.
                drop(fs::write("/proc/sysrq-trigger", "w"));
                let child = running.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(child) = child.as_ref() {
                    let _ = kill_process_group(child.pid, Signal::KILL);
                }
            }
            ToGuest::Off => return Ok(()),
        }
    }
    bail!("the host closed the port")
}

fn start(run: &Run, out: &Port) -> Result<Child> {
    let (program, arguments) = run.argv.split_first().context("no command")?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear();
    command.envs([
        ("PATH", PATH),
        ("HOME", "/root"),
        ("TERM", "linux"),
        ("LC_ALL", "C"),
    ]);
    command.envs(run.env.iter().map(|(name, value)| (name, value)));
    command.current_dir(if run.directory.is_empty() {
        "/"
    } else {
        &run.directory
    });
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let (sender, drained) = channel();
    let stdout = child.stdout.take().context("no stdout")?;
    let stderr = child.stderr.take().context("no stderr")?;
    pump(stdout, Arc::clone(out), sender.clone(), ToHost::Stdout);
    pump(stderr, Arc::clone(out), sender, ToHost::Stderr);
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .context("no pid")?;
    Ok(Child { pid, drained })
}

fn pump(
    mut from: impl Read + Send + 'static,
    out: Port,
    done: Sender<()>,
    wrap: fn(Vec<u8>) -> ToHost,
) {
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default().to_vec();
            if tell(&out, &wrap(bytes)).is_err() {
                break;
            }
        }
        let _ = done.send(());
    });
}

fn reap(out: &Port, running: &Running) {
    loop {
        let mut child = running.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) else {
            drop(child);
            thread::sleep(REAP);
            continue;
        };
        if let Some(ended) = child.take_if(|child| child.pid == pid) {
            drop(child);
            for _ in ["stdout", "stderr"] {
                let _ = ended.drained.recv_timeout(TRAILING);
            }
            let message = match status.terminating_signal() {
                Some(signal) => ToHost::Signalled(signal),
                None => ToHost::Exited(status.exit_status().unwrap_or(-1)),
            };
            drop(tell(out, &message));
        }
    }
}

fn put(path: &Path, mode: u32, append: bool, data: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .create(true)
        .write(true)
        .truncate(!append)
        .append(append)
        .open(path)?;
    file.write_all(data)?;
    file.set_permissions(fs::Permissions::from_mode(mode))
}

/// Ends every process, unmounts what can be unmounted and stops the machine.
fn stop() -> ! {
    end_processes(Signal::TERM);
    thread::sleep(Duration::from_millis(100));
    end_processes(Signal::KILL);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places: Vec<&str> = mounts
        .lines()
        .filter(|line| line.starts_with("/dev/"))
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    for place in places.iter().rev() {
        // Blanks in mount points are written as octal escapes.
        let _ = unmount(place.replace("\\040", " "), UnmountFlags::empty());
    }
    rustix::fs::sync();
    // QEMU runs with -no-reboot, so this ends it; no ACPI is needed.
    let _ = reboot(RebootCommand::Restart);
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

fn end_processes(signal: Signal) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            continue;
        };
        // Kernel threads have no command line.
        let user = fs::read(entry.path().join("cmdline")).is_ok_and(|line| !line.is_empty());
        if user && !pid.is_init() {
            let _ = kill_process(pid, signal);
        }
    }
}
