//! Records writes in a virtual machine, and looks at the states that a power cut can leave of them.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser;
use dmthin_tests::apt;
use dmthin_tests::powercut::{self, DISK_MIB, Done, Layout, Name, Parts, Verdict};
use dmthin_tests::vm::{Cmd, Disk, Kernel, RunningVm, Size, Vm, static_program};

/// Power cuts at every write: records a history of commands, and looks at each state of the disk that a
/// power cut could have left.
#[derive(Debug, Parser)]
#[command(name = "scripts/powercut")]
struct Args {
    /// The kernel that is recorded: 6.1, 6.12 or new.
    #[arg(long, default_value = "6.1")]
    kernel: Kernel,
    /// The kernel that looks at the states: 6.1, 6.12, new, or uml, which is many times faster.
    #[arg(long, default_value = "uml")]
    look: Kernel,
    /// What the pool lies on; may be repeated; both if not given.
    #[arg(long = "layout")]
    layouts: Vec<Layout>,
    /// Look at so many states of each layout only, spread over the log.
    #[arg(long)]
    sample: Option<usize>,
    /// States of each boundary with a part of what was not flushed.
    #[arg(long, default_value_t = 1)]
    parts: u64,
    /// So many such states in all, spread over the log, in place of so many of each boundary.
    #[arg(long, conflicts_with = "parts")]
    parts_in_all: Option<usize>,
    /// Chooses samples and parts.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this state of the last recording (with --layout), named as in the failures; may be repeated.
    #[arg(long = "state")]
    states: Vec<Name>,
    /// Machines that look at a time, each at a stretch of the log.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Begin with no more states after so long.
    #[arg(long)]
    minutes: Option<u64>,
    /// Look at the last recording, and make none.
    #[arg(long)]
    again: bool,
    /// Write the numbers to docs/powercut.md too.
    #[arg(long)]
    update_docs: bool,
    /// This pool-cli, static, in place of one that is built.
    #[arg(long, value_name = "FILE")]
    pool_cli: Option<PathBuf>,
    /// How pool-cli is built: release or dev.
    #[arg(long, default_value = "release")]
    profile: String,
}

impl Args {
    /// What does the same again, but for how its programs are built.
    fn command(&self, layout: Layout) -> String {
        let mut words = format!(
            "scripts/powercut --kernel {} --look {} --layout {} --seed {}",
            self.kernel,
            self.look,
            layout.name(),
            self.seed
        );
        if let Some(number) = self.sample {
            words.push_str(&format!(" --sample {number}"));
        }
        words.push_str(&match self.parts_in_all {
            Some(number) => format!(" --parts-in-all {number}"),
            None => format!(" --parts {}", self.parts),
        });
        words
    }
}

/// The longest that a recording, or the states of one batch, may take.
const LIMIT: Duration = Duration::from_secs(60 * 60);
/// States that one command in the guest looks at; should the guest die of one, these are begun again.
const BATCH: usize = 10;

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
    let layouts = match args.layouts.as_slice() {
        [] => &[Layout::Devices, Layout::Files],
        chosen => chosen,
    };
    ensure!(
        args.states.is_empty() || layouts.len() == 1,
        "a state is one of a layout: name it with --layout"
    );
    let guest = Guest::prepare(args)?;
    let done = layouts
        .iter()
        .map(|layout| guest.prove(args, *layout))
        .collect::<Result<Vec<Done>>>()?;
    println!("{}", powercut::Table(&done));
    for done in &done {
        for verdict in done.failed() {
            println!(
                "FAILED  scripts/powercut --kernel {} --layout {} --state {}, {}: {}",
                args.kernel,
                done.layout,
                verdict.state,
                verdict.during,
                verdict.failed.as_deref().unwrap_or_default()
            );
        }
    }
    if args.update_docs {
        let path = apt::workspace().join("docs/powercut.md");
        let page = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, powercut::page(&page, &done))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(done.iter().all(|done| done.failed().next().is_none()))
}

/// What every machine gets.
struct Guest {
    kernel: Kernel,
    look: Kernel,
    pool_cli: PathBuf,
    powercut: PathBuf,
}

impl Guest {
    fn prepare(args: &Args) -> Result<Self> {
        Ok(Self {
            kernel: args.kernel,
            look: args.look,
            pool_cli: match &args.pool_cli {
                Some(file) => file.clone(),
                None => static_program("pool-cli", "pool-cli", &args.profile)?,
            },
            powercut: static_program("dmthin-tests", "guest-powercut", "dev")?,
        })
    }

    fn machine(&self, kernel: Kernel) -> Vm {
        Vm::new(kernel)
            .program(&self.pool_cli, "/usr/bin/pool-cli")
            .program(&self.powercut, "/usr/bin/guest-powercut")
            .timeout(LIMIT)
    }

    fn prove(&self, args: &Args, layout: Layout) -> Result<Done> {
        let dir = apt::target_directory().join("powercut");
        fs::create_dir_all(&dir)?;
        let log = dir.join(format!("{}-{}.log", args.kernel, layout.name()));
        if !args.again && args.states.is_empty() {
            self.record(layout, &log)?;
        }
        ensure!(log.exists(), "there is no recording yet: {}", log.display());
        let parts = match args.parts_in_all {
            Some(number) => Parts::InAll(number),
            None => Parts::Each(args.parts),
        };
        let mut survey = powercut::survey(&log, parts, args.sample, args.seed)?;
        if !args.states.is_empty() {
            survey.states = args.states.clone();
            survey.states.sort();
        }
        let [entries, _, _, flushes] = survey.counts;
        println!(
            "{}: {entries} entries, {flushes} flushes, {} boundaries; {} states",
            layout.name(),
            survey.boundaries,
            survey.states.len()
        );
        let started = Instant::now();
        let recorded = log.with_extension("kernel");
        let kernel = fs::read_to_string(&recorded)
            .with_context(|| format!("cannot read {}", recorded.display()))?;
        let each = survey.states.len().div_ceil(args.jobs.max(1)).max(1);
        let until = args.minutes.map(|minutes| minutes.saturating_mul(60));
        let until = until.map(Duration::from_secs);
        let found = thread::scope(|scope| {
            let jobs: Vec<_> = survey
                .states
                .chunks(each)
                .map(|states| {
                    let in_time = move || until.is_none_or(|until| started.elapsed() < until);
                    let log = &log;
                    scope.spawn(move || self.look_at(log, layout, states, in_time))
                })
                .collect();
            jobs.into_iter()
                .map(|job| job.join().map_err(|_| anyhow!("a job panicked"))?)
                .collect::<Result<Vec<_>>>()
        })?;
        let looked = found.first().map(|(kernel, _)| kernel.clone());
        Ok(Done {
            kernel,
            looked: looked.context("there are no states")?,
            layout: layout.name(),
            survey,
            verdicts: found
                .into_iter()
                .flat_map(|(_, verdicts)| verdicts)
                .collect(),
            seconds: started.elapsed().as_secs(),
            command: args.command(layout),
        })
    }

    /// Looks at states, in the order of the log, in a machine of their own; gives its kernel and what came of
    /// those for which there was time.
    fn look_at(
        &self,
        log: &Path,
        layout: Layout,
        states: &[Name],
        in_time: impl Fn() -> bool,
    ) -> Result<(String, Vec<Verdict>)> {
        let mut vm = self
            .machine(self.look)
            .disk(Disk::file("log", log).forgetting_writes())
            .disk(Disk::scratch("replay", Size::mib(DISK_MIB)).careless())
            .disk(Disk::scratch("cow", Size::mib(DISK_MIB)).careless())
            .start()?;
        let kernel = kernel_of(&mut vm)?;
        let mut verdicts = Vec::new();
        let mut applied = 0;
        for batch in states.chunks(BATCH).take_while(|_| in_time()) {
            match look(&mut vm, layout, batch, applied) {
                Ok(found) => verdicts.extend(found),
                Err(error) => {
                    eprintln!("{error:#}; again, one by one");
                    for state in batch {
                        verdicts.push(self.alone(&mut vm, layout, *state)?);
                    }
                }
            }
            applied = batch.last().map_or(applied, |state| state.at);
        }
        vm.shutdown()?;
        Ok((kernel, verdicts))
    }

    /// One state in a machine that was just booted, so that nothing of another's is in its way.
    fn alone(&self, vm: &mut RunningVm, layout: Layout, state: Name) -> Result<Verdict> {
        vm.power_cut();
        vm.power_on()?;
        let found = look(vm, layout, &[state], 0).and_then(|found| {
            let first = found.into_iter().next();
            first.context("no verdict")
        });
        Ok(found.unwrap_or_else(|error| Verdict {
            state: state.to_string(),
            during: "the machine".to_owned(),
            failed: Some(format!("{error:#}")),
            millis: 0,
        }))
    }

    fn record(&self, layout: Layout, log: &Path) -> Result<()> {
        let started = Instant::now();
        let disk = log.with_extension("disk");
        let file = File::create(&disk)?;
        file.set_len(Size::mib(DISK_MIB).bytes())?;
        let mut vm = self
            .machine(self.kernel)
            .disk(Disk::file("disk", &disk).logging_writes(log))
            .start()?;
        let recorded = vm.run(Cmd::new(["guest-powercut", "record", layout.name()]))?;
        if let Err(error) = recorded.ok() {
            let kernel = vm.sh("dmesg | tail -n 20")?.out();
            return Err(error.context(format!("the kernel said:\n{kernel}")));
        }
        fs::write(log.with_extension("kernel"), kernel_of(&mut vm)?)?;
        vm.shutdown()?;
        // All of it is in the log.
        fs::remove_file(disk)?;
        println!(
            "{}: recorded in {} s",
            layout.name(),
            started.elapsed().as_secs()
        );
        Ok(())
    }
}

/// A guest's kernel, and the version of its thin-pool target.
fn kernel_of(vm: &mut RunningVm) -> Result<String> {
    let targets = vm.run(Cmd::new(["dmsetup", "targets"]))?.ok()?;
    let mut words = targets.split_whitespace();
    let version = words
        .find(|word| *word == "thin-pool")
        .and_then(|_| words.next())
        .context("the kernel has no thin-pool")?;
    let boot = vm.boot();
    Ok(format!(
        "{}, {}, thin-pool {version}",
        boot.release, boot.accel
    ))
}

/// Has the guest look at some states.
fn look(
    vm: &mut RunningVm,
    layout: Layout,
    states: &[Name],
    applied: usize,
) -> Result<Vec<Verdict>> {
    let mut list = String::new();
    for state in states {
        writeln!(list, "{state}")?;
    }
    vm.put(list.as_bytes(), "/tmp/states", 0o600)?;
    let applied = applied.to_string();
    let command = [
        "guest-powercut",
        "replay",
        layout.name(),
        "/tmp/states",
        "--applied",
        &applied,
    ];
    let output = vm.run(Cmd::new(command))?.ok()?;
    let mut verdicts: Vec<Verdict> = Vec::new();
    for line in output.lines() {
        let verdict: Verdict = serde_json::from_str(line)?;
        let (word, why) = match &verdict.failed {
            None => ("ok     ", String::new()),
            Some(why) => ("FAILED ", format!(": {why}")),
        };
        let seconds = Duration::from_millis(verdict.millis).as_secs_f64();
        println!(
            "{word} {} {} {} ({seconds:.1} s){why}",
            layout.name(),
            verdict.state,
            verdict.during
        );
        verdicts.push(verdict);
    }
    ensure!(
        verdicts.len() == states.len(),
        "{} of {} states were looked at",
        verdicts.len(),
        states.len()
    );
    Ok(verdicts)
}
