//! What came of the rounds, as Markdown.

use super::How;

/// The rounds on one kernel.
#[derive(Debug)]
pub struct Done {
    /// The kernel's release, and what runs its instructions.
    pub kernel: String,
    /// The resets after which all was as it must be.
    pub passed: Vec<How>,
    /// What was not, in the round after the last of these.
    pub failed: Option<String>,
    /// Containers that were looked at, in all rounds.
    pub containers: u64,
    /// The longest that a `pool open` took, in milliseconds.
    pub longest_open: u64,
    /// How long all of it took, in seconds.
    pub seconds: u64,
    /// What does the same again.
    pub command: String,
}

const HEADER: &str = "\
| kernel | resets | by sysrq-b | by kill | failed | file systems checked | longest `pool open`, ms | seconds | command |
| --- | --: | --: | --: | --: | --: | --: | --: | --- |
";

impl Done {
    /// As a line of the table.
    #[must_use]
    pub fn row(&self) -> String {
        let by = |how: How| self.passed.iter().filter(|passed| **passed == how).count();
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | `{}` |",
            self.kernel,
            self.passed.len(),
            by(How::Sysrq),
            by(How::Kill),
            u8::from(self.failed.is_some()),
            self.containers,
            self.longest_open,
            self.seconds,
            self.command
        )
    }
}

/// The published page: the last results of each kernel. `page` is the one there is, of which the lines
/// of other kernels stay.
#[must_use]
pub fn page(page: &str, done: &[Done]) -> String {
    let new = |line: &str| {
        done.iter()
            .any(|done| line.starts_with(&format!("| {} |", done.kernel)))
    };
    let mut rows: Vec<String> = page
        .lines()
        .skip_while(|line| !line.starts_with("| --- "))
        .skip(1)
        .take_while(|line| line.starts_with("| "))
        .filter(|line| !new(line))
        .map(str::to_owned)
        .collect();
    rows.extend(done.iter().map(Done::row));
    rows.sort();
    format!(
        "# Resets at random moments\n\n\
         Made by `scripts/resets --update-docs`: do not edit.\n\
         What is done and asked in each round: [testing.md](testing.md#resets).\n\n\
         {HEADER}{}\n\n\
         One pool goes through all resets of a line. A round that fails ends it.\n",
        rows.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::{Done, How, page};

    #[test]
    fn lines_of_other_kernels_stay() {
        let done = |command: &str, kernel: &str, passed: Vec<How>| Done {
            command: command.to_owned(),
            kernel: kernel.to_owned(),
            passed,
            failed: None,
            containers: 40,
            longest_open: 900,
            seconds: 60,
        };
        let first = page("", &[done("one", "6.1.0, tcg", vec![How::Sysrq])]);
        let second = page(
            &first,
            &[done("two", "6.1.9, uml", vec![How::Sysrq, How::Kill])],
        );
        let mut failed = done("three", "6.1.0, tcg", vec![How::Kill]);
        failed.failed = Some("lost".to_owned());
        let third = page(&second, &[failed]);
        for (page, lines) in [
            (
                &second,
                [
                    "| 6.1.0, tcg | 1 | 1 | 0 | 0 | 40 | 900 | 60 | `one` |",
                    "| 6.1.9, uml | 2 | 1 | 1 | 0 | 40 | 900 | 60 | `two` |",
                ],
            ),
            (
                &third,
                [
                    "| 6.1.0, tcg | 1 | 0 | 1 | 1 | 40 | 900 | 60 | `three` |",
                    "| 6.1.9, uml | 2 | 1 | 1 | 0 | 40 | 900 | 60 | `two` |",
                ],
            ),
        ] {
            let rows: Vec<_> = page.lines().filter(|l| l.starts_with("| 6")).collect();
            assert_eq!(rows, lines, "{page}");
        }
    }
}
