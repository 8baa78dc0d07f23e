//! `pool-cli`: the command of dmthin. A library only so that the fuzzers reach into it, and the tests that
//! end it at a step.
//!
//! Results go to stdout, everything else to stderr; the exit codes are in `docs/exit-codes.md`.
#![forbid(unsafe_code)]

mod args;
mod columns;
mod commands;
mod config;
mod exit;
mod metrics;
mod nearest;
mod notify;
mod output;
mod progress;
mod svg;
mod time;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::args::{Cli, Command};
use crate::commands::{
    base, check, completions, config as settings, container, device, df, doctor, explain, image,
    layer, man, monitor, pool, queue, trim, volume, who,
};
use crate::config::Settings;

/// That of the C library of the static binary has one lock for all threads, and gives memory back to the kernel
/// only to ask for it again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Does what the process's arguments say.
#[must_use]
pub fn main() -> ExitCode {
    main_with(&std::env::args_os().collect::<Vec<_>>())
}

/// Does what these arguments say, of which the first is the program's name. Logs go to stderr unless the
/// process has a `tracing` subscriber already.
#[must_use]
pub fn main_with(args: &[OsString]) -> ExitCode {
    // Asked before parsing: a usage error has to take the form that was asked for too.
    let json = args::asks_for_json(args.iter().cloned());
    match args::parse(args.iter().cloned()) {
        Ok(cli) => {
            args::log_to_stderr(cli.globals.verbose, cli.globals.quiet);
            exit::finish(run(cli), json)
        }
        Err(error) => exit::finish(Err(error.into()), json),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let settings = match cli.command.reads_settings() {
        true => cli.globals.settings()?,
        false => Settings::default(),
    };
    // What takes the room is asked for by -v too, as other commands called df have it.
    let by_name = cli.globals.verbose > 0;
    let context = cli.globals.context(settings);
    match cli.command {
        Command::Pool(command) => pool::run(&context, command),
        Command::Base(command) => base::run(&context, command),
        Command::Image(command) => image::run(&context, command),
        Command::Layer(command) => layer::run(&context, command),
        Command::Container(command) => container::run(&context, command),
        Command::Volume(command) => volume::run(&context, command),
        Command::Device(command) => device::run(&context, command),
        Command::Queue(command) => queue::run(&context, command),
        Command::Who(args) => who::run(&context, &args.name),
        Command::Trim(args) => trim::run(&context, args),
        Command::Monitor(args) => monitor::run(&context, &args),
        Command::Config(command) => settings::run(&context, command),
        Command::Df(args) => df::run(&context, &args, by_name),
        Command::Check(args) => check::check(&context, &args),
        Command::Gc(args) => check::gc(&context, &args),
        Command::Doctor => doctor::run(&context),
        Command::Explain(args) => explain::run(&context, args),
        Command::Completions(args) => completions::run(&context, &args),
        Command::Man(args) => man::run(&context, &args),
    }
}

/// The fuzzers' way in to the reading of settings.
#[cfg(fuzzing)]
pub fn read_settings(text: &str) {
    let mut settings = Settings::default();
    let applied = settings.apply(std::path::Path::new("config.toml"), text);
    // What is in force can be shown, whatever the file was, and what is wrong with it too.
    settings.rows();
    if let Err(error) = applied {
        assert!(!error.to_string().is_empty());
    }
}
