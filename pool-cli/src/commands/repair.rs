//! `pool-cli pool repair`: makes a pool work again whose metadata are damaged.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use dmthin::graph::{
    Checked, MetadataCopy, PoolError, RepairFrom, RepairReport, Repaired, VolumeCheck,
};
use dmthin::ids::PoolName;
use serde::Serialize;

use crate::args::Context;
use crate::output::record;

pub(crate) const REPAIR_HELP: &str = "\
For a pool that wants a check (exit code 8), or does not open. The pool is closed; its metadata are copied
beside the catalogue, as metadata-backup-TIME, which stays until the pool is destroyed; thin_check is run,
and where it finds damage thin_repair, from the copy; then the pool is opened and the file system of each
volume is checked, read-only. A pool that is only out of metadata space needs no repair: grow it.

Prints: `metadata`, what was done to them (sound, flag-cleared, rebuilt) and the copy; then for each volume
its kind, its number or the container's name, and clean, journal (mount it to have its journal
replayed), damaged or not-checked, and why; with tabs between them. Exit code 8 if a volume is damaged,
10 if a program is not installed. With --dry-run, of a closed pool, only what would be done.

With --from-copy the metadata are made anew from a copy that `pool backup-metadata` or the monitor took,
the newest if none is named (restored). The pool is then what it was at that time: what was made since is
lost, and what was written since may be, so that this is for metadata that thin_repair cannot help.

Examples:
  pool-cli pool repair tank --dry-run
  pool-cli pool repair tank
  pool-cli pool repair tank --from-copy";

pub(crate) const BACKUP_HELP: &str = "\
A sparse file metadata-copy-TIME beside the catalogue, of a pool that is open or closed; of the older
ones the newest are kept. The monitor takes one a day. `pool repair --from-copy` uses them.

Prints: NAME, the copy and the bytes that it takes, with tabs between them. Exit code 75 while another
tool reads the metadata.

Examples:
  pool-cli pool backup-metadata
  pool-cli pool backup-metadata tank --keep 10";

/// Options of `pool repair`.
#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    /// Name of the pool
    name: PoolName,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Make the metadata of this copy, or the newest there is
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        require_equals = true,
        conflicts_with = "dry_run"
    )]
    from_copy: Option<Option<PathBuf>>,
}

/// Options of `pool backup-metadata`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Name of the pool [default: the one of --pool, else the only one]
    name: Option<PoolName>,
    /// How many copies are kept, the new one counted
    #[arg(long, value_name = "COPIES", default_value = "5")]
    keep: NonZeroUsize,
}

#[derive(Debug, Serialize)]
struct Copied<'a> {
    backup: &'a MetadataCopy,
}

/// Runs `pool backup-metadata`.
pub(crate) fn backup(context: &Context, args: &BackupArgs) -> anyhow::Result<()> {
    let pool = context.pool(args.name.as_ref())?;
    let copy = pool.backup_metadata(args.keep.get())?;
    context.out.done(&Copied { backup: &copy }, || {
        record([
            copy.name.to_string(),
            copy.copy.display().to_string(),
            copy.bytes.to_string(),
        ])
    })
}

#[derive(Debug, Serialize)]
struct Planned {
    would_be: Repaired,
}

#[derive(Debug, Serialize)]
struct Done<'a> {
    repair: &'a RepairReport,
}

/// Runs it.
pub(crate) fn run(context: &Context, args: &RepairArgs) -> anyhow::Result<()> {
    let out = &context.out;
    if args.dry_run {
        let would_be = context.host.plan_repair(&args.name)?;
        return out.show(&Planned { would_be }, || {
            record(["metadata".to_owned(), word(would_be).to_owned()])
        });
    }
    let from = match &args.from_copy {
        None => RepairFrom::Themselves,
        Some(None) => RepairFrom::NewestCopy,
        Some(Some(path)) => RepairFrom::Copy(path.clone()),
    };
    let report = context.host.repair_pool(&args.name, &from)?;
    out.done(&Done { repair: &report }, || text(&report))?;
    let damaged = report
        .volumes
        .iter()
        .filter(|volume| matches!(volume.checked, Checked::Damaged { .. }))
        .count();
    if damaged == 0 {
        return Ok(());
    }
    let found = u64::try_from(damaged).unwrap_or(u64::MAX);
    Err(PoolError::Damaged { found }.into())
}

const fn word(repaired: Repaired) -> &'static str {
    match repaired {
        Repaired::Sound => "sound",
        Repaired::FlagCleared => "flag-cleared",
        Repaired::Rebuilt => "rebuilt",
        Repaired::Restored => "restored",
    }
}

fn text(report: &RepairReport) -> String {
    let metadata = record([
        "metadata".to_owned(),
        word(report.repaired).to_owned(),
        report.copy.display().to_string(),
    ]);
    report
        .volumes
        .iter()
        .map(line)
        .fold(metadata, |all, line| all + &line)
}

fn line(volume: &VolumeCheck) -> String {
    let (verdict, told) = match &volume.checked {
        Checked::Clean => ("clean", ""),
        Checked::Journal => ("journal", ""),
        Checked::Damaged { told } => ("damaged", told.as_str()),
        Checked::NotChecked { told } => ("not-checked", told.as_str()),
    };
    let name = volume.name.as_ref();
    record([
        volume.kind.to_string(),
        name.map_or_else(|| volume.volume.to_string(), ToString::to_string),
        verdict.to_owned(),
        told.to_owned(),
    ])
}

#[cfg(test)]
mod tests {
    use dmthin::ids::{ContainerName, VolumeId, VolumeKind};

    use super::*;

    #[test]
    fn a_report_has_a_line_for_each_volume() {
        let volume = |kind, name: Option<&str>, checked| VolumeCheck {
            volume: VolumeId::new(7),
            kind,
            name: name.map(|name| ContainerName::new(name).unwrap()),
            checked,
        };
        let report = RepairReport {
            name: PoolName::new("tank").unwrap(),
            copy: "/r/tank/metadata-backup-1".into(),
            repaired: Repaired::Rebuilt,
            volumes: vec![
                volume(VolumeKind::Base, None, Checked::Clean),
                volume(
                    VolumeKind::Container,
                    Some("web"),
                    Checked::Damaged {
                        told: "bad\nblock".to_owned(),
                    },
                ),
            ],
        };
        assert_eq!(
            text(&report),
            "metadata\trebuilt\t/r/tank/metadata-backup-1\nbase\t7\tclean\t\n\
             container\tweb\tdamaged\tbad\\nblock\n"
        );
        let json = serde_json::to_value(&report.volumes[1]).unwrap();
        assert_eq!(json["checked"], "damaged");
        assert_eq!(json["told"], "bad\nblock");
    }
}
