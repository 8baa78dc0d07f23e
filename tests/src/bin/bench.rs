//! Boots a virtual machine, measures in it, and prints tables of the numbers and their ratios.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use dmthin_tests::apt;
use dmthin_tests::bench::{Machine, Measured, Report};
use dmthin_tests::fixture::{Variant, image};
use dmthin_tests::vm::{Cmd, Disk, Kernel, Size, Vm, static_program};

/// Measures the library and the command against their floors, on a real kernel in one boot.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench")]
struct Args {
    /// The kernel: 6.1, 6.12 or new.
    #[arg(long, default_value = "6.1")]
    kernel: Kernel,
    /// Run udevd in the guest.
    #[arg(long)]
    udev: bool,
    /// Rounds of each way to bring a container's device up and down.
    #[arg(long, default_value_t = 200)]
    rounds: u64,
    /// Imports of the real image.
    #[arg(long, default_value_t = 3)]
    imports: u64,
    /// Write the numbers to docs/benchmarks.md too.
    #[arg(long)]
    update_docs: bool,
}

/// The longest that all of it may take.
const LIMIT: Duration = Duration::from_secs(60 * 60);
const CPUS: u8 = 2;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let program = |package, name| static_program(package, name, "release");
    let memory = Size::gib(2);
    let mut vm = Vm::new(args.kernel)
        .udev(args.udev)
        .memory(memory)
        .cpus(CPUS)
        .live(true)
        .program(program("pool-cli", "pool-cli")?, "/usr/bin/pool-cli")
        .program(
            program("dmthin-tests", "guest-bench")?,
            "/usr/bin/guest-bench",
        )
        .disk(Disk::scratch("work", Size::gib(24)).mounted_at("/srv"))
        .disk(
            Disk::file("images", image(Variant::Full)?.disk)
                .mounted_at("/images")
                .forgetting_writes(),
        )
        .timeout(LIMIT)
        .start()?;
    let boot = vm.boot().clone();
    let before = load()?;
    eprintln!(
        "Linux {} under {}, host load {before}",
        boot.release, boot.accel
    );
    let (rounds, imports) = (args.rounds.to_string(), args.imports.to_string());
    let out = "/srv/measured.json";
    let script = format!("guest-bench --rounds {rounds} --imports {imports} >{out}");
    vm.run(Cmd::sh(&script))?.ok()?;
    let measured: Measured = serde_json::from_slice(&vm.get(out)?)?;
    vm.shutdown()?;
    let report = Report {
        machine: Machine {
            kernel: boot.release,
            accel: boot.accel.to_string(),
            cpus: CPUS,
            memory: memory.to_string(),
            udev: args.udev,
            load: [before, load()?],
        },
        measured,
    };
    println!("{report}");
    for (what, ratio) in [
        ("up, library to raw ioctls", report.up_ratio()),
        ("import to tar and sync", report.import_ratio()),
    ] {
        if let Some(ratio) = ratio {
            println!("{what}: {ratio:.2}");
        }
    }
    if args.update_docs {
        let path = apt::workspace().join("docs/benchmarks.md");
        let words: Vec<String> = std::env::args().skip(1).collect();
        let command = format!("scripts/bench {}", words.join(" "));
        fs::write(&path, report.page(&command))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The load average of the last minute.
fn load() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    let first = text.split(' ').next().context("no load average")?;
    Ok(first.to_owned())
}
