//! Who makes the nodes in `/dev/mapper`: udev, told by cookies, or we.
//!
//! A cookie is a System V semaphore whose key goes with the `ioctl` into the uevent; udev's rules
//! count it down when they are done (`95-dm-notify.rules` runs `dmsetup udevcomplete`). It starts
//! at 1, which is ours; each `ioctl` that may send a uevent adds 1; then ours is taken off and 0
//! is waited for. So cookies are used only where a udevd runs, shares our semaphores, and has rules
//! that complete them, the wait is bounded, and the semaphore is removed on every path.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::dm::error::DmError;
use crate::ioctl::{Cookie, IoctlError, Semaphore};

/// The upper half of every cookie's key, `DM_COOKIE_MAGIC` of libdm.
const COOKIE_MAGIC: u16 = 0x0d4d;

fn cookie_key(base: u16) -> u32 {
    u32::from(COOKIE_MAGIC) << 16 | u32::from(base)
}
/// How many keys are tried for a free one.
const KEY_TRIES: u32 = 64;
/// Directories of udev rules, the first that has a file of a name wins.
const RULE_DIRS: [&str; 5] = [
    "etc/udev/rules.d",
    "run/udev/rules.d",
    "usr/local/lib/udev/rules.d",
    "usr/lib/udev/rules.d",
    "lib/udev/rules.d",
];
/// The first IPC namespace, `IPC_NS_INIT_INO`.
const FIRST_IPC: &str = "ipc:[4026531839]";
const NOTIFY_RULES: &str = "95-dm-notify.rules";

/// Who makes device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodePolicy {
    /// udev; it is waited for.
    Udev,
    /// This library.
    Own,
}

impl NodePolicy {
    /// Looks at what runs beneath a root directory, `/` but for tests.
    #[must_use]
    pub fn detect(root: &Path) -> Self {
        if root.join("run/udev/control").exists()
            && shares_semaphores(root)
            && rules_complete_cookies(root)
        {
            Self::Udev
        } else {
            Self::Own
        }
    }
}

/// Whether we are in the first IPC namespace, as udevd is (`include/uapi/linux/nsfs.h`): in a container
/// that only has the host's `/run`, nobody would ever find our semaphores.
fn shares_semaphores(root: &Path) -> bool {
    fs::read_link(root.join("proc/self/ns/ipc")).is_ok_and(|name| name == Path::new(FIRST_IPC))
}

/// Whether the rules run a program that is there to count cookies down.
fn rules_complete_cookies(root: &Path) -> bool {
    RULE_DIRS
        .iter()
        .find_map(|dir| fs::read_to_string(root.join(dir).join(NOTIFY_RULES)).ok())
        .is_some_and(|rules| {
            rules
                .lines()
                .filter(|line| !line.trim_start().starts_with('#'))
                .flat_map(|line| line.split('"'))
                .filter_map(|text| text.split_once(" udevcomplete"))
                .any(|(program, _)| root.join(program.trim_start_matches('/')).exists())
        })
}

/// What udev's rules are to leave out for a device, `DM_UDEV_*_FLAG` of libdm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UdevFlags(u16);

impl UdevFlags {
    const DISABLE_DM_RULES: u16 = 0x1;
    const DISABLE_SUBSYSTEM_RULES: u16 = 0x2;
    const DISABLE_DISK_RULES: u16 = 0x4;
    const DISABLE_OTHER_RULES: u16 = 0x8;
    const LOW_PRIORITY: u16 = 0x10;
    const PRIMARY_SOURCE: u16 = 0x40;

    /// A device only we use: no scan for file systems, no links by label or uuid, which all
    /// snapshots of one volume would fight over.
    pub const INTERNAL: Self =
        Self(Self::DISABLE_SUBSYSTEM_RULES | Self::DISABLE_DISK_RULES | Self::DISABLE_OTHER_RULES);
    /// A device for a container: no scan, and it yields its links to others.
    pub const CONTAINER: Self = Self(Self::DISABLE_DISK_RULES | Self::LOW_PRIORITY);
}

/// The cookie of one operation.
#[derive(Debug)]
pub(super) enum Transaction {
    /// udev counts down.
    Udev {
        semaphore: Semaphore,
        cookie: Cookie,
    },
    /// The rules get the flags and nobody is waited for.
    Own { cookie: Cookie },
}

impl Transaction {
    pub(super) fn begin(policy: NodePolicy, flags: UdevFlags) -> Result<Self, DmError> {
        // Marks the event as one of a tool's own, not of a probe that closed the device.
        let flags = flags.0 | UdevFlags::PRIMARY_SOURCE;
        if policy == NodePolicy::Own {
            let flags = flags | UdevFlags::DISABLE_DM_RULES;
            return Ok(Self::Own {
                cookie: Cookie::new(0, flags),
            });
        }
        for _ in 0..KEY_TRIES {
            let mut base = [0; 2];
            rustix::rand::getrandom(&mut base, rustix::rand::GetRandomFlags::empty())
                .map_err(|errno| DmError::Random { errno })?;
            let base = u16::from_ne_bytes(base);
            // 0 means no semaphore.
            if base == 0 {
                continue;
            }
            let key = cookie_key(base);
            if let Some(semaphore) = Semaphore::create(key, 1)? {
                return Ok(Self::Udev {
                    semaphore,
                    cookie: Cookie::new(base, flags),
                });
            }
        }
        Err(DmError::Ioctl(IoctlError::Semaphore {
            action: "find a free key for",
            key: cookie_key(0),
            errno: crate::ioctl::Errno::EXIST,
        }))
    }

    /// Runs an operation that may send a uevent; `uevent` tells from its result whether it did.
    pub(super) fn run<T>(
        &self,
        operation: impl FnOnce(Cookie) -> Result<T, IoctlError>,
        uevent: impl FnOnce(&T) -> bool,
    ) -> Result<T, DmError> {
        match self {
            Self::Own { cookie } => Ok(operation(*cookie)?),
            Self::Udev { semaphore, cookie } => {
                semaphore.increment()?;
                let result = operation(*cookie);
                // Without an event nobody else will count down.
                if !result.as_ref().is_ok_and(uevent) {
                    semaphore.decrement()?;
                }
                Ok(result?)
            }
        }
    }

    /// Waits until udev is done. That it is not in time is no error: the caller checks the node
    /// and makes it where it is missing.
    pub(super) fn wait(self, limit: Duration) {
        let Self::Udev { semaphore, .. } = self else {
            return;
        };
        let waited = semaphore
            .decrement()
            .and_then(|()| semaphore.wait_for_zero(limit));
        if let Err(error) = waited {
            tracing::warn!(%error, "going on without udev");
        }
    }
}

/// Removes the semaphores of cookies that processes of ours left which were killed while udev was busy; says how
/// many. Those of others are theirs.
pub(crate) fn free_cookies() -> Result<usize, DmError> {
    Ok(Semaphore::remove_abandoned(COOKIE_MAGIC)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ioctl::Errno;

    /// A root directory with these files, seen from an IPC namespace of this name.
    fn root(files: &[(&str, &str)], ipc: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc/self/ns")).unwrap();
        std::os::unix::fs::symlink(ipc, root.path().join("proc/self/ns/ipc")).unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const RULES: &str =
        "ENV{DM_COOKIE}==\"?*\", RUN+=\"/sbin/dmsetup udevcomplete $env{DM_COOKIE}\"\n";

    #[test]
    fn udev_is_used_only_where_it_completes_cookies() {
        const CONTROL: (&str, &str) = ("run/udev/control", "");
        const DMSETUP: (&str, &str) = ("sbin/dmsetup", "");
        const VENDOR: (&str, &str) = ("usr/lib/udev/rules.d/95-dm-notify.rules", RULES);
        for (files, policy) in [
            (&[CONTROL, DMSETUP, VENDOR][..], NodePolicy::Udev),
            (&[DMSETUP, VENDOR], NodePolicy::Own),
            (&[CONTROL, VENDOR], NodePolicy::Own),
            (&[CONTROL, DMSETUP], NodePolicy::Own),
            // Masked, as an administrator does it.
            (
                &[
                    CONTROL,
                    DMSETUP,
                    VENDOR,
                    ("etc/udev/rules.d/95-dm-notify.rules", ""),
                ],
                NodePolicy::Own,
            ),
            (
                &[
                    CONTROL,
                    DMSETUP,
                    ("lib/udev/rules.d/95-dm-notify.rules", &format!("# {RULES}")),
                ],
                NodePolicy::Own,
            ),
        ] {
            let first = root(files, "ipc:[4026531839]");
            assert_eq!(NodePolicy::detect(first.path()), policy, "{files:?}");
            // In a container nobody counts its semaphores down.
            let own = root(files, "ipc:[4026532201]");
            assert_eq!(NodePolicy::detect(own.path()), NodePolicy::Own, "{files:?}");
        }
    }

    #[test]
    fn flags_are_those_of_libdm() {
        assert_eq!(UdevFlags::INTERNAL, UdevFlags(0xe));
        assert_eq!(UdevFlags::CONTAINER, UdevFlags(0x14));
        let own = Transaction::begin(NodePolicy::Own, UdevFlags::INTERNAL).unwrap();
        own.run(
            |cookie| {
                assert_eq!(cookie.get(), 0x004f_0000);
                Ok(())
            },
            |()| false,
        )
        .unwrap();
    }

    fn value(transaction: &Transaction) -> u16 {
        match transaction {
            Transaction::Udev { semaphore, .. } => semaphore.value().unwrap(),
            Transaction::Own { .. } => panic!("no semaphore"),
        }
    }

    #[test]
    fn a_cookie_counts_only_what_udev_will_complete() {
        let transaction = Transaction::begin(NodePolicy::Udev, UdevFlags::CONTAINER).unwrap();
        assert_eq!(value(&transaction), 1);
        let cookie = transaction
            .run(
                |cookie| {
                    assert_eq!(value(&transaction), 2);
                    Ok(cookie)
                },
                |_| true,
            )
            .unwrap();
        assert_eq!(cookie.get() >> 16, 0x54);
        assert_ne!(cookie.get() & 0xffff, 0);
        assert_eq!(value(&transaction), 2);
        transaction.run(|_| Ok(()), |()| false).unwrap();
        assert_eq!(value(&transaction), 2);
        let failed: Result<(), _> = transaction.run(
            |_| {
                Err(IoctlError::Dm {
                    command: "DM_DEV_REMOVE",
                    device: "a".to_owned(),
                    errno: Errno::BUSY,
                })
            },
            |()| true,
        );
        assert_eq!(failed.unwrap_err().errno(), Some(Errno::BUSY));
        assert_eq!(value(&transaction), 2);
        // One is outstanding for ever: the wait ends all the same, and the semaphore is gone.
        let key = u32::from(COOKIE_MAGIC) << 16 | cookie.get() & 0xffff;
        transaction.wait(Duration::from_millis(10));
        assert!(!Semaphore::remove_key(key).unwrap());
    }
}
