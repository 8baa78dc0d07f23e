//! The system tests: what runs inside the virtual machine, on the real kernel.
//!
//! One program holds them all, so that a suite takes few boots. A test works with `pool-cli` as a
//! user does, and asks independent witnesses (`dmsetup`, `losetup`, `thin_check`, `findmnt`)
//! whether what it says is so. After each test the pools are closed, their metadata checked by
//! `thin_check`, and nothing of ours may be left in the kernel.

mod beside;
pub(crate) mod build;
mod cancel;
mod check;
mod commits;
mod containers;
mod cycles;
mod damage;
mod delta;
mod devices;
mod dice;
mod diff;
mod discards;
mod disks;
mod dry_run;
mod extend;
mod flaky;
mod forks;
mod full;
mod growth;
pub(crate) mod harness;
mod host;
mod hostile;
mod images;
mod kernel_model;
mod layers;
mod load;
mod metrics;
mod mirror;
mod monitor;
mod moving;
mod namespaces;
mod pairing;
mod pools;
mod promises;
mod reboot;
mod rebuild;
mod removal;
mod repair;
mod shared;
mod sharing;
mod space;
mod steps;
mod stress;
mod verbs;
mod watch;
mod zeroing;

use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;

use harness::Test;

pub use steps::step;

/// Tests that are run or left out together, for the time that they take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// What each kernel does, with udevd and without.
    Short,
    /// Those that wait for time limits or take many volumes.
    Long,
    /// What udevd, systemd and lvm2 of a host make of a pool, and whole disks.
    Host,
    /// Whole images, as others extract them.
    Images,
    /// Those that fill pools.
    Full,
    /// Those that damage pools' metadata, and the devices below them.
    Repair,
    /// What asks nothing of the kernel that another one could do otherwise.
    Apart,
    /// Catalogues and archives that are damaged, lost, or another pool's, and what `check` finds.
    Broken,
    /// Differences of images and containers, long stacks of layers, and what they take.
    Layers,
    /// Commits, snapshots, forks, going back, data volumes.
    Verbs,
    /// Hundreds of containers that come and go, and many who work at a time.
    Cycles,
    /// Pools that grow under the load of ten containers, or are killed at each step of it; forks under fio.
    Load,
    /// Every verb, cut at each of its steps; and the model on which they are cut anywhere.
    Steps,
    /// Verbs whose calls fail, one after the other.
    Errors,
}

const SHORT: &[&[Test]] = &[
    pools::TESTS,
    containers::TESTS,
    growth::TESTS,
    removal::TESTS,
    namespaces::TESTS,
];

const LONG: &[&[Test]] = &[
    metrics::TESTS,
    monitor::TESTS,
    beside::TESTS,
    watch::TESTS,
    promises::TESTS,
];

const HOST: &[&[Test]] = &[host::TESTS, disks::TESTS, shared::TESTS];

const REPAIR: &[&[Test]] = &[repair::TESTS, flaky::TESTS];

const APART: &[&[Test]] = &[
    discards::TESTS,
    images::TESTS,
    devices::TESTS,
    zeroing::TESTS,
    extend::TESTS,
    dry_run::TESTS,
];

const BROKEN: &[&[Test]] = &[
    pairing::TESTS,
    damage::TESTS,
    rebuild::TESTS,
    mirror::TESTS,
    check::TESTS,
    cancel::TESTS,
    hostile::TESTS,
];

const LAYERS: &[&[Test]] = &[
    delta::TESTS,
    diff::TESTS,
    layers::TESTS,
    space::TESTS,
    layers::LONG,
];

const VERBS: &[&[Test]] = &[commits::TESTS, verbs::TESTS, sharing::TESTS];

impl Group {
    /// As it is given on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Long => "long",
            Self::Host => "host",
            Self::Images => "images",
            Self::Full => "full",
            Self::Repair => "repair",
            Self::Apart => "apart",
            Self::Broken => "broken",
            Self::Layers => "layers",
            Self::Verbs => "verbs",
            Self::Cycles => "cycles",
            Self::Load => "load",
            Self::Steps => "steps",
            Self::Errors => "errors",
        }
    }

    fn tests(self) -> Vec<Test> {
        match self {
            Self::Short => SHORT.concat(),
            Self::Long => LONG.concat(),
            Self::Host => HOST.concat(),
            Self::Images => images::LONG.to_vec(),
            Self::Full => full::TESTS.to_vec(),
            Self::Repair => REPAIR.concat(),
            Self::Apart => APART.concat(),
            Self::Broken => BROKEN.concat(),
            Self::Layers => LAYERS.concat(),
            Self::Verbs => VERBS.concat(),
            Self::Cycles => [cycles::TESTS, stress::TESTS].concat(),
            Self::Load => [load::TESTS, forks::TESTS].concat(),
            Self::Steps => [kernel_model::TESTS, &steps::tests()].concat(),
            Self::Errors => steps::ERRORS.to_vec(),
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
