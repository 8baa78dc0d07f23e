//! Boots a virtual machine, runs a command in it and exits as it did.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use dmthin_tests::vm::{Accel, Cmd, Disk, Kernel, Size, Vm};

/// Boots a throw-away virtual machine with a stock Debian kernel and runs a
/// command in it.
#[derive(Debug, Parser)]
#[command(name = "scripts/vm")]
struct Args {
    /// The kernel: 6.1, 6.12, new or uml.
    #[arg(long, default_value = "6.1")]
    kernel: Kernel,
    /// Run udevd in the guest.
    #[arg(long)]
    udev: bool,
    /// A raw file as a disk, made with SIZE if it is not there; an empty PATH
    /// makes a throw-away disk. The guest has them as /dev/vm/disk1, ...
    #[arg(long = "disk", value_name = "PATH[:SIZE]")]
    disks: Vec<String>,
    /// A file for the guest.
    #[arg(long = "file", value_name = "HOST:GUEST")]
    files: Vec<String>,
    /// A program for the guest, with the libraries it needs.
    #[arg(long = "program", value_name = "HOST:GUEST")]
    programs: Vec<String>,
    /// One more of Debian 12's packages, for its programs.
    #[arg(long = "package", value_name = "NAME")]
    packages: Vec<String>,
    /// The guest's memory.
    #[arg(long, default_value = "2G")]
    memory: Size,
    /// The guest's processors.
    #[arg(long, default_value_t = 2)]
    cpus: u8,
    /// kvm or tcg; the best that works if not given.
    #[arg(long)]
    accel: Option<Accel>,
    /// Seconds the command may take.
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// Leave a kernel module out.
    #[arg(long = "without-module", value_name = "NAME")]
    without: Vec<String>,
    /// Print the kernel's console at the end.
    #[arg(long)]
    console: bool,
    /// Open a shell in the guest on this terminal.
    #[arg(long)]
    shell: bool,
    /// The command; a single word with blanks goes to bash.
    #[arg(last = true)]
    command: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(255)),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn run(args: &Args) -> Result<i32> {
    let started = Instant::now();
    let mut vm = Vm::new(args.kernel)
        .udev(args.udev)
        .memory(args.memory)
        .cpus(args.cpus)
        .live(true)
        .terminal(args.shell)
        .timeout(Duration::from_secs(args.timeout));
    if let Some(accel) = args.accel {
        vm = vm.accel(accel);
    }
    for name in &args.without {
        vm = vm.without_module(name);
    }
    for (index, disk) in (1_u32..).zip(&args.disks) {
        let name = format!("disk{index}");
        vm = vm.disk(match disk.split_once(':') {
            Some(("", size)) => Disk::scratch(&name, size.parse()?),
            Some((path, size)) => Disk::file_or_new(&name, path, size.parse()?),
            None => Disk::file(&name, disk),
        });
    }
    for package in &args.packages {
        vm = vm.package(package);
    }
    for file in &args.files {
        let (host, guest) = pair(file)?;
        vm = vm.file(host, guest);
    }
    for program in &args.programs {
        let (host, guest) = pair(program)?;
        vm = vm.program(host, guest);
    }
    let mut vm = vm.start()?;
    let boot = vm.boot();
    eprintln!(
        "kernel {} up after {:.1} s ({} boot{}, the last {:.1} s under {})",
        boot.release,
        started.elapsed().as_secs_f64(),
        boot.tries,
        if boot.tries == 1 { "" } else { "s" },
        boot.took.as_secs_f64(),
        boot.accel
    );
    let mut code = 0;
    if args.shell {
        let script = "exec setsid -c -w bash -l </dev/hvc0 >/dev/hvc0 2>&1";
        let day = Duration::from_secs(24 * 60 * 60);
        code = vm
            .run(Cmd::new(["sh", "-c", script]).timeout(day))?
            .status
            .code();
    } else if let [script] = args.command.as_slice() {
        code = vm.sh(script)?.status.code();
    } else if !args.command.is_empty() {
        code = vm.run(Cmd::new(args.command.clone()))?.status.code();
    }
    if args.console {
        eprintln!("{}", vm.console());
    }
    vm.shutdown()?;
    Ok(code)
}

fn pair(text: &str) -> Result<(&str, &str)> {
    text.split_once(':')
        .with_context(|| format!("{text:?} is not HOST:GUEST"))
}
