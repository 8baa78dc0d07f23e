//! `pool-cli queue`: removals that wait for somebody to let go.

use std::time::Duration;

use clap::{Args, Subcommand};
use dmthin::graph::{Holder, QueueReport, QueueRound, QueueRun, QueueState, Which};
use dmthin::ids::{ContainerName, VolumeId};
use serde::Serialize;

use crate::args::Context;
use crate::columns::{Cell, Column, ListArgs, more, shown};
use crate::commands::{container, plan};
use crate::output::{lines, list, record};

/// What can be done with the queue of removals.
#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// List what is removed but still there
    #[command(after_help = "\
STATE is `held` while somebody has the device open, `waiting` when the next `queue run` can remove
it, `deleting` while a command does. MAPPED is known while there is a device; it counts what is
shared with the image. TRIES are those that found it held or failed. With -q only volumes are
printed.

Examples:
  pool-cli queue list
  pool-cli queue list --json | jq '.queue[] | {name, state, holders}'")]
    List(ListArgs),
    /// Remove what nobody holds any more, and give its space back
    #[command(after_help = "\
Space is discarded in slices of 256 MiB, with a pause after each as long as it took. One that is
held or fails is put off, for 1 s at first and twice as long each time, up to ten minutes, and does
not stop the others; without --due it is tried all the same. `pool open` works the queue off too.

Prints: the volume and `removed`, `held` or `failed`, with a tab between them, one a line. Ends with
the exit code of a failure, if there was one; with 5 where --wait was in vain. With --dry-run it
prints what would go, `volume` or `device` and which, and `bytes` that come back to the pool, exactly;
with tabs between them. Nothing is changed then.

Examples:
  pool-cli queue run
  pool-cli queue run --dry-run
  pool-cli queue run --wait=60
  pool-cli queue run --due --quiet         # from a timer")]
    Run(RunArgs),
    /// Take a removal back: what was removed is a container again
    #[command(after_help = "\
Possible as long as somebody holds it, or nothing has begun to give its space back; `queue list -o
+final` says so. Who holds it notices nothing. Where another container has the name by now, give a
new one with --name.

Prints: the container's name and its device, with a tab between them.

Examples:
  pool-cli queue cancel web
  pool-cli queue cancel --volume 9 --name web2")]
    Cancel(CancelArgs),
}

/// Options of `queue cancel`.
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// What the container was called
    #[arg(value_name = "NAME", required_unless_present = "volume")]
    was: Option<ContainerName>,
    /// Its volume, as `queue list` has it
    #[arg(long, value_name = "VOLUME", conflicts_with = "was")]
    volume: Option<u64>,
    /// What it is to be called [default: as it was]
    #[arg(long, value_name = "NAME")]
    name: Option<ContainerName>,
}

/// Options of `queue run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Wait until what is held is let go and removed, at most this long [default: no limit]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true)]
    wait: Option<Option<u64>>,
    /// Leave out what is put off
    #[arg(long, conflicts_with = "wait")]
    due: bool,
    /// Show what would go and what would come back, but change nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Queue<'a> {
    queue: &'a [QueueReport],
}

#[derive(Debug, Serialize)]
struct Run<'a> {
    run: &'a QueueRun,
}

/// Runs one of them.
pub(crate) fn run(context: &Context, command: QueueCommand) -> anyhow::Result<()> {
    let out = &context.out;
    let pool = context.pool(None)?;
    match command {
        QueueCommand::List(list) => {
            let queue = pool.queue()?;
            let text = list.table(COLUMNS, &queue)?;
            out.show(&Queue { queue: &queue }, || {
                if out.quiet() {
                    lines(queue.iter().map(|removal| removal.volume.to_string()))
                } else {
                    text
                }
            })
        }
        QueueCommand::Run(RunArgs { wait, due, dry_run }) => {
            let round = match wait {
                Some(limit) => QueueRound::Wait(limit.map(Duration::from_secs)),
                None if due => QueueRound::Due,
                None => QueueRound::All,
            };
            if dry_run {
                return plan::show(context, &pool.plan_queue(round)?);
            }
            let mut run = pool.run_queue(round)?;
            out.done(&Run { run: &run }, || run_lines(&run))?;
            for held in &run.held {
                let name = held.told_name();
                out.note(&format!("{name} is {}", told(&held.holders)));
            }
            match run.failed.pop() {
                Some(failed) => Err(failed.error.into()),
                None => Ok(()),
            }
        }
        QueueCommand::Cancel(CancelArgs { was, volume, name }) => {
            let which = match (was, volume) {
                (Some(was), _) => Which::Name(was),
                // clap wants one of them.
                (None, volume) => Which::Volume(VolumeId::new(volume.unwrap_or_default())),
            };
            let container = pool.cancel_removal(&which, name.as_ref())?;
            container::show_device(out, &container)
        }
    }
}

/// What holds something, as the end of a sentence that begins with `it is`.
pub(crate) fn told(holders: &[Holder]) -> String {
    match holders {
        [] => "held by nobody that can be seen from here".to_owned(),
        [only] => format!("held: {only}"),
        [first, rest @ ..] => format!("held: {first}, and {} more", rest.len()),
    }
}

fn state(state: QueueState) -> &'static str {
    match state {
        QueueState::Held => "held",
        QueueState::Waiting => "waiting",
        QueueState::Deleting => "deleting",
    }
}

const COLUMNS: &[Column<QueueReport>] = &[
    shown("volume", |r| Cell::number(r.volume.get())),
    shown("name", |r| Cell::text_or_dash(r.name.as_ref())),
    shown("size", |r| Cell::size(r.size)),
    shown("mapped", |r| Cell::size_or_dash(r.mapped)),
    shown("state", |r| Cell::text(state(r.state))),
    shown("since", |r| Cell::moment(r.since)),
    shown("tries", |r| Cell::number(r.attempts)),
    shown("held-by", |r| Cell::text(list(&r.holders))),
    more("kind", |r| Cell::text(r.kind)),
    more("next-try", |r| Cell::moment(r.next_try)),
    more("final", |r| {
        Cell::text(if r.is_final { "yes" } else { "no" })
    }),
    more("thin-id", |r| Cell::number(r.thin_id.get().into())),
];

fn run_lines(run: &QueueRun) -> String {
    let removed = run.removed.iter().map(|volume| (*volume, "removed"));
    let held = run.held.iter().map(|removal| (removal.volume, "held"));
    let failed = run.failed.iter().map(|failed| (failed.volume, "failed"));
    removed
        .chain(held)
        .chain(failed)
        .map(|(volume, word)| record([volume.to_string(), word.to_owned()]))
        .collect()
}

#[cfg(test)]
mod tests {
    use dmthin::ids::{DevNo, ThinId, VolumeKind};
    use dmthin::units::Bytes;

    use super::*;

    fn removal(held: bool) -> QueueReport {
        QueueReport {
            volume: VolumeId::new(9),
            kind: VolumeKind::Container,
            name: held.then(|| ContainerName::new("web").unwrap()),
            thin_id: ThinId::new(8).unwrap(),
            size: Bytes::from_gib(10),
            mapped: held.then(|| Bytes::from_mib(3)),
            state: if held {
                QueueState::Held
            } else {
                QueueState::Waiting
            },
            since: 951_782_400,
            attempts: 2,
            next_try: 951_782_404,
            is_final: !held,
            devno: held.then(|| DevNo::new(253, 3)),
            holders: if held {
                vec![Holder::Loop {
                    node: "/dev/loop7".into(),
                }]
            } else {
                vec![]
            },
        }
    }

    #[test]
    fn the_queue_says_who_is_waited_for() {
        assert_eq!(
            ListArgs::default()
                .table(COLUMNS, &[removal(true), removal(false)])
                .unwrap(),
            "\
VOLUME  NAME  SIZE    MAPPED  STATE    SINCE                    TRIES  HELD BY
9       web   10 GiB  3 MiB   held     2000-02-29 00:00:00 UTC  2      loop device /dev/loop7 is on it
9       -     10 GiB  -       waiting  2000-02-29 00:00:00 UTC  2      -
"
        );
        assert_eq!(removal(false).told_name(), "volume 9");
        assert_eq!(
            told(&removal(true).holders),
            "held: loop device /dev/loop7 is on it"
        );
    }

    #[test]
    fn a_run_says_what_became_of_each() {
        let run = QueueRun {
            removed: vec![VolumeId::new(3)],
            held: vec![removal(true)],
            ..QueueRun::default()
        };
        assert_eq!(run_lines(&run), "3\tremoved\n9\theld\n");
        let value = serde_json::to_value(Run { run: &run }).unwrap();
        assert_eq!(value["run"]["removed"][0], 3);
        assert_eq!(value["run"]["held"][0]["holders"][0]["kind"], "loop");
    }
}
