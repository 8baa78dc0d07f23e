//! `pool-cli pool recover --rebuild`: makes the catalogue of a pool again.

use std::path::PathBuf;

use clap::Args;
use dmthin::graph::{CopyFound, DevicePair, RebuildOn, RebuildPool, RebuildReport};
use dmthin::ids::PoolName;
use dmthin::store::Dropped;
use serde::Serialize;

use crate::args::Context;
use crate::output::record;

pub(crate) const RECOVER_HELP: &str = "\
For a pool whose catalogue is gone, damaged, or older than the pool (exit code 8). A new one is
made of what the pool has: its thin devices, and the copy of the catalogue that it keeps in
itself, which may lack what the last commands before a power cut did. Nothing is written to the
pool. What is left of the old catalogue is kept, as catalogue.db.lost-N. A pool that is open is
closed, or refused with exit code 5 while it is in use. A catalogue that is sound and the pool's
is never replaced (exit code 4).

A volume that the copy does not know becomes a container lost-ID of an image lost-found: it can be
mounted or copied as any other, and goes only by `container rm`. A pool of an earlier version has
no copy before it is opened by this one: all of its volumes are lost-ID then. A pool that does not
lie on files under the root needs --data and --metadata, or --device. One in another's thin-pool
cannot be made again.

Prints: `copy`, none, damaged or whole, and when the last of it was written (seconds since 1970);
`known` and how many volumes are what they were; `lost`, the container's name, its size, what is
mapped of it in bytes and its file system or a dash, for each that is not; `dropped` for what the
copy has and the pool has not: `container`, `volume`, `image`, `snapshot` with what it was of, or
`rows`, and which; `aside` and where the old catalogue is; with tabs between them.

Examples:
  pool-cli pool recover tank --rebuild --dry-run
  pool-cli pool recover tank --rebuild && pool-cli pool open tank
  pool-cli pool recover fast --rebuild --data /dev/vg/data --metadata /dev/vg/meta";

/// Options of `pool recover`.
#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// Name of the pool
    name: PoolName,
    /// Make its catalogue again; what a cut left in a pool that has one, `pool open` settles
    #[arg(long, required = true)]
    rebuild: bool,
    /// Say what would be found, of a pool that is closed, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// The block device with its data
    #[arg(long, value_name = "DEV", requires = "metadata")]
    data: Option<PathBuf>,
    /// The block device with its metadata
    #[arg(long, value_name = "DEV", requires = "data")]
    metadata: Option<PathBuf>,
    /// The disk that it lies on whole
    #[arg(long, value_name = "DEV", conflicts_with_all = ["data", "metadata"])]
    device: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Planned<'a> {
    would_be: &'a RebuildReport,
}

#[derive(Debug, Serialize)]
struct Done<'a> {
    rebuilt: &'a RebuildReport,
}

/// Runs it.
pub(crate) fn run(context: &Context, args: RecoverArgs) -> anyhow::Result<()> {
    let on = match (args.data, args.metadata, args.device) {
        (Some(data), Some(metadata), _) => Some(RebuildOn::Devices(DevicePair { data, metadata })),
        (_, _, Some(device)) => Some(RebuildOn::Disk(device)),
        _ => None,
    };
    let pool = RebuildPool {
        name: args.name,
        on,
    };
    let out = &context.out;
    if args.dry_run {
        let report = context.host.plan_rebuild(&pool)?;
        return out.show(&Planned { would_be: &report }, || text(&report));
    }
    let report = context.host.rebuild_pool(&pool)?;
    out.done(&Done { rebuilt: &report }, || text(&report))
}

fn text(report: &RebuildReport) -> String {
    let mut lines = vec![match report.copy {
        CopyFound::None => record(["copy", "none"].map(str::to_owned)),
        CopyFound::Damaged => record(["copy", "damaged"].map(str::to_owned)),
        CopyFound::Whole { written } => {
            record(["copy".to_owned(), "whole".to_owned(), written.to_string()])
        }
    }];
    lines.push(record(["known".to_owned(), report.known.to_string()]));
    for lost in &report.lost {
        lines.push(record([
            "lost".to_owned(),
            lost.name.to_string(),
            lost.size.get().to_string(),
            lost.mapped.get().to_string(),
            lost.fs.map_or_else(|| "-".to_owned(), |fs| fs.to_string()),
        ]));
    }
    for dropped in &report.dropped {
        let line = |kind: &str, which: &str| record(["dropped", kind, which].map(str::to_owned));
        lines.push(match dropped {
            Dropped::Container(name) => line("container", name.as_str()),
            Dropped::Volume(name) => line("volume", name.as_str()),
            Dropped::Snapshot { name, of } => {
                let of = of.as_ref().map_or("-", |of| of.as_str());
                record(["dropped", "snapshot", name.as_str(), of].map(str::to_owned))
            }
            Dropped::Image(name) => line("image", name),
            Dropped::Rows(rows) => line("rows", &rows.to_string()),
        });
    }
    if let Some(aside) = &report.aside {
        lines.push(record(["aside".to_owned(), aside.display().to_string()]));
    }
    lines.concat()
}

#[cfg(test)]
mod tests {
    use dmthin::graph::LostVolume;
    use dmthin::ids::{ContainerName, FsType, SnapshotName, ThinId, VolumeName, WritableName};
    use dmthin::units::Bytes;

    use super::*;

    #[test]
    fn a_report_has_a_line_for_each_thing_found() {
        let lost = |id: u64, fs| LostVolume {
            name: ContainerName::new(format!("lost-{id}")).unwrap(),
            thin_id: ThinId::new(id).unwrap(),
            size: Bytes::from_mib(64),
            mapped: Bytes::from_kib(128),
            fs,
        };
        let report = RebuildReport {
            name: PoolName::new("tank").unwrap(),
            copy: CopyFound::Whole { written: 1700 },
            known: 12,
            lost: vec![lost(3, Some(FsType::Ext4)), lost(9, None)],
            dropped: vec![
                Dropped::Container(ContainerName::new("web").unwrap()),
                Dropped::Volume(VolumeName::new("pg").unwrap()),
                Dropped::Snapshot {
                    name: SnapshotName::new("before").unwrap(),
                    of: Some(WritableName::Container(ContainerName::new("web").unwrap())),
                },
                Dropped::Image("a:1 b:2".to_owned()),
                Dropped::Rows(2),
            ],
            aside: Some("/r/tank/catalogue.db.lost-1".into()),
        };
        assert_eq!(
            text(&report),
            "copy\twhole\t1700\nknown\t12\nlost\tlost-3\t67108864\t131072\text4\n\
             lost\tlost-9\t67108864\t131072\t-\ndropped\tcontainer\tweb\n\
             dropped\tvolume\tpg\ndropped\tsnapshot\tbefore\tweb\n\
             dropped\timage\ta:1 b:2\ndropped\trows\t2\naside\t/r/tank/catalogue.db.lost-1\n"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            json["copy"],
            serde_json::json!({"found": "whole", "written": 1700})
        );
        assert_eq!(
            json["dropped"][2],
            serde_json::json!({"kind": "snapshot", "name": {"name": "before", "of": "web"}})
        );
        assert_eq!(
            json["dropped"][3],
            serde_json::json!({"kind": "image", "name": "a:1 b:2"})
        );
        assert_eq!(json["lost"][1]["fs"], serde_json::Value::Null);
    }
}
