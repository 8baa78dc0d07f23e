//! `pool-cli container commit`.

use clap::Args;
use dmthin::graph::{Commit, CommitReport, Freeze};
use dmthin::ids::{ContainerName, ImageRef};
use dmthin::image::ConfigChange;
use dmthin::store::Timestamp;
use serde::Serialize;

use crate::args::Context;
use crate::output::{list, record, short};

pub(crate) const COMMIT_HELP: &str = "\
The container is frozen for the moment that a snapshot of it takes, and goes on; nothing is copied.
What it changed of its image becomes a layer; one that is there already is shared. Where no file
changed the image gets no layer, only a step in its history, as Docker does. Nothing but the file
system is frozen: processes are not stopped. With --no-pause nobody waits: what was written before is
in the image, and of what is written meanwhile as much as after a power cut. Of what a virtual machine
has open it is what that has synced.

A change is an instruction as in a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, USER,
VOLUME, WORKDIR.

Prints: the image's id and its names (- if none), with a tab between the two.

Examples:
  pool-cli container commit web --name web:2 --message 'new theme'
  pool-cli container commit web --change 'CMD [\"nginx\", \"-t\"]' --change 'ENV A=1'";

/// Options of `container commit`.
#[derive(Debug, Args)]
pub(crate) struct CommitArgs {
    /// Name of the container
    container: ContainerName,
    /// What of it is told
    #[command(flatten)]
    told: Told,
    /// Freeze its file system meanwhile; so it is by default
    #[arg(long, overrides_with = "no_pause")]
    pause: bool,
    /// Do not freeze it: of what is written meanwhile the image has what a power cut would leave
    #[arg(long, overrides_with = "pause")]
    no_pause: bool,
}

/// What is told of a new image.
#[derive(Debug, Args)]
pub(crate) struct Told {
    /// Name for the image
    #[arg(long, value_name = "REF")]
    name: Option<ImageRef>,
    /// A remark for its history
    #[arg(long, value_name = "TEXT")]
    message: Option<String>,
    /// Who made it
    #[arg(long, value_name = "NAME")]
    author: Option<String>,
    /// An instruction that changes what it runs; may be repeated
    #[arg(long = "change", value_name = "INSTRUCTION")]
    changes: Vec<ConfigChange>,
}

impl Told {
    /// With the time that it is now.
    pub(crate) fn now(self) -> Commit {
        Commit {
            name: self.name,
            message: self.message,
            author: self.author,
            changes: self.changes,
            created: Timestamp::now(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Committed<'a> {
    committed: &'a CommitReport,
}

/// Runs it.
pub(crate) fn run(context: &Context, args: CommitArgs) -> anyhow::Result<()> {
    let freeze = match args.no_pause {
        true => Freeze::No,
        false => Freeze::Yes,
    };
    let pool = context.pool(None)?;
    let report = pool.commit_container(&args.container, freeze, &args.told.now())?;
    show(context, &report)
}

/// Prints what a commit made.
pub(crate) fn show(context: &Context, report: &CommitReport) -> anyhow::Result<()> {
    let out = &context.out;
    out.note(&summary(report));
    for warning in &report.warnings {
        out.warn(warning);
    }
    out.done(&Committed { committed: report }, || {
        record([report.id.to_string(), list(&report.names)])
    })
}

fn summary(report: &CommitReport) -> String {
    let layer = match report.diff_id {
        None => "no file changed: no layer".to_owned(),
        Some(diff_id) => format!(
            "layer {}{}, {} in {} entries",
            short(diff_id),
            if report.shared { " was there" } else { "" },
            report.size,
            report.entries
        ),
    };
    format!("image {}: {layer}", short(report.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_tells_of_its_layer() {
        let digest = |n: u8| dmthin::ids::Digest::from_bytes([n; 32]);
        let mut report = CommitReport {
            id: digest(1),
            names: vec![ImageRef::new("a:1").unwrap()],
            change: dmthin::graph::Change::Changed,
            chain_id: Some(digest(2)),
            diff_id: Some(digest(3)),
            shared: false,
            size: dmthin::units::Bytes::from_kib(3),
            entries: 2,
            warnings: Vec::new(),
        };
        assert_eq!(
            summary(&report),
            "image 010101010101: layer 030303030303, 3 KiB in 2 entries"
        );
        report.shared = true;
        assert_eq!(
            summary(&report),
            "image 010101010101: layer 030303030303 was there, 3 KiB in 2 entries"
        );
        report.diff_id = None;
        assert_eq!(
            summary(&report),
            "image 010101010101: no file changed: no layer"
        );
    }
}
