//! How the command ends: one table of exit codes, one form of an error.
//!
//! The table is part of the interface: codes are added, never changed (docs/exit-codes.md, which a
//! test keeps equal to it).

pub(crate) mod explain;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use dmthin::graph::{ErrorCode, PoolError};
use serde::Serialize;

use crate::config::ConfigError;
use crate::output::{SCHEMA, WriteError};

/// What the library says, the word for it in JSON, and the exit code.
const TABLE: &[(ErrorCode, &str, u8)] = &[
    (ErrorCode::Failure, "failure", 1),
    (ErrorCode::Usage, "usage", 2),
    (ErrorCode::NotFound, "not_found", 3),
    (ErrorCode::Exists, "exists", 4),
    (ErrorCode::Busy, "busy", 5),
    (ErrorCode::NoDataSpace, "no_data_space", 6),
    (ErrorCode::NoMetadataSpace, "no_metadata_space", 7),
    (ErrorCode::NeedsCheck, "needs_check", 8),
    (ErrorCode::Permission, "permission", 9),
    (ErrorCode::Unsupported, "unsupported", 10),
    (ErrorCode::BadImage, "bad_image", 11),
    (ErrorCode::Retry, "retry", 75),
];

/// The row of a code; one that is not in the table is a plain failure.
fn row(code: ErrorCode) -> (&'static str, u8) {
    TABLE
        .iter()
        .find(|(listed, _, _)| *listed == code)
        .map_or(("failure", 1), |(_, word, exit)| (*word, *exit))
}

/// An error as it is told.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Told {
    /// A word to branch on.
    code: &'static str,
    /// What is wrong, in a line.
    message: String,
    /// What to do about it.
    hint: Option<String>,
    #[serde(skip)]
    exit: u8,
}

#[derive(Debug, Serialize)]
struct ErrorReply<'a> {
    schema: &'static str,
    error: &'a Told,
}

impl Told {
    fn of(error: &anyhow::Error) -> Self {
        let known = error
            .chain()
            .find_map(|cause| cause.downcast_ref::<PoolError>());
        let config = error
            .chain()
            .find_map(|cause| cause.downcast_ref::<ConfigError>());
        let code = known
            .map(PoolError::code)
            .or_else(|| config.map(ConfigError::code));
        let (code, exit) = row(code.unwrap_or(ErrorCode::Failure));
        Self {
            code,
            message: message(error),
            hint: known.and_then(PoolError::hint),
            exit,
        }
    }

    fn usage(error: &clap::Error) -> Self {
        let (code, exit) = row(ErrorCode::Usage);
        let text = error.render().to_string();
        let message = text
            .lines()
            .map(|line| line.strip_prefix("error: ").unwrap_or(line).trim())
            .take_while(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join(" ");
        Self {
            code,
            message,
            hint: Some("see `pool-cli --help`".to_owned()),
            exit,
        }
    }

    fn tell(&self, json: bool) -> std::io::Result<()> {
        let mut stderr = std::io::stderr().lock();
        if json {
            let reply = ErrorReply {
                schema: SCHEMA,
                error: self,
            };
            return writeln!(stderr, "{}", serde_json::to_string(&reply)?);
        }
        writeln!(stderr, "pool-cli: {}", self.message)?;
        match &self.hint {
            Some(hint) => writeln!(stderr, "hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// The error and its causes in one line; a cause that is told already, as by a failed undo that
/// names both, is not repeated.
fn message(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut line, cause| {
        let text = cause.to_string().replace('\n', " ");
        if line.is_empty() {
            return text;
        }
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        line
    })
}

/// Tells what went wrong, if anything, and gives the exit code.
pub(crate) fn finish(result: anyhow::Result<()>, json: bool) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    // A reader that went away has seen what it wanted.
    if let Some(WriteError(cause)) = error.downcast_ref::<WriteError>()
        && cause.kind() == ErrorKind::BrokenPipe
    {
        return ExitCode::SUCCESS;
    }
    let told = match error.downcast_ref::<clap::Error>() {
        // Help and version are no errors; clap prints them itself, to stdout.
        Some(usage) if !usage.use_stderr() => return ended_by_help(usage),
        Some(usage) if json => Told::usage(usage),
        Some(usage) => {
            // There is nowhere to tell that stderr cannot be written.
            let _ = usage.print();
            return ExitCode::from(row(ErrorCode::Usage).1);
        }
        None => Told::of(&error),
    };
    // As above: the exit code is all that is left.
    let _ = told.tell(json);
    ExitCode::from(told.exit)
}

fn ended_by_help(help: &clap::Error) -> ExitCode {
    match help.print().and_then(|()| std::io::stdout().flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            finish(Err(WriteError(error).into()), false)
        }
        _ => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context;
    use clap::CommandFactory;
    use clap::error::ErrorKind as Usage;

    use super::*;

    #[test]
    fn every_code_has_its_number() {
        let numbers: Vec<u8> = TABLE.iter().map(|(_, _, exit)| *exit).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 75]);
        assert_eq!(row(ErrorCode::NotFound), ("not_found", 3));
        assert_eq!(row(ErrorCode::Retry), ("retry", 75));
    }

    #[test]
    fn the_documented_table_is_this_one() {
        let documented: Vec<(u8, String)> = include_str!("../../docs/exit-codes.md")
            .lines()
            .filter_map(|line| {
                let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
                let exit = cells.next()?.parse().ok()?;
                Some((exit, cells.next()?.trim_matches('`').to_owned()))
            })
            .filter(|(exit, _)| *exit != 0)
            .collect();
        let ours: Vec<(u8, String)> = TABLE
            .iter()
            .map(|(_, word, exit)| (*exit, (*word).to_owned()))
            .collect();
        assert_eq!(documented, ours);
    }

    #[test]
    fn causes_are_joined_and_told_once() {
        let cause = io::Error::new(ErrorKind::NotFound, "no such file");
        let error = Err::<(), _>(cause)
            .context("cannot write a.1: no such file")
            .context("cannot write\nthe pages")
            .unwrap_err();
        assert_eq!(
            Told::of(&error),
            Told {
                code: "failure",
                message: "cannot write the pages: cannot write a.1: no such file".to_owned(),
                hint: None,
                exit: 1,
            }
        );
    }

    #[test]
    fn a_usage_error_is_told_in_one_line() {
        let error = crate::args::Cli::command().error(Usage::InvalidValue, "a size is more than 0");
        assert_eq!(
            Told::usage(&error),
            Told {
                code: "usage",
                message: "a size is more than 0".to_owned(),
                hint: Some("see `pool-cli --help`".to_owned()),
                exit: 2,
            }
        );
    }

    #[test]
    fn only_a_closed_stdout_is_success() {
        let broken = || io::Error::from(ErrorKind::BrokenPipe);
        let success = format!("{:?}", ExitCode::SUCCESS);
        let ours = finish(Err(WriteError(broken()).into()), false);
        assert_eq!(format!("{ours:?}"), success);
        let other = finish(Err(broken().into()), false);
        assert_ne!(format!("{other:?}"), success);
    }
}
