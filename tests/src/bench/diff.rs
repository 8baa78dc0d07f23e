//! What a container changed of its image: `Pool::diff_container`, against walks of both trees and against
//! `thin_delta`.

#![allow(clippy::arithmetic_side_effects, reason = "small numbers")]

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dmthin::delta;
use dmthin::graph::{CreateContainer, Driver, Pool, Removing};
use dmthin::ids::{ContainerName, DmName, ImageRef, ThinId};
use dmthin::ioctl::{Control, DevId};
use dmthin::store::{Catalogue, Timestamp};
use dmthin::units::Sectors;
use serde::{Deserialize, Serialize};
use tracing::Event;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::bench::commands::{run, text};
use crate::bench::import::level;
use crate::bench::plan::OwnIds;
use crate::bench::samples::Series;
use crate::bench::{trees, walk};
use crate::step_event::step_of;

/// How often a diff is measured; a walk comes between each and the next.
const ROUNDS: u64 = 3;
/// Paths of an image from which on one walk has to do: it takes minutes.
const MANY: u64 = 200_000;
/// Snapshots that a pool has beside the two that are compared, and random writes between each and the next.
const SNAPSHOTS: u64 = 1000;
const WRITES: u64 = 20;
/// Files that are changed where they are.
const IN_PLACE: usize = 500;

/// One change, and what it takes to tell of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffCase {
    /// What was changed.
    pub change: String,
    /// Paths in the container.
    pub paths: u64,
    /// Paths that differ, as `container diff` and the walk that reads everything tell.
    pub told: u64,
    /// The way that was taken.
    pub rung: String,
    /// Blocks of the pool's metadata that were read.
    pub metadata_nodes: u64,
    /// Reads of both devices.
    pub data_reads: u64,
    /// All of the verb: private snapshots, their removal too.
    pub verb: Series,
    /// Of it what begins with both snapshots there, and ends with the answer.
    pub comparing: Series,
    /// `lstat` and capabilities of both trees, mounted already.
    pub walk: Series,
    /// All of both trees, content too: the library's last way.
    pub whole_walk: Series,
    /// `thin_delta` of the two volumes: their blocks only.
    pub thin_delta: Series,
}

impl DiffCase {
    /// Its medians, for who watches.
    fn line(&self) -> String {
        let ways = [
            ("container diff", &self.verb),
            ("comparing", &self.comparing),
            ("walk", &self.walk),
            ("whole walk", &self.whole_walk),
            ("thin_delta", &self.thin_delta),
        ];
        let ways = ways.map(|(way, series)| format!(" {way} {:.0} ms,", series.percentile(50)));
        let (told, paths) = (self.told, self.paths);
        format!("  {told} of {paths} paths;{}", ways.concat())
    }
}

/// When the library passes which step.
#[derive(Clone, Default)]
struct Watch(Arc<Mutex<Vec<(String, Instant)>>>);

impl<S: tracing::Subscriber> Layer<S> for Watch {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if let Some(step) = step_of(event) {
            let mut passed = self.0.lock().expect("no holder panics");
            passed.push((step, Instant::now()));
        }
    }
}

impl Watch {
    /// From the last time that one step was passed to the last time of another.
    fn between(&self, from: &str, to: &str) -> Result<Duration> {
        let passed = self.0.lock().expect("no holder panics");
        let last = |wanted: &str| {
            let found = passed.iter().rev().find(|(step, _)| step == wanted);
            found.map(|(_, at)| *at).context("a step was not passed")
        };
        Ok(last(to)?.saturating_duration_since(last(from)?))
    }
}

/// An image and a container of it, which is mounted.
struct Subject<'a> {
    pool: &'a Pool,
    catalogue: &'a Catalogue,
    dm_pool: &'a DmName,
    root: &'a Path,
    image: ImageRef,
    name: ContainerName,
    /// Where the image and the container are mounted.
    dirs: [PathBuf; 2],
}

impl Subject<'_> {
    fn thin_ids(&self) -> Result<[ThinId; 2]> {
        let top = self.catalogue.find_layer(self.image.as_str())?;
        let container = self.catalogue.container(&self.name)?;
        Ok([top.volume.thin_id, container.volume.thin_id])
    }

    fn new_container(&self) -> Result<()> {
        self.pool.create_container(&CreateContainer {
            image: self.image.to_string(),
            name: Some(self.name.clone()),
            size: None,
        })?;
        let dir = &self.dirs[1];
        self.pool.mount_container(&self.name, dir)?;
        // Else the first walk is a change of its own, to the inode of every directory.
        run("mount", &["-o", "remount,noatime", &text(dir)?])
    }

    fn remove_container(&self) -> Result<()> {
        self.pool.unmount_container(&self.name)?;
        self.pool.remove_container(&self.name, Removing::Now)?;
        Ok(())
    }

    /// Has `change` change the container, and measures what it takes to tell what it did.
    fn measure(&self, title: &str, change: impl FnOnce(&Path) -> Result<()>) -> Result<DiffCase> {
        eprintln!("diff: {title}");
        change(&self.dirs[1])?;
        let mut case = DiffCase {
            change: title.to_owned(),
            ..DiffCase::default()
        };
        self.diff(&mut case)?;
        for _ in 1..ROUNDS {
            if case.paths < MANY {
                self.walk(&mut case)?;
            }
            self.thin_delta(&mut case)?;
            self.diff(&mut case)?;
        }
        eprintln!("{}", case.line());
        Ok(case)
    }

    fn diff(&self, case: &mut DiffCase) -> Result<()> {
        level()?;
        let watch = Watch::default();
        let subscriber = tracing_subscriber::registry().with(watch.clone());
        let started = Instant::now();
        let report =
            tracing::subscriber::with_default(subscriber, || self.pool.diff_container(&self.name))?;
        case.verb.push(started.elapsed());
        case.comparing.push(watch.between("F3", "F4")?);
        let differences = report.differences;
        case.told = u64::try_from(differences.changes.len())?;
        differences.rung.as_str().clone_into(&mut case.rung);
        case.metadata_nodes = differences.stats.metadata_nodes;
        case.data_reads = differences.stats.data_reads;
        Ok(())
    }

    /// Has the image mounted too.
    fn both<T>(&self, work: impl FnOnce(&Path, &Path) -> Result<T>) -> Result<T> {
        self.pool.mount_layer(self.image.as_str(), &self.dirs[0])?;
        level()?;
        let done = work(&self.dirs[0], &self.dirs[1]);
        self.pool.unmount_layer(self.image.as_str())?;
        done
    }

    fn walk(&self, case: &mut DiffCase) -> Result<()> {
        self.both(|old, new| {
            let started = Instant::now();
            let (paths, differ) = walk::compare(old, new)?;
            case.walk.push(started.elapsed());
            ensure!(differ > 0, "the walk finds nothing");
            case.paths = paths;
            Ok(())
        })
    }

    fn walk_all(&self, case: &mut DiffCase) -> Result<()> {
        self.both(|old, new| {
            let (old, new) = (File::open(old)?, File::open(new)?);
            let started = Instant::now();
            let found = delta::walk(old.as_fd(), new.as_fd())?;
            case.whole_walk.push(started.elapsed());
            ensure!(
                u64::try_from(found.len())? == case.told,
                "the walk tells of {} paths, the diff of {}",
                found.len(),
                case.told
            );
            Ok(())
        })
    }

    fn thin_delta(&self, case: &mut DiffCase) -> Result<()> {
        let metadata = self.root.join("metadata.img");
        let device = Command::new("losetup")
            .args(["-nO", "NAME", "-j"])
            .arg(metadata)
            .output()?;
        let device = String::from_utf8(device.stdout)?.trim().to_owned();
        let [old, new] = self.thin_ids()?;
        let control = Control::open()?;
        let message = |text| control.message(DevId::Name(self.dm_pool), Sectors::ZERO, text);
        message("reserve_metadata_snap")?;
        level()?;
        let started = Instant::now();
        let status = Command::new("thin_delta")
            .args(["-m", "--thin1", &old.to_string(), "--thin2"])
            .args([&new.to_string(), &device])
            .stdout(Stdio::null())
            .status()?;
        case.thin_delta.push(started.elapsed());
        message("release_metadata_snap")?;
        ensure!(status.success(), "thin_delta: {status}");
        Ok(())
    }

    /// Fills the pool with snapshots of a container that writes between each and the next.
    fn add_snapshots(&self, ids: &mut OwnIds) -> Result<()> {
        eprintln!("diff: {SNAPSHOTS} snapshots");
        let name = ContainerName::new("busy")?;
        self.pool.create_container(&CreateContainer {
            image: self.image.to_string(),
            name: Some(name.clone()),
            size: None,
        })?;
        let thin_id = self.catalogue.container(&name)?.volume.thin_id;
        let node = self.pool.container(&name)?.on.device.context("no device")?;
        let device = File::options().read(true).write(true).open(node)?;
        let nr_blocks = rustix::fs::seek(&device, rustix::fs::SeekFrom::End(0))? / 4096;
        let control = Control::open()?;
        let mut random = 1_u64;
        let mut block = vec![0; 4096];
        for _ in 0..SNAPSHOTS {
            for _ in 0..WRITES {
                // Knuth's; the upper bits are the better ones.
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let at = (random >> 20) % nr_blocks * 4096;
                // What was there: it is what it lies in that becomes the container's own.
                device.read_exact_at(&mut block, at)?;
                device.write_all_at(&block, at)?;
            }
            device.sync_data()?;
            let snapshot = format!("create_snap {} {thin_id}", ids.take()?);
            control.message(DevId::Name(self.dm_pool), Sectors::ZERO, &snapshot)?;
        }
        Ok(())
    }
}

/// What changes a container that is mounted on a directory.
type Change<'a> = &'a dyn Fn(&Path) -> Result<()>;

fn twelve_bytes(dir: &Path) -> Result<()> {
    fs::write(dir.join("hello"), "hello world\n").context("twelve bytes")
}

fn new_files(dir: &Path) -> Result<()> {
    for nr in 0..3000 {
        let dir = dir.join(format!("new/{}", nr / 100));
        if nr % 100 == 0 {
            fs::create_dir_all(&dir)?;
        }
        fs::write(dir.join(nr.to_string()), vec![1; 1024])?;
    }
    Ok(())
}

/// Files that have something in them.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut rest = vec![root.to_owned()];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                rest.push(entry.path());
            } else if meta.is_file() && meta.size() >= 12 && meta.nlink() == 1 {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn in_place(dir: &Path) -> Result<()> {
    let files = files(dir)?;
    let step = files.len() / IN_PLACE;
    for path in files.iter().step_by(step.max(1)).take(IN_PLACE) {
        let file = File::options().write(true).open(path)?;
        file.write_all_at(b"hello world\n", 0)?;
    }
    Ok(())
}

/// The image of which most is measured: the real one, and four times more what it has.
pub(super) struct RealTree<'a> {
    /// The archive, the layers of it that are copied, the image that it was imported as.
    pub(super) archive: &'a Path,
    pub(super) layers: &'a [String],
    pub(super) image: &'a str,
}

impl RealTree<'_> {
    const COPIES: u64 = 4;

    /// Makes it, and gives its name.
    pub(super) fn make(&self, pool: &Pool, work: &Path) -> Result<ImageRef> {
        eprintln!("making the large image");
        let tar = work.join("tree.tar");
        trees::copies(self.archive, self.layers, Self::COPIES, &tar)?;
        let image = apply(pool, "bench:large", self.image, &tar)?;
        fs::remove_file(tar)?;
        Ok(image)
    }
}

fn apply(pool: &Pool, name: &str, below: &str, tar: &Path) -> Result<ImageRef> {
    let name = ImageRef::new(name)?;
    let tar = File::open(tar)?;
    Driver::new(pool).apply_diff(&name, below, tar, Timestamp::from_unix(0))?;
    Ok(name)
}

/// Where and of what is measured.
pub(super) struct Place<'a> {
    pub(super) pool: &'a Pool,
    pub(super) catalogue: &'a Catalogue,
    pub(super) dm_pool: &'a DmName,
    /// The pool's directory.
    pub(super) root: &'a Path,
    /// A directory for what is needed.
    pub(super) work: &'a Path,
}

impl<'a> Place<'a> {
    fn subject(&self, image: ImageRef) -> Result<Subject<'a>> {
        let dirs = ["old", "new"].map(|side| self.work.join("diff").join(side));
        for dir in &dirs {
            fs::create_dir_all(dir)?;
        }
        Ok(Subject {
            pool: self.pool,
            catalogue: self.catalogue,
            dm_pool: self.dm_pool,
            root: self.root,
            image,
            name: ContainerName::new("changed")?,
            dirs,
        })
    }

    /// An image of so many empty files, of which little is changed.
    fn of_empty(&self, nr: u64) -> Result<DiffCase> {
        eprintln!("making an image of {nr} empty files");
        let tar = self.work.join("tree.tar");
        trees::empty(nr, &tar)?;
        let bare = ImageRef::new("bench:bare")?;
        let driver = Driver::new(self.pool);
        if !driver.exists(bare.as_str())? {
            driver.create(&bare, None)?;
        }
        let image = apply(self.pool, &format!("bench:empty{nr}"), bare.as_str(), &tar)?;
        fs::remove_file(tar)?;
        let subject = self.subject(image)?;
        subject.new_container()?;
        let case = subject.measure("12 bytes", twelve_bytes)?;
        subject.remove_container()?;
        Ok(case)
    }
}

/// Measures all cases; `large` is the image of most.
pub(super) fn measure(place: &Place<'_>, large: ImageRef, sizes: &[u64]) -> Result<Vec<DiffCase>> {
    let subject = place.subject(large)?;
    let mut cases = Vec::new();
    let chmod = |dir: &Path| run("chmod", &["-R", "g+w,o-rwx", &text(&dir.join("1"))?]);
    let changes: [(&str, Change<'_>); 4] = [
        ("12 bytes", &twelve_bytes),
        ("3000 new files", &new_files),
        ("500 files in place", &in_place),
        ("chmod -R of a fifth", &chmod),
    ];
    for (title, change) in changes {
        subject.new_container()?;
        let mut case = subject.measure(title, change)?;
        if cases.is_empty() {
            subject.walk_all(&mut case)?;
        }
        cases.push(case);
        subject.remove_container()?;
    }
    subject.add_snapshots(&mut OwnIds::of_user(4)?)?;
    subject.new_container()?;
    let title = format!("12 bytes, beside {SNAPSHOTS} snapshots");
    cases.push(subject.measure(&title, twelve_bytes)?);
    subject.remove_container()?;
    for nr in sizes {
        cases.push(place.of_empty(*nr)?);
    }
    Ok(cases)
}
