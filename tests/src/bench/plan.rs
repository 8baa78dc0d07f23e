//! What is measured, and in which order.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use dmthin::dm::names;
use dmthin::graph::{CreatePool, Host, PoolOn};
use dmthin::ids::{FsType, PoolName, ThinId};
use dmthin::store::{Catalogue, Guard, WhenFull};
use dmthin::units::{BlockSize, Bytes};

use crate::bench::commands::{Cli, Dmsetup};
use crate::bench::floor::{Floor, Origin};
use crate::bench::import::Imports;
use crate::bench::library::Library;
use crate::bench::samples::{Measured, Phase, Rounds, Samples};
use crate::bench::{crowd, removal};

/// The pool's name.
const POOL: &str = "bench";
/// Thin ids from here on are those of the ways that have no catalogue, which never gets that far.
const FIRST_OWN_ID: u64 = 1 << 23;

/// How much is measured, and where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Rounds of each way to bring a container's device up and down.
    pub rounds: u64,
    /// Imports of the image, and as many `tar -x` of it; at least one, for the rounds need an image.
    pub imports: u64,
    /// A directory on a disk, for the pool.
    pub work: PathBuf,
    /// The image, a docker-archive.
    pub image: PathBuf,
}

/// One way to bring a container's device up and down.
pub(super) trait Way {
    /// Its name in the tables.
    fn name(&self) -> &'static str;
    /// From nothing to mounted.
    fn up(&mut self, phase: &mut Phase) -> Result<()>;
    /// From mounted to nothing.
    fn down(&mut self, phase: &mut Phase) -> Result<()>;
}

/// Thin ids that nobody else uses.
#[derive(Debug)]
pub(super) struct OwnIds {
    next: ThinId,
}

impl OwnIds {
    /// From `FIRST_OWN_ID` on, the `nr`th of as many users as take turns.
    pub(super) fn of_user(nr: u64) -> Result<Self> {
        let next = ThinId::new(FIRST_OWN_ID.saturating_add(nr << 18))?;
        Ok(Self { next })
    }

    /// The next one.
    pub(super) fn take(&mut self) -> Result<ThinId> {
        let id = self.next;
        self.next = id.next().context("no thin id is left")?;
        Ok(id)
    }
}

/// Measures all of it. For a throw-away machine: an error leaves everything as it is.
///
/// # Errors
/// Where anything at all fails.
pub fn run(settings: &Settings) -> Result<Measured> {
    ensure!(settings.imports > 0, "the rounds need an imported image");
    let root = settings.work.join("root");
    let host = Host::new(root.clone());
    let name = PoolName::new(POOL)?;
    host.create_pool(&CreatePool {
        name: name.clone(),
        size: CreatePool::DEFAULT_SIZE,
        metadata_size: None,
        block_size: BlockSize::DEFAULT,
        base_size: CreatePool::DEFAULT_BASE_SIZE,
        fs: FsType::Ext4,
        mkfs_args: Vec::new(),
        single_tenant: false,
        guard: Guard::default(),
        when_full: WhenFull::Queue,
        on: PoolOn::Files,
        force: false,
        overcommit: true,
    })?;
    let origin = |thin_id: ThinId, size: Bytes| -> Result<Origin> {
        Ok(Origin {
            pool: names::pool_name(&name),
            thin_id,
            size: size.to_sectors_exact().context("sectors")?,
        })
    };
    let catalogue = Catalogue::open(root.join(POOL).join("catalogue.db"))?;
    let base = catalogue
        .base(FsType::Ext4, CreatePool::DEFAULT_BASE_SIZE)?
        .context("the pool has no base volume")?;

    let mut imports = Imports::new(
        &root,
        &settings.work.join("tar"),
        &settings.image,
        Floor::new(origin(base.thin_id, base.size)?, 0)?,
    )?;
    let mut measured = Measured::default();
    for run in 1..=settings.imports {
        imports.forget_image()?;
        eprintln!("import {run} of {}", settings.imports);
        // Who goes first finds the pool's younger half; they take turns in that.
        if run % 2 == 0 {
            measured.import.push(imports.import()?);
            measured.tar.push(imports.tar()?);
        } else {
            measured.tar.push(imports.tar()?);
            measured.import.push(imports.import()?);
        }
    }

    let pool = host.pool(&name)?;
    let image = pool.images()?.pop().context("the image is not there")?;
    let top = image.layers.last().context("the image has no layer")?;
    measured.image_bytes = image.size.get();
    measured.image_entries = image
        .layers
        .iter()
        .fold(0, |sum, layer| sum.saturating_add(layer.entries));
    let top = origin(top.thin_id, base.size)?;
    let dirs = |way: &str| -> Result<PathBuf> {
        let dir = settings.work.join("mnt").join(way);
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    };
    let mut floor = Floor::new(top.clone(), 1)?;
    floor.mount_on(&dirs("floor")?);
    let ways: Vec<Box<dyn Way + '_>> = vec![
        Box::new(floor),
        Box::new(Library::new(&pool, image.id.to_string(), dirs("library")?)?),
        Box::new(Dmsetup::new(
            top.clone(),
            OwnIds::of_user(2)?,
            &dirs("dmsetup")?,
        )?),
        Box::new(Cli::new(&root, image.id.to_string(), &dirs("cli")?)?),
    ];
    measured.rounds = take_turns(ways, settings.rounds)?;
    measured.removal = removal::measure(&pool, &catalogue, &image.id.to_string(), settings.rounds)?;
    measured.crowds = crowd::measure(&pool, &image.id.to_string(), &top)?;
    drop(pool);
    // Nothing may be left that keeps the pool busy.
    host.close_pool(&name)?;
    Ok(measured)
}

fn take_turns(ways: Vec<Box<dyn Way + '_>>, rounds: u64) -> Result<Rounds> {
    let mut ways: Vec<_> = ways
        .into_iter()
        .map(|way| (way, Samples::default()))
        .collect();
    // What is done for the first time reads programs and tables: that round does not count.
    for (way, _) in &mut ways {
        let mut unmeasured = Samples::default();
        way.up(&mut unmeasured.up)
            .and_then(|()| way.down(&mut unmeasured.down))
            .with_context(|| way.name())?;
    }
    for round in 1..=rounds {
        if round % 50 == 0 {
            eprintln!("round {round} of {rounds}");
        }
        for (way, samples) in &mut ways {
            way.up(&mut samples.up).with_context(|| way.name())?;
            way.down(&mut samples.down).with_context(|| way.name())?;
        }
        // To and fro, so that nobody always comes after the same one.
        ways.reverse();
    }
    if rounds % 2 == 1 {
        ways.reverse();
    }
    Ok(Rounds {
        ways: ways
            .into_iter()
            .map(|(way, samples)| (way.name().to_owned(), samples))
            .collect(),
    })
}
