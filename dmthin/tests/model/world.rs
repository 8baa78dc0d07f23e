//! A host on the model: what its pool should have, what it has, and what must hold of both.

mod checks;
mod guest;
mod images;
mod tasks;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use dmthin::graph::{CreatePool, Host, Pool, PoolError, PoolWord, RebuildPool};
use dmthin::ids::{ContainerName, PoolName, WritableName};
use dmthin::model::{Model, ModelThin};
use dmthin::store::{Catalogue, ImageRecord, VolumeRecord};
use dmthin::units::Bytes;

use crate::archive::Image;
use crate::plan::Verb;

const MIB: u64 = 1 << 20;
/// Names of files.
type Files = BTreeSet<String>;

/// A container (`c0`, `c1`, ...) or data volume (`v0`, ...).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Thing {
    /// The identity of its image; a data volume has none.
    image: Option<String>,
    size: u64,
    files: Files,
    snapshots: BTreeMap<String, Files>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct SeenImage {
    names: BTreeSet<String>,
    files: Files,
}

/// What there is, as a user sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// In order; two may be alike.
    images: Vec<SeenImage>,
    things: BTreeMap<String, Thing>,
    /// Removals that are not done.
    queued: BTreeSet<String>,
    ballast: bool,
    data: u64,
    metadata: u64,
    base: u64,
}

impl Seen {
    /// Takes a name from whoever has it.
    fn free(&mut self, name: &str) {
        for image in &mut self.images {
            image.names.remove(name);
        }
    }

    fn add_image(&mut self, name: &str, files: Files) {
        self.free(name);
        let names = BTreeSet::from([name.to_owned()]);
        self.images.push(SeenImage { names, files });
        self.images.sort();
    }

    /// Those things whose names begin so.
    fn named(&self, kind: char) -> impl Iterator<Item = &String> {
        self.things
            .keys()
            .filter(move |name| name.starts_with(kind))
    }
}

/// An image as the catalogue has it.
struct Row {
    id: String,
    seen: SeenImage,
    in_use: bool,
    /// Of its top layer, which a container cannot be smaller than.
    size: u64,
}

pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) model: Model,
    host: Host,
    name: PoolName,
    /// As a process has it that lives as long as nothing kills it.
    pool: RefCell<Option<Rc<Pool>>>,
    rows: RefCell<Option<Rc<Catalogue>>>,
    images: Vec<Image>,
    pub(crate) seen: Seen,
    /// Who has a container's device open: its name and the descriptor.
    held: Option<(String, OwnedFd)>,
    /// Every container and data volume there ever was, as it was last.
    known: BTreeMap<String, Thing>,
    /// How many names were made up.
    named: u64,
    /// Its catalogue was lost once.
    lost: bool,
    /// The volume of every thin id there ever was.
    ids: BTreeMap<u32, u64>,
}

/// A pool that was just made, and is closed: most histories begin with a copy of it.
pub(crate) struct Made {
    dir: tempfile::TempDir,
    model: Model,
    seen: Seen,
}

type Checked<T> = Result<T, String>;

fn told(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

fn require(holds: bool, what: impl FnOnce() -> String) -> Checked<()> {
    if holds { Ok(()) } else { Err(what()) }
}

fn pick<T>(choices: Vec<T>, nr: u64) -> Option<T> {
    let len = u64::try_from(choices.len()).unwrap();
    let nr = usize::try_from(nr.checked_rem(len)?).unwrap();
    choices.into_iter().nth(nr)
}

fn container_name(name: &str) -> ContainerName {
    ContainerName::new(name).unwrap()
}

/// Where there is a file system in memory; a virtual machine has its own.
fn memory() -> PathBuf {
    let shared = Path::new("/dev/shm");
    match shared.is_dir() {
        true => shared.to_owned(),
        false => std::env::temp_dir(),
    }
}

fn directory() -> tempfile::TempDir {
    let mut named = tempfile::Builder::new();
    named.prefix("dmthin-model-");
    named.tempdir_in(memory()).unwrap()
}

impl World {
    pub(crate) fn new(images: &[Image]) -> Self {
        let dir = directory();
        let model = Model::new(&dir.path().join("kernel")).unwrap();
        Self::on(dir, model, images)
    }

    /// With a copy of that pool.
    pub(crate) fn with(made: &Made, images: &[Image]) -> Self {
        let dir = directory();
        let (from, to) = (made.dir.path().join("pools"), dir.path().join("pools"));
        let model = made.model.with_copy(&dir.path().join("kernel"), &from, &to);
        let mut world = Self::on(dir, model.unwrap(), images);
        world.seen = made.seen.clone();
        world
    }

    fn on(dir: tempfile::TempDir, model: Model, images: &[Image]) -> Self {
        model.record();
        Self {
            model,
            host: Host::new(dir.path().join("pools")),
            dir,
            name: PoolName::new("tank").unwrap(),
            pool: RefCell::default(),
            rows: RefCell::default(),
            images: images.to_vec(),
            seen: Seen::default(),
            held: None,
            known: BTreeMap::new(),
            named: 0,
            lost: false,
            ids: BTreeMap::new(),
        }
    }

    fn pool(&self) -> Result<Rc<Pool>, PoolError> {
        if let Some(pool) = &*self.pool.borrow() {
            return Ok(Rc::clone(pool));
        }
        let pool = Rc::new(self.host.pool(&self.name)?);
        *self.pool.borrow_mut() = Some(Rc::clone(&pool));
        Ok(pool)
    }

    /// Where its host has its pools.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("pools")
    }

    pub(crate) const fn name(&self) -> &PoolName {
        &self.name
    }

    fn pool_dir(&self) -> PathBuf {
        self.root().join("tank")
    }

    pub(crate) fn catalogue(&self) -> PathBuf {
        self.pool_dir().join("catalogue.db")
    }

    pub(crate) fn metadata(&self) -> PathBuf {
        self.pool_dir().join("metadata.img")
    }

    fn create_pool(&self) -> Result<(), PoolError> {
        let new = CreatePool {
            size: CreatePool::MIN_SIZE,
            base_size: Bytes::from_mib(64),
            ..CreatePool::new(self.name.clone())
        };
        self.host.create_pool(&new).map(drop)
    }

    /// Makes the pool of most histories.
    pub(crate) fn make() -> Checked<Made> {
        let mut world = Self::new(&[]);
        let model = world.model.clone();
        let _entered = model.enter();
        world.step(Verb::CreatePool)?;
        world.close().map_err(told)?;
        world.restart();
        let Self { dir, seen, .. } = world;
        Ok(Made { dir, model, seen })
    }

    /// Closes the pool, which has all that the copy of the catalogue in it was told on the disk, and takes the
    /// catalogue away or leaves nothing in it.
    fn lose_catalogue(&mut self, torn: bool) {
        self.close().unwrap();
        self.restart();
        let catalogue = self.catalogue();
        for end in ["-wal", "-shm"] {
            let mut file = catalogue.clone().into_os_string();
            file.push(end);
            // There need not be one.
            let _ = fs::remove_file(file);
        }
        if torn {
            fs::write(&catalogue, "").unwrap();
        } else {
            fs::remove_file(&catalogue).unwrap();
        }
        self.lost = true;
    }

    /// Whether the catalogue was lost, and is not made again.
    fn is_lost(&self) -> bool {
        self.lost && fs::metadata(self.catalogue()).map_or(true, |found| found.len() == 0)
    }

    fn make_found(&self) -> Result<(), PoolError> {
        if self.is_lost() {
            let name = self.name.clone();
            self.host.rebuild_pool(&RebuildPool { name, on: None })?;
        }
        Ok(())
    }

    /// Opens the pool, whose catalogue is made again where that is lost.
    pub(crate) fn open(&self) -> Result<(), PoolError> {
        self.make_found()?;
        self.host.open_pool(&self.name).map(drop)
    }

    pub(crate) fn close(&self) -> Result<(), PoolError> {
        self.host.close_pool(&self.name).map(drop)
    }

    /// A new process: it has nothing open.
    pub(crate) fn restart(&mut self) {
        self.pool.take();
        self.rows.take();
        self.host = Host::new(self.root());
    }

    pub(crate) fn let_go(&mut self) {
        self.held = None;
    }

    /// Whether the pool was made, or is to be made again after what its making left is cleared away.
    pub(crate) fn is_made(&self) -> bool {
        let pools = self.host.pools().unwrap_or_default();
        let ready = |word| matches!(word, PoolWord::Open | PoolWord::Closed);
        pools.iter().any(|pool| ready(pool.state))
    }

    pub(crate) fn make_again(&mut self) -> Checked<()> {
        self.restart();
        // A directory alone is none yet.
        if !self.host.pools().map_err(told)?.is_empty() {
            self.host.destroy_pool(&self.name).map_err(told)?;
        }
        self.create_pool().map_err(told)
    }

    /// What somebody does about a pool that wants a check.
    pub(crate) fn mend(&mut self) -> Checked<()> {
        self.make_found().map_err(told)?;
        let status = self.pool().and_then(|pool| pool.status()).map_err(told)?;
        match status.live {
            Some(live) if !live.needs_check => return Ok(()),
            Some(_) => {
                self.let_go();
                self.close().map_err(told)?;
            }
            None => {}
        }
        self.model.clear_needs_check(&self.metadata()).map_err(told)
    }

    fn thing(&mut self, name: &str) -> &mut Thing {
        self.seen.things.get_mut(name).expect("picked from these")
    }

    fn made_up(&mut self, kind: &str) -> String {
        let nr = self.named;
        self.named += 1;
        format!("{kind}{nr}")
    }

    /// The catalogue, as somebody else reads it.
    fn rows(&self) -> Checked<Rc<Catalogue>> {
        if let Some(rows) = &*self.rows.borrow() {
            return Ok(Rc::clone(rows));
        }
        let rows = Rc::new(Catalogue::open(self.catalogue()).map_err(told)?);
        *self.rows.borrow_mut() = Some(Rc::clone(&rows));
        Ok(rows)
    }

    /// What is in each thin device.
    fn contents(&self) -> Checked<BTreeMap<u32, Files>> {
        let (thins, _) = self.model.thins(&self.metadata()).map_err(told)?;
        let files = |thin: ModelThin| (thin.id, thin.names.into_iter().collect());
        Ok(thins.into_iter().map(files).collect())
    }

    fn images(&self) -> Checked<Vec<Row>> {
        let (rows, contents) = (self.rows()?, self.contents()?);
        let containers = rows.containers().map_err(told)?;
        let image = |image: ImageRecord| -> Checked<Row> {
            let layers = rows.image_layers(image.id).map_err(told)?;
            let top = layers.last().ok_or("an image of nothing")?;
            let files = contents.get(&top.volume.thin_id.get()).cloned();
            Ok(Row {
                id: image.config_digest.to_string(),
                in_use: containers.iter().any(|found| found.image == image.id),
                size: top.volume.size.get(),
                seen: SeenImage {
                    names: image.names.iter().map(ToString::to_string).collect(),
                    files: files.ok_or("a layer that the pool has not")?,
                },
            })
        };
        rows.images()
            .map_err(told)?
            .into_iter()
            .map(image)
            .collect()
    }

    fn is_held(&self, name: &str) -> bool {
        self.held.as_ref().is_some_and(|(held, _)| held == name)
    }

    /// A container or volume by its number, of those that nobody holds.
    fn idle(&self, nr: u64) -> Option<String> {
        let free = |name: &&String| !self.is_held(name);
        pick(self.seen.things.keys().filter(free).cloned().collect(), nr)
    }

    fn container_by(&self, nr: u64) -> Option<String> {
        pick(self.seen.named('c').cloned().collect(), nr)
    }

    fn snapshot_by(&self, nr: u64, of: impl Fn(&str) -> bool) -> Option<(String, String)> {
        let things = self.seen.things.iter().filter(|(name, _)| of(name));
        let snapshots = things.flat_map(|(name, thing)| {
            let names = thing.snapshots.keys();
            names.map(|snapshot| (name.clone(), snapshot.clone()))
        });
        pick(snapshots.collect(), nr)
    }

    /// What an opening that settles everything leaves of what was promised.
    pub(crate) fn settled(&self, mut seen: Seen) -> Seen {
        seen.queued.retain(|name| self.is_held(name));
        seen
    }

    /// What there is.
    pub(crate) fn look(&self) -> Checked<Seen> {
        let (rows, contents) = (self.rows()?, self.contents()?);
        let pool = rows.pool().map_err(told)?;
        let ballast = rows.ballast().map_err(told)?;
        let queue = self.pool().and_then(|pool| pool.queue()).map_err(told)?;
        let files = |volume: &VolumeRecord| {
            let files = contents.get(&volume.thin_id.get()).cloned();
            files.ok_or_else(|| format!("the pool has no volume {}", volume.id))
        };
        let mut things = BTreeMap::new();
        let images = rows.images().map_err(told)?;
        let containers = rows.containers().map_err(told)?;
        for found in rows.writables().map_err(told)? {
            let mut snapshots = BTreeMap::new();
            for snapshot in rows.snapshots(&found.name).map_err(told)? {
                snapshots.insert(snapshot.name.to_string(), files(&snapshot.volume)?);
            }
            let id = found.volume.id;
            let container = containers
                .iter()
                .find(|container| container.volume.id == id);
            let image = container.map(|container| {
                let is_it = |image: &&ImageRecord| image.id == container.image;
                images
                    .iter()
                    .find(is_it)
                    .map(|image| image.config_digest.to_string())
            });
            let thing = Thing {
                image: image.flatten(),
                size: found.volume.size.get(),
                files: files(&found.volume)?,
                snapshots,
            };
            let name = match &found.name {
                WritableName::Container(name) => name.to_string(),
                WritableName::Data(name) => name.to_string(),
            };
            things.insert(name, thing);
        }
        let mut images: Vec<_> = self.images()?.into_iter().map(|row| row.seen).collect();
        images.sort();
        Ok(Seen {
            images,
            things,
            queued: queue
                .into_iter()
                .filter_map(|removal| removal.name.map(|name| name.to_string()))
                .collect(),
            ballast: ballast.is_some(),
            data: pool.data_size.get(),
            metadata: pool.metadata_size.get(),
            base: pool.base_size.get(),
        })
    }

    /// A verb that nothing befalls.
    fn step(&mut self, verb: Verb) -> Checked<()> {
        let task = self.task(verb)?.ok_or("nothing to do")?;
        (task.does)(self).map_err(told)?;
        self.expect(&task.outcomes())
    }

    /// That what there is is one of these.
    pub(crate) fn expect(&mut self, expected: &[Seen]) -> Checked<()> {
        let found = self.look()?;
        require(expected.contains(&found), || {
            format!("there is {found:?}, not {expected:?}")
        })?;
        let now = found.things.iter();
        self.known
            .extend(now.map(|(name, known)| (name.clone(), known.clone())));
        self.seen = found;
        Ok(())
    }

    pub(crate) fn error(error: &PoolError) -> String {
        told(error)
    }
}
