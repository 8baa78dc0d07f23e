//! `pool-cli explain`: what an exit code means and what to do about it.

use clap::Args;
use serde::Serialize;

use crate::args::Context;
use crate::exit::explain::{Explanation, explanation, explanations};
use crate::output::table;

/// Options of `explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Needs no pool, no root and no settings.

Prints: code and word, what it means, usual causes, what to do; without a code a line for each.

Examples:
  pool-cli pool status nope || pool-cli explain $?
  pool-cli explain no_data_space
  pool-cli explain --json | jq -r '.codes[].code'")]
pub(crate) struct ExplainArgs {
    /// An exit code, or its word as in --json [default: all]
    #[arg(value_parser = explanation)]
    code: Option<Explanation>,
}

#[derive(Debug, Serialize)]
struct Codes<'a> {
    codes: &'a [Explanation],
}

/// Prints it.
pub(crate) fn run(context: &Context, args: ExplainArgs) -> anyhow::Result<()> {
    match args.code {
        Some(code) => {
            let body = Codes {
                codes: std::slice::from_ref(&code),
            };
            context.out.show(&body, || page(&code))
        }
        None => {
            let codes = explanations();
            context.out.show(&Codes { codes: &codes }, || {
                let rows = codes.iter().map(|code| {
                    [
                        code.exit.to_string(),
                        code.code.to_owned(),
                        code.text.meaning.to_owned(),
                    ]
                });
                table(["CODE", "WORD", "MEANING"], rows)
            })
        }
    }
}

fn page(code: &Explanation) -> String {
    let mut text = format!("{} {}: {}\n", code.exit, code.code, code.text.meaning);
    for (head, lines) in [
        ("Usual causes", code.text.causes),
        ("What to do", code.text.remedies),
    ] {
        text.push_str(&format!("\n{head}:\n"));
        for line in lines {
            text.push_str(&format!("  - {line}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_a_page() {
        assert_eq!(
            page(&explanation("75").unwrap()),
            "\
75 retry: somebody was in the way; the same may work in a moment

Usual causes:
  - another command kept the catalogue locked for 10 s

What to do:
  - wait some seconds and run it again
"
        );
    }
}
