//! `pool-cli container`: make, mount and remove containers.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use dmthin::graph::{ContainerReport, CreateContainer, Removing, lossy};
use dmthin::ids::{ContainerName, SnapshotName, WritableName};
use dmthin::units::{Bytes, NewSize};
use serde::Serialize;

use crate::args::{Context, new_size, size};
use crate::columns::{Cell, Column, ListArgs, more, shown};
use crate::commands::commit::{self, COMMIT_HELP, CommitArgs};
use crate::commands::diff::{self, DIFF_HELP, DiffArgs};
use crate::commands::plan;
use crate::commands::queue;
use crate::commands::snapshot::{
    self, LIST_HELP, REMOVE_HELP, ROLLBACK_HELP, SnapshotArgs, TAKE_HELP,
};
use crate::commands::trim::{self, TRIM_HELP, TrimArgs};
use crate::commands::who::{self, WHO_HELP};
use crate::commands::writable::{mounts, node, note_growth, rows};
use crate::output::{Output, fields, lines, record, short};

/// What can be done with containers.
#[derive(Debug, Subcommand)]
pub(crate) enum ContainerCommand {
    /// Make a container: a writable block device over an image
    #[command(after_help = "\
The device is a snapshot of the image's top layer; nothing is copied. With --size larger than the
image's volume its file system is grown; a smaller size is refused.

Prints: the container's name and its device, with a tab between them.

Examples:
  pool-cli container create debian:12
  pool-cli container create debian:12 --name web --size 20G
  pool-cli container create debian:12 | { read -r name device; vmm --disk \"$device\"; }")]
    Create(CreateArgs),
    /// List the containers
    #[command(after_help = "\
MAPPED is what the container has in the pool, with what it shares with its image, while its device
is there. STATE is `creating` until it is whole; where its making was cut, `pool open` settles it.
With -q only names are printed.

Examples:
  pool-cli container list
  pool-cli container list -q | xargs -n 1 pool-cli container rm")]
    List(ListArgs),
    /// Show all there is to know of a container
    #[command(after_help = "\
Examples:
  pool-cli container inspect web
  pool-cli container inspect web --json | jq -r .container.device")]
    Inspect(ContainerArgs),
    /// Show what a container changed of its image
    #[command(after_help = DIFF_HELP)]
    Diff(DiffArgs),
    /// Mount a container's file system
    #[command(after_help = "\
Mounted with `discard`: the host gets back the room of files that are removed. Refused with exit
code 5 where it is mounted already, or where a virtual machine or the like has its device open: a
second mount would ruin what is on it.

Prints: the container's name, its device and where it is mounted, with tabs between them.

Example:
  pool-cli container mount web /mnt")]
    Mount(MountArgs),
    /// Make an image of what a container holds, in use or not
    #[command(after_help = COMMIT_HELP)]
    Commit(CommitArgs),
    /// Make a container's device and file system larger, in use or not
    #[command(after_help = "\
A file system that is mounted on this machine is grown while it is in use, one that is not mounted is
mounted for the moment, out of sight. Where somebody uses the device itself, as a virtual machine does,
only the device grows: grow the file system from within, with resize2fs or xfs_growfs.

Prints: the container's name and its size, with a tab between them.

Examples:
  pool-cli container grow web 40G
  pool-cli container grow web +10G")]
    Grow(GrowArgs),
    /// Unmount a container wherever it is mounted
    #[command(
        name = "umount",
        after_help = "\
Refused with exit code 5 while a file in it is open or a process works in it.

Prints: the directories it was mounted on, one a line.

Example:
  pool-cli container umount web"
    )]
    Unmount(ContainerArgs),
    /// Give back what a container's file system does not use
    #[command(after_help = TRIM_HELP)]
    Trim(TrimArgs),
    /// Show who holds a container open or mounted
    #[command(after_help = WHO_HELP)]
    Who(ContainerArgs),
    /// Make a container of what another one holds now
    #[command(after_help = "\
A snapshot of it, of the same image and as large; nothing is copied. What is mounted is frozen for the
moment, so that the new one's file system is clean: who writes to it waits for some milliseconds. Of what
a virtual machine has open the new one is as after a power cut.

Prints: the new container's name and its device, with a tab between them.

Examples:
  pool-cli container fork web
  pool-cli container fork web --name web-test")]
    Fork(ForkArgs),
    /// Keep the state that a container has now
    #[command(after_help = TAKE_HELP)]
    Snapshot(TakeArgs),
    /// List the snapshots of a container
    #[command(after_help = LIST_HELP)]
    Snapshots(ListOfArgs),
    /// Remove a snapshot of a container
    #[command(name = "snapshot-rm", after_help = REMOVE_HELP)]
    SnapshotRemove(OneOfArgs),
    /// Make a container again what it was when a snapshot was taken
    #[command(after_help = ROLLBACK_HELP)]
    Rollback(OneOfArgs),
    /// Make a container again what its image is
    #[command(after_help = "\
All that was written in it is lost; its snapshots stay. Else as `container rollback`.

Prints: the container's name and its device, with a tab between them.

Example:
  pool-cli container reset web")]
    Reset(ContainerArgs),
    /// Remove a container and what was written in it
    #[command(
        name = "rm",
        after_help = "\
Its name is free at once. Where it is mounted or its device is open, in whatever mount namespace, its
volume is queued: the kernel takes the device away when it is let go, and the monitor or `queue run`
gives the space back then; until it is let go, `queue cancel` takes the removal back. Else a monitor, if
one looks after the pool, gives the space back after the command has ended, and the command itself does
where there is none; with --wait the space is back when it ends. While it has snapshots it is refused
with exit code 5; --snapshots removes them with it, for ever.

Prints: the container's name. That it is queued, and who holds it, goes to stderr. With --dry-run it
prints what would go, `name`, `volume` or `device` and which, and `bytes` that come back to the pool
when nobody holds it, exactly; with tabs between them. Nothing is changed then.

Examples:
  pool-cli container rm web
  pool-cli container rm web --dry-run
  pool-cli container rm web --wait=30      # exit code 5 if somebody holds it longer
  pool-cli container rm web --queue && pool-cli queue run"
    )]
    Remove(RemoveArgs),
}

/// Options of `container create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Name of the image, its id, or the first digits of its id
    image: String,
    /// Name of the container: letters, digits and _ . -, at most 63 [default: one is made up]
    #[arg(long, value_name = "NAME")]
    name: Option<ContainerName>,
    /// Size of its device, in bytes or with K, M, G, T [default: the pool's base size]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    size: Option<Bytes>,
}

/// Options of `container grow`.
#[derive(Debug, Args)]
pub(crate) struct GrowArgs {
    /// Name of the container
    name: ContainerName,
    /// Its new size, or + and how much is to be added
    #[arg(value_parser = new_size)]
    size: NewSize,
}

/// The container of a command.
#[derive(Debug, Args)]
pub(crate) struct ContainerArgs {
    /// Name of the container
    pub(crate) name: ContainerName,
}

/// Options of `container rm`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Name of the container
    name: ContainerName,
    /// Wait until nobody holds it and its space is back, for so long at most [default: no limit]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true)]
    wait: Option<Option<u64>>,
    /// Remove its snapshots too
    #[arg(long)]
    snapshots: bool,
    /// Leave giving the space back to the monitor or `queue run`
    #[arg(long, conflicts_with = "wait")]
    queue: bool,
    /// Show what would go and what would come back, but change nothing
    #[arg(long, conflicts_with_all = ["wait", "queue"])]
    dry_run: bool,
}

/// Options of `container fork`.
#[derive(Debug, Args)]
pub(crate) struct ForkArgs {
    /// Name of the container that it is made of
    of: ContainerName,
    /// Name of the new one [default: one is made up]
    #[arg(long, value_name = "NAME")]
    name: Option<ContainerName>,
}

/// Options of `container snapshot`.
#[derive(Debug, Args)]
pub(crate) struct TakeArgs {
    #[command(flatten)]
    container: ContainerArgs,
    /// Name of the snapshot [default: one is made up]
    snapshot: Option<SnapshotName>,
}

/// Options of `container snapshots`.
#[derive(Debug, Args)]
pub(crate) struct ListOfArgs {
    #[command(flatten)]
    container: ContainerArgs,
    #[command(flatten)]
    list: ListArgs,
}

/// A snapshot of a container.
#[derive(Debug, Args)]
pub(crate) struct OneOfArgs {
    #[command(flatten)]
    container: ContainerArgs,
    #[command(flatten)]
    snapshot: SnapshotArgs,
}

/// Options of `container mount`.
#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    /// Name of the container
    name: ContainerName,
    /// Directory to mount it on; it must exist
    dir: PathBuf,
}

#[derive(Debug, Serialize)]
struct Containers<'a> {
    containers: &'a [ContainerReport],
}

#[derive(Debug, Serialize)]
struct OneContainer<'a> {
    container: &'a ContainerReport,
}

#[derive(Debug, Serialize)]
struct Unmounted<'a> {
    name: &'a ContainerName,
    #[serde(serialize_with = "lossy::list")]
    unmounted: &'a [PathBuf],
}

/// Runs one of them.
pub(crate) fn run(context: &Context, command: ContainerCommand) -> anyhow::Result<()> {
    let out = &context.out;
    let pool = context.pool(None)?;
    match command {
        ContainerCommand::Create(CreateArgs { image, name, size }) => {
            let container = pool.create_container(&CreateContainer { image, name, size })?;
            show_device(out, &container)
        }
        ContainerCommand::List(list) => {
            let containers = pool.containers()?;
            // What is wrong with the columns is told before anything is printed.
            let text = list.table(COLUMNS, &containers)?;
            let body = Containers {
                containers: &containers,
            };
            out.show(&body, || {
                if out.quiet() {
                    lines(containers.iter().map(|c| c.name.to_string()))
                } else {
                    text
                }
            })
        }
        ContainerCommand::Inspect(ContainerArgs { name }) => {
            let container = pool.container(&name)?;
            let body = OneContainer {
                container: &container,
            };
            out.show(&body, || container_fields(&container))
        }
        ContainerCommand::Diff(args) => diff::run(context, &pool, &args),
        ContainerCommand::Commit(args) => commit::run(context, args),
        ContainerCommand::Mount(MountArgs { name, dir }) => {
            let container = pool.mount_container(&name, &dir)?;
            let body = OneContainer {
                container: &container,
            };
            out.done(&body, || {
                record([
                    container.name.to_string(),
                    node(&container.on),
                    mounts(&container.on),
                ])
            })
        }
        ContainerCommand::Grow(GrowArgs { name, size }) => {
            let grown = pool.grow_container(&name, size)?;
            note_growth(
                out,
                &format!("container {name}"),
                grown.change,
                grown.fs_grown,
            );
            let size = grown.container.on.size;
            out.done(&grown, || record([name.to_string(), size.to_string()]))
        }
        ContainerCommand::Unmount(ContainerArgs { name }) => {
            let unmounted = pool.unmount_container(&name)?;
            if unmounted.is_empty() {
                out.note(&format!("container {name} was mounted nowhere"));
            }
            let body = Unmounted {
                name: &name,
                unmounted: &unmounted,
            };
            out.done(&body, || {
                lines(unmounted.iter().map(|dir| dir.display().to_string()))
            })
        }
        ContainerCommand::Trim(args) => trim::run(context, args),
        ContainerCommand::Who(ContainerArgs { name }) => who::run(context, &name),
        ContainerCommand::Fork(ForkArgs { of, name }) => {
            show_device(out, &pool.fork_container(&of, name.as_ref())?)
        }
        ContainerCommand::Snapshot(TakeArgs {
            container,
            snapshot,
        }) => {
            let of = WritableName::Container(container.name);
            snapshot::take(context, &pool, &of, snapshot.as_ref())
        }
        ContainerCommand::Snapshots(ListOfArgs { container, list }) => {
            let of = WritableName::Container(container.name);
            snapshot::list(context, &pool, &of, &list)
        }
        ContainerCommand::SnapshotRemove(OneOfArgs {
            container,
            snapshot,
        }) => {
            let of = WritableName::Container(container.name);
            snapshot::remove(context, &pool, &of, &snapshot.snapshot)
        }
        ContainerCommand::Rollback(OneOfArgs {
            container,
            snapshot,
        }) => {
            let to = &snapshot.snapshot;
            show_device(out, &pool.rollback_container(&container.name, to)?)
        }
        ContainerCommand::Reset(ContainerArgs { name }) => {
            show_device(out, &pool.reset_container(&name)?)
        }
        ContainerCommand::Remove(RemoveArgs {
            name,
            snapshots,
            dry_run: true,
            ..
        }) => {
            let name = WritableName::Container(name);
            plan::show(context, &pool.plan_remove(&name, snapshots)?)
        }
        ContainerCommand::Remove(RemoveArgs {
            name,
            wait,
            queue,
            snapshots,
            ..
        }) => {
            let how = match wait {
                Some(limit) => Removing::Wait(limit.map(Duration::from_secs)),
                None if queue => Removing::Queued,
                None => Removing::Handed,
            };
            let gone = if snapshots {
                pool.remove_container_with_snapshots(&name, how)?
            } else {
                pool.remove_container(&name, how)?
            };
            if !gone.removed {
                let why = match gone.holders.as_slice() {
                    [] if gone.handed => "the monitor gives its space back".to_owned(),
                    [] if queue => "waits for `pool-cli queue run`".to_owned(),
                    holders => queue::told(holders),
                };
                out.note(&format!(
                    "container {name} is removed; its volume is queued, {why}"
                ));
            }
            out.done(&gone, || record([name.to_string()]))
        }
    }
}

/// Tells which device a container has.
pub(crate) fn show_device(out: &Output, container: &ContainerReport) -> anyhow::Result<()> {
    out.done(&OneContainer { container }, || {
        record([container.name.to_string(), node(&container.on)])
    })
}

const COLUMNS: &[Column<ContainerReport>] = &[
    shown("name", |c| Cell::text(&c.name)),
    shown("image", |c| Cell::text(&c.image)),
    shown("state", |c| Cell::text(c.on.state)),
    shown("size", |c| Cell::size(c.on.size)),
    shown("mapped", |c| Cell::size_or_dash(c.on.mapped)),
    shown("created", |c| Cell::moment(c.on.created_at)),
    shown("device", |c| Cell::text(node(&c.on))),
    shown("mounted-on", |c| Cell::text(mounts(&c.on))),
    more("fs", |c| Cell::text(c.on.fs)),
    more("growing-to", |c| Cell::size_or_dash(c.on.growing_to)),
    more("image-id", |c| Cell::text(c.image_id)),
    more("thin-id", |c| Cell::number(c.on.thin_id.get().into())),
    more("volume", |c| Cell::number(c.on.volume.get())),
];

fn container_fields(container: &ContainerReport) -> String {
    let image = format!("{} ({})", container.image, short(container.image_id));
    let own = [("Container", container.name.to_string()), ("Image", image)];
    fields(own.into_iter().chain(rows(&container.on)))
}

#[cfg(test)]
pub(crate) mod tests {
    use dmthin::graph::WritableReport;
    use dmthin::ids::{DevNo, Digest, FsType, ThinId, VolumeId};
    use dmthin::store::VolumeState;

    use super::*;

    pub(crate) fn container(active: bool) -> ContainerReport {
        ContainerReport {
            name: ContainerName::new("web").unwrap(),
            image: "debian:12".to_owned(),
            image_id: Digest::from_bytes([0xab; 32]),
            on: WritableReport {
                state: VolumeState::Ready,
                volume: VolumeId::new(9),
                thin_id: ThinId::new(8).unwrap(),
                size: Bytes::from_gib(10),
                growing_to: None,
                mapped: active.then(|| Bytes::from_mib(212)),
                fs: FsType::Ext4,
                fs_uuid: None,
                created_at: 951_782_400,
                device: active.then(|| PathBuf::from("/dev/mapper/dmthin-tank-web")),
                devno: active.then(|| DevNo::new(254, 3)),
                mounts: if active {
                    vec!["/mnt".into(), "/srv/web".into()]
                } else {
                    vec![]
                },
            },
        }
    }

    #[test]
    fn containers_are_listed_active_or_not() {
        assert_eq!(
            ListArgs::default()
                .table(COLUMNS, &[container(true), container(false)])
                .unwrap(),
            "\
NAME  IMAGE      STATE  SIZE    MAPPED   CREATED                  DEVICE                       MOUNTED ON
web   debian:12  ready  10 GiB  212 MiB  2000-02-29 00:00:00 UTC  /dev/mapper/dmthin-tank-web  /mnt,/srv/web
web   debian:12  ready  10 GiB  -        2000-02-29 00:00:00 UTC  -                            -
"
        );
    }

    #[test]
    fn a_container_is_shown_whole() {
        assert_eq!(
            container_fields(&container(true)),
            "\
Container:    web
Image:        debian:12 (abababababab)
Created:      2000-02-29 00:00:00 UTC
State:        ready
Size:         10 GiB
Mapped:       212 MiB
File system:  ext4
UUID:         -
Device:       /dev/mapper/dmthin-tank-web
Number:       254:3
Mounted on:   /mnt,/srv/web
Volume:       9
Thin id:      8
"
        );
    }

    #[test]
    fn json_has_numbers_and_nulls() {
        let value = serde_json::to_value(OneContainer {
            container: &container(false),
        })
        .unwrap();
        let container = &value["container"];
        assert_eq!(container["size"], 10_737_418_240_u64);
        assert_eq!(container["thin_id"], 8);
        assert_eq!(container["device"], serde_json::Value::Null);
        assert_eq!(container["fs"], "ext4");
    }
}
