//! The system tests as a program for the guest; see `dmthin_tests::guest`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dmthin_tests::guest::{self, Group};

/// Runs the system tests on this machine's kernel. For a throw-away machine: it sweeps away every
/// dmthin device it finds when a test fails.
#[derive(Debug, Parser)]
struct Args {
    /// A directory on a disk for the tests' pools.
    #[arg(long, default_value = "/srv")]
    work: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Run the tests whose name contains one of these words, or all.
    Run {
        /// Where the prepared images lie.
        #[arg(long, default_value = "/images")]
        images: PathBuf,
        /// Only these groups; may be given several times.
        #[arg(long = "group")]
        groups: Vec<Group>,
        /// Words.
        only: Vec<String>,
    },
    /// Fill a pool and leave it in use.
    BeforeReboot,
    /// Find it again.
    AfterReboot,
    /// Fill the disks that another machine will open.
    BeforeMove,
    /// Open them there.
    AfterMove,
    /// Run `pool-cli` with the rest of the words, ended right after a step.
    Step {
        /// Where to write the steps that it passes.
        #[arg(long)]
        told: PathBuf,
        /// After how many.
        #[arg(long)]
        cut: Option<u32>,
        /// Stop it there until somebody continues it, in place of ending it.
        #[arg(long)]
        stop: bool,
        /// Its arguments.
        #[arg(last = true)]
        args: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let passed = match args.what {
        What::Run {
            images,
            groups,
            only,
        } => guest::run(&args.work, &images, &groups, &only),
        What::BeforeReboot => guest::before_reboot(&args.work),
        What::AfterReboot => guest::after_reboot(&args.work),
        What::BeforeMove => guest::before_move(&args.work),
        What::AfterMove => guest::after_move(&args.work),
        What::Step {
            told,
            cut,
            stop,
            args: words,
        } => match guest::step(&told, cut, stop, &words) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
    };
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("FAILED  the tests could not run: {error:#}");
            ExitCode::from(2)
        }
    }
}
