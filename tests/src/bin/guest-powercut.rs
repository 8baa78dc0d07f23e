//! The part of the power-cut proof that runs in the guest; see `dmthin_tests::powercut`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dmthin_tests::powercut::{self, Layout};

/// Records a history on a logged disk, or looks at states of one. For a throw-away machine.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Go through the history on /dev/vm/disk.
    Record {
        /// What the pool lies on.
        layout: Layout,
    },
    /// Build states from /dev/vm/log on /dev/vm/replay, and look at each.
    Replay {
        /// What the pool lies on.
        layout: Layout,
        /// A file of the states' names, in the order of the log.
        states: PathBuf,
        /// The disk has the entries before this one already.
        #[arg(long, default_value_t = 0)]
        applied: usize,
    },
}

fn main() -> ExitCode {
    let done = match Args::parse().what {
        What::Record { layout } => powercut::record(layout),
        What::Replay {
            layout,
            states,
            applied,
        } => powercut::replay(layout, &states, applied),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
