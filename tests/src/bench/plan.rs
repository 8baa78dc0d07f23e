//! What is measured, and in which order.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use dmthin::dm::names;
use dmthin::graph::{CreatePool, Host};
use dmthin::ids::{FsType, PoolName, ThinId};
use dmthin::store::Catalogue;
use dmthin::units::Bytes;

use crate::bench::commands::{Cli, Dmsetup};
use crate::bench::diff::{Place, RealTree};
use crate::bench::floor::{Floor, Origin};
use crate::bench::import::Imports;
use crate::bench::library::Library;
use crate::bench::parts::{Only, Part};
use crate::bench::samples::{Measured, Phase, Rounds, Samples};
use crate::bench::{commit, crowd, diff, opening, removal, space};

/// The pool's name.
const POOL: &str = "bench";
/// Thin ids from here on are those of the ways that have no catalogue, which never gets that far.
const FIRST_OWN_ID: u64 = 1 << 23;
/// Commits that are measured.
const COMMITS: u64 = 20;

/// How much is measured, and where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Rounds of each way to bring a container's device up and down.
    pub rounds: u64,
    /// Imports of the image, and as many `tar -x` of it; at least one, for the rounds need an image.
    pub imports: u64,
    /// Volumes of the pool that is opened; none leaves that out.
    pub volumes: u64,
    /// Sizes of the images of empty files of which a diff is measured.
    pub sizes: Vec<u64>,
    /// Which parts.
    pub only: Only,
    /// A directory for the pool.
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
    host.create_pool(&CreatePool::new(name.clone()))?;
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
    match settings.only.has(Part::Image) {
        true => take_turns_at_imports(&mut imports, settings.imports, &mut measured)?,
        // The other parts need an image all the same.
        false => drop(imports.import()?),
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
    match settings.only.has(Part::Device) {
        true => measured.rounds = take_turns(ways, settings.rounds)?,
        false => drop(ways),
    }
    if settings.only.has(Part::Crowds) {
        let image = image.id.to_string();
        measured.removal = removal::measure(&pool, &catalogue, &image, settings.rounds)?;
        measured.crowds = crowd::measure(&pool, &image, &top)?;
    }
    if settings.only.has(Part::Diff) || settings.only.has(Part::Commits) {
        let place = Place {
            pool: &pool,
            catalogue: &catalogue,
            dm_pool: &top.pool,
            root: &root.join(POOL),
            work: &settings.work,
        };
        of_the_large_image(&place, settings, &imports, &mut measured)?;
    }
    let volumes = settings.volumes;
    let is_many = volumes > 0 && settings.only.has(Part::Opening);
    if is_many {
        let image = catalogue.images()?.pop().context("there is no image")?;
        opening::fill(&pool, &catalogue, &top, &image, volumes)?;
        measured.space = Some(space::measure(&pool, volumes)?);
    }
    drop(pool);
    if is_many {
        measured.opening = Some(opening::measure(&host, &name, volumes)?);
    }
    // Nothing may be left that keeps the pool busy.
    host.close_pool(&name)?;
    Ok(measured)
}

fn take_turns_at_imports(imports: &mut Imports, runs: u64, measured: &mut Measured) -> Result<()> {
    for run in 1..=runs {
        imports.forget_image()?;
        eprintln!("import {run} of {runs}");
        // Who goes first finds the pool's younger half; they take turns in that.
        if run % 2 == 1 {
            measured.tar.push(imports.tar()?);
        }
        let (took, peak) = imports.import()?;
        measured.import.push(took);
        measured.import_peak = measured.import_peak.max(peak);
        if run % 2 == 0 {
            measured.tar.push(imports.tar()?);
        }
    }
    Ok(())
}

/// Commits and diffs.
fn of_the_large_image(
    place: &Place<'_>,
    settings: &Settings,
    imports: &Imports,
    measured: &mut Measured,
) -> Result<()> {
    let tree = RealTree {
        archive: &settings.image,
        // The last layer has all that is awkward.
        layers: imports.layers().split_last().context("no layer")?.1,
        image: Imports::NAME,
    };
    let large = tree.make(place.pool, place.work)?;
    if settings.only.has(Part::Commits) {
        let dir = settings.work.join("commit");
        measured.commits = commit::measure(place.pool, &large, &dir, COMMITS)?;
    }
    if settings.only.has(Part::Diff) {
        measured.diffs = diff::measure(place, large, &settings.sizes)?;
    }
    Ok(())
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
