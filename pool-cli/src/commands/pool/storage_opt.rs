//! `--storage-opt`: the options of Docker's devicemapper driver, `dm.*`.
//!
//! [`OPTIONS`] has all 23 that `daemon/graphdriver/devmapper/deviceset.go` of moby 24.0 reads.
//! Names are lower-cased, as there; docs/storage-opt.md is kept equal to the list by a test.

use std::fmt;
use std::str::FromStr;

use clap::error::ErrorKind;

use crate::args::{block_size, size};
use crate::commands::pool::create::CreateArgs;
use crate::nearest::nearest;

/// Why an option cannot be had, in clap's terms.
type Refused = (ErrorKind, String);

/// What an option of Docker's is here.
enum Meaning {
    /// The same as an option of ours.
    Becomes(
        &'static str,
        fn(&mut CreateArgs, &Value<'_>) -> Result<(), Refused>,
    ),
    /// True here whatever is asked for, so only `true` is taken.
    Always(&'static str),
    /// Nothing: why, and what to do instead.
    Nothing(&'static str, &'static str),
}

struct DockerOption {
    name: &'static str,
    meaning: Meaning,
}

/// A value, and what is needed to complain about it.
struct Value<'a> {
    name: &'static str,
    flag: &'static str,
    text: &'a str,
    /// Whether `--mkfs-arg` was given.
    plain_mkfs_args: bool,
}

impl Value<'_> {
    /// Reads it into the option of ours, which must not have been given.
    fn put<T, E: fmt::Display>(
        &self,
        slot: &mut Option<T>,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<(), Refused> {
        if slot.is_some() {
            return Err(self.conflict());
        }
        *slot = Some(read(self.text).map_err(|why| {
            let text = format!("invalid value '{}' for {}: {why}", self.text, self.name);
            (ErrorKind::ValueValidation, text)
        })?);
        Ok(())
    }

    fn conflict(&self) -> Refused {
        let text = format!(
            "{} cannot be used twice or together with {}",
            self.name, self.flag
        );
        (ErrorKind::ArgumentConflict, text)
    }
}

/// What takes the place of all of Docker's own LVM set-up.
const LVM: &str = "make two LVM volumes with lvcreate and give them as --data and --metadata";

const OPTIONS: &[DockerOption] = &[
    DockerOption {
        name: "dm.basesize",
        meaning: Meaning::Becomes("--base-size", |args, value| {
            value.put(&mut args.base_size, size)
        }),
    },
    DockerOption {
        name: "dm.loopdatasize",
        meaning: Meaning::Becomes("--size", |args, value| value.put(&mut args.size, size)),
    },
    DockerOption {
        name: "dm.loopmetadatasize",
        meaning: Meaning::Becomes("--metadata-size", |args, value| {
            value.put(&mut args.metadata_size, size)
        }),
    },
    DockerOption {
        name: "dm.datadev",
        meaning: Meaning::Becomes("--data", |args, value| {
            value.put(&mut args.data, str::parse)
        }),
    },
    DockerOption {
        name: "dm.metadatadev",
        meaning: Meaning::Becomes("--metadata", |args, value| {
            value.put(&mut args.metadata, str::parse)
        }),
    },
    DockerOption {
        name: "dm.blocksize",
        meaning: Meaning::Becomes("--block-size", |args, value| {
            value.put(&mut args.block_size, block_size)
        }),
    },
    DockerOption {
        name: "dm.fs",
        meaning: Meaning::Becomes("--fs", |args, value| value.put(&mut args.fs, str::parse)),
    },
    DockerOption {
        name: "dm.mkfsarg",
        meaning: Meaning::Becomes("--mkfs-arg", |args, value| {
            if value.plain_mkfs_args {
                return Err(value.conflict());
            }
            args.mkfs_args.push(value.text.to_owned());
            Ok(())
        }),
    },
    DockerOption {
        name: "dm.min_free_space",
        meaning: Meaning::Becomes("--min-free-data and --min-free-metadata", |args, value| {
            value.put(&mut args.min_free_data, str::parse)?;
            value.put(&mut args.min_free_metadata, str::parse)
        }),
    },
    DockerOption {
        name: "dm.blkdiscard",
        meaning: Meaning::Always("what is removed is always discarded first"),
    },
    DockerOption {
        name: "dm.use_deferred_removal",
        meaning: Meaning::Always("a container that is held is always removed when it is let go"),
    },
    DockerOption {
        name: "dm.use_deferred_deletion",
        meaning: Meaning::Always("what cannot be deleted at once always waits in the queue"),
    },
    DockerOption {
        name: "dm.override_udev_sync_check",
        meaning: Meaning::Always("udev is waited for where it runs, and never needed"),
    },
    DockerOption {
        name: "dm.thinpooldev",
        meaning: Meaning::Nothing(
            "a pool that something else made has no catalogue of ours",
            "give two empty block devices as --data and --metadata",
        ),
    },
    DockerOption {
        name: "dm.mountopt",
        meaning: Meaning::Nothing(
            "a pool has no mount options",
            "mount the device that `container create` prints with the options you want",
        ),
    },
    DockerOption {
        name: "dm.xfs_nospace_max_retries",
        meaning: Meaning::Nothing(
            "what xfs does when the pool is full is set where it is mounted",
            "write the number to /sys/fs/xfs/DEVICE/error/metadata/ENOSPC/max_retries after mounting",
        ),
    },
    DockerOption {
        name: "dm.directlvm_device",
        meaning: Meaning::Nothing("no volume group is made here", LVM),
    },
    DockerOption {
        name: "dm.directlvm_device_force",
        meaning: Meaning::Nothing("a device that carries something is never overwritten", LVM),
    },
    DockerOption {
        name: "dm.thinp_percent",
        meaning: Meaning::Nothing("no volume group is made here", LVM),
    },
    DockerOption {
        name: "dm.thinp_metapercent",
        meaning: Meaning::Nothing("no volume group is made here", LVM),
    },
    DockerOption {
        name: "dm.thinp_autoextend_percent",
        meaning: Meaning::Nothing(
            "it is the monitor that grows pools",
            "set autoextend_percent in [monitor] of /etc/dmthin/config.toml",
        ),
    },
    DockerOption {
        name: "dm.thinp_autoextend_threshold",
        meaning: Meaning::Nothing(
            "it is the monitor that grows pools",
            "set autoextend_threshold in [monitor] of /etc/dmthin/config.toml",
        ),
    },
    DockerOption {
        name: "dm.libdm_log_level",
        meaning: Meaning::Nothing("libdevmapper is not used", "log with -v, -vv or -vvv"),
    },
];

/// One option with its value.
#[derive(Clone)]
pub(crate) struct StorageOpt {
    option: &'static DockerOption,
    value: String,
}

impl fmt::Debug for StorageOpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.option.name, self.value)
    }
}

impl FromStr for StorageOpt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = text
            .split_once('=')
            .ok_or("write it as dm.NAME=VALUE, as in dm.basesize=20G")?;
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        let option = OPTIONS
            .iter()
            .find(|option| option.name == name)
            .ok_or_else(|| unknown(&name))?;
        match option.meaning {
            Meaning::Becomes(..) => {}
            Meaning::Always(says) => match value.to_ascii_lowercase().as_str() {
                "true" | "t" | "1" => {}
                "false" | "f" | "0" => {
                    return Err(format!("{name} is refused: {says}; leave it out"));
                }
                _ => return Err(format!("{name} is true or false")),
            },
            Meaning::Nothing(why, instead) => {
                return Err(format!("{name} is refused: {why}; {instead}"));
            }
        }
        let value = value.to_owned();
        Ok(Self { option, value })
    }
}

fn unknown(name: &str) -> String {
    if name == "size" {
        return "size is an option of a container: see `container create --size`".to_owned();
    }
    let names: Vec<&str> = OPTIONS.iter().map(|option| option.name).collect();
    match nearest(name, &names) {
        Some(meant) => format!("Docker has no option {name}: did you mean {meant}?"),
        None => format!("Docker's devicemapper driver has no option {name}"),
    }
}

impl StorageOpt {
    /// Gives its value to the option of ours that means the same.
    pub(super) fn apply(
        &self,
        args: &mut CreateArgs,
        plain_mkfs_args: bool,
    ) -> Result<(), Refused> {
        match self.option.meaning {
            Meaning::Becomes(flag, set) => set(
                args,
                &Value {
                    name: self.option.name,
                    flag,
                    text: &self.value,
                    plain_mkfs_args,
                },
            ),
            Meaning::Always(_) | Meaning::Nothing(..) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
