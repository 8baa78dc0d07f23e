//! Boots a virtual machine, measures in it, and prints tables of the numbers and their ratios.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use dmthin_tests::apt;
use dmthin_tests::bench::{Machine, Measured, Only, Report, renewed};
use dmthin_tests::fixture::{Variant, image};
use dmthin_tests::vm::{Cmd, Disk, Kernel, Size, Vm, static_program};

/// Measures the library and the command against their floors, on a real kernel in one boot.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench")]
struct Args {
    /// The kernel: 6.1, 6.12, new or uml.
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
    /// Volumes of the pool that is opened; 0 leaves that out.
    #[arg(long, default_value_t = 10_000)]
    volumes: u64,
    #[command(flatten)]
    only: Only,
    /// The pool's files are in the guest's memory, where a flush costs nothing.
    #[arg(long)]
    in_memory: bool,
    /// A flush of the pool's disk takes so many milliseconds longer; only what many do at once is measured.
    #[arg(long, default_value_t = 0, conflicts_with_all = ["in_memory", "only_image", "only_diff", "only_commits"])]
    flush_ms: u64,
    /// How the programs are built: release or dev.
    #[arg(long, default_value = "release")]
    profile: String,
    /// Write the numbers to docs/benchmarks.md too, which keeps what it has of parts that were not measured.
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
    let program = |package, name| static_program(package, name, &args.profile);
    let memory = Size::gib(if args.in_memory { 4 } else { 2 });
    let work = Disk::scratch("work", Size::gib(24));
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
        .disk(match args.flush_ms {
            0 => work.mounted_at("/srv"),
            _ => work,
        })
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
    if args.flush_ms > 0 {
        vm.run(Cmd::sh(&slow_disk(args.flush_ms)))?.ok()?;
    }
    let (rounds, imports, volumes) = (args.rounds, args.imports, args.volumes);
    let out = "/srv/measured.json";
    let mut script =
        format!("guest-bench --rounds {rounds} --volumes {volumes} --imports {imports}");
    for option in args.only.options() {
        script.push_str(&format!(" {option}"));
    }
    if args.flush_ms > 0 && args.only == Only::default() {
        script.push_str(" --only-crowds");
    }
    if args.in_memory {
        script.push_str(" --work /tmp");
    }
    script.push_str(&format!(" >{out}"));
    vm.run(Cmd::sh(&script))?.ok()?;
    let measured: Measured = serde_json::from_slice(&vm.get(out)?)?;
    vm.shutdown()?;
    let report = Report {
        machine: Machine {
            kernel: boot.release,
            accel: boot.accel.to_string(),
            // User-mode Linux has one.
            cpus: if args.kernel.user_mode() { 1 } else { CPUS },
            memory: memory.to_string(),
            udev: args.udev,
            in_memory: args.in_memory,
            flush_ms: args.flush_ms,
            load: [before, load()?],
        },
        measured,
    };
    println!("{report}");
    for (what, ratio) in [
        ("up, library to raw ioctls", report.up_ratio()),
        ("import to tar and sync", report.import_ratio()),
        ("commit to create", report.commit_ratio()),
    ] {
        if let Some(ratio) = ratio {
            println!("{what}: {ratio:.2}");
        }
    }
    if args.update_docs {
        let path = apt::workspace().join("docs/benchmarks.md");
        let words: Vec<String> = std::env::args().skip(1).collect();
        let command = format!("scripts/bench {}", words.join(" "));
        let page = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, renewed(&page, &report, &command))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Has the pool's disk take its time for flushes, and for nothing else, and mounts it.
fn slow_disk(flush_ms: u64) -> String {
    let disk = "/dev/vm/work";
    // A device and a place for reads, for writes and for flushes, each with a delay.
    let delays = format!("{disk} 0 0 {disk} 0 0 {disk} 0 {flush_ms}");
    format!(
        "set -e; mkfs.ext4 -q {disk}; \
         dmsetup create slow --table \"0 $(blockdev --getsz {disk}) delay {delays}\"; \
         dmsetup mknodes slow; mkdir -p /srv; mount /dev/mapper/slow /srv"
    )
}

/// The load average of the last minute.
fn load() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    let first = text.split(' ').next().context("no load average")?;
    Ok(first.to_owned())
}
