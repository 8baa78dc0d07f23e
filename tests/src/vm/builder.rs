//! What a virtual machine is made of, and what is run in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::vm::boot;
use crate::vm::kernel::Kernel;
use crate::vm::qemu::Accel;
use crate::vm::running::RunningVm;
use crate::vm::size::Size;

/// A machine to be started. See the module for an example.
#[derive(Clone, Debug)]
pub struct Vm {
    pub(super) kernel: Kernel,
    pub(super) udev: bool,
    pub(super) memory: Size,
    pub(super) cpus: u8,
    pub(super) accel: Option<Accel>,
    pub(super) live: bool,
    pub(super) told_as: Option<String>,
    pub(super) terminal: bool,
    pub(super) arguments: Vec<String>,
    pub(super) without: Vec<String>,
    pub(super) packages: Vec<String>,
    pub(super) files: Vec<GuestFile>,
    pub(super) disks: Vec<Disk>,
    pub(super) timeout: Duration,
}

/// A file of the host for the guest.
#[derive(Clone, Debug)]
pub(super) struct GuestFile {
    pub(super) host: PathBuf,
    pub(super) guest: String,
    pub(super) mode: Option<u32>,
    pub(super) program: bool,
}

impl Vm {
    /// A machine with this kernel, two processors, 2 GiB of memory, no udevd
    /// and no disks.
    #[must_use]
    pub fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            udev: false,
            memory: Size::gib(2),
            cpus: 2,
            accel: None,
            live: false,
            told_as: None,
            terminal: false,
            arguments: Vec::new(),
            without: Vec::new(),
            packages: Vec::new(),
            files: Vec::new(),
            disks: Vec::new(),
            timeout: Duration::from_secs(300),
        }
    }

    /// Whether a udevd with Debian's rules runs in the guest.
    #[must_use]
    pub fn udev(mut self, udev: bool) -> Self {
        self.udev = udev;
        self
    }

    /// The guest's memory, which also holds its files.
    #[must_use]
    pub fn memory(mut self, memory: Size) -> Self {
        self.memory = memory;
        self
    }

    /// The number of processors.
    #[must_use]
    pub fn cpus(mut self, cpus: u8) -> Self {
        self.cpus = cpus;
        self
    }

    /// Uses this accelerator instead of the best that works here.
    #[must_use]
    pub fn accel(mut self, accel: Accel) -> Self {
        self.accel = Some(accel);
        self
    }

    /// Passes what commands print on at once, as well as returning it.
    #[must_use]
    pub fn live(mut self, live: bool) -> Self {
        self.live = live;
        self
    }

    /// Passes each line that commands print on standard output on at once, behind this name.
    #[must_use]
    pub fn told_as(mut self, name: &str) -> Self {
        self.told_as = Some(name.to_owned());
        self
    }

    /// Gives the guest this terminal, as `/dev/hvc0`.
    #[must_use]
    pub fn terminal(mut self, terminal: bool) -> Self {
        self.terminal = terminal;
        self
    }

    /// Adds an argument to the kernel's command line.
    #[must_use]
    pub fn kernel_argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// A kernel without this module, and without those that need it.
    #[must_use]
    pub fn without_module(mut self, name: &str) -> Self {
        self.without.push(name.to_owned());
        self
    }

    /// The programs of one more of Debian 12's packages, for those machines that need them.
    #[must_use]
    pub fn package(mut self, name: &str) -> Self {
        self.packages.push(name.to_owned());
        self
    }

    /// Puts a file of the host, with its permission bits, at a guest path.
    #[must_use]
    pub fn file(self, host: impl AsRef<Path>, guest: &str) -> Self {
        self.add(host.as_ref(), guest, None, false)
    }

    /// Puts a file of the host at a guest path, with these permission bits.
    #[must_use]
    pub fn file_with_mode(self, host: impl AsRef<Path>, guest: &str, mode: u32) -> Self {
        self.add(host.as_ref(), guest, Some(mode), false)
    }

    /// Puts a program of the host at a guest path, with the shared libraries
    /// it asks for; static programs come alone.
    #[must_use]
    pub fn program(self, host: impl AsRef<Path>, guest: &str) -> Self {
        self.add(host.as_ref(), guest, None, true)
    }

    fn add(mut self, host: &Path, guest: &str, mode: Option<u32>, program: bool) -> Self {
        let (host, guest) = (host.to_owned(), guest.to_owned());
        self.files.push(GuestFile {
            host,
            guest,
            mode,
            program,
        });
        self
    }

    /// Adds a disk.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// How long a command may take if it does not say itself; 5 minutes.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Boots the machine, fetching and packing first what is not there yet.
    pub fn start(self) -> Result<RunningVm> {
        for (index, disk) in self.disks.iter().enumerate() {
            disk.check()?;
            let twice = self
                .disks
                .iter()
                .skip(index.saturating_add(1))
                .any(|d| d.name == disk.name);
            ensure!(!twice, "two disks are named {}", disk.name);
        }
        let kernel = self.kernel;
        boot::start(self).with_context(|| format!("no virtual machine with kernel {kernel}"))
    }
}

/// A disk of the guest: `/dev/vm/<name>`, a virtio block device that passes
/// discards on to its sparse file.
#[derive(Clone, Debug)]
pub struct Disk {
    pub(super) name: String,
    pub(super) path: Option<PathBuf>,
    pub(super) size: Option<Size>,
    pub(super) mounted_at: Option<String>,
    pub(super) forgets: bool,
    pub(super) careless: bool,
    pub(super) log: Option<PathBuf>,
}

impl Disk {
    /// An empty disk that lives as long as the machine, reboots and power
    /// cuts included.
    #[must_use]
    pub fn scratch(name: &str, size: Size) -> Self {
        Self {
            name: name.to_owned(),
            path: None,
            size: Some(size),
            mounted_at: None,
            forgets: false,
            careless: false,
            log: None,
        }
    }

    /// A disk that is this raw file of the host, which must be there.
    #[must_use]
    pub fn file(name: &str, path: impl AsRef<Path>) -> Self {
        let path = Some(path.as_ref().to_owned());
        Self {
            name: name.to_owned(),
            path,
            size: None,
            mounted_at: None,
            forgets: false,
            careless: false,
            log: None,
        }
    }

    /// A disk that is this raw file of the host, made sparse with this size
    /// if it is not there.
    #[must_use]
    pub fn file_or_new(name: &str, path: impl AsRef<Path>, size: Size) -> Self {
        Self {
            size: Some(size),
            ..Self::file(name, path)
        }
    }

    /// Mounts the disk in the guest at every boot, as an ext4 file system
    /// made where there is none.
    #[must_use]
    pub fn mounted_at(mut self, guest: &str) -> Self {
        self.mounted_at = Some(guest.to_owned());
        self
    }

    /// Leaves the file as it is: what the guest writes is gone when the
    /// machine goes off. Several machines can share such a disk.
    #[must_use]
    pub fn forgetting_writes(mut self) -> Self {
        self.forgets = true;
        self
    }

    /// The guest's flushes do not wait for the host's own disk: for what need
    /// not outlive the host.
    #[must_use]
    pub fn careless(mut self) -> Self {
        self.careless = true;
        self
    }

    /// Logs every write, discard and flush, as the guest sends them, into this
    /// file of the host, in the format of the kernel's dm-log-writes. The disk
    /// has a volatile cache as far as the guest can see.
    #[must_use]
    pub fn logging_writes(mut self, log: impl AsRef<Path>) -> Self {
        self.log = Some(log.as_ref().to_owned());
        self
    }

    fn check(&self) -> Result<()> {
        // The name travels as the disk's serial number, which has 20 bytes.
        let fits = (1..=20).contains(&self.name.len());
        let plain = self
            .name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-');
        ensure!(
            fits && plain,
            "a disk's name is 1 to 20 letters, digits and -: {:?}",
            self.name
        );
        let place = self.mounted_at.as_deref().unwrap_or("/");
        ensure!(
            place.starts_with('/'),
            "the mount point {place:?} is not absolute"
        );
        Ok(())
    }
}

/// A command for the guest.
#[derive(Clone, Debug)]
pub struct Cmd {
    pub(super) argv: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) directory: String,
    pub(super) timeout: Option<Duration>,
}

impl Cmd {
    /// A program and its arguments; looked up in the guest's PATH.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        let argv = argv.into_iter().map(Into::into).collect();
        Self {
            argv,
            env: Vec::new(),
            directory: String::new(),
            timeout: None,
        }
    }

    /// A script for the guest's `bash -e`.
    #[must_use]
    pub fn sh(script: &str) -> Self {
        Self::new(["bash", "-euo", "pipefail", "-c", script])
    }

    /// Sets a variable of the command's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the command in this directory; `/` otherwise.
    #[must_use]
    pub fn directory(mut self, directory: &str) -> Self {
        directory.clone_into(&mut self.directory);
        self
    }

    /// How long the command may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::{Disk, Size, Vm};
    use crate::vm::Kernel;

    #[test]
    fn disks_that_cannot_be_named_are_refused_before_anything_starts() {
        let start = |name: &str| {
            let vm = Vm::new(Kernel::V6_1).disk(Disk::scratch(name, Size::mib(1)));
            vm.start().unwrap_err().to_string()
        };
        let expected = "a disk's name is 1 to 20 letters, digits and -: \"a,b\"";
        assert_eq!(start("a,b"), expected);
        assert!(start("a-name-of-more-than-twenty-bytes").contains("1 to 20"));
        let twice = Vm::new(Kernel::V6_1)
            .disk(Disk::scratch("a", Size::mib(1)))
            .disk(Disk::scratch("a", Size::mib(1)));
        assert_eq!(
            twice.start().unwrap_err().to_string(),
            "two disks are named a"
        );
    }
}
