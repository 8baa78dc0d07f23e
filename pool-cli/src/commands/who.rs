//! `pool-cli who`: who holds a container open or mounted.

use dmthin::graph::{Holder, WhoReport};
use dmthin::ids::ContainerName;
use serde::Serialize;

use crate::args::Context;
use crate::output::table;

/// What is shown below the options.
pub(crate) const WHO_HELP: &str = "\
Looks at the mounts of every mount namespace, at the open files of every process, at swap, at loop
devices and at what device mapper has on top, LVM volumes included. Not seen: a mount namespace
without a process. PID is - where it is no process that holds it.
What to do about each goes to stderr. Nothing is printed but the header where nobody holds it.

Examples:
  pool-cli who web                         # a container; a data volume: pool-cli volume who db
  pool-cli who web --json | jq '.who.holders[] | select(.kind == \"open_file\") | .process.pid'";

#[derive(Debug, Serialize)]
struct Who<'a> {
    who: &'a WhoReport,
}

/// Runs it.
pub(crate) fn run(context: &Context, name: &ContainerName) -> anyhow::Result<()> {
    tell(context, &context.pool(None)?.who(name)?)
}

/// Prints what was found.
pub(crate) fn tell(context: &Context, report: &WhoReport) -> anyhow::Result<()> {
    let out = &context.out;
    out.show(&Who { who: report }, || who_table(&report.holders))?;
    let mut told: Vec<String> = report.holders.iter().map(Holder::hint).collect();
    told.dedup();
    told.iter().for_each(|hint| out.hint(hint));
    if report.holders.is_empty() && report.open_count > 0 {
        out.note(&format!(
            "the device is open {} times, by nobody that can be seen from here",
            report.open_count
        ));
    }
    Ok(())
}

/// A line for each process, or for each holder that is none.
fn who_table(holders: &[Holder]) -> String {
    let row = |pid: String, command: &str, how: &str, place: String| {
        [pid, command.to_owned(), how.to_owned(), place]
    };
    let dash = || "-".to_owned();
    let rows = holders.iter().flat_map(|holder| match holder {
        Holder::Mount {
            target,
            namespace,
            here,
            processes,
        } => {
            let place = if *here {
                target.clone()
            } else {
                format!("{target} in {namespace}")
            };
            if processes.is_empty() {
                vec![row(dash(), "-", "mount", place)]
            } else {
                processes
                    .iter()
                    .map(|p| row(p.pid.to_string(), &p.command, "mount", place.clone()))
                    .collect()
            }
        }
        Holder::OpenFile {
            process,
            path,
            inside,
            count,
        } => {
            let how = if *inside { "open file" } else { "open device" };
            let place = match count {
                1 => path.clone(),
                count => format!("{path} and {} more", count.saturating_sub(1)),
            };
            vec![row(process.pid.to_string(), &process.command, how, place)]
        }
        Holder::Device { name, devno, .. } => {
            vec![row(dash(), "-", "device", format!("{name} ({devno})"))]
        }
        Holder::Loop { node } => vec![row(dash(), "-", "loop", node.display().to_string())],
        Holder::Swap { path } => vec![row(dash(), "-", "swap", path.clone())],
        other => vec![row(dash(), "-", "other", other.to_string())],
    });
    table(["PID", "COMMAND", "HOW", "WHERE"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_a_header() {
        assert_eq!(who_table(&[]), "PID  COMMAND  HOW  WHERE\n");
        let node = "/dev/loop3".into();
        assert_eq!(
            who_table(&[
                Holder::Loop { node },
                Holder::Swap {
                    path: "/dev/dm-3".to_owned()
                }
            ]),
            "\
PID  COMMAND  HOW   WHERE
-    -        loop  /dev/loop3
-    -        swap  /dev/dm-3
"
        );
    }
}
