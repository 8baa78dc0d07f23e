//! What opening a pool takes that has many volumes.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use dmthin::graph::{CreateContainer, Host, Pool, Removing};
use dmthin::ids::{ContainerName, PoolName};
use dmthin::ioctl::{Control, DevId};
use dmthin::store::{Catalogue, ImageRecord, NewContainer};
use dmthin::units::Sectors;
use serde::{Deserialize, Serialize};

use crate::bench::floor::Origin;

/// Where a volume has its own block: in none of the image's.
const OWN: u64 = 8 << 30;
/// Who makes the volumes.
const WORKERS: u64 = 8;

/// Openings of a pool, and how many volumes it had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// Volumes, none of which has a device.
    pub volumes: u64,
    /// From a closed pool to one that is open and settled.
    pub closed: Duration,
    /// The same of a pool that is open.
    pub open: Duration,
}

/// Containers of an image, made without devices: a row and a snapshot each. Each has a block of its own: what it is a
/// snapshot of was written to since the one before.
pub(super) fn fill(
    pool: &Pool,
    catalogue: &Catalogue,
    origin: &Origin,
    image: &ImageRecord,
    volumes: u64,
) -> Result<()> {
    let make = |worker: u64| -> Result<()> {
        let control = Control::open()?;
        let writer = ContainerName::new(format!("writer{worker}"))?;
        pool.create_container(&CreateContainer {
            image: image.config_digest.to_string(),
            name: Some(writer.clone()),
            size: None,
        })?;
        let written = catalogue.container(&writer)?.volume.thin_id;
        let node = pool.container(&writer)?.on.device.context("no device")?;
        let device = File::options().write(true).open(node)?;
        for nr in (worker..volumes).step_by(usize::try_from(WORKERS)?) {
            let volume = catalogue.begin_container(&NewContainer {
                name: ContainerName::new(format!("idle{nr}"))?,
                image: image.id,
                image_name: image.config_digest.to_string(),
                size: None,
            })?;
            device.write_all_at(&[1; 4096], OWN)?;
            device.sync_data()?;
            let snapshot = format!("create_snap {} {written}", volume.thin_id);
            control.message(DevId::Name(&origin.pool), Sectors::ZERO, &snapshot)?;
            catalogue.set_ready_lazy(volume.id)?;
            catalogue.set_active(volume.id, false)?;
        }
        drop(device);
        pool.remove_container(&writer, Removing::Now)?;
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..WORKERS)
            .map(|worker| scope.spawn(move || make(worker)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            let ended = thread.join();
            ended.map_err(|_| anyhow!("a worker panicked"))?
        })
    })
}

/// Opens the pool twice, which has so many volumes.
pub(super) fn measure(host: &Host, name: &PoolName, volumes: u64) -> Result<Opening> {
    host.close_pool(name)?;
    let timed = || -> Result<Duration> {
        let started = Instant::now();
        host.open_pool(name)?;
        Ok(started.elapsed())
    };
    Ok(Opening {
        volumes,
        closed: timed()?,
        open: timed()?,
    })
}
