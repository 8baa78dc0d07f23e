//! `gc`: takes away what `check` finds and what is safe to take away, each by the way that is there for it.
//!
//! The pool is had alone meanwhile, so that nothing that is found is just being made. What may be
//! somebody's stays: devices of pools that are not under this root, what is held, what is lost.

use std::collections::BTreeSet;
use std::fs;

use crate::backing::SparseFile;
use crate::dm::{DmError, PoolStatus};
use crate::graph::check::{Leads, damaged_pool, damages, half_made_pool, leads_to, node_prefix};
use crate::graph::error::PoolError;
use crate::graph::finding::{Collected, Collection, Finding, FindingKind, Outcome, Remedy};
use crate::graph::host::Host;
use crate::graph::live::{Live, Removal};
use crate::graph::mirror::{Flush, MirrorState};
use crate::graph::pool::Pool;
use crate::graph::step::Step;
use crate::ids::{DevNo, PoolName, ThinId, VolumeId};
use crate::ioctl::{Deferred, Detached, DevId};
use crate::store::{StoreError, VolumeRecord, VolumeState};
use crate::units::Bytes;

/// The order of the work: what waits goes on first, devices go before what they hold, nodes last.
const fn turn(kind: FindingKind) -> u8 {
    match kind {
        FindingKind::Suspended => 0,
        FindingKind::Husk => 1,
        FindingKind::StrayDevice => 2,
        FindingKind::HalfMade
        | FindingKind::QueuedRemoval
        | FindingKind::HeldRemoval
        | FindingKind::LayerOfNoImage => 3,
        FindingKind::UnknownThin => 4,
        FindingKind::MissingDevice => 5,
        FindingKind::StrayLoop => 6,
        FindingKind::StrayNode | FindingKind::StrayRecord => 7,
        FindingKind::StaleMirror => 9,
        FindingKind::HalfMadePool
        | FindingKind::Unpaired
        | FindingKind::MissingThin
        | FindingKind::DamagedPool
        | FindingKind::DeviceOfOtherRoot
        | FindingKind::DeviceOfNoPool => 8,
    }
}

impl Collection {
    fn add(&mut self, finding: Finding, result: Result<Outcome, PoolError>) {
        let (outcome, error) = match result {
            Ok(outcome) => (outcome, None),
            Err(error) => {
                tracing::warn!(found = %finding.text, %error, "it stays");
                (Outcome::Failed, Some(error))
            }
        };
        self.collected.push(Collected {
            finding,
            outcome,
            problem: error.as_ref().map(ToString::to_string),
            error,
        });
    }

    /// Works a finding off by `act`, or says that it would.
    fn work(
        &mut self,
        finding: Finding,
        dry_run: bool,
        act: impl FnOnce(&Finding) -> Result<Outcome, PoolError>,
    ) {
        let result = match finding.remedy {
            Remedy::Keep => Ok(Outcome::Kept),
            _ if dry_run => Ok(Outcome::Planned),
            _ => act(&finding),
        };
        self.add(finding, result);
    }
}

impl Host {
    /// Takes away what does not belong: in one pool, or in all of them and in what has no pool. One that
    /// cannot be taken away does not stop the others. A dry run changes nothing.
    ///
    /// # Errors
    /// As of [`Host::check`]. What failed on one finding is in the answer, and so are the pools on
    /// which a command works, which were left alone.
    pub fn gc(&self, name: Option<&PoolName>, dry_run: bool) -> Result<Collection, PoolError> {
        let mut run = Collection::default();
        let names = match name {
            Some(name) => vec![self.pick_pool(Some(name))?],
            None => self.pool_names()?,
        };
        let all = name.is_none();
        for name in &names {
            match self.pool(name).and_then(|pool| pool.gc(dry_run, &mut run)) {
                Ok(()) => {}
                Err(PoolError::PoolHalfMade { name }) => {
                    run.add(half_made_pool(name), Ok(Outcome::Kept));
                }
                Err(error) if damages(&error) && all => {
                    run.add(damaged_pool(name, &error), Ok(Outcome::Kept));
                }
                Err(error) => return Err(error),
            }
        }
        if name.is_none() {
            for finding in self.check_no_pool()? {
                run.work(finding, dry_run, |finding| self.remove_node(finding));
            }
        }
        Ok(run)
    }

    /// Removes a node that is still as it was found.
    fn remove_node(&self, finding: &Finding) -> Result<Outcome, PoolError> {
        let (Some(node), Some(name)) = (&finding.node, &finding.device) else {
            return Ok(Outcome::Kept);
        };
        let device = self.dm()?.find(DevId::Name(name))?;
        let right = device.map(|device| device.dev);
        match leads_to(node)? {
            None => return Ok(Outcome::Done),
            Some(Leads::NoBlockDevice) => return Ok(Outcome::Kept),
            Some(Leads::To(dev)) if right == Some(dev) => return Ok(Outcome::Done),
            Some(Leads::To(_) | Leads::Nowhere) => {}
        }
        fs::remove_file(node).map_err(|source| PoolError::io("remove", node, source))?;
        // Who has the name gets its node back.
        if let Some(uuid) = self
            .dm()?
            .find(DevId::Name(name))?
            .and_then(|device| device.uuid)
        {
            self.dm()?.device(&uuid)?;
        }
        Ok(Outcome::Done)
    }
}

impl Pool {
    fn gc(&self, dry_run: bool, run: &mut Collection) -> Result<(), PoolError> {
        let Some(_alone) = self.locks().try_whole_pool()? else {
            run.in_work.push(self.name().clone());
            return Ok(());
        };
        let mut findings = self.survey(true)?;
        // Of volumes the youngest first: a layer before the one it stands on.
        findings.sort_by_key(|found| (turn(found.kind), std::cmp::Reverse(found.volume)));
        let record = self.record()?;
        let live = match self.host().pool_device(&record)? {
            Some(_) => Some(Live::open(self, record, None)?),
            None => None,
        };
        let Some(live) = live else {
            for finding in findings {
                run.work(finding, dry_run, |finding| {
                    self.told(self.collect_closed(finding))
                });
            }
            return Ok(());
        };
        let promised = if dry_run {
            live.given_back(&findings)?
        } else {
            Bytes::ZERO
        };
        let before = live.used_data()?;
        for finding in findings {
            run.work(finding, dry_run, |finding| self.told(live.collect(finding)));
        }
        if !dry_run {
            live.mirror(Flush::No);
        }
        let came_back = before.saturating_sub(live.used_data()?);
        run.bytes = run
            .bytes
            .saturating_add(if dry_run { promised } else { came_back });
        Ok(())
    }

    /// Removes the nodes of this pool that lead nowhere, as a command leaves them that was killed between a device
    /// and its node. One that stays keeps nobody from anything.
    pub(crate) fn clear_stray_nodes(&self) -> Result<(), PoolError> {
        let prefix = node_prefix(self.name());
        let is_ours = |name: &str| name.starts_with(&prefix);
        for finding in self.host().stray_nodes(Some(self.name()), &is_ours)? {
            if finding.remedy == Remedy::Keep {
                continue;
            }
            if let Err(error) = self.host().remove_node(&finding) {
                tracing::warn!(found = %finding.text, %error, "it stays");
            }
        }
        Ok(())
    }

    /// Step Z1, where it is passed.
    fn told(&self, outcome: Result<Outcome, PoolError>) -> Result<Outcome, PoolError> {
        if matches!(outcome, Ok(Outcome::Done)) {
            Step::Z1.passed(self.name());
        }
        outcome
    }

    /// What can be done without the pool's device.
    fn collect_closed(&self, finding: &Finding) -> Result<Outcome, PoolError> {
        match finding.kind {
            FindingKind::Husk | FindingKind::StrayDevice => self.remove_device(finding.devno),
            FindingKind::Suspended => self.resume(finding.devno),
            FindingKind::StrayLoop => self.detach(finding.devno),
            FindingKind::StrayNode => self.host().remove_node(finding),
            FindingKind::StrayRecord => {
                if let Some(volume) = finding.volume {
                    self.drop_split(volume)?;
                }
                Ok(Outcome::Done)
            }
            _ => Ok(Outcome::Kept),
        }
    }

    fn remove_device(&self, device: Option<DevNo>) -> Result<Outcome, PoolError> {
        let Some(device) = device else {
            return Ok(Outcome::Kept);
        };
        match self
            .host()
            .dm()?
            .deactivate(DevId::Dev(device), Deferred::No)
        {
            Ok(_) | Err(DmError::NotFound { .. }) => Ok(Outcome::Done),
            Err(error) => Err(error.into()),
        }
    }

    fn resume(&self, device: Option<DevNo>) -> Result<Outcome, PoolError> {
        let Some(device) = device else {
            return Ok(Outcome::Kept);
        };
        self.host().dm()?.resume(DevId::Dev(device))?;
        Ok(Outcome::Done)
    }

    fn detach(&self, device: Option<DevNo>) -> Result<Outcome, PoolError> {
        let record = self.record()?;
        for backing in [&record.data, &record.metadata] {
            let file = SparseFile::open(&self.backing_path(backing))?;
            let stray = file
                .loops()?
                .into_iter()
                .find(|found| Some(found.dev()) == device);
            if let Some(stray) = stray {
                return Ok(match stray.detach()? {
                    Detached::Now => Outcome::Done,
                    // It goes when who has it open closes it.
                    Detached::Later => Outcome::Kept,
                });
            }
        }
        Ok(Outcome::Done)
    }
}

impl Live<'_> {
    /// Bytes of data in use, as of now.
    pub(crate) fn used_data(&self) -> Result<Bytes, PoolError> {
        Ok(match self.thin_pool().status()? {
            PoolStatus::Working(pool) => {
                pool.used_data.to_bytes_saturating(self.record().block_size)
            }
            PoolStatus::Fail | PoolStatus::Error => Bytes::ZERO,
        })
    }

    /// Bytes that come back to the pool when these go, all of them.
    pub(crate) fn exclusive(&self, thins: &BTreeSet<ThinId>) -> Result<Bytes, PoolError> {
        let blocks = self.read_metadata(|metadata| metadata.exclusive(thins))?;
        Ok(blocks.to_bytes_saturating(self.record().block_size))
    }

    fn given_back(&self, findings: &[Finding]) -> Result<Bytes, PoolError> {
        let thins: BTreeSet<ThinId> = findings
            .iter()
            .filter(|finding| finding.remedy == Remedy::Remove)
            .filter_map(|finding| finding.thin_id)
            .collect();
        if thins.is_empty() {
            return Ok(Bytes::ZERO);
        }
        self.exclusive(&thins)
    }

    /// Gives a container or data volume, if it is there still, its device.
    fn activate_named(&self, id: VolumeId) -> Result<Outcome, PoolError> {
        if let Some(writable) = self.pool().catalogue().writable_on(id)? {
            let name = self.pool().device_name(&writable.name);
            self.activate(&writable.volume, &name)?;
        }
        Ok(Outcome::Done)
    }

    fn collect(&self, finding: &Finding) -> Result<Outcome, PoolError> {
        match (finding.kind, finding.volume) {
            (FindingKind::HalfMade | FindingKind::QueuedRemoval, Some(id)) => {
                match self.row(id)? {
                    Some(volume) if self.is_whole(&volume)? => {
                        self.pool().catalogue().set_ready(id)?;
                        // Its name was to have a device, as that of every container that is ready.
                        self.activate_named(id)
                    }
                    Some(mut volume) => {
                        if volume.state != VolumeState::Deleting {
                            volume = self.pool().catalogue().begin_deleting(id)?;
                        }
                        Ok(match self.try_removal(&volume)? {
                            Removal::Done => Outcome::Done,
                            Removal::Held(_) => Outcome::Kept,
                        })
                    }
                    None => Ok(Outcome::Done),
                }
            }
            (FindingKind::HalfMade, None) => self.settle_ballast().map(|()| Outcome::Done),
            (FindingKind::LayerOfNoImage, Some(id)) => {
                // No import runs: we have the pool alone.
                if let Some(volume) = self.row(id)? {
                    self.discard_volume(&volume)?;
                }
                Ok(Outcome::Done)
            }
            (FindingKind::StaleMirror, _) => {
                self.begin_mirror();
                self.mirror(Flush::Yes);
                Ok(match self.pool().mirror_state(self.record()) {
                    Some(MirrorState::Behind) => Outcome::Kept,
                    Some(MirrorState::Current) | None => Outcome::Done,
                })
            }
            (FindingKind::MissingDevice, Some(id)) => self.activate_named(id),
            (FindingKind::UnknownThin, _) => {
                let Some(id) = finding.thin_id else {
                    return Ok(Outcome::Kept);
                };
                match self.thin_pool().delete(id) {
                    Ok(()) | Err(DmError::NoSuchThin { .. }) => Ok(Outcome::Done),
                    Err(error) => Err(error.into()),
                }
            }
            _ => self.pool().collect_closed(finding),
        }
    }

    fn row(&self, id: VolumeId) -> Result<Option<VolumeRecord>, PoolError> {
        match self.pool().catalogue().volume(id) {
            Ok(volume) => Ok(Some(volume)),
            Err(StoreError::VolumeNotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
