//! Devices.

use std::path::PathBuf;

use serde::Serialize;

use crate::graph::lossy;
use crate::ids::{DevNo, DmName, DmUuid, PoolName, VolumeKind};
use crate::units::Bytes;

/// What a device of ours is for.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The thin-pool itself.
    Pool,
    /// Its ballast, while that is being filled.
    Ballast,
    /// The copy of its catalogue.
    Mirror,
    /// The part of the pool's disk that has its metadata.
    Metadata,
    /// The part of the pool's disk that has its data.
    Data,
    /// A volume on it.
    #[serde(untagged)]
    Volume(VolumeKind),
}

impl std::fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pool => f.pad("pool"),
            Self::Ballast => f.pad("ballast"),
            Self::Mirror => f.pad("mirror"),
            Self::Metadata => f.pad("metadata"),
            Self::Data => f.pad("data"),
            Self::Volume(kind) => kind.fmt(f),
        }
    }
}

/// `device list` and `device inspect`.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceReport {
    /// Its dm name.
    pub name: DmName,
    /// Its dm uuid.
    pub uuid: DmUuid,
    /// What it is for.
    pub kind: DeviceKind,
    /// Pool it belongs to, where that pool is in our root.
    pub pool: Option<PoolName>,
    /// The root that its pool is open under, where that is not ours and can be told.
    #[serde(serialize_with = "lossy::option")]
    pub root: Option<PathBuf>,
    /// Whose it is: a container's name, a layer's or the base's volume; none if nobody knows it.
    pub owner: Option<String>,
    /// Its number.
    pub devno: DevNo,
    /// Its node, if the node leads to it.
    #[serde(serialize_with = "lossy::option")]
    pub node: Option<PathBuf>,
    /// Size of the device.
    pub size: Bytes,
    /// Live table, a line each as `dmsetup table` prints it.
    pub table: Vec<String>,
    /// Status, a line each as `dmsetup status` prints it.
    pub status: Vec<String>,
    /// How many hold it open.
    pub open_count: u32,
    /// The event counter.
    pub event_nr: u32,
    /// Whether it is suspended.
    pub suspended: bool,
    /// Whether it is read-only.
    pub read_only: bool,
    /// Whether the kernel removes it at its last close.
    pub deferred_remove: bool,
    /// Devices below it.
    pub below: Vec<DevNo>,
    /// Where it is mounted.
    #[serde(serialize_with = "lossy::list")]
    pub mounts: Vec<PathBuf>,
}
