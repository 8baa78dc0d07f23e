//! A look at one pool: the kernel, the pool's metadata and the catalogue side by side. What must hold
//! for its findings to be true is in `check.rs`.

use std::collections::{BTreeMap, BTreeSet};

use crate::dm::{OwnKind, OwnUuid};
use crate::graph::check::{half_made_pool, node_prefix, of_device};
use crate::graph::error::PoolError;
use crate::graph::finding::{Finding, FindingKind, Remedy};
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::graph::reading::Window;
use crate::graph::recover::is_provable;
use crate::graph::report::QueueState;
use crate::graph::words::held_by;
use crate::ids::{ThinId, TransactionId, VolumeId, VolumeKind};
use crate::ioctl::{DeviceInfo, LockGuard};
use crate::store::{
    BallastRecord, BallastState, GenerationCheck, PoolRecord, PoolState, VolumeRecord, VolumeState,
};
use crate::thinmeta::Metadata;

mod beside;

/// Whether every thin id of a pool is ours to give and to take. True for what we make ourselves.
pub(crate) const fn owns_all_ids(record: &PoolRecord) -> bool {
    // Another's thin-pool has its owner's, and a disk that came without its last words has some that
    // nobody here knows.
    !record.foreign_ids && record.existing().is_none()
}

/// What the pool's own metadata say.
#[derive(Debug)]
pub(crate) struct InPool {
    pub(crate) thins: BTreeSet<ThinId>,
    pub(crate) transaction_id: TransactionId,
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
        // After the pool was read: ids are given out before the pool has them.
        let record = self.record()?;
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

    pub(crate) fn in_pool(&self, record: &PoolRecord, open: bool) -> Result<InPool, PoolError> {
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
        self.check_splits()?;
        self.check_thins(paired);
        self.check_active()?;
        self.check_loops()?;
        // A catalogue of another time is the last thing that the copy should follow.
        if paired {
            self.check_mirror();
        }
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
            VolumeKind::Container | VolumeKind::Snapshot | VolumeKind::Data => {
                !free(locks.try_volume(id)?)
            }
        })
    }

    fn check_pairing(&mut self) -> bool {
        if let Some(next) = self.record.next_thin_id
            && let Some(found) = self.record.not_given(&self.in_pool.thins)
            && owns_all_ids(&self.record)
        {
            let text = self.pool.older_catalogue(found, next).to_string();
            let finding = self.finding(FindingKind::Unpaired, Remedy::Keep, text);
            self.found.push(finding);
            return false;
        }
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
                OwnKind::Volume(kind, _)
                    if kind.is_writable()
                        && device.suspended
                        && self.pool.locks().is_holding()? =>
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
                OwnKind::Pool | OwnKind::Part(_) | OwnKind::Ballast | OwnKind::Mirror => None,
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
        let names = self.names()?;
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
            let (remedy, then) = if names.contains_key(&volume.id) && self.is_whole(&volume) {
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

    /// What volumes that are not sealed go by.
    fn names(&self) -> Result<BTreeMap<VolumeId, String>, PoolError> {
        let catalogue = self.pool.catalogue();
        let mut names: BTreeMap<VolumeId, String> = catalogue
            .writables()?
            .into_iter()
            .map(|w| (w.volume.id, format!("{} {}", w.name.noun(), w.name)))
            .collect();
        for snapshot in catalogue.all_snapshots()? {
            let of = names.get(&snapshot.owner).map_or("", String::as_str);
            let name = format!("snapshot {} of {of}", snapshot.name);
            names.insert(snapshot.volume.id, name);
        }
        Ok(names)
    }

    /// What recovery finds of a row in state `creating` that has a name, without touching the pool.
    fn is_whole(&self, volume: &VolumeRecord) -> bool {
        // One whose origin is gone was made of a container, and is as large as that was.
        let size = match volume.parent {
            Some(parent) => self.after.get(&parent).map(|parent| parent.size),
            None => Some(volume.size),
        };
        is_provable(volume.kind)
            && size == Some(volume.size)
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
            .chain([ThinId::MIRROR])
            .collect();
        // In another's thin-pool what is not ours is its owner's.
        let shared = self.record.existing().is_some();
        let unknown = self.in_pool.thins.difference(&known).copied();
        for id in unknown.filter(|_| !shared).collect::<Vec<_>>() {
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

    fn check_active(&mut self) -> Result<(), PoolError> {
        if !self.open {
            return Ok(());
        }
        for writable in self.pool.catalogue().writables()? {
            let volume = writable.volume;
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
            let (noun, name) = (writable.name.noun(), &writable.name);
            let text = format!("{noun} {name} has no device, and had one");
            let finding = Finding {
                volume: Some(volume.id),
                thin_id: Some(volume.thin_id),
                ..self.finding(FindingKind::MissingDevice, Remedy::Activate, text)
            };
            self.found.push(finding);
        }
        Ok(())
    }
}
