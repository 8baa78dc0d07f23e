//! A model of the kernel in memory: verbs run on it without root, without device mapper, and can be cut
//! anywhere.
//!
//! On a thread that has [entered](Model::enter) a model, what this library asks of the kernel is answered
//! by it: device mapper with its tables, names, open counts and deferred removals (`device.rs`); thin-pools
//! with ids, mappings, snapshots, transaction id, metadata snapshot and modes (`pool.rs`, `blocks.rs`), whose
//! metadata are written in the kernel's own format for whoever reads them (`metadata.rs`); loop devices, nodes,
//! and ext4 as far as a uuid, a size and the names in its root (`files.rs`). It speaks the kernel's side of
//! the binary interface, so that all of the library runs but the system calls themselves. Other threads
//! go on with the kernel.
//!
//! ```
//! use dmthin::graph::{CreatePool, Host};
//! use dmthin::ids::PoolName;
//! use dmthin::model::Model;
//! use dmthin::units::Bytes;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let model = Model::new(&dir.path().join("kernel"))?;
//! let _entered = model.enter();
//! let host = Host::new(dir.path().join("pools"));
//! let name = PoolName::new("tank")?;
//! host.create_pool(&CreatePool {
//!     size: CreatePool::MIN_SIZE,
//!     base_size: Bytes::from_mib(64),
//!     ..CreatePool::new(name.clone())
//! })?;
//! model.lose_power();
//! assert!(model.devices().is_empty());
//! host.open_pool(&name)?;
//! assert!(host.check(None)?.findings.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! What it has not: data other than superblocks, names and what is written past the page cache, time, other
//! processes, other file systems, mounts in the tree of files, errors of the disk but those that are
//! [planned](Model::plan).

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "test helper"
)]

mod blocks;
mod copy;
mod device;
mod files;
mod metadata;
mod pool;
mod state;
mod told;

use std::any::Any;
use std::fs::{File, Metadata};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ids::DevNo;
use crate::ioctl::wire::{Call, Command};
use crate::ioctl::{Errno, StandIn, stand_in_for};
use crate::model::state::State;

pub use told::{DmTold, Told};

/// What is to go wrong, at one of the calls that change something, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller dies before the call is obeyed.
    CutBefore(u64),
    /// The caller dies before it sees the answer.
    CutAfter(u64),
    /// The call fails.
    Error(u64, Errno),
    /// The commit that ends this message to a pool fails, of which the caller is told nothing; messages are
    /// counted from 0.
    Commit(u64),
}

/// What unwinds a thread that was cut. [`Model::revive`] lets the next process begin.
#[derive(Debug)]
pub struct Cut;

/// A device of the model's device mapper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelDevice {
    /// Its name.
    pub name: String,
    /// Its uuid.
    pub uuid: String,
    /// Whether it is suspended.
    pub suspended: bool,
    /// Whether it has a live table.
    pub active: bool,
}

/// A thin device of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelThin {
    /// Its number in the pool.
    pub id: u32,
    /// Blocks it has mapped.
    pub mapped: u64,
    /// The size of the file system on it, in bytes; `None` where there is none.
    pub fs_size: Option<u64>,
    /// What is in the file system's root.
    pub names: Vec<String>,
}

/// A model of the kernel.
#[derive(Debug, Clone)]
pub struct Model {
    kernel: Arc<Kernel>,
}

/// Until this is dropped the model answers on this thread.
#[must_use]
pub struct Entered {
    before: Option<Arc<dyn StandIn>>,
    // For this thread only.
    _here: PhantomData<Rc<()>>,
}

impl std::fmt::Debug for Entered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entered")
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        stand_in_for(self.before.take());
    }
}

impl Model {
    /// A kernel that was just booted, its nodes in a new directory.
    ///
    /// # Errors
    /// Where the directory cannot be made.
    pub fn new(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            kernel: Arc::new(Kernel {
                dir: dir.to_owned(),
                state: Mutex::new(State::boot(dir)?),
            }),
        })
    }

    /// Another kernel that was just booted, with a copy of a directory of this one's files: of pools that nothing
    /// has open.
    ///
    /// # Errors
    /// Where the directories cannot be made, or a file not be copied.
    pub fn with_copy(&self, dir: &Path, from: &Path, to: &Path) -> io::Result<Self> {
        let mut state = State::boot(dir)?;
        self.kernel.state().copy(from, to, &mut state)?;
        Ok(Self {
            kernel: Arc::new(Kernel {
                dir: dir.to_owned(),
                state: Mutex::new(state),
            }),
        })
    }

    /// Has the model answer on this thread.
    pub fn enter(&self) -> Entered {
        let kernel: Arc<dyn StandIn> = self.kernel.clone();
        Entered {
            before: stand_in_for(Some(kernel)),
            _here: PhantomData,
        }
    }

    /// What is to go wrong from now on; calls are counted anew.
    pub fn plan(&self, fault: Option<Fault>) {
        let mut state = self.kernel.state();
        state.calls = 0;
        state.messages = 0;
        state.fault = fault;
    }

    /// Keeps what it is told from now on.
    pub fn record(&self) {
        self.kernel.state().told = Some(Vec::new());
    }

    /// What it was told since that began, without the first words.
    #[must_use]
    pub fn told(&self, from: usize) -> Vec<Told> {
        let mut state = self.kernel.state();
        state.settle();
        let told = state.told.iter().flatten();
        told.skip(from).cloned().collect()
    }

    /// Has the caller die here and now: unwinds it with [`Cut`], and nothing that it does on the way has an
    /// effect.
    pub fn cut(&self) -> ! {
        self.kernel.state().dead = true;
        resume_unwind(Box::new(Cut))
    }

    /// The next process: the kernel is as the last one left it.
    pub fn revive(&self) {
        let mut state = self.kernel.state();
        state.dead = false;
        state.fault = None;
        state.settle();
    }

    /// The power goes and comes back: left is what was committed and synced.
    pub fn lose_power(&self) {
        let mut state = self.kernel.state();
        state.dead = false;
        state.fault = None;
        state.lose_power();
    }

    /// What `thin_check --clear-needs-check-flag` does to a pool that is not active.
    pub fn clear_needs_check(&self, metadata: &Path) -> io::Result<()> {
        self.kernel.state().clear_needs_check(metadata)
    }

    /// Every dm device.
    #[must_use]
    pub fn devices(&self) -> Vec<ModelDevice> {
        self.kernel.state().list()
    }

    /// How many loop devices something is attached to.
    #[must_use]
    pub fn nr_loops(&self) -> usize {
        let mut state = self.kernel.state();
        state.settle();
        state.loops.len()
    }

    /// How many file systems are mounted.
    #[must_use]
    pub fn nr_mounts(&self) -> usize {
        let mut state = self.kernel.state();
        state.settle();
        state.mounts.len()
    }

    /// The thin devices of the pool whose metadata are in this file, and whether it holds a metadata
    /// snapshot: as they are now, or were when it was deactivated.
    ///
    /// # Errors
    /// Where there is no such file, or no pool in it.
    pub fn thins(&self, metadata: &Path) -> io::Result<(Vec<ModelThin>, bool)> {
        let mut state = self.kernel.state();
        state.settle();
        state.thins(metadata)
    }
}

/// The model itself, as many handles as there may be.
#[derive(Debug)]
struct Kernel {
    dir: PathBuf,
    state: Mutex<State>,
}

impl Kernel {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One call: what is planned for it happens.
    fn call<T>(
        &self,
        changes: bool,
        obey: impl FnOnce(&mut State) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let mut state = self.state();
        if state.dead {
            return Err(Errno::IO);
        }
        state.settle();
        let nr = state.calls;
        let fault = state.fault.filter(|_| changes);
        if changes {
            state.calls += 1;
        }
        match fault {
            Some(Fault::CutBefore(at)) if at == nr => {
                drop(state);
                self.die()
            }
            Some(Fault::Error(at, errno)) if at == nr => return Err(errno),
            _ => {}
        }
        let answer = obey(&mut state);
        if fault == Some(Fault::CutAfter(nr)) {
            drop(state);
            // What was given out is not seen any more.
            drop(answer);
            self.die()
        }
        answer
    }

    fn die(&self) -> ! {
        self.state().dead = true;
        resume_unwind(Box::new(Cut))
    }
}

impl StandIn for Kernel {
    fn place(&self, path: &Path) -> PathBuf {
        self.dir.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn dm(&self, command: Command, words: &mut [u64]) -> Result<i32, Errno> {
        let changes = !matches!(
            command,
            Command::Version
                | Command::ListDevices
                | Command::ListVersions
                | Command::DevStatus
                | Command::DevWait
                | Command::DevArmPoll
                | Command::TableStatus
                | Command::TableDeps
        );
        self.call(changes, |state| state.dm_told(command, words))
    }

    fn ioctl(&self, fd: BorrowedFd<'_>, opcode: u32, arg: &mut dyn Any) -> Result<i32, Errno> {
        let call = Call::read(opcode, arg)?;
        let changes = !matches!(
            call,
            Call::LoopFree
                | Call::LoopStatus(_)
                | Call::Size(_)
                | Call::BlockSize(_)
                | Call::PhysicalBlockSize(_)
                | Call::ReadOnly(_)
        );
        self.call(changes, |state| state.ioctl(fd, call))
    }

    fn open(&self, path: &Path, write: bool, flags: i32) -> io::Result<File> {
        let exclusive = flags & libc::O_EXCL != 0;
        Ok(self.call(false, |state| state.open(path, write, exclusive))?)
    }

    fn block_device(&self, node: &Metadata) -> Option<DevNo> {
        self.state().block_device((node.dev(), node.ino()))
    }

    fn make_node(&self, path: &Path, dev: DevNo) -> Result<(), Errno> {
        self.call(true, |state| state.make_node(path, dev))
    }

    fn mount(&self, node: &Path, read_only: bool) -> Result<OwnedFd, Errno> {
        self.call(true, |state| state.mount(node, read_only))
    }

    fn sync(&self, root: BorrowedFd<'_>) -> Result<(), Errno> {
        self.call(true, |state| state.sync(root))
    }

    fn write(&self, device: &File, at: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.call(true, |state| state.write(device, at, bytes))
    }

    fn flush(&self, device: &File) -> Result<(), Errno> {
        self.call(true, |state| state.flush(device))
    }

    fn run(&self, program: &str, _: &[String], node: &Path) -> io::Result<Output> {
        if program != "mkfs.ext4" {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(self.call(true, |state| state.mkfs(node))?)
    }
}
