//! `check`: what there is in the kernel and in the pools, against what the catalogues say.
//!
//! What a running command is just making must not be called an orphan. Where no command runs, which
//! the pool's lock tells, all that is found is true and nothing changes meanwhile. Else
//!
//! - rows that are not settled are left out: somebody works on them, or may;
//! - what is about a volume whose lock somebody has is left out, and what is about a base or a layer
//!   while something is imported or a base is grown;
//! - rows are read before and after the kernel is asked, and one of the two will do;
//! - all is looked at twice, and what is not there both times was on its way.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File};
use std::path::Path;

use crate::backing::SparseFile;
use crate::dm::{OwnKind, OwnUuid};
use crate::graph::error::{PoolError, held_by};
use crate::graph::finding::{Finding, FindingKind, Findings, Remedy};
use crate::graph::host::Host;
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::graph::report::QueueState;
use crate::ids::{DevNo, DmName, PoolName, PoolUuid, ThinId, TransactionId, VolumeId, VolumeKind};
use crate::ioctl::{self, DeviceInfo, IoctlError, LockGuard};
use crate::store::{
    BackingRecord, GenerationCheck, PoolRecord, PoolState, VolumeRecord, VolumeState,
};
use crate::thinmeta::Metadata;

/// Whether every thin id of a pool is ours to give and to take. True for what we make ourselves.
pub(crate) const fn owns_all_ids(record: &PoolRecord) -> bool {
    match (&record.data, &record.metadata) {
        (
            BackingRecord::File { .. } | BackingRecord::Device { .. },
            BackingRecord::File { .. } | BackingRecord::Device { .. },
        ) => true,
    }
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
    in_pool: InPool,
    devices: Vec<(DeviceInfo, OwnUuid)>,
    found: Vec<Finding>,
}

impl Host {
    /// Everything that does not belong: in one pool, or in all of them and in what has no pool. Changes
    /// nothing but a metadata snapshot, which is released again.
    ///
    /// # Errors
    /// [`PoolError::PoolNotFound`]; [`PoolError::MetadataSnapHeld`]; where a pool, the kernel or a
    /// catalogue cannot be read.
    pub fn check(&self, name: Option<&PoolName>) -> Result<Findings, PoolError> {
        let mut all = Findings::default();
        let names = match name {
            Some(name) => vec![self.pick_pool(Some(name))?],
            None => self.pool_names()?,
        };
        for name in &names {
            match self.pool(name) {
                Ok(pool) => {
                    let (found, alone) = pool.check()?;
                    all.findings.extend(found);
                    if !alone {
                        all.in_work.push(name.clone());
                    }
                }
                Err(PoolError::PoolHalfMade { name }) => {
                    all.findings.push(half_made_pool(name));
                }
                Err(error) => return Err(error),
            }
        }
        if name.is_none() {
            all.findings.extend(self.check_no_pool()?);
        }
        Ok(all)
    }

    /// Devices and nodes of ours that are of no pool under this root.
    pub(crate) fn check_no_pool(&self) -> Result<Vec<Finding>, PoolError> {
        let mut found = Vec::new();
        let pools = self.pools()?;
        let known: HashSet<PoolUuid> = pools.iter().filter_map(|pool| pool.uuid).collect();
        let damaged = pools.iter().any(|pool| pool.uuid.is_none());
        for (device, own) in self.own_devices()? {
            // One of a pool whose catalogue cannot be read is of that pool, for all we know.
            if known.contains(&own.pool) || damaged {
                continue;
            }
            let text = format!(
                "device {} is of pool {}, which is not under {}: another root may have it",
                device.name,
                own.pool,
                self.layout().root().display()
            );
            found.push(of_device(
                Finding::new(FindingKind::DeviceOfNoPool, Remedy::Keep, None, text),
                &device,
            ));
        }
        let ours: Vec<String> = pools.iter().map(|pool| node_prefix(&pool.name)).collect();
        found.extend(self.stray_nodes(None, &|name| {
            name.starts_with("dmthin-") && !ours.iter().any(|prefix| name.starts_with(prefix))
        })?);
        Ok(found)
    }

    /// Nodes of names that `is_ours` that lead nowhere or to another device than has the name.
    fn stray_nodes(
        &self,
        pool: Option<&PoolName>,
        is_ours: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Finding>, PoolError> {
        let dm = self.dm()?;
        let dir = dm.dev_dir();
        let failed = |source| PoolError::io("read", dir, source);
        let mut nodes = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if let Some(name) = name.to_str().filter(|name| is_ours(name))
                && let Ok(name) = DmName::new(name)
            {
                nodes.push(name);
            }
        }
        nodes.sort();
        // Listed after the nodes: a node is made after its device.
        let devices: BTreeMap<DmName, DevNo> = dm
            .control()
            .list_devices()?
            .into_iter()
            .map(|device| (device.name, device.dev))
            .collect();
        let mut found = Vec::new();
        for name in nodes {
            let node = dir.join(name.as_str());
            let Some(leads) = leads_to(&node)? else {
                continue;
            };
            let (remedy, what) = match (leads, devices.get(&name)) {
                (Leads::To(dev), Some(device)) if dev == *device => continue,
                (Leads::NoBlockDevice, _) => (Remedy::Keep, "is no block device".to_owned()),
                (Leads::Nowhere, _) => (Remedy::Remove, "leads nowhere".to_owned()),
                (Leads::To(dev), Some(device)) => (
                    Remedy::Remove,
                    format!("leads to device {dev}, and {name} is {device}"),
                ),
                (Leads::To(dev), None) => (
                    Remedy::Remove,
                    format!("leads to device {dev}, and there is no device {name}"),
                ),
            };
            let text = format!("node {} {what}", node.display());
            found.push(Finding {
                device: Some(name),
                node: Some(node),
                ..Finding::new(FindingKind::StrayNode, remedy, pool.cloned(), text)
            });
        }
        Ok(found)
    }
}

/// Where a path in `/dev` leads to.
pub(crate) enum Leads {
    To(DevNo),
    Nowhere,
    NoBlockDevice,
}

/// `None` where it has gone.
pub(crate) fn leads_to(node: &Path) -> Result<Option<Leads>, PoolError> {
    Ok(match ioctl::node_dev(node) {
        Ok(Some(dev)) => Some(Leads::To(dev)),
        Ok(None) if fs::symlink_metadata(node).is_ok() => Some(Leads::Nowhere),
        Ok(None) => None,
        Err(IoctlError::Io {
            errno: ioctl::Errno::NOTBLK,
            ..
        }) => Some(Leads::NoBlockDevice),
        Err(error) => return Err(error.into()),
    })
}

fn node_prefix(pool: &PoolName) -> String {
    format!("dmthin-{pool}-")
}

pub(crate) fn half_made_pool(name: PoolName) -> Finding {
    let text = format!(
        "pool {name} is half made or half destroyed: `pool-cli pool destroy {name}` clears it away"
    );
    Finding::new(FindingKind::HalfMadePool, Remedy::Keep, Some(name), text)
}

fn of_device(finding: Finding, device: &DeviceInfo) -> Finding {
    Finding {
        device: Some(device.name.clone()),
        devno: Some(device.dev),
        ..finding
    }
}

impl Pool {
    /// What does not belong in this pool; false where a command works on it, and what that may be
    /// about was left out.
    ///
    /// # Errors
    /// As of [`Host::check`].
    pub fn check(&self) -> Result<(Vec<Finding>, bool), PoolError> {
        if let Some(_alone) = self.locks().try_whole_pool()? {
            return Ok((self.survey(true)?, true));
        }
        let _shared = self.locks().share_pool()?;
        let first = self.survey(false)?;
        if first.is_empty() {
            return Ok((first, false));
        }
        let second = self.survey(false)?;
        let both = second
            .into_iter()
            .filter(|finding| first.contains(finding))
            .collect();
        Ok((both, false))
    }

    /// As [`check`](Self::check), for who has the whole pool (`alone`) or a share of it.
    pub(crate) fn survey(&self, alone: bool) -> Result<Vec<Finding>, PoolError> {
        let record = self.record()?;
        if record.state != PoolState::Ready {
            return Ok(vec![half_made_pool(self.name().clone())]);
        }
        let host = self.host();
        let open = host.pool_device(&record)?.is_some();
        let before = self.rows()?;
        let in_pool = self.in_pool(&record, open)?;
        let devices = host.own_devices()?;
        let survey = Survey {
            pool: self,
            alone,
            open,
            before,
            after: self.rows()?,
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
        let read = |metadata: &mut Metadata<File>| {
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
                _ if device.suspended => (
                    FindingKind::Suspended,
                    Remedy::Resume,
                    format!("device {name} is suspended: who uses it waits"),
                ),
                _ => continue,
            };
            let volume = match own.kind {
                OwnKind::Pool => None,
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
