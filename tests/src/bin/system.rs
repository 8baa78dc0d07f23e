//! Boots one virtual machine a kernel, with and without udevd, and runs every system test in it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use dmthin_tests::apt;
use dmthin_tests::fixture::{Variant, image};
use dmthin_tests::vm::{
    Cmd, Disk, Kernel, Output, RunningVm, Size, Vm, static_program, static_tests, witness_program,
};

/// Runs the system tests on real kernels.
#[derive(Debug, Parser)]
#[command(name = "system")]
struct Args {
    /// A kernel: 6.1, 6.12 or new; may be given several times.
    #[arg(long = "kernel", default_values = ["6.1", "new"])]
    kernels: Vec<Kernel>,
    /// Whether udevd runs in the guest.
    #[arg(long, default_value = "both")]
    udev: Udev,
    /// The profile that what runs in the guest is built with; `dev` builds faster.
    #[arg(long, default_value = "release")]
    profile: String,
    /// How many virtual machines run at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Run every test on every machine, the longest too.
    #[arg(long)]
    all: bool,
    /// Only the tests whose name contains one of these words.
    only: Vec<String>,
}

/// The test that takes two machines of its own; by this very name it runs alone.
const MOVE: &str = "disk_moves_to_another_machine";

impl Args {
    fn moves(&self) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| MOVE.contains(word.as_str()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Udev {
    Yes,
    No,
    Both,
}

/// A machine's kernel, with udevd or without.
type Machine = (Kernel, bool);

/// The longest that all the tests of one machine may take.
const LIMIT: Duration = Duration::from_secs(90 * 60);

/// What a machine runs; none of them is everything. Half of the machines run the long tests, so that each
/// kernel does, and udevd is there for one and not for the other; of what takes longest each of those
/// takes a part.
const fn groups((kernel, udev): Machine) -> &'static [&'static str] {
    match (kernel, udev) {
        (Kernel::New, true) => &["short", "long", "load"],
        (Kernel::New, false) | (_, true) => &["short"],
        (_, false) => &["short", "long", "cycles"],
    }
}

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
    let started = Instant::now();
    let guest = Guest::prepare(args)?;
    let mut machines: Vec<Machine> = Vec::new();
    for kernel in &args.kernels {
        let with_udev: &[bool] = match args.udev {
            Udev::Yes => &[true],
            Udev::No => &[false],
            Udev::Both => &[true, false],
        };
        machines.extend(with_udev.iter().map(|udev| (*kernel, *udev)));
    }
    if args.only == [MOVE] {
        machines.clear();
    }
    machines.reverse();
    let (queue, totals) = (Mutex::new(machines), Mutex::new(Totals::default()));
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no holder panics").pop();
                    let Some(machine) = next else { break };
                    let report = guest
                        .test(machine, &args.only)
                        .unwrap_or_else(|error| Report {
                            text: format!("FAILED  the machine: {error:#}\n"),
                            passed: 0,
                            failed: 1,
                        });
                    totals
                        .lock()
                        .expect("no holder panics")
                        .add(machine, &report);
                }
            });
        }
    });
    let mut totals = totals.into_inner().expect("no holder panics");
    if args.moves()
        && let (Some(from), Some(to)) = (args.kernels.first(), args.kernels.last())
    {
        for (machine, report) in guest.moved((*from, false), (*to, args.udev != Udev::No))? {
            totals.add(machine, &report);
        }
    }
    if args.only.is_empty() {
        for module in ["dm_thin_pool", "dm_mod"] {
            totals.add((Kernel::V6_1, false), &guest.without(module)?);
        }
    }
    println!("system tests took {} s", started.elapsed().as_secs());
    println!("{} passed, {} failed", totals.passed, totals.failed);
    Ok(totals.failed == 0 && totals.passed > 0)
}

/// What one machine's tests printed.
struct Report {
    text: String,
    passed: u32,
    failed: u32,
}

impl Report {
    fn of(text: String) -> Self {
        let count = |word: &str| {
            u32::try_from(text.lines().filter(|line| line.starts_with(word)).count())
                .unwrap_or(u32::MAX)
        };
        Self {
            passed: count("ok "),
            failed: count("FAILED "),
            text,
        }
    }
}

#[derive(Default)]
struct Totals {
    passed: u32,
    failed: u32,
}

impl Totals {
    fn add(&mut self, (kernel, udev): Machine, report: &Report) {
        let udev = if udev { "udev" } else { "no udev" };
        let mut out = std::io::stdout().lock();
        for line in report.text.lines() {
            // A closed stdout must not keep the count from the exit code.
            let _ = writeln!(out, "{kernel}, {udev}: {line}");
        }
        self.passed = self.passed.saturating_add(report.passed);
        self.failed = self.failed.saturating_add(report.failed);
    }
}

/// What every machine gets.
struct Guest {
    programs: Vec<(PathBuf, &'static str)>,
    /// The library's own tests that need root and a device mapper.
    privileged: Vec<(String, PathBuf)>,
    images: PathBuf,
    /// Whether every machine runs everything.
    all: bool,
}

impl Guest {
    fn prepare(args: &Args) -> Result<Self> {
        let profile = args.profile.as_str();
        let program = |package, name: &'static str, guest| -> Result<_> {
            Ok((static_program(package, name, profile)?, guest))
        };
        Ok(Self {
            programs: vec![
                program("pool-cli", "pool-cli", "/usr/bin/pool-cli")?,
                program("dmthin-tests", "guest-tests", "/usr/bin/guest-tests")?,
                program("dmthin-tests", "compare-trees", "/usr/bin/compare-trees")?,
                (witness_program()?, "/usr/bin/dm-witness"),
                (
                    apt::workspace().join("fixtures/oracle-extract"),
                    "/usr/bin/oracle-extract",
                ),
            ],
            privileged: static_tests(
                "dmthin",
                "dev",
                &["--lib", "--test", "privileged", "--test", "priv_fs"],
            )?,
            images: image(Variant::Full)?.disk,
            all: args.all,
        })
    }

    fn boot(&self, (kernel, udev): Machine) -> Result<RunningVm> {
        let mut vm = Vm::new(kernel)
            .udev(udev)
            .memory(Size::gib(2))
            .disk(Disk::scratch("work", Size::gib(24)).mounted_at("/srv"))
            .disk(
                Disk::file("images", &self.images)
                    .forgetting_writes()
                    .mounted_at("/images"),
            )
            .timeout(LIMIT);
        for (host, guest) in &self.programs {
            vm = vm.program(host, guest);
        }
        for (name, host) in &self.privileged {
            vm = vm.program(host, &format!("/usr/lib/tests/{name}"));
        }
        vm.start()
    }

    fn test(&self, machine: Machine, only: &[String]) -> Result<Report> {
        let mut vm = self.boot(machine)?;
        let boot = vm.boot();
        let mut text = format!(
            "Linux {} up in {:.1} s ({:?}{})\n",
            boot.release,
            boot.took.as_secs_f64(),
            boot.accel,
            if boot.tries > 1 {
                format!(", boot {} of a dying guest", boot.tries)
            } else {
                String::new()
            },
        );
        let words = only.iter().map(String::as_str);
        let chosen = match self.all || !only.is_empty() {
            true => &[],
            false => groups(machine),
        };
        let chosen = chosen.iter().flat_map(|group| ["--group", group]);
        let command = ["guest-tests", "run"]
            .into_iter()
            .chain(chosen)
            .chain(words);
        let output = vm.run(Cmd::new(command).timeout(LIMIT))?;
        text.push_str(&output.out());
        text.push_str(&output.err());
        if only.is_empty() {
            text.push_str(&Self::reboot(&mut vm)?);
            for (name, _) in &self.privileged {
                text.push_str(&Self::privileged(&mut vm, name)?);
            }
        }
        vm.shutdown()?;
        let report = Report::of(text);
        ensure!(
            output.status.code() == 0 || report.failed > 0,
            "guest-tests ended with {:?}: {}",
            output.status,
            report.text
        );
        Ok(report)
    }

    /// Runs one of the library's own test programs; its lines become ours.
    fn privileged(vm: &mut RunningVm, name: &str) -> Result<String> {
        let program = format!("/usr/lib/tests/{name}");
        let command = Cmd::new([&program, "priv_", "--ignored", "--test-threads=1"])
            .env("TMPDIR", "/srv")
            .timeout(LIMIT);
        let output = vm.run(command)?;
        let mut text = String::new();
        for line in output.out().lines() {
            if let Some(test) = line
                .strip_prefix("test ")
                .and_then(|t| t.strip_suffix(" ... ok"))
            {
                text.push_str(&format!("ok      {name}: {test}\n"));
            } else if line.ends_with(" ... FAILED") {
                text.push_str(&format!("FAILED  {name}: {line}\n"));
            }
        }
        let ended = output.status.code();
        if ended != 0 || text.is_empty() {
            let said = output.out() + &output.err();
            text.push_str(&format!("FAILED  {name} ended with {ended}:\n{said}\n"));
        }
        Ok(text)
    }

    /// On a kernel without this module the command must say what is missing, and change nothing.
    fn without(&self, module: &str) -> Result<Report> {
        let mut vm = Vm::new(Kernel::V6_1).without_module(module);
        for (host, guest) in self.programs.iter().take(1) {
            vm = vm.program(host, guest);
        }
        let mut vm = vm.start()?;
        let output = vm.sh("pool-cli --root /tmp/pools pool create tank --size 1G; \
                            code=$?; ls -A /tmp/pools 2>/dev/null; exit $code")?;
        vm.shutdown()?;
        let (said, left) = (output.err(), output.out());
        let clear = said.contains("modprobe dm-thin-pool")
            && said
                .lines()
                .filter(|line| !line.starts_with("hint: "))
                .count()
                == 1;
        let verdict = if output.status.code() == 10 && clear && left.is_empty() {
            format!("ok      kernel_without_{module}_is_told\n")
        } else {
            format!(
                "FAILED  kernel_without_{module}_is_told: {:?}, left {left:?}: {said}\n",
                output.status
            )
        };
        Ok(Report::of(verdict))
    }

    /// One machine fills two disks and ends, the power going; another kernel's machine, with no other
    /// disk of the first, opens them.
    fn moved(&self, from: Machine, to: Machine) -> Result<[(Machine, Report); 2]> {
        let dir = tempfile::tempdir_in(apt::work_directory())?;
        let boot = |(kernel, udev): Machine| -> Result<RunningVm> {
            let mut vm = Vm::new(kernel)
                .udev(udev)
                .disk(Disk::scratch("work", Size::gib(2)).mounted_at("/srv"))
                .timeout(LIMIT);
            for name in ["closed", "pulled"] {
                let file = dir.path().join(name);
                vm = vm.disk(Disk::file_or_new(name, file, Size::gib(1)));
            }
            for (host, guest) in self.programs.iter().take(2) {
                vm = vm.program(host, guest);
            }
            vm.start()
        };
        let mut vm = boot(from)?;
        let filled = vm.run(Cmd::new(["guest-tests", "before-move"]))?;
        vm.power_cut();
        drop(vm);
        let mut vm = boot(to)?;
        let opened = vm.run(Cmd::new(["guest-tests", "after-move"]))?;
        vm.shutdown()?;
        let report = |output: &Output| Report::of(output.out() + &output.err());
        Ok([(from, report(&filled)), (to, report(&opened))])
    }

    /// Prepares a pool, reboots the machine under it, and looks at it again.
    fn reboot(vm: &mut RunningVm) -> Result<String> {
        let mut text = String::new();
        text.push_str(&vm.run(Cmd::new(["guest-tests", "before-reboot"]))?.out());
        vm.reboot().context("the guest did not come back")?;
        text.push_str(&vm.run(Cmd::new(["guest-tests", "after-reboot"]))?.out());
        Ok(text)
    }
}
