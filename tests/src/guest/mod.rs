//! The system tests: what runs inside the virtual machine, on the real kernel.
//!
//! One program holds them all, so that a suite takes few boots. A test works with `pool-cli` as a
//! user does, and asks independent witnesses (`dmsetup`, `losetup`, `thin_check`, `findmnt`)
//! whether what it says is so. After each test the pools are closed, their metadata checked by
//! `thin_check`, and nothing of ours may be left in the kernel.

mod beside;
mod build;
mod cancel;
mod check;
mod containers;
mod cycles;
mod devices;
mod disks;
mod dry_run;
mod extend;
mod full;
mod growth;
mod harness;
mod host;
mod hostile;
mod images;
mod load;
mod metrics;
mod monitor;
mod moving;
mod namespaces;
mod pairing;
mod pools;
mod reboot;
mod removal;
mod repair;
mod shared;
mod watch;

use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;

use harness::Test;

/// Tests that are run or left out together, for the time that they take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// What is run on every machine.
    Short,
    /// Those that fill pools, wait for time limits or take many volumes, and whole images.
    Long,
    /// Hundreds of containers that come and go.
    Cycles,
    /// Pools that grow under the load of ten containers, or are killed at each step of it.
    Load,
}

const SHORT: &[&[Test]] = &[
    pools::TESTS,
    pairing::TESTS,
    containers::TESTS,
    growth::TESTS,
    removal::TESTS,
    cancel::TESTS,
    images::TESTS,
    hostile::TESTS,
    devices::TESTS,
    namespaces::TESTS,
];

const LONG: &[&[Test]] = &[
    metrics::TESTS,
    monitor::TESTS,
    full::TESTS,
    check::TESTS,
    beside::TESTS,
    dry_run::TESTS,
    host::TESTS,
    extend::TESTS,
    disks::TESTS,
    shared::TESTS,
    repair::TESTS,
    watch::TESTS,
    images::LONG,
];

impl Group {
    fn tests(self) -> Vec<Test> {
        match self {
            Self::Short => SHORT.concat(),
            Self::Long => LONG.concat(),
            Self::Cycles => cycles::TESTS.to_vec(),
            Self::Load => load::TESTS.to_vec(),
        }
    }
}

/// Runs every test of these groups (of all where there are none) whose name contains one of `only` (all
/// of them where it is empty); true when each passed.
///
/// # Errors
/// Where the tests could not be run at all.
pub fn run(work: &Path, images: &Path, groups: &[Group], only: &[String]) -> Result<bool> {
    let groups = match groups {
        [] => Group::value_variants(),
        groups => groups,
    };
    let tests: Vec<Test> = groups.iter().flat_map(|group| group.tests()).collect();
    harness::run_all(&tests, work, images, only, true)
}

/// Prepares for a reboot.
///
/// # Errors
/// As [`run`].
pub fn before_reboot(work: &Path) -> Result<bool> {
    let tests: &[Test] = &[("reboot_prepare_a_pool_in_use", reboot::before)];
    harness::run_all(tests, work, Path::new("/nowhere"), &[], false)
}

/// Fills the disks that another machine will open.
///
/// # Errors
/// As [`run`].
pub fn before_move(work: &Path) -> Result<bool> {
    let tests: &[Test] = &[("disk_is_filled_for_another_machine", moving::before)];
    harness::run_all(tests, work, Path::new("/nowhere"), &[], false)
}

/// Opens them there.
///
/// # Errors
/// As [`run`].
pub fn after_move(work: &Path) -> Result<bool> {
    let tests: &[Test] = &[("disk_moves_to_another_machine", moving::after)];
    harness::run_all(tests, work, Path::new("/nowhere"), &[], true)
}

/// Looks at what a reboot left.
///
/// # Errors
/// As [`run`].
pub fn after_reboot(work: &Path) -> Result<bool> {
    let tests: &[Test] = &[("reboot_pool_open_brings_everything_back", reboot::after)];
    harness::run_all(tests, work, Path::new("/nowhere"), &[], false)
}
