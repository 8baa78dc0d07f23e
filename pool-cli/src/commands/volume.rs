//! `pool-cli volume`: data volumes, which live apart from containers.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use dmthin::graph::{CreateVolume, DataVolumeReport, lossy};
use dmthin::ids::{FsType, SnapshotName, VolumeName, WritableName};
use dmthin::units::{Bytes, NewSize};
use serde::Serialize;

use crate::args::{Context, new_size, size};
use crate::columns::{Cell, Column, ListArgs, more, shown};
use crate::commands::snapshot::{
    self, LIST_HELP, REMOVE_HELP, ROLLBACK_HELP, SnapshotArgs, TAKE_HELP,
};
use crate::commands::who::{self, WHO_HELP};
use crate::commands::writable::{mounts, node, note_growth, rows};
use crate::commands::{plan, trim};
use crate::output::{fields, lines, record};

/// What can be done with data volumes.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make a data volume: an empty file system on a block device
    #[command(after_help = "\
It belongs to no container and outlives them. Blocks of the pool are taken as it is written.

Prints: the volume's name and its device, with a tab between them.

Examples:
  pool-cli volume create db 20G
  pool-cli volume create scratch 1T --fs xfs")]
    Create(CreateArgs),
    /// List the data volumes
    #[command(after_help = "\
MAPPED is what the volume has in the pool, with what it shares with its snapshots, while its device is
there. With -q only names are printed.

Example:
  pool-cli volume list")]
    List(ListArgs),
    /// Show all there is to know of a data volume
    #[command(after_help = "\
Example:
  pool-cli volume inspect db --json | jq -r .volume.device")]
    Inspect(VolumeArgs),
    /// Mount a data volume
    #[command(after_help = "\
As `container mount` does: with `discard`, and in one place only.

Prints: the volume's name, its device and where it is mounted, with tabs between them.

Example:
  pool-cli volume mount db /srv/db")]
    Mount(MountArgs),
    /// Unmount a data volume wherever it is mounted
    #[command(
        name = "umount",
        after_help = "\
Refused with exit code 5 while a file in it is open or a process works in it.

Prints: the directories it was mounted on, one a line.

Example:
  pool-cli volume umount db"
    )]
    Unmount(VolumeArgs),
    /// Make a data volume and its file system larger, in use or not
    #[command(after_help = "\
As `container grow` does.

Prints: the volume's name and its size, with a tab between them.

Example:
  pool-cli volume grow db +10G")]
    Grow(GrowArgs),
    /// Give back what a data volume's file system does not use
    #[command(after_help = "\
Prints: the volume's name and how much was trimmed, with a tab between them. `trim --all` trims the
data volumes too.

Example:
  pool-cli volume trim db")]
    Trim(VolumeArgs),
    /// Show who holds a data volume open or mounted
    #[command(after_help = WHO_HELP)]
    Who(VolumeArgs),
    /// Keep the state that a data volume has now
    #[command(after_help = TAKE_HELP)]
    Snapshot(TakeArgs),
    /// List the snapshots of a data volume
    #[command(after_help = LIST_HELP)]
    Snapshots(ListOfArgs),
    /// Remove a snapshot of a data volume
    #[command(name = "snapshot-rm", after_help = REMOVE_HELP)]
    SnapshotRemove(OneOfArgs),
    /// Make a data volume again what it was when a snapshot was taken
    #[command(after_help = ROLLBACK_HELP)]
    Rollback(OneOfArgs),
    /// Remove a data volume and all that is in it
    #[command(
        name = "rm",
        after_help = "\
Refused with exit code 5 while it is mounted or its device is open, and while it has snapshots, which
--snapshots removes with it. There is no way back.

Prints: the volume's name. With --dry-run it prints what would go, `name`, `volume` or `device` and
which, and `bytes` that come back to the pool, exactly; with tabs between them. Nothing is changed then.

Example:
  pool-cli volume rm db"
    )]
    Remove(RemoveArgs),
}

/// Options of `volume create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Name of the volume: letters, digits and _ . -, at most 63
    name: VolumeName,
    /// Size of its device, in bytes or with K, M, G, T
    #[arg(value_parser = size)]
    size: Bytes,
    /// Its file system, ext4 or xfs [default: the pool's]
    #[arg(long, value_name = "FS")]
    fs: Option<FsType>,
}

/// The volume of a command.
#[derive(Debug, Args)]
pub(crate) struct VolumeArgs {
    /// Name of the volume
    name: VolumeName,
}

/// Options of `volume mount`.
#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    #[command(flatten)]
    volume: VolumeArgs,
    /// Directory to mount it on; it must exist
    dir: PathBuf,
}

/// Options of `volume grow`.
#[derive(Debug, Args)]
pub(crate) struct GrowArgs {
    #[command(flatten)]
    volume: VolumeArgs,
    /// Its new size, or + and how much is to be added
    #[arg(value_parser = new_size)]
    size: NewSize,
}

/// Options of `volume snapshot`.
#[derive(Debug, Args)]
pub(crate) struct TakeArgs {
    #[command(flatten)]
    volume: VolumeArgs,
    /// Name of the snapshot [default: one is made up]
    snapshot: Option<SnapshotName>,
}

/// Options of `volume snapshots`.
#[derive(Debug, Args)]
pub(crate) struct ListOfArgs {
    #[command(flatten)]
    volume: VolumeArgs,
    #[command(flatten)]
    list: ListArgs,
}

/// A snapshot of a volume.
#[derive(Debug, Args)]
pub(crate) struct OneOfArgs {
    #[command(flatten)]
    volume: VolumeArgs,
    #[command(flatten)]
    snapshot: SnapshotArgs,
}

/// Options of `volume rm`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    volume: VolumeArgs,
    /// Remove its snapshots too
    #[arg(long)]
    snapshots: bool,
    /// Show what would go and what would come back, but change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Volumes<'a> {
    volumes: &'a [DataVolumeReport],
}

#[derive(Debug, Serialize)]
struct OneVolume<'a> {
    volume: &'a DataVolumeReport,
}

#[derive(Debug, Serialize)]
struct Unmounted<'a> {
    name: &'a VolumeName,
    #[serde(serialize_with = "lossy::list")]
    unmounted: &'a [PathBuf],
}

/// Runs one of them.
pub(crate) fn run(context: &Context, command: VolumeCommand) -> anyhow::Result<()> {
    let out = &context.out;
    let pool = context.pool(None)?;
    match command {
        VolumeCommand::Create(CreateArgs { name, size, fs }) => {
            let volume = pool.create_volume(&CreateVolume { name, size, fs })?;
            show_device(context, &volume)
        }
        VolumeCommand::List(list) => {
            let volumes = pool.volumes()?;
            let text = list.table(COLUMNS, &volumes)?;
            out.show(&Volumes { volumes: &volumes }, || {
                if out.quiet() {
                    lines(volumes.iter().map(|v| v.name.to_string()))
                } else {
                    text
                }
            })
        }
        VolumeCommand::Inspect(VolumeArgs { name }) => {
            let volume = pool.volume(&name)?;
            out.show(&OneVolume { volume: &volume }, || volume_fields(&volume))
        }
        VolumeCommand::Mount(MountArgs { volume, dir }) => {
            let volume = pool.mount_volume(&volume.name, &dir)?;
            out.done(&OneVolume { volume: &volume }, || {
                record([
                    volume.name.to_string(),
                    node(&volume.on),
                    mounts(&volume.on),
                ])
            })
        }
        VolumeCommand::Unmount(VolumeArgs { name }) => {
            let unmounted = pool.unmount_volume(&name)?;
            if unmounted.is_empty() {
                out.note(&format!("volume {name} was mounted nowhere"));
            }
            let body = Unmounted {
                name: &name,
                unmounted: &unmounted,
            };
            out.done(&body, || {
                lines(unmounted.iter().map(|dir| dir.display().to_string()))
            })
        }
        VolumeCommand::Grow(GrowArgs { volume, size }) => {
            let name = volume.name;
            let grown = pool.grow_volume(&name, size)?;
            note_growth(out, &format!("volume {name}"), grown.change, grown.fs_grown);
            let size = grown.volume.on.size;
            out.done(&grown, || record([name.to_string(), size.to_string()]))
        }
        VolumeCommand::Trim(VolumeArgs { name }) => {
            let trimmed = pool.trim_volume(&name)?;
            trim::tell(context, vec![trim::report((&name).into(), trimmed)])
        }
        VolumeCommand::Who(VolumeArgs { name }) => who::tell(context, &pool.who_has_volume(&name)?),
        VolumeCommand::Snapshot(TakeArgs { volume, snapshot }) => {
            let of = WritableName::Data(volume.name);
            snapshot::take(context, &pool, &of, snapshot.as_ref())
        }
        VolumeCommand::Snapshots(ListOfArgs { volume, list }) => {
            snapshot::list(context, &pool, &WritableName::Data(volume.name), &list)
        }
        VolumeCommand::SnapshotRemove(OneOfArgs { volume, snapshot }) => {
            let of = WritableName::Data(volume.name);
            snapshot::remove(context, &pool, &of, &snapshot.snapshot)
        }
        VolumeCommand::Rollback(OneOfArgs { volume, snapshot }) => {
            let volume = pool.rollback_volume(&volume.name, &snapshot.snapshot)?;
            show_device(context, &volume)
        }
        VolumeCommand::Remove(RemoveArgs {
            volume,
            snapshots,
            dry_run: true,
        }) => {
            let name = WritableName::Data(volume.name);
            plan::show(context, &pool.plan_remove(&name, snapshots)?)
        }
        VolumeCommand::Remove(RemoveArgs {
            volume, snapshots, ..
        }) => {
            let gone = pool.remove_volume(&volume.name, snapshots)?;
            if gone.handed {
                out.note(&format!(
                    "volume {} is removed; the monitor gives its space back",
                    gone.name
                ));
            }
            out.done(&gone, || record([gone.name.to_string()]))
        }
    }
}

fn show_device(context: &Context, volume: &DataVolumeReport) -> anyhow::Result<()> {
    context.out.done(&OneVolume { volume }, || {
        record([volume.name.to_string(), node(&volume.on)])
    })
}

const COLUMNS: &[Column<DataVolumeReport>] = &[
    shown("name", |v| Cell::text(&v.name)),
    shown("state", |v| Cell::text(v.on.state)),
    shown("size", |v| Cell::size(v.on.size)),
    shown("mapped", |v| Cell::size_or_dash(v.on.mapped)),
    shown("created", |v| Cell::moment(v.on.created_at)),
    shown("device", |v| Cell::text(node(&v.on))),
    shown("mounted-on", |v| Cell::text(mounts(&v.on))),
    more("fs", |v| Cell::text(v.on.fs)),
    more("growing-to", |v| Cell::size_or_dash(v.on.growing_to)),
    more("thin-id", |v| Cell::number(v.on.thin_id.get().into())),
    more("volume", |v| Cell::number(v.on.volume.get())),
];

fn volume_fields(volume: &DataVolumeReport) -> String {
    let own = [("Data volume", volume.name.to_string())];
    fields(own.into_iter().chain(rows(&volume.on)))
}

#[cfg(test)]
pub(crate) mod tests {
    use dmthin::graph::WritableReport;
    use dmthin::ids::{DevNo, ThinId, VolumeId};
    use dmthin::store::VolumeState;

    use super::*;

    pub(crate) fn volume() -> DataVolumeReport {
        DataVolumeReport {
            name: VolumeName::new("db").unwrap(),
            on: WritableReport {
                state: VolumeState::Ready,
                volume: VolumeId::new(9),
                thin_id: ThinId::new(8).unwrap(),
                size: Bytes::from_gib(20),
                growing_to: None,
                mapped: Some(Bytes::from_mib(3)),
                fs: FsType::Xfs,
                fs_uuid: None,
                created_at: 951_782_400,
                device: Some("/dev/mapper/dmthin-tank-vol-db".into()),
                devno: Some(DevNo::new(254, 3)),
                mounts: vec!["/srv/db".into()],
            },
        }
    }

    #[test]
    fn volumes_are_listed() {
        assert_eq!(
            ListArgs::default().table(COLUMNS, &[volume()]).unwrap(),
            "\
NAME  STATE  SIZE    MAPPED  CREATED                  DEVICE                          MOUNTED ON
db    ready  20 GiB  3 MiB   2000-02-29 00:00:00 UTC  /dev/mapper/dmthin-tank-vol-db  /srv/db
"
        );
    }

    #[test]
    fn a_volume_is_shown_whole() {
        assert_eq!(
            volume_fields(&volume()),
            "\
Data volume:  db
Created:      2000-02-29 00:00:00 UTC
State:        ready
Size:         20 GiB
Mapped:       3 MiB
File system:  xfs
UUID:         -
Device:       /dev/mapper/dmthin-tank-vol-db
Number:       254:3
Mounted on:   /srv/db
Volume:       9
Thin id:      8
"
        );
        let mut growing = volume();
        growing.on.growing_to = Some(Bytes::from_gib(40));
        let text = volume_fields(&growing);
        assert!(text.contains("20 GiB, growing to 40 GiB\n"), "{text}");
    }
}
