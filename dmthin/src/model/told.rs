//! What a kernel was told, in order, for another one to be told the same.
//!
//! Only what changes something: commands of device mapper, and what becomes of file systems and descriptors as
//! a kernel below them sees it, which is opening, writing, discarding and closing.

use crate::ids::DevNo;
use crate::ioctl::wire::{Command, DmRequest};
use crate::ioctl::{Errno, TargetLine};
use crate::model::state::State;

/// Something that a kernel was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A command to a device that has this name, this uuid or else this number.
    Dm {
        /// The name; empty where it is not by name.
        name: String,
        /// The uuid; empty where it is not by uuid.
        uuid: String,
        /// The number; where one is made, the one that it got.
        dev: Option<DevNo>,
        /// What it was told.
        what: DmTold,
    },
    /// A loop device got a file of so many bytes, or learnt that its file is as long.
    Attached {
        /// Its number.
        dev: DevNo,
        /// Bytes.
        size: u64,
    },
    /// A loop device lost its file.
    Detached {
        /// Its number.
        dev: DevNo,
    },
    /// Somebody opened a device, or mounted it.
    Opened {
        /// Which opening this is.
        nr: u64,
        /// The device.
        dev: DevNo,
        /// Whether he has it alone.
        exclusive: bool,
    },
    /// Who did has gone.
    Closed {
        /// Which opening it was.
        nr: u64,
    },
    /// A thin device's blocks were written to.
    Wrote {
        /// The device.
        dev: DevNo,
        /// Their numbers.
        blocks: Vec<u64>,
    },
    /// A range of a thin device was given back.
    Discarded {
        /// The device.
        dev: DevNo,
        /// Where it begins, in bytes.
        at: u64,
        /// How long it is, in bytes.
        len: u64,
    },
}

/// A command of device mapper.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kernel's own words")]
pub enum DmTold {
    Create,
    Load {
        table: Vec<TargetLine>,
        read_only: bool,
    },
    Clear,
    Suspend {
        noflush: bool,
        skip_lockfs: bool,
    },
    Resume {
        noflush: bool,
        skip_lockfs: bool,
    },
    Remove {
        deferred: bool,
    },
    Rename {
        to: String,
    },
    Message {
        text: String,
    },
}

impl DmTold {
    fn of(command: Command, request: &DmRequest) -> Option<Self> {
        let (noflush, skip_lockfs) = (request.noflush(), request.skips_lockfs());
        Some(match command {
            Command::DevCreate => Self::Create,
            Command::TableLoad => Self::Load {
                table: request.table().ok()?,
                read_only: request.read_only(),
            },
            Command::TableClear => Self::Clear,
            Command::DevSuspend if request.suspends() => Self::Suspend {
                noflush,
                skip_lockfs,
            },
            Command::DevSuspend => Self::Resume {
                noflush,
                skip_lockfs,
            },
            Command::DevRemove => Self::Remove {
                deferred: request.deferred(),
            },
            Command::DevRename => Self::Rename {
                to: request.new_name(),
            },
            Command::TargetMsg => Self::Message {
                text: request.message(),
            },
            _ => return None,
        })
    }
}

impl State {
    /// Keeps what was told, where somebody asked for that.
    pub(super) fn tell(&mut self, told: impl FnOnce(&Self) -> Option<Told>) {
        if self.told.is_some()
            && let Some(told) = told(self)
            && let Some(all) = &mut self.told
        {
            all.push(told);
        }
    }

    /// A command, kept after it was obeyed: what it brought about by itself comes first.
    pub(super) fn dm_told(&mut self, command: Command, words: &mut [u64]) -> Result<i32, Errno> {
        if self.told.is_none() {
            return self.dm(command, words);
        }
        let asked = DmRequest::read(command, words)?;
        let what = DmTold::of(command, &asked);
        let answer = self.dm(command, words);
        self.tell(|_| {
            let made = match (command, &answer) {
                (Command::DevCreate, Ok(_)) => DmRequest::read(command, words).ok()?.dev,
                _ => asked.dev,
            };
            Some(Told::Dm {
                name: asked.name,
                uuid: asked.uuid,
                dev: made,
                what: what?,
            })
        });
        answer
    }
}
