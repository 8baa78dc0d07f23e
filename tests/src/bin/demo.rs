//! Shows the main job in a throw-away virtual machine; see `scripts/demo`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use dmthin_tests::apt;
use dmthin_tests::fixture::{Variant, image};
use dmthin_tests::vm::{Cmd, Disk, Kernel, RunningVm, Size, Vm};

/// Boots a throw-away virtual machine, runs the steps of fixtures/demo in it, and reboots it in
/// the middle.
#[derive(Debug, Parser)]
#[command(name = "scripts/demo")]
struct Args {
    /// The kernel: 6.1, 6.12 or new.
    #[arg(long, default_value = "6.1")]
    kernel: Kernel,
    /// Run udevd in the guest.
    #[arg(long)]
    udev: bool,
    /// The program to show, linked statically.
    #[arg(long, value_name = "FILE")]
    pool_cli: PathBuf,
}

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
    let images = image(Variant::Small)?.disk;
    println!("booting a virtual machine with kernel {}", args.kernel);
    let mut vm = Vm::new(args.kernel)
        .udev(args.udev)
        .live(true)
        .program(&args.pool_cli, "/usr/bin/pool-cli")
        .file(apt::workspace().join("fixtures/demo"), "/usr/bin/demo")
        .disk(Disk::scratch("work", Size::gib(8)).mounted_at("/srv"))
        .disk(
            Disk::file("images", images)
                .forgetting_writes()
                .mounted_at("/images"),
        )
        .start()?;
    tell(&vm);
    steps(&mut vm, &["before", "/srv", "/images/docker.tar"])?;
    println!("\n## The machine is rebooted, with web mounted");
    vm.reboot().context("the guest did not come back")?;
    tell(&vm);
    steps(&mut vm, &["after", "/srv"])?;
    vm.shutdown()
}

fn tell(vm: &RunningVm) {
    let boot = vm.boot();
    let seconds = boot.took.as_secs_f64();
    println!(
        "Linux {} is up after {seconds:.1} s under {}",
        boot.release, boot.accel
    );
}

fn steps(vm: &mut RunningVm, arguments: &[&str]) -> Result<()> {
    let words = ["demo"].iter().chain(arguments).copied();
    vm.run(Cmd::new(words))?.ok().map(drop)
}
