//! A look at one pool: the kernel, the pool's metadata and the catalogue side by side. What must hold
//! for its findings to be true is in `check.rs`.

use std::collections::{BTreeMap, BTreeSet};

use crate::backing::SparseFile;
use crate::dm::{OwnKind, OwnUuid};
use crate::graph::check::{half_made_pool, node_prefix, of_device};
use crate::graph::error::PoolError;
use crate::graph::finding::{Finding, FindingKind, Remedy};
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::graph::reading::Window;
use crate::graph::report::QueueState;
use crate::graph::words::held_by;
use crate::ids::{DevNo, ThinId, TransactionId, VolumeId, VolumeKind};
use crate::ioctl::{DeviceInfo, LockGuard};
use crate::store::{
    BackingRecord, BallastRecord, BallastState, GenerationCheck, PoolRecord, PoolState,
    VolumeRecord, VolumeState,
};
use crate::thinmeta::Metadata;

/// Whether every thin id of a pool is ours to give and to take. True for what we make ourselves.
pub(crate) const fn owns_all_ids(record: &PoolRecord) -> bool {
    // Another's thin-pool has its owner's, and a disk that came without its last words has some that
    // nobody here knows.
    !record.foreign_ids && record.existing().is_none()
}

/// What the pool's own metadata say.
#[derive(Debug)]
struct InPool {
    thins: BTreeSet<ThinId>,
    transaction_id: TransactionId,
}

/// A look at a pool.
#[derive(Debug)]
struct Survey<'a> {
    pool: &'a Pool,
    record: PoolRecord,
    /// No command runs on the pool.
    alone: bool,
    open: bool,
    /// Rows by volume, as they were before the kernel was asked and after.
    before: BTreeMap<VolumeId, VolumeRecord>,
    after: BTreeMap<VolumeId, VolumeRecord>,
    ballast: Option<BallastRecord>,
    in_pool: InPool,
    devices: Vec<(DeviceInfo, OwnUuid)>,
    found: Vec<Finding>,
}

impl Pool {
    /// As [`check`](Self::check), for who has the whole pool (`alone`) or a share of it.
    pub(crate) fn survey(&self, alone: bool) -> Result<Vec<Finding>, PoolError> {
        let record = self.record()?;
        if record.state != PoolState::Ready {
            return Ok(vec![half_made_pool(self.name().clone())]);
        }
        let host = self.host();
        let open = host.pool_device(&record)?.is_some();
        let before = self.rows()?;
        let was = self.catalogue().ballast()?;
        let in_pool = self.in_pool(&record, open)?;
        let devices = host.own_devices()?;
        let survey = Survey {
            pool: self,
            alone,
            open,
            before,
            after: self.rows()?,
            // One that was released meanwhile may still be in the pool.
            ballast: self.catalogue().ballast()?.or(was),
            in_pool,
            devices: devices
                .into_iter()
                .filter(|(_, own)| own.pool == record.uuid)
                .collect(),
            record,
            found: Vec::new(),
        };
        survey.run()
    }

    fn rows(&self) -> Result<BTreeMap<VolumeId, VolumeRecord>, PoolError> {
        let rows = self.catalogue().all_volumes()?.into_iter();
        Ok(rows.map(|volume| (volume.id, volume)).collect())
    }

    fn in_pool(&self, record: &PoolRecord, open: bool) -> Result<InPool, PoolError> {
        let read = |metadata: &mut Metadata<Window>| {
            let devices = metadata.devices()?;
            Ok(InPool {
                thins: devices.iter().map(|device| device.id).collect(),
                transaction_id: metadata.transaction_id(),
            })
        };
        if open {
            Live::open(self, record.clone(), None)?.read_metadata(read)
        } else {
            self.read_closed_metadata(record, read)
        }
    }
}

impl Survey<'_> {
    fn run(mut self) -> Result<Vec<Finding>, PoolError> {
        let paired = self.check_pairing();
        self.check_devices()?;
        self.check_rows()?;
        self.check_layers()?;
        self.check_thins(paired);
        self.check_containers()?;
        self.check_loops()?;
        let prefix = node_prefix(self.pool.name());
        let name = Some(self.pool.name());
        let nodes = self
            .pool
            .host()
            .stray_nodes(name, &|name| name.starts_with(&prefix))?;
        self.found.extend(nodes);
        if !paired {
            // A catalogue of another time may call anything removed, half made or unknown.
            for finding in &mut self.found {
                if finding.volume.is_some() || finding.thin_id.is_some() {
                    finding.remedy = Remedy::Keep;
                }
            }
        }
        Ok(self.found)
    }

    fn finding(&self, kind: FindingKind, remedy: Remedy, text: String) -> Finding {
        Finding::new(kind, remedy, Some(self.pool.name().clone()), text)
    }

    /// What can be done in an open pool only.
    const fn if_open(&self, remedy: Remedy) -> Remedy {
        if self.open { remedy } else { Remedy::Keep }
    }

    const fn closed_hint(&self) -> &'static str {
        if self.open {
            ""
        } else {
            "; `pool open` settles it"
        }
    }

    /// Whether a command may be working on the volume.
    fn in_work(&self, kind: VolumeKind, id: VolumeId) -> Result<bool, PoolError> {
        if self.alone {
            return Ok(false);
        }
        let locks = self.pool.locks();
        let free = |lock: Option<LockGuard>| lock.is_some();
        Ok(match kind {
            // They are made under these locks; a volume's own is for its removal.
            VolumeKind::Base | VolumeKind::Layer => {
                !free(locks.try_no_imports()?)
                    || !free(locks.try_growth()?)
                    || !free(locks.try_volume(id)?)
            }
            VolumeKind::Container => !free(locks.try_volume(id)?),
        })
    }

    fn check_pairing(&mut self) -> bool {
        let found = self.in_pool.transaction_id;
        match self.record.check_generation(found) {
            GenerationCheck::Match | GenerationCheck::PendingDone => true,
            GenerationCheck::Mismatch { found, expected } => {
                let text = format!(
                    "the pool is at transaction {found}, its catalogue at {expected}: one of them was \
                     swapped, restored or changed by another tool"
                );
                let finding = self.finding(FindingKind::Unpaired, Remedy::Keep, text);
                self.found.push(finding);
                false
            }
        }
    }

    fn is_known(&self, id: VolumeId) -> bool {
        self.before.contains_key(&id) || self.after.contains_key(&id)
    }

    fn check_devices(&mut self) -> Result<(), PoolError> {
        for (device, own) in std::mem::take(&mut self.devices) {
            if let OwnKind::Volume(kind, id) = own.kind
                && self.in_work(kind, id)?
            {
                continue;
            }
            let name = &device.name;
            let (kind, remedy, text) = match own.kind {
                _ if !device.active_table => (
                    FindingKind::Husk,
                    Remedy::Remove,
                    format!("device {name} was never given a table: its making was cut"),
                ),
                // It is there while the ballast is filled, by a command that shares the pool.
                OwnKind::Ballast if self.alone => (
                    FindingKind::StrayDevice,
                    Remedy::Remove,
                    format!("device {name} is of a ballast that nobody fills"),
                ),
                OwnKind::Volume(_, id) if !self.is_known(id) => {
                    let holders = if device.open_count > 0 {
                        format!("; it is held{}", held_by(&self.pool.holders(device.dev)?))
                    } else {
                        String::new()
                    };
                    (
                        FindingKind::StrayDevice,
                        Remedy::Remove,
                        format!(
                            "device {name} is of volume {id}, which is not in the catalogue{holders}"
                        ),
                    )
                }
                OwnKind::Volume(VolumeKind::Container, _)
                    if device.suspended && self.pool.locks().is_holding()? =>
                {
                    (
                        FindingKind::Suspended,
                        Remedy::Keep,
                        format!(
                            "device {name} is suspended: a monitor has it wait until the pool has room"
                        ),
                    )
                }
                _ if device.suspended => (
                    FindingKind::Suspended,
                    Remedy::Resume,
                    format!("device {name} is suspended: who uses it waits"),
                ),
                _ => continue,
            };
            let volume = match own.kind {
                OwnKind::Pool | OwnKind::Part(_) | OwnKind::Ballast => None,
                OwnKind::Volume(_, id) => Some(id),
            };
            let finding = Finding {
                volume,
                ..self.finding(kind, remedy, text)
            };
            self.found.push(of_device(finding, &device));
        }
        Ok(())
    }

    fn check_rows(&mut self) -> Result<(), PoolError> {
        if !self.alone {
            return Ok(());
        }
        if let Some(ballast) = self.ballast.filter(|b| b.state != BallastState::Ready) {
            let text = format!(
                "the ballast is {}: it was cut{}",
                ballast.state,
                self.closed_hint()
            );
            let finding = Finding {
                thin_id: Some(ballast.thin_id),
                ..self.finding(FindingKind::HalfMade, self.if_open(Remedy::Remove), text)
            };
            self.found.push(finding);
        }
        let names: BTreeMap<VolumeId, String> = self
            .pool
            .catalogue()
            .containers()?
            .into_iter()
            .map(|container| (container.volume.id, format!("container {}", container.name)))
            .collect();
        for removal in self.pool.queue()? {
            let told_name = removal.told_name();
            let (kind, remedy, text) = match removal.state {
                QueueState::Held | QueueState::Deleting => (
                    FindingKind::HeldRemoval,
                    Remedy::Keep,
                    format!(
                        "{told_name} is removed, and held{}",
                        held_by(&removal.holders)
                    ),
                ),
                QueueState::Waiting => (
                    FindingKind::QueuedRemoval,
                    self.if_open(Remedy::Remove),
                    format!(
                        "{told_name} is removed, and its space is not back{}",
                        self.closed_hint()
                    ),
                ),
            };
            let finding = Finding {
                volume: Some(removal.volume),
                thin_id: Some(removal.thin_id),
                devno: removal.devno,
                ..self.finding(kind, remedy, text)
            };
            self.found.push(finding);
        }
        let creating: Vec<_> = self
            .after
            .values()
            .filter(|volume| volume.state == VolumeState::Creating)
            .cloned()
            .collect();
        for volume in creating {
            let name = names
                .get(&volume.id)
                .cloned()
                .unwrap_or_else(|| format!("{} of volume {}", volume.kind, volume.id));
            let (remedy, then) = if self.is_whole(&volume) {
                (Remedy::Finish, "it is whole")
            } else {
                (Remedy::Remove, "it is not whole")
            };
            let text = format!("the making of {name} was cut; {then}{}", self.closed_hint());
            let finding = Finding {
                volume: Some(volume.id),
                thin_id: Some(volume.thin_id),
                ..self.finding(FindingKind::HalfMade, self.if_open(remedy), text)
            };
            self.found.push(finding);
        }
        Ok(())
    }

    /// What recovery finds of a row in state `creating`, without touching the pool.
    fn is_whole(&self, volume: &VolumeRecord) -> bool {
        let parent = volume.parent.and_then(|parent| self.after.get(&parent));
        volume.kind == VolumeKind::Container
            && parent.is_some_and(|parent| parent.size == volume.size)
            && self.in_pool.thins.contains(&volume.thin_id)
    }

    fn check_layers(&mut self) -> Result<(), PoolError> {
        let Some(_no_imports) = self.pool.locks().try_no_imports()? else {
            return Ok(());
        };
        for volume in self.pool.forsaken_layers()? {
            let text = format!(
                "the layer of volume {} belongs to no image: an import was cut{}",
                volume.id,
                self.closed_hint()
            );
            let finding = Finding {
                volume: Some(volume.id),
                thin_id: Some(volume.thin_id),
                ..self.finding(
                    FindingKind::LayerOfNoImage,
                    self.if_open(Remedy::Remove),
                    text,
                )
            };
            self.found.push(finding);
        }
        Ok(())
    }

    fn check_thins(&mut self, paired: bool) {
        let known: BTreeSet<ThinId> = self
            .before
            .values()
            .chain(self.after.values())
            .map(|volume| volume.thin_id)
            .chain(self.ballast.map(|ballast| ballast.thin_id))
            .collect();
        for id in self
            .in_pool
            .thins
            .difference(&known)
            .copied()
            .collect::<Vec<_>>()
        {
            // Only the right catalogue can tell what is nobody's.
            let (remedy, why) = if !paired {
                (Remedy::Keep, "; the catalogue is not this pool's")
            } else if !owns_all_ids(&self.record) {
                (Remedy::Keep, "; another tool may have made it")
            } else if !self.open {
                (Remedy::Keep, "; open the pool to have it removed")
            } else {
                (Remedy::Remove, "")
            };
            let text =
                format!("thin device {id} is in the pool, and in no row of the catalogue{why}");
            let finding = Finding {
                thin_id: Some(id),
                ..self.finding(FindingKind::UnknownThin, remedy, text)
            };
            self.found.push(finding);
        }
        let ready = |volume: &&VolumeRecord| volume.state == VolumeState::Ready;
        let missing: Vec<_> = self
            .after
            .values()
            .filter(ready)
            .filter(|volume| self.before.get(&volume.id).as_ref().is_some_and(ready))
            .filter(|volume| !self.in_pool.thins.contains(&volume.thin_id))
            .cloned()
            .collect();
        for volume in missing {
            let text = format!(
                "{} of volume {} is lost: the pool has no thin device {}",
                volume.kind, volume.id, volume.thin_id
            );
            let finding = Finding {
                volume: Some(volume.id),
                thin_id: Some(volume.thin_id),
                ..self.finding(FindingKind::MissingThin, Remedy::Keep, text)
            };
            self.found.push(finding);
        }
    }

    fn check_containers(&mut self) -> Result<(), PoolError> {
        if !self.open {
            return Ok(());
        }
        for container in self.pool.catalogue().containers()? {
            let volume = container.volume;
            if volume.state != VolumeState::Ready
                || !volume.active
                || self.pool.volume_device(&volume)?.is_some()
                || self.in_work(volume.kind, volume.id)?
            {
                continue;
            }
            // One that is lost was told already.
            if !self.in_pool.thins.contains(&volume.thin_id) {
                continue;
            }
            let text = format!("container {} has no device, and had one", container.name);
            let finding = Finding {
                volume: Some(volume.id),
                thin_id: Some(volume.thin_id),
                ..self.finding(FindingKind::MissingDevice, Remedy::Activate, text)
            };
            self.found.push(finding);
        }
        Ok(())
    }

    fn check_loops(&mut self) -> Result<(), PoolError> {
        let used: Vec<DevNo> = if self.open {
            let live = Live::open(self.pool, self.record.clone(), None)?;
            let (_, table) = live.thin_pool().table()?;
            vec![table.data, table.metadata]
        } else {
            Vec::new()
        };
        for backing in [&self.record.data, &self.record.metadata] {
            if !matches!(backing, BackingRecord::File { .. }) {
                continue;
            }
            let path = self.pool.backing_path(backing);
            for device in SparseFile::open(&path)?.loops()? {
                if used.contains(&device.dev()) {
                    continue;
                }
                let text = format!(
                    "{} is on {}, and the pool does not use it: what it writes ruins the pool",
                    device.path().display(),
                    path.display()
                );
                let finding = Finding {
                    devno: Some(device.dev()),
                    node: Some(device.path().to_owned()),
                    ..self.finding(FindingKind::StrayLoop, Remedy::Remove, text)
                };
                self.found.push(finding);
            }
        }
        Ok(())
    }
}
