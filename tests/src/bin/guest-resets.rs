//! The part of the resets that runs in the guest; see `dmthin_tests::resets`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use dmthin_tests::resets;

/// Looks at what the last reset left, and works until the next one. For a throw-away machine.
#[derive(Debug, Parser)]
struct Args {
    /// Reset the machine after so many milliseconds of work.
    #[arg(long)]
    after: Option<u64>,
}

fn main() -> ExitCode {
    match resets::round(Args::parse().after.map(Duration::from_millis)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
