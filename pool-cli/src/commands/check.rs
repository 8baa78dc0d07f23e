//! `pool-cli check` and `pool-cli gc`: what does not belong, and taking it away.

use clap::Args;
use dmthin::graph::{Collection, Finding, Findings, Outcome, Remedy};
use dmthin::ids::PoolName;
use serde::Serialize;

use crate::args::Context;
use crate::output::{lines, or_dash, record, table};

/// Further help of `check`.
pub(crate) const CHECK_HELP: &str = "\
Compares the kernel's devices, loop devices and nodes, the thin ids in the pool and who holds what
with the catalogue; of a closed pool too. Without NAME and --pool it looks at all pools, and at what
has none. Changes nothing. What another command may be working on is left out.

FINDING            is
husk               a device that was never given a table
stray-device       a device of a volume that is not in the catalogue
device-of-no-pool  a device of a pool that is not under this root; another root may have it
device-of-other-root
                   a device of a pool that is open under another root: as it should be
suspended          a device whose users wait
half-made          a container, layer or base whose making was cut
queued-removal     removed, and its space is not back; `queue run` does the same as gc
held-removal       removed, and somebody holds it, as by a mount
layer-of-no-image  left by an import that was cut
unknown-thin       a thin device in the pool that is not in the catalogue
missing-device     a container that had a device and has none
stray-loop         a loop device on a file of the pool that the pool does not use
stray-record       the record of a layer's tar, of a layer that is no more
stray-node         a node of one of our names that leads nowhere or elsewhere
stale-mirror       the copy of the catalogue in the pool is behind
half-made-pool     `pool create` or `pool destroy` was cut
damaged-pool       its catalogue cannot be read; the other pools are looked at all the same
missing-thin       in the catalogue, and not in the pool: lost
unpaired           catalogue and pool are not of the same time

GC is what `pool-cli gc` does about it: remove, finish, resume, activate; keep where it does nothing.
With -q only the words of the first column are printed. Ends with exit code 0 where nothing was
found, 1 where something was, 8 where something is damaged, lost or unpaired, 75 while another tool reads the
pool's metadata.

Examples:
  pool-cli check
  pool-cli check tank --json | jq '.findings[] | {kind, text}'";

/// Further help of `gc`.
pub(crate) const GC_HELP: &str = "\
Takes away what `pool-cli check` finds and what is safe to take away; ends, resumes or makes the
rest. One that cannot be taken away does not stop the others. What is lost, what is held and what
may be another's is kept. A pool on which another command works is left alone (exit code 5).

Prints: `done`, `planned`, `kept` or `failed`, the finding and a sentence, with tabs between them, one
a line; last `bytes`, how many come back to the pools, and the same for people. Ends with the exit
code of a failure, if there was one; with 1 if something was kept, 8 if that is lost.

Examples:
  pool-cli gc --dry-run
  pool-cli gc tank --json | jq .gc.bytes";

/// Options of `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Name of the pool [default: the one of --pool, else all of them]
    name: Option<PoolName>,
}

/// Options of `gc`.
#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Name of the pool [default: the one of --pool, else all of them]
    name: Option<PoolName>,
    /// Show what would go and how many bytes would come back, but change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Run<'a> {
    dry_run: bool,
    gc: &'a Collection,
}

/// Runs `check`.
pub(crate) fn check(context: &Context, args: &CheckArgs) -> anyhow::Result<()> {
    let out = &context.out;
    let name = args.name.as_ref().or(context.pool.as_ref());
    let found = context.host.check(name)?;
    out.show(&found, || {
        if out.quiet() {
            lines(found.findings.iter().map(|f| f.kind.as_str().to_owned()))
        } else {
            findings_table(&found)
        }
    })?;
    for pool in &found.in_work {
        out.note(&format!(
            "a command works on pool {pool}: what that may be about was left out"
        ));
    }
    Ok(found.require_clean()?)
}

/// Runs `gc`.
pub(crate) fn gc(context: &Context, args: &GcArgs) -> anyhow::Result<()> {
    let out = &context.out;
    let name = args.name.as_ref().or(context.pool.as_ref());
    let dry_run = args.dry_run;
    let mut run = context.host.gc(name, dry_run)?;
    if dry_run {
        out.show(&Run { dry_run, gc: &run }, || run_lines(&run))?;
    } else {
        out.done(&Run { dry_run, gc: &run }, || run_lines(&run))?;
    }
    Ok(run.require_done()?)
}

const fn remedy(remedy: Remedy) -> &'static str {
    match remedy {
        Remedy::Remove => "remove",
        Remedy::Finish => "finish",
        Remedy::Resume => "resume",
        Remedy::Activate => "activate",
        Remedy::Keep => "keep",
    }
}

const fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "done",
        Outcome::Planned => "planned",
        Outcome::Kept => "kept",
        Outcome::Failed => "failed",
    }
}

fn findings_table(found: &Findings) -> String {
    if found.findings.is_empty() {
        return String::new();
    }
    let row = |finding: &Finding| {
        [
            finding.kind.as_str().to_owned(),
            or_dash(finding.pool.as_ref()),
            remedy(finding.remedy).to_owned(),
            finding.text.clone(),
        ]
    };
    table(
        ["FINDING", "POOL", "GC", "WHAT"],
        found.findings.iter().map(row),
    )
}

fn run_lines(run: &Collection) -> String {
    let line = |item: &dmthin::graph::Collected| {
        let mut text = item.finding.text.clone();
        if let Some(problem) = &item.problem {
            text.push_str(": ");
            text.push_str(problem);
        }
        record([
            outcome(item.outcome).to_owned(),
            item.finding.kind.as_str().to_owned(),
            text,
        ])
    };
    let mut text: String = run.collected.iter().map(line).collect();
    text.push_str(&record([
        "bytes".to_owned(),
        run.bytes.get().to_string(),
        run.bytes.to_string(),
    ]));
    text
}

#[cfg(test)]
mod tests {
    use dmthin::graph::{Collected, FindingKind};
    use dmthin::ids::ThinId;
    use dmthin::units::Bytes;

    use super::*;

    fn finding() -> Finding {
        Finding {
            kind: FindingKind::UnknownThin,
            text: "thin device 77 is in the pool, and in no row of the catalogue".to_owned(),
            remedy: Remedy::Remove,
            pool: Some(PoolName::new("tank").unwrap()),
            volume: None,
            thin_id: Some(ThinId::new(77).unwrap()),
            device: None,
            devno: None,
            node: None,
        }
    }

    #[test]
    fn findings_stand_under_each_other_and_nothing_is_nothing() {
        let mut found = Findings::default();
        assert_eq!(findings_table(&found), "");
        found.findings.push(finding());
        assert_eq!(
            findings_table(&found),
            "\
FINDING       POOL  GC      WHAT
unknown-thin  tank  remove  thin device 77 is in the pool, and in no row of the catalogue
"
        );
        let value = serde_json::to_value(&found).unwrap();
        assert_eq!(value["findings"][0]["kind"], "unknown-thin");
        assert_eq!(value["findings"][0]["thin_id"], 77);
        assert_eq!(value["in_work"], serde_json::json!([]));
    }

    #[test]
    fn a_run_says_what_became_of_each_and_what_came_back() {
        let run = Collection {
            collected: vec![Collected {
                finding: finding(),
                outcome: Outcome::Failed,
                problem: Some("it is in use".to_owned()),
                error: None,
            }],
            bytes: Bytes::from_mib(12),
            ..Collection::default()
        };
        assert_eq!(
            run_lines(&run),
            "failed\tunknown-thin\tthin device 77 is in the pool, and in no row of the catalogue: it \
             is in use\nbytes\t12582912\t12 MiB\n"
        );
        let value = serde_json::to_value(Run {
            dry_run: true,
            gc: &run,
        })
        .unwrap();
        assert_eq!(value["gc"]["collected"][0]["outcome"], "failed");
        assert_eq!(value["gc"]["collected"][0]["kind"], "unknown-thin");
        assert_eq!(value["gc"]["bytes"], 12_582_912);
    }
}
