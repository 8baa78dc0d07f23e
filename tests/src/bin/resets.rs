//! Boots a virtual machine, works in it, resets it at a random moment, looks at what that left, and again.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use dmthin_tests::apt;
use dmthin_tests::resets::{self, Done, Found, How, Moment};
use dmthin_tests::vm::{Cmd, Disk, Kernel, RunningVm, Size, Vm, static_program};

/// Resets at random moments: by sysrq-b and by killing the virtual machine in turns, with fio and a writer in
/// ten containers and eight hands that make and remove others; each time all that was done is there.
#[derive(Debug, Parser)]
#[command(name = "scripts/resets")]
struct Args {
    /// The kernel: 6.1, 6.12, new, or uml, which is many times faster; may be repeated.
    #[arg(long = "kernel", default_value = "uml")]
    kernels: Vec<Kernel>,
    /// Resets on each kernel.
    #[arg(long, default_value_t = 200)]
    rounds: usize,
    /// Chooses the moments.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Begin with no more resets after so long.
    #[arg(long)]
    minutes: Option<u64>,
    /// Write the numbers to docs/resets.md too.
    #[arg(long)]
    update_docs: bool,
    /// This pool-cli, static, in place of one that is built.
    #[arg(long, value_name = "FILE")]
    pool_cli: Option<PathBuf>,
    /// How pool-cli is built: release or dev.
    #[arg(long, default_value = "release")]
    profile: String,
}

/// The longest that a look at what a reset left, and the load after it, may take.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// User-mode Linux overruns its stack for signals now and then where it gets few turns of a processor: that
/// is one more reset, after which is looked again, this often.
const DEATHS: u32 = 3;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    ensure!(args.rounds > 0, "no rounds");
    let pool_cli = match &args.pool_cli {
        Some(file) => file.clone(),
        None => static_program("pool-cli", "pool-cli", &args.profile)?,
    };
    let resets = static_program("dmthin-tests", "guest-resets", "dev")?;
    let mut done = Vec::new();
    for kernel in &args.kernels {
        let mut vm = Vm::new(*kernel)
            .package("fio")
            .program(&pool_cli, "/usr/bin/pool-cli")
            .program(&resets, "/usr/bin/guest-resets")
            .disk(
                Disk::scratch("work", Size::gib(6))
                    .careless()
                    .mounted_at("/srv"),
            )
            .disk(Disk::scratch("told", Size::mib(resets::DISK_MIB)).careless())
            .timeout(LIMIT)
            .start()?;
        done.push(rounds(&mut vm, *kernel, args));
    }
    for done in &done {
        println!("{}", done.row());
        if let Some(failed) = &done.failed {
            println!("FAILED  reset {}: {failed}", done.passed.len());
        }
    }
    if args.update_docs {
        let path = apt::workspace().join("docs/resets.md");
        let page = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, resets::page(&page, &done))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(done.iter().all(|done| done.failed.is_none()))
}

/// All the resets of a machine that was just booted, up to the first after which something is wrong.
fn rounds(vm: &mut RunningVm, kernel: Kernel, args: &Args) -> Done {
    let started = Instant::now();
    let boot = vm.boot();
    let mut done = Done {
        kernel: format!("{}, {}", boot.release, boot.accel),
        passed: Vec::new(),
        failed: None,
        containers: 0,
        longest_open: 0,
        seconds: 0,
        command: format!(
            "scripts/resets --kernel {kernel} --rounds {} --seed {}",
            args.rounds, args.seed
        ),
    };
    let mut last: Option<Moment> = None;
    // After the last reset it is looked at once more.
    let moments = resets::moments(args.rounds, args.seed).into_iter();
    let limit = args.minutes.map(|minutes| minutes.saturating_mul(60));
    let in_time = || limit.is_none_or(|limit| started.elapsed().as_secs() < limit);
    for next in moments.take_while(|_| in_time()).map(Some).chain([None]) {
        let round = Instant::now();
        match one(vm, next) {
            Ok(found) => {
                done.containers = done.containers.saturating_add(found.containers);
                done.longest_open = done.longest_open.max(found.open);
                if let Some(moment) = last {
                    done.passed.push(moment.how);
                    println!(
                        "ok      {}: reset {}, {} after {:.1} s: {} containers ({:.1} s)",
                        done.kernel,
                        done.passed.len(),
                        moment.how,
                        moment.after.as_secs_f64(),
                        found.containers,
                        round.elapsed().as_secs_f64()
                    );
                }
            }
            Err(error) => {
                done.failed = Some(format!("{error:#}"));
                break;
            }
        }
        last = next;
    }
    done.seconds = started.elapsed().as_secs();
    done
}

/// Looks, and resets at this moment, or ends.
fn one(vm: &mut RunningVm, moment: Option<Moment>) -> Result<Found> {
    let mut command = vec!["guest-resets".to_owned()];
    let mut kill = None;
    match moment {
        Some(moment) if moment.how == How::Sysrq => {
            command.extend(["--after".to_owned(), moment.after.as_millis().to_string()]);
        }
        Some(moment) => kill = Some(moment.after),
        None => kill = Some(Duration::ZERO),
    }
    let loading = |printed: &str| printed.lines().any(|line| line == resets::LOADING);
    let mut deaths = 0;
    let printed = loop {
        let until = |printed: &str| kill.filter(|_| loading(printed));
        let printed = vm.run_to_death(Cmd::new(command.clone()), until)?;
        if loading(&printed) {
            break printed;
        }
        let console = vm.console();
        ensure!(
            deaths < DEATHS && !console.contains("Kernel panic"),
            "the machine died before the load: {printed}\n{console}"
        );
        deaths = deaths.saturating_add(1);
        println!("the machine died by itself while it looked; it looks again");
        vm.power_on()?;
    };
    let found = printed
        .lines()
        .find_map(|line| line.strip_prefix(resets::DONE))
        .with_context(|| format!("nothing was looked at: {printed}"))?;
    if moment.is_some() {
        vm.power_on()?;
    }
    Ok(serde_json::from_str(found)?)
}
