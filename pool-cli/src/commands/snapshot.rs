//! Snapshots of containers and of data volumes: what their commands have in common.

use clap::Args;
use dmthin::graph::{Pool, SnapshotReport};
use dmthin::ids::{SnapshotName, WritableName};
use serde::Serialize;

use crate::args::Context;
use crate::columns::{Cell, Column, ListArgs, more, shown};
use crate::output::{lines, record};

pub(crate) const TAKE_HELP: &str = "\
What is mounted is frozen for the moment, so that the snapshot's file system is clean: who writes to it
waits for some milliseconds. Of what a virtual machine has open it is as after a power cut. Nothing is
copied. A snapshot is never changed; roll back to it as often as you like.

Prints: the snapshot's name. Without one it is `s` and a number.";

pub(crate) const LIST_HELP: &str = "\
The oldest first. SIZE is what its owner had when it was taken. With -q only names are printed.";

pub(crate) const REMOVE_HELP: &str = "\
What only it has comes back to the pool. What was rolled back to it stays as it is.

Prints: the snapshot's name.";

pub(crate) const ROLLBACK_HELP: &str = "\
All that was written since is lost; snapshots stay, younger ones too. Its name, its size and the path of
its device are as before. Refused with exit code 5 while it is mounted or its device is open. Cut at any
moment it is as it was before, or as it is to be.";

/// One snapshot.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// Name of the snapshot
    pub(crate) snapshot: SnapshotName,
}

#[derive(Debug, Serialize)]
struct Snapshots<'a> {
    snapshots: &'a [SnapshotReport],
}

#[derive(Debug, Serialize)]
struct OneSnapshot<'a> {
    snapshot: &'a SnapshotReport,
}

/// Takes one.
pub(crate) fn take(
    context: &Context,
    pool: &Pool,
    of: &WritableName,
    name: Option<&SnapshotName>,
) -> anyhow::Result<()> {
    tell(context, &pool.take_snapshot(of, name)?)
}

/// Removes one.
pub(crate) fn remove(
    context: &Context,
    pool: &Pool,
    of: &WritableName,
    name: &SnapshotName,
) -> anyhow::Result<()> {
    tell(context, &pool.remove_snapshot(of, name)?)
}

fn tell(context: &Context, snapshot: &SnapshotReport) -> anyhow::Result<()> {
    context.out.done(&OneSnapshot { snapshot }, || {
        record([snapshot.name.to_string()])
    })
}

/// Lists them.
pub(crate) fn list(
    context: &Context,
    pool: &Pool,
    of: &WritableName,
    list: &ListArgs,
) -> anyhow::Result<()> {
    let snapshots = pool.snapshots(of)?;
    let text = list.table(COLUMNS, &snapshots)?;
    let body = Snapshots {
        snapshots: &snapshots,
    };
    context.out.show(&body, || {
        if context.out.quiet() {
            lines(snapshots.iter().map(|s| s.name.to_string()))
        } else {
            text
        }
    })
}

const COLUMNS: &[Column<SnapshotReport>] = &[
    shown("name", |s| Cell::text(&s.name)),
    shown("state", |s| Cell::text(s.state)),
    shown("size", |s| Cell::size(s.size)),
    shown("created", |s| Cell::moment(s.created_at)),
    more("fs", |s| Cell::text(s.fs)),
    more("thin-id", |s| Cell::number(s.thin_id.get().into())),
    more("volume", |s| Cell::number(s.volume.get())),
];

#[cfg(test)]
mod tests {
    use dmthin::ids::{ContainerName, FsType, ThinId, VolumeId, VolumeKind};
    use dmthin::store::VolumeState;
    use dmthin::units::Bytes;

    use super::*;

    fn snapshot() -> SnapshotReport {
        SnapshotReport {
            name: SnapshotName::new("s12").unwrap(),
            of: WritableName::Container(ContainerName::new("web").unwrap()),
            kind: VolumeKind::Container,
            state: VolumeState::Ready,
            volume: VolumeId::new(12),
            thin_id: ThinId::new(11).unwrap(),
            size: Bytes::from_gib(10),
            fs: FsType::Ext4,
            created_at: 951_782_400,
        }
    }

    #[test]
    fn snapshots_are_listed() {
        assert_eq!(
            ListArgs::default().table(COLUMNS, &[snapshot()]).unwrap(),
            "\
NAME  STATE  SIZE    CREATED
s12   ready  10 GiB  2000-02-29 00:00:00 UTC
"
        );
    }

    #[test]
    fn json_says_whose_it_is() {
        let value = serde_json::to_value(OneSnapshot {
            snapshot: &snapshot(),
        })
        .unwrap();
        let snapshot = &value["snapshot"];
        assert_eq!(snapshot["of"], "web");
        assert_eq!(snapshot["kind"], "container");
        assert_eq!(snapshot["size"], 10_737_418_240_u64);
    }
}
