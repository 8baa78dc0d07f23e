//! `pool-cli` in a process that ends itself right after a step.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::Result;
use rustix::process::{Signal, getpid, kill_process};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::step_event::step_of;

/// Writes each step down, and sends the process a signal after so many.
struct Cutter {
    told: Mutex<File>,
    left: Mutex<Option<u32>>,
    signal: Signal,
}

impl<S: Subscriber> Layer<S> for Cutter {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(step) = step_of(event) else {
            return;
        };
        writeln!(self.told.lock().expect("no holder panics"), "{step}")
            .expect("the list of steps takes a line");
        let mut left = self.left.lock().expect("no holder panics");
        *left = left.map(|left| left.saturating_sub(1));
        if *left == Some(0) {
            *left = None;
            kill_process(getpid(), self.signal).expect("a process may kill itself");
        }
    }
}

/// Does what `pool-cli` does with these arguments; the steps that it passes are added to the file `told`,
/// a line each. With `cut` it is killed right after that many of them, or only stopped.
///
/// # Errors
/// Where the file cannot be written.
pub fn main(told: &Path, cut: Option<u32>, stop: bool, args: &[OsString]) -> Result<ExitCode> {
    let told = OpenOptions::new().create(true).append(true).open(told)?;
    let cutter = Cutter {
        told: Mutex::new(told),
        left: Mutex::new(cut),
        signal: if stop { Signal::STOP } else { Signal::KILL },
    };
    let subscriber = tracing_subscriber::registry().with(cutter);
    tracing::subscriber::set_global_default(subscriber)?;
    let args: Vec<_> = [OsString::from("pool-cli")]
        .into_iter()
        .chain(args.iter().cloned())
        .collect();
    Ok(pool_cli::main_with(&args))
}
