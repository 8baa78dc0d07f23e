//! Boots virtual machines of several kernels, with udevd and without, and runs the system tests in them.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use dmthin_tests::apt;
use dmthin_tests::fixture::{Variant, image};
use dmthin_tests::guest::Group;
use dmthin_tests::vm::{
    Cmd, Disk, Kernel, Output, RunningVm, Size, Vm, static_program, static_tests, witness_program,
};

/// Runs the system tests on real kernels.
#[derive(Debug, Parser)]
#[command(name = "system")]
struct Args {
    /// A kernel: 6.1, 6.12, new or uml; may be given several times.
    #[arg(long = "kernel", default_values = ["6.1", "new", "uml"])]
    kernels: Vec<Kernel>,
    /// Whether udevd runs in the guest.
    #[arg(long, default_value = "both")]
    udev: Udev,
    /// The profile that pool-cli is built with; `dev` builds faster.
    #[arg(long, default_value = "release")]
    profile: String,
    /// How many virtual machines run at once.
    #[arg(long, default_value_t = 3)]
    jobs: usize,
    /// Run every test on every machine, the longest too.
    #[arg(long)]
    all: bool,
    /// Only the tests of this group, on every machine; may be given several times.
    #[arg(long = "group", conflicts_with = "all")]
    groups: Vec<Group>,
    /// Only the tests whose name contains one of these words.
    only: Vec<String>,
}

/// The test that takes two machines of its own; by this very name it runs alone.
const MOVE: &str = "disk_moves_to_another_machine";

impl Args {
    fn moves(&self) -> bool {
        self.whole() || self.only.iter().any(|word| MOVE.contains(word.as_str()))
    }

    /// Whether nothing is left out.
    const fn whole(&self) -> bool {
        self.only.is_empty() && self.groups.is_empty()
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

/// What a machine runs, each share in a boot of its own; no machine runs everything, and one without a share is not
/// booted. What a kernel or udevd could do otherwise runs where it is another; what takes many commands runs where
/// they are fastest, in the kernel that is a program, which is a 6.1 without udevd.
const fn shares((kernel, udev): Machine) -> &'static [&'static [Group]] {
    match (kernel, udev) {
        (Kernel::Uml, _) => &[
            &[Group::Short, Group::Full, Group::Repair, Group::Apart],
            &[Group::Broken, Group::Verbs, Group::Layers],
            &[Group::Errors, Group::Cycles, Group::Long],
            &[Group::Images, Group::Load],
            &[Group::Steps],
        ],
        // By words or groups; 6.1 also for what takes a machine of its own.
        (Kernel::V6_1, _) | (_, false) => &[],
        (_, true) => &[&[Group::Short, Group::Host, Group::Full]],
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
            // It has none, and is there for those who have none.
            Udev::Both | Udev::No if kernel.user_mode() => &[false],
            Udev::Yes if kernel.user_mode() => &[],
            Udev::Yes => &[true],
            Udev::No => &[false],
            Udev::Both => &[true, false],
        };
        machines.extend(with_udev.iter().map(|udev| (*kernel, *udev)));
    }
    if args.only == [MOVE] {
        machines.clear();
    }
    let mut boots: Vec<(Machine, Vec<Group>)> = Vec::new();
    for machine in machines {
        match (&args.groups[..], args.all || !args.only.is_empty()) {
            ([], true) => boots.push((machine, Vec::new())),
            ([], false) => {
                let shares = shares(machine).iter();
                boots.extend(shares.map(|share| (machine, share.to_vec())));
            }
            (given, _) => boots.push((machine, given.to_vec())),
        }
    }
    // Those with the most to do begin, from the end.
    boots.sort_by_key(|((kernel, _), _)| (!kernel.user_mode(), *kernel == Kernel::New));
    let (queue, totals) = (Mutex::new(boots), Mutex::new(Totals::default()));
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no holder panics").pop();
                    let Some((machine, chosen)) = next else { break };
                    let report = guest.test(machine, &chosen, args).unwrap_or_else(|error| {
                        Report::of(&format!("FAILED  the machine: {error:#}\n"))
                    });
                    totals
                        .lock()
                        .expect("no holder panics")
                        .add(machine, report);
                }
            });
        }
    });
    let mut totals = totals.into_inner().expect("no holder panics");
    let whole: Vec<_> = args.kernels.iter().filter(|k| !k.user_mode()).collect();
    if args.moves()
        && let (Some(from), Some(to)) = (whole.first(), whole.last())
    {
        for (machine, report) in guest.moved((**from, false), (**to, args.udev != Udev::No))? {
            totals.add(machine, report);
        }
    }
    if args.whole() {
        for module in ["dm_thin_pool", "dm_mod"] {
            totals.add((Kernel::V6_1, false), guest.without(module)?);
        }
    }
    println!("system tests took {} s", started.elapsed().as_secs());
    // Once more, where they are found without the rest.
    for line in &totals.failed {
        println!("{line}");
    }
    println!("{} passed, {} failed", totals.passed, totals.failed.len());
    Ok(totals.failed.is_empty() && totals.passed > 0)
}

/// What one machine's tests told.
struct Report {
    passed: u32,
    /// Of each that failed, what it told.
    failed: Vec<String>,
}

impl Report {
    fn of(text: &str) -> Self {
        let passed = text.lines().filter(|line| line.starts_with("ok ")).count();
        let mut failed: Vec<String> = Vec::new();
        let mut within = false;
        for line in text.lines() {
            if line.starts_with("FAILED ") {
                failed.push(line.to_owned());
                within = true;
            } else if line.starts_with("ok ") {
                within = false;
            } else if let Some(last) = failed.last_mut().filter(|_| within) {
                // An error of more than one line.
                last.push('\n');
                last.push_str(line);
            }
        }
        Self {
            passed: u32::try_from(passed).unwrap_or(u32::MAX),
            failed,
        }
    }
}

#[derive(Default)]
struct Totals {
    passed: u32,
    failed: Vec<String>,
}

impl Totals {
    fn add(&mut self, machine: Machine, report: Report) {
        self.passed = self.passed.saturating_add(report.passed);
        let name = name(machine);
        let failed = report.failed.iter().map(|line| format!("{name}: {line}"));
        self.failed.extend(failed);
    }
}

/// How a machine is called in what is printed.
fn name((kernel, udev): Machine) -> String {
    format!("{kernel}, {}", if udev { "udev" } else { "no udev" })
}

/// Prints lines of a machine's that no command in it printed.
fn say(machine: Machine, text: &str) {
    let (name, mut out) = (name(machine), std::io::stdout().lock());
    for line in text.lines() {
        // A closed stdout must not keep the count from the exit code.
        let _ = writeln!(out, "{name}: {line}");
    }
}

/// What every machine gets.
struct Guest {
    programs: Vec<(PathBuf, &'static str)>,
    /// The library's own tests that need root and a device mapper.
    privileged: Vec<(String, PathBuf)>,
    /// The one that `steps` runs, which compares the library's model of the kernel with the kernel.
    model: Vec<(String, PathBuf)>,
    images: PathBuf,
}

impl Guest {
    fn prepare(args: &Args) -> Result<Self> {
        let program = |package, name: &'static str, profile: &str, guest| -> Result<_> {
            Ok((static_program(package, name, profile)?, guest))
        };
        Ok(Self {
            programs: vec![
                program("pool-cli", "pool-cli", &args.profile, "/usr/bin/pool-cli")?,
                program("dmthin-tests", "guest-tests", "dev", "/usr/bin/guest-tests")?,
                program(
                    "dmthin-tests",
                    "compare-trees",
                    "dev",
                    "/usr/bin/compare-trees",
                )?,
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
            model: static_tests("dmthin", "dev", &["--test", "model"])?,
            images: image(Variant::Full)?.disk,
        })
    }

    fn boot(&self, (kernel, udev): Machine, groups: &[Group]) -> Result<RunningVm> {
        let mut vm = Vm::new(kernel)
            .udev(udev)
            .told_as(&name((kernel, udev)))
            .memory(Size::gib(2))
            .disk(Disk::scratch("work", Size::gib(24)).mounted_at("/srv"))
            .timeout(LIMIT);
        let images = Disk::file("images", &self.images).forgetting_writes();
        vm = vm.disk(images.mounted_at("/images"));
        // It brings many libraries.
        if groups.is_empty() || groups.contains(&Group::Load) {
            vm = vm.package("fio");
        }
        for (host, guest) in &self.programs {
            vm = vm.program(host, guest);
        }
        let model = match groups.is_empty() || groups.contains(&Group::Steps) {
            true => &self.model[..],
            false => &[],
        };
        for (name, host) in self.privileged.iter().chain(model) {
            vm = vm.program(host, &format!("/usr/lib/tests/{name}"));
        }
        vm.start()
    }

    fn test(&self, machine: Machine, chosen: &[Group], args: &Args) -> Result<Report> {
        let mut vm = self.boot(machine, chosen)?;
        let boot = vm.boot();
        let up = format!(
            "Linux {} up in {:.1} s ({:?}{})",
            boot.release,
            boot.took.as_secs_f64(),
            boot.accel,
            if boot.tries > 1 {
                format!(", boot {} of a dying guest", boot.tries)
            } else {
                String::new()
            },
        );
        say(machine, &up);
        let words = args.only.iter().map(String::as_str);
        let chosen = chosen.iter().flat_map(|group| ["--group", group.name()]);
        let command = ["guest-tests", "run"]
            .into_iter()
            .chain(chosen)
            .chain(words);
        let output = vm.run(Cmd::new(command).timeout(LIMIT))?;
        let mut text = output.out() + &output.err();
        if args.whole() && !machine.0.user_mode() {
            text.push_str(&Self::reboot(&mut vm)?);
            for (name, _) in &self.privileged {
                text.push_str(&Self::privileged(&mut vm, name)?);
            }
        }
        vm.shutdown()?;
        let report = Report::of(&text);
        ensure!(
            output.status.code() == 0 || !report.failed.is_empty(),
            "guest-tests ended with {:?}: {text}",
            output.status,
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
        say((Kernel::V6_1, false), &verdict);
        Ok(Report::of(&verdict))
    }

    /// One machine fills two disks and ends, the power going; another kernel's machine, with no other
    /// disk of the first, opens them.
    fn moved(&self, from: Machine, to: Machine) -> Result<[(Machine, Report); 2]> {
        let dir = tempfile::tempdir_in(apt::work_directory())?;
        let boot = |(kernel, udev): Machine| -> Result<RunningVm> {
            let mut vm = Vm::new(kernel)
                .udev(udev)
                .told_as(&name((kernel, udev)))
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
        let report = |output: &Output| Report::of(&(output.out() + &output.err()));
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
