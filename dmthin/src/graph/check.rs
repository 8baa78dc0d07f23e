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

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

use crate::graph::code::ErrorCode;
use crate::graph::error::PoolError;
use crate::graph::finding::{Finding, FindingKind, Findings, Remedy};
use crate::graph::host::Host;
use crate::graph::pool::Pool;
use crate::ids::{DevNo, DmName, PoolName, PoolUuid};
use crate::ioctl::{self, DeviceInfo, IoctlError};
use crate::store::StoreError;

impl Host {
    /// Everything that does not belong: in one pool, or in all of them and in what has no pool. Changes
    /// nothing but a metadata snapshot, which is released again.
    ///
    /// # Errors
    /// [`PoolError::PoolNotFound`]; [`PoolError::MetadataSnapHeld`]; where a pool, the kernel or a
    /// catalogue cannot be read.
    pub fn check(&self, name: Option<&PoolName>) -> Result<Findings, PoolError> {
        let mut all = Findings::default();
        let every = name.is_none();
        let names = match name {
            Some(name) => vec![self.pick_pool(Some(name))?],
            None => self.pool_names()?,
        };
        for name in &names {
            match self.pool(name).and_then(|pool| pool.check()) {
                Ok((found, alone)) => {
                    all.findings.extend(found);
                    if !alone {
                        all.in_work.push(name.clone());
                    }
                }
                Err(PoolError::PoolHalfMade { name }) => {
                    all.findings.push(half_made_pool(name));
                }
                // The others are looked at all the same; who named it is told by the error.
                Err(error) if damages(&error) && every => {
                    all.findings.push(damaged_pool(name, &error));
                }
                Err(error) => return Err(error),
            }
        }
        if every {
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
        let devices = self.own_devices()?;
        for (device, own) in &devices {
            // One of a pool whose catalogue cannot be read is of that pool, for all we know.
            if known.contains(&own.pool) || damaged {
                continue;
            }
            let (name, pool) = (&device.name, own.pool);
            let (kind, text) = match self.other_root(pool, &devices)? {
                Some(root) => (
                    FindingKind::DeviceOfOtherRoot,
                    format!(
                        "device {name} is of a pool under another root, {}",
                        root.display()
                    ),
                ),
                None => (
                    FindingKind::DeviceOfNoPool,
                    format!(
                        "device {name} is of pool {pool}, which is not under {}: another root may \
                         have it",
                        self.layout().root().display()
                    ),
                ),
            };
            found.push(of_device(
                Finding::new(kind, Remedy::Keep, None, text),
                device,
            ));
        }
        let ours: Vec<String> = pools.iter().map(|pool| node_prefix(&pool.name)).collect();
        found.extend(self.stray_nodes(None, &|name| {
            name.starts_with("dmthin-") && !ours.iter().any(|prefix| name.starts_with(prefix))
        })?);
        Ok(found)
    }

    /// Nodes of names that `is_ours` that lead nowhere or to another device than has the name.
    pub(super) fn stray_nodes(
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

pub(super) fn node_prefix(pool: &PoolName) -> String {
    format!("dmthin-{pool}-")
}

pub(crate) fn half_made_pool(name: PoolName) -> Finding {
    let text = format!(
        "pool {name} is half made or half destroyed: `pool-cli pool destroy {name}` clears it away"
    );
    Finding::new(FindingKind::HalfMadePool, Remedy::Keep, Some(name), text)
}

/// Whether an error says that a pool itself is not as it should be, whoever asks.
pub(crate) fn damages(error: &PoolError) -> bool {
    match error.code() {
        ErrorCode::Retry | ErrorCode::Permission => false,
        ErrorCode::NeedsCheck => true,
        // One that names a row is of something that another command removed meanwhile.
        _ => matches!(
            error,
            PoolError::Store(
                StoreError::NotFound { .. }
                    | StoreError::NewerFormat { .. }
                    | StoreError::Io { .. }
                    | StoreError::Database { .. }
            )
        ),
    }
}

pub(crate) fn damaged_pool(name: &PoolName, error: &PoolError) -> Finding {
    let text = format!("pool {name} cannot be looked at: {error}");
    let pool = Some(name.clone());
    Finding::new(FindingKind::DamagedPool, Remedy::Keep, pool, text)
}

pub(super) fn of_device(finding: Finding, device: &DeviceInfo) -> Finding {
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
}
