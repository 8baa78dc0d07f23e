//! What was looked at, and what came of it, as Markdown.

use std::fmt;

use super::{Survey, Verdict};

/// One layout on one kernel.
#[derive(Debug)]
pub struct Done {
    /// The kernel that was recorded.
    pub kernel: String,
    /// The kernel that looked.
    pub looked: String,
    /// What the pool lay on.
    pub layout: &'static str,
    /// What was logged.
    pub survey: Survey,
    /// What came of each state.
    pub verdicts: Vec<Verdict>,
    /// How long the states took, in seconds.
    pub seconds: u64,
    /// What does the same again.
    pub command: String,
}

impl Done {
    /// The states that are not as they must be.
    pub fn failed(&self) -> impl Iterator<Item = &Verdict> {
        self.verdicts.iter().filter(|v| v.failed.is_some())
    }

    fn row(&self) -> String {
        let [entries, writes, discards, flushes] = self.survey.counts;
        let parts = self.verdicts.iter().filter(|v| v.state.contains('.'));
        let parts = parts.count();
        let whole = self.verdicts.len().saturating_sub(parts);
        format!(
            "| {} | {} | {} | {entries} | {writes} | {discards} | {flushes} | {} | {whole} | {parts} | {} | {} | `{}` |",
            self.layout,
            self.kernel,
            self.looked,
            self.survey.boundaries,
            self.failed().count(),
            self.seconds,
            self.command
        )
    }
}

/// The table of all that was done.
#[derive(Debug)]
pub struct Table<'a>(pub &'a [Done]);

const HEADER: &str = "\
| layout | recorded on | looked at by | entries | writes | discards | flushes | boundaries | as they are | parts | failed | seconds | command |
| --- | --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --- |
";

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEADER)?;
        for done in self.0 {
            writeln!(f, "{}", done.row())?;
        }
        Ok(())
    }
}

/// The published page: what was seen last of each layout. `page` is the one there is, of which the lines of
/// layouts that are not in `done` stay.
#[must_use]
pub fn page(page: &str, done: &[Done]) -> String {
    let layouts: Vec<&str> = done.iter().map(|done| done.layout).collect();
    let kept = page.lines().filter(|line| {
        let layout = line.split(['|', '`']).nth(1).unwrap_or_default();
        let of =
            |name: &&str| layout.trim() == *name || layout.contains(&format!("--layout {name} "));
        ["files", "devices"].iter().any(of) && !layouts.iter().any(of)
    });
    let mut rows: Vec<String> = kept.map(str::to_owned).collect();
    rows.extend(done.iter().map(Done::row));
    for done in done {
        for verdict in done.failed() {
            let why = verdict.failed.as_deref().unwrap_or_default();
            rows.push(format!(
                "- `scripts/powercut --layout {} --state {}`, {}: {}",
                done.layout,
                verdict.state,
                verdict.during,
                why.replace('\n', " ")
            ));
        }
    }
    rows.sort_by_key(|row| row.starts_with('-'));
    let failed = rows.iter().position(|row| row.starts_with('-'));
    let failed = rows.split_off(failed.unwrap_or(rows.len()));
    let mut page = format!(
        "# Power cuts at every write\n\n\
         Made by `scripts/powercut --update-docs`: do not edit.\n\
         How it works and what is asked of each state: [testing.md](testing.md#power-cuts).\n\n\
         {HEADER}{}\n\n\
         A boundary is a flush at which the disk is another than at the one before. At each, *as they are* counts the states that\n\
         have what came before it and nothing after; *parts* those that have some of the writes after it too, which a seed\n\
         chooses, large ones torn. `failed` are states of which one thing was not as it must be.\n",
        rows.join("\n")
    );
    if !failed.is_empty() {
        page.push_str(&format!("\n{}\n", failed.join("\n")));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::{Done, page};
    use crate::powercut::{Survey, Verdict};

    #[test]
    fn the_page_counts_states_and_names_those_that_failed() {
        let verdict = |state: &str, failed: Option<&str>| Verdict {
            state: state.to_owned(),
            during: "in image rm b:1".to_owned(),
            failed: failed.map(str::to_owned),
            millis: 5,
        };
        let done = |layout, verdicts| Done {
            kernel: "6.1.0".to_owned(),
            looked: "6.1.9".to_owned(),
            layout,
            survey: Survey {
                counts: [9, 5, 1, 3],
                boundaries: 2,
                states: Vec::new(),
            },
            verdicts,
            seconds: 12,
            command: format!("scripts/powercut --layout {layout}"),
        };
        let states = [
            verdict("1", None),
            verdict("1.7", Some("check:\nlost")),
            verdict("4", None),
        ];
        let first = page("", &[done("files", states.to_vec())]);
        let second = page(&first, &[done("devices", states.to_vec())]);
        let third = page(&second, &[done("files", vec![verdict("4", None)])]);
        let files = "| files | 6.1.0 | 6.1.9 | 9 | 5 | 1 | 3 | 2 | 2 | 1 | 1 | 12 | `scripts/powercut --layout files` |";
        let devices = files.replace("files", "devices");
        let healthy = files.replace("| 2 | 1 | 1 | 12", "| 1 | 0 | 0 | 12");
        let failed =
            "- `scripts/powercut --layout files --state 1.7`, in image rm b:1: check: lost";
        let failed_devices = failed.replace("files", "devices");
        for (page, wanted) in [
            (first, vec![files, failed]),
            (second, vec![files, &devices, failed, &failed_devices]),
            (third, vec![&devices, &healthy, &failed_devices]),
        ] {
            let lines = page.lines().skip(7);
            let found: Vec<_> = lines
                .filter(|line| line.starts_with(['|', '-']) && !line.starts_with("| ---"))
                .collect();
            assert_eq!(found, wanted, "{page}");
        }
    }
}
