//! `pool-cli doctor`: can this machine do the work?

use dmthin::graph::{CheckReport, Verdict};
use serde::Serialize;

use crate::args::Context;
use crate::output::{Colour, Output, clean};

#[derive(Debug, Serialize)]
struct Checks<'a> {
    checks: &'a [CheckReport],
}

/// Runs all checks.
pub(crate) fn run(context: &Context) -> anyhow::Result<()> {
    let out = &context.out;
    let checks = context.host.doctor();
    out.show(&Checks { checks: &checks }, || checks_text(out, &checks))?;
    match checks.iter().filter(|c| c.verdict == Verdict::Fail).count() {
        0 => Ok(()),
        1 => anyhow::bail!("1 check failed"),
        n => anyhow::bail!("{n} checks failed"),
    }
}

fn checks_text(out: &Output, checks: &[CheckReport]) -> String {
    let shown = || {
        checks
            .iter()
            .filter(|check| !out.quiet() || check.verdict != Verdict::Ok)
    };
    let width = shown().map(|check| check.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in shown() {
        let (word, colour) = match check.verdict {
            Verdict::Ok => ("ok  ", Colour::Green),
            Verdict::Warn => ("warn", Colour::Yellow),
            Verdict::Fail => ("FAIL", Colour::Red),
        };
        text.push_str(&format!(
            "{}  {:width$}  {}\n",
            out.paint(colour, word),
            check.check,
            clean(&check.found)
        ));
        if let Some(hint) = &check.hint {
            text.push_str(&format!("      {:width$}  -> {}\n", "", clean(hint)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, verdict: Verdict, hint: Option<&str>) -> CheckReport {
        CheckReport {
            check: name.to_owned(),
            verdict,
            found: format!("{name} is so"),
            hint: hint.map(str::to_owned),
        }
    }

    #[test]
    fn checks_stand_under_each_other_with_their_hints() {
        let checks = [
            check("udev", Verdict::Ok, None),
            check("dm_thin_pool", Verdict::Fail, Some("modprobe dm_thin_pool")),
        ];
        assert_eq!(
            checks_text(&Output::new(false, false, false), &checks),
            "\
ok    udev          udev is so
FAIL  dm_thin_pool  dm_thin_pool is so
                    -> modprobe dm_thin_pool
"
        );
        assert_eq!(
            checks_text(&Output::new(false, true, true), &checks),
            "\u{1b}[31mFAIL\u{1b}[0m  dm_thin_pool  dm_thin_pool is so\n\
             \x20                   -> modprobe dm_thin_pool\n"
        );
    }
}
