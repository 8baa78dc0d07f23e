//! The dm names and uuids of our devices: all are made here, and uuids are parsed here.
//!
//! ```text
//!           name                                    uuid
//! pool      dmthin-<pool>-pool                      DMTHIN-<pool uuid>-pool
//! ballast   dmthin-<pool>-ballast                   DMTHIN-<pool uuid>-ballast
//! base      dmthin-<pool>-base-<volume id>          DMTHIN-<pool uuid>-base-<volume id>
//! layer     dmthin-<pool>-layer-<volume id>         DMTHIN-<pool uuid>-layer-<volume id>
//! container dmthin-<pool>-ctr-<container name>      DMTHIN-<pool uuid>-container-<volume id>
//! data      dmthin-<pool>-vol-<volume name>         DMTHIN-<pool uuid>-data-<volume id>
//! snapshot  dmthin-<pool>-snap-<volume id>          DMTHIN-<pool uuid>-snapshot-<volume id>
//! metadata  dmthin-<pool>-tmeta                     DMTHIN-<pool uuid>-tmeta
//! its data  dmthin-<pool>-tdata                     DMTHIN-<pool uuid>-tdata
//! ```
//!
//! The uuid says whose a device is; the name is for people and for `/dev/mapper`. A name is not
//! parsed back: a pool's name may hold dashes, so `dmthin-a-ctr-b-pool` could be read in two ways,
//! were it not that no pool is made whose name is ambiguous ([`is_ambiguous`]). Should two devices
//! ask for one name all the same, the kernel refuses the second (`drivers/md/dm-ioctl.c`,
//! `dm_hash_insert`).
//!
//! Lengths: the longest name is a container's or a data volume's, 7 + 32 (`PoolName`) + 5 + 63
//! (`ContainerName`, `VolumeName`) = 107 bytes; a layer's is at most 7 + 32 + 7 + 20 (digits of 2^64) = 66. A name may have 127 bytes. The
//! longest uuid is a container's, 7 + 32 + 11 + 20 = 70 bytes; a uuid may have 128. So both always fit.

use std::fmt;
use std::str::FromStr;

use crate::dm::line::decimal;
use crate::ids::{
    ContainerName, DmName, DmUuid, PoolName, PoolUuid, VolumeId, VolumeKind, VolumeName,
};

const UUID_PREFIX: &str = "DMTHIN-";
const POOL_WORD: &str = "pool";
const BALLAST_WORD: &str = "ballast";
const MIRROR_WORD: &str = "mirror";
const METADATA_WORD: &str = "tmeta";
const DATA_WORD: &str = "tdata";

/// Whether a pool's devices could have the names of another pool's containers or data volumes: `a-ctr-b`,
/// whose own is `dmthin-a-ctr-b-pool`, as is that of the container `b-pool` of `a`; and `a-ctr`. So with
/// `vol`.
///
/// Among other pools the first `-ctr-` or `-vol-` in a name ends the pool's, so each name has one reading.
#[must_use]
pub fn is_ambiguous(pool: &PoolName) -> bool {
    let name = pool.as_str();
    ["-ctr", "-vol"]
        .iter()
        .any(|word| name.ends_with(word) || name.contains(&format!("{word}-")))
}

fn checked_name(text: String) -> DmName {
    DmName::new(text).expect("the module's doc proves that every name fits in 127 bytes")
}

/// The name of a pool's device.
#[must_use]
pub fn pool_name(pool: &PoolName) -> DmName {
    checked_name(format!("dmthin-{pool}-pool"))
}

/// The name of the device that a pool's ballast is filled through.
#[must_use]
pub fn ballast_name(pool: &PoolName) -> DmName {
    checked_name(format!("dmthin-{pool}-ballast"))
}

/// The name of the device of the copy of the catalogue in a pool.
#[must_use]
pub fn mirror_name(pool: &PoolName) -> DmName {
    checked_name(format!("dmthin-{pool}-mirror"))
}

/// The name of the device below a pool that is a part of a disk.
#[must_use]
pub fn part_name(pool: &PoolName, part: PartKind) -> DmName {
    checked_name(format!("dmthin-{pool}-{}", part.word()))
}

/// The name of a base volume's device.
#[must_use]
pub fn base_name(pool: &PoolName, volume: VolumeId) -> DmName {
    checked_name(format!("dmthin-{pool}-base-{volume}"))
}

/// The name of a layer's device.
#[must_use]
pub fn layer_name(pool: &PoolName, volume: VolumeId) -> DmName {
    checked_name(format!("dmthin-{pool}-layer-{volume}"))
}

/// The name of a container's device.
#[must_use]
pub fn container_name(pool: &PoolName, container: &ContainerName) -> DmName {
    checked_name(format!("dmthin-{pool}-ctr-{container}"))
}

/// The name of a data volume's device.
#[must_use]
pub fn volume_name(pool: &PoolName, volume: &VolumeName) -> DmName {
    checked_name(format!("dmthin-{pool}-vol-{volume}"))
}

/// The name of the device that is made of a snapshot while we work on it.
#[must_use]
pub fn snapshot_name(pool: &PoolName, volume: VolumeId) -> DmName {
    checked_name(format!("dmthin-{pool}-snap-{volume}"))
}

/// The names that lvm2 gives the device of a thin-pool `VG/LV`: while it has volumes, and while it has
/// none. A hyphen in either word is doubled (`lib/misc/lvm-string.c`, `build_dm_name`).
#[must_use]
pub fn lvm_thin_pool_names(vg: &str, lv: &str) -> [Option<DmName>; 2] {
    let [vg, lv] = [vg, lv].map(|word| word.replace('-', "--"));
    ["-tpool", ""].map(|layer| DmName::new(format!("{vg}-{lv}{layer}")).ok())
}

/// A part of the disk that a pool lies on whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartKind {
    /// Its metadata.
    Metadata,
    /// Its data.
    Data,
}

impl PartKind {
    const fn word(self) -> &'static str {
        match self {
            Self::Metadata => METADATA_WORD,
            Self::Data => DATA_WORD,
        }
    }
}

/// What a device of ours is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnKind {
    /// The thin-pool device.
    Pool,
    /// Its ballast, while that is being filled.
    Ballast,
    /// The copy of its catalogue, in the pool itself.
    Mirror,
    /// A device below it, which is a part of a disk.
    Part(PartKind),
    /// A thin volume of the catalogue.
    Volume(VolumeKind, VolumeId),
}

/// The uuid of a device of ours, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnUuid {
    /// The pool it belongs to.
    pub pool: PoolUuid,
    /// What it is there.
    pub kind: OwnKind,
}

/// Why a dm uuid is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OwnUuidError {
    /// Someone else's device.
    #[error("the dm uuid {0:?} does not begin with DMTHIN-: the device is not ours")]
    Foreign(String),
    /// It has our prefix but not our form.
    #[error("the dm uuid {0:?} begins with DMTHIN- but is not of a form this version makes")]
    Malformed(String),
}

impl OwnUuid {
    /// The pool's own device.
    #[must_use]
    pub const fn pool(pool: PoolUuid) -> Self {
        Self {
            pool,
            kind: OwnKind::Pool,
        }
    }

    /// The device of the pool's ballast.
    #[must_use]
    pub const fn ballast(pool: PoolUuid) -> Self {
        Self {
            pool,
            kind: OwnKind::Ballast,
        }
    }

    /// The device of the copy of the pool's catalogue.
    #[must_use]
    pub const fn mirror(pool: PoolUuid) -> Self {
        Self {
            pool,
            kind: OwnKind::Mirror,
        }
    }

    /// A part of the pool's disk.
    #[must_use]
    pub const fn part(pool: PoolUuid, part: PartKind) -> Self {
        Self {
            pool,
            kind: OwnKind::Part(part),
        }
    }

    /// A volume's device.
    #[must_use]
    pub const fn volume(pool: PoolUuid, kind: VolumeKind, id: VolumeId) -> Self {
        Self {
            pool,
            kind: OwnKind::Volume(kind, id),
        }
    }

    /// As the kernel takes it.
    #[must_use]
    pub fn to_dm_uuid(self) -> DmUuid {
        DmUuid::new(self.to_string())
            .expect("the module's doc proves that every uuid fits in 128 bytes")
    }
}

impl fmt::Display for OwnUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{UUID_PREFIX}{}-", self.pool)?;
        match self.kind {
            OwnKind::Pool => f.write_str(POOL_WORD),
            OwnKind::Ballast => f.write_str(BALLAST_WORD),
            OwnKind::Mirror => f.write_str(MIRROR_WORD),
            OwnKind::Part(part) => f.write_str(part.word()),
            OwnKind::Volume(kind, id) => write!(f, "{kind}-{id}"),
        }
    }
}

impl FromStr for OwnUuid {
    type Err = OwnUuidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text
            .strip_prefix(UUID_PREFIX)
            .ok_or_else(|| OwnUuidError::Foreign(text.to_owned()))?;
        let parsed = rest.split_once('-').and_then(|(pool, kind)| {
            let pool = pool.parse().ok()?;
            match kind {
                POOL_WORD => return Some(Self::pool(pool)),
                BALLAST_WORD => return Some(Self::ballast(pool)),
                MIRROR_WORD => return Some(Self::mirror(pool)),
                METADATA_WORD => return Some(Self::part(pool, PartKind::Metadata)),
                DATA_WORD => return Some(Self::part(pool, PartKind::Data)),
                _ => {}
            }
            let (kind, id) = kind.split_once('-')?;
            let id = VolumeId::new(decimal(id)?);
            Some(Self::volume(pool, kind.parse().ok()?, id))
        });
        // One device has one spelling: `layer-007` is not the uuid of volume 7.
        parsed
            .filter(|own| own.to_string() == text)
            .ok_or_else(|| OwnUuidError::Malformed(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POOL: &str = "00112233445566778899aabbccddeeff";

    fn pool_uuid() -> PoolUuid {
        POOL.parse().expect("32 digits")
    }

    #[test]
    fn uuids_have_the_documented_form() {
        let pool = pool_uuid();
        for (own, text) in [
            (OwnUuid::pool(pool), format!("DMTHIN-{POOL}-pool")),
            (OwnUuid::ballast(pool), format!("DMTHIN-{POOL}-ballast")),
            (OwnUuid::mirror(pool), format!("DMTHIN-{POOL}-mirror")),
            (
                OwnUuid::part(pool, PartKind::Metadata),
                format!("DMTHIN-{POOL}-tmeta"),
            ),
            (
                OwnUuid::part(pool, PartKind::Data),
                format!("DMTHIN-{POOL}-tdata"),
            ),
            (
                OwnUuid::volume(pool, VolumeKind::Base, VolumeId::new(1)),
                format!("DMTHIN-{POOL}-base-1"),
            ),
            (
                OwnUuid::volume(pool, VolumeKind::Layer, VolumeId::new(20)),
                format!("DMTHIN-{POOL}-layer-20"),
            ),
            (
                OwnUuid::volume(pool, VolumeKind::Container, VolumeId::new(u64::MAX)),
                format!("DMTHIN-{POOL}-container-18446744073709551615"),
            ),
            (
                OwnUuid::volume(pool, VolumeKind::Snapshot, VolumeId::new(7)),
                format!("DMTHIN-{POOL}-snapshot-7"),
            ),
            (
                OwnUuid::volume(pool, VolumeKind::Data, VolumeId::new(8)),
                format!("DMTHIN-{POOL}-data-8"),
            ),
        ] {
            assert_eq!(own.to_dm_uuid().as_str(), text);
            assert_eq!(text.parse(), Ok(own));
        }
    }

    #[test]
    fn foreign_and_malformed_uuids_are_told_apart() {
        for foreign in ["", "LVM-abc", "stratis-1-x", "dmthin-x", "CRYPT-LUKS2-0-x"] {
            assert_eq!(
                foreign.parse::<OwnUuid>(),
                Err(OwnUuidError::Foreign(foreign.to_owned()))
            );
        }
        for tail in [
            String::new(),
            POOL.to_owned(),
            format!("{POOL}-"),
            format!("{POOL}-pool-1"),
            format!("{POOL}-tmeta-1"),
            format!("{POOL}-tdat"),
            format!("{POOL}-layer"),
            format!("{POOL}-layer-"),
            format!("{POOL}-layer-007"),
            format!("{POOL}-layer-+7"),
            format!("{POOL}-layer-18446744073709551616"),
            format!("{POOL}-ctr-7"),
            format!("{}-pool", POOL.to_uppercase()),
        ] {
            let text = format!("DMTHIN-{tail}");
            assert_eq!(
                text.parse::<OwnUuid>(),
                Err(OwnUuidError::Malformed(text.clone())),
                "{text}"
            );
        }
    }

    #[test]
    fn the_longest_names_fit() {
        let pool = PoolName::new("p".repeat(32)).unwrap();
        let container = ContainerName::new("c".repeat(63)).unwrap();
        assert_eq!(container_name(&pool, &container).as_str().len(), 107);
        let id = VolumeId::new(u64::MAX);
        assert_eq!(layer_name(&pool, id).as_str().len(), 66);
        let own = OwnUuid::volume(pool_uuid(), VolumeKind::Container, id);
        assert_eq!(own.to_dm_uuid().as_str().len(), 70);
    }

    #[test]
    fn names_have_the_documented_form() {
        let pool = PoolName::new("tank").unwrap();
        let web = ContainerName::new("web-1").unwrap();
        assert_eq!(pool_name(&pool).as_str(), "dmthin-tank-pool");
        assert_eq!(
            base_name(&pool, VolumeId::new(3)).as_str(),
            "dmthin-tank-base-3"
        );
        assert_eq!(
            layer_name(&pool, VolumeId::new(4)).as_str(),
            "dmthin-tank-layer-4"
        );
        assert_eq!(
            part_name(&pool, PartKind::Metadata).as_str(),
            "dmthin-tank-tmeta"
        );
        assert_eq!(
            part_name(&pool, PartKind::Data).as_str(),
            "dmthin-tank-tdata"
        );
        assert_eq!(
            container_name(&pool, &web).as_str(),
            "dmthin-tank-ctr-web-1"
        );
        assert_eq!(
            volume_name(&pool, &VolumeName::new("db").unwrap()).as_str(),
            "dmthin-tank-vol-db"
        );
        assert_eq!(
            snapshot_name(&pool, VolumeId::new(5)).as_str(),
            "dmthin-tank-snap-5"
        );
    }

    #[test]
    fn a_pool_is_ambiguous_if_containers_of_another_may_have_its_names() {
        let pool = |name: &str| PoolName::new(name).unwrap();
        let container = |name: &str| ContainerName::new(name).unwrap();
        assert_eq!(
            pool_name(&pool("x-ctr-y")),
            container_name(&pool("x"), &container("y-pool"))
        );
        assert_eq!(
            pool_name(&pool("x-ctr")),
            container_name(&pool("x"), &container("pool"))
        );
        for name in [
            "x-ctr",
            "x-ctr-y",
            "a-b-ctr-c",
            "x-vol",
            "x-vol-y",
            "a-ctrl-vol-c",
        ] {
            assert!(is_ambiguous(&pool(name)), "{name}");
        }
        for name in [
            "ctr", "ctr-x", "x-ctrl", "xctr", "x-ct", "x-pool", "x-base", "vol", "vol-x",
            "x-volume",
        ] {
            assert!(!is_ambiguous(&pool(name)), "{name}");
        }
    }

    #[test]
    fn the_names_of_lvm_double_hyphens() {
        let [used, unused] = lvm_thin_pool_names("my-vg", "pool").map(Option::unwrap);
        assert_eq!(used.as_str(), "my--vg-pool-tpool");
        assert_eq!(unused.as_str(), "my--vg-pool");
        assert_eq!(lvm_thin_pool_names("a/b", "c"), [None, None]);
    }

    /// Names of pools of such parts as those of their devices have.
    fn pool() -> impl Strategy<Value = String> {
        "[a-c]((-ctr)|(-vol)|(-base)|(-c)|(-pool)|(-ctr-a)|(-d)|(-base)|(-pool)){0,2}"
    }

    /// What a device of a pool is, by what follows `dmthin-POOL-`.
    fn tail() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("pool".to_owned()),
            Just("ballast".to_owned()),
            Just("tmeta".to_owned()),
            "(base|layer|snap)-[1-9]",
            "(ctr|vol)-[a-z]((-ctr)|(-vol)|(-pool)|(-base-1)|(-c)){0,3}",
        ]
    }

    proptest! {
        #[test]
        fn unambiguous_pools_share_no_names(
            pools in [pool(), pool()],
            tails in [tail(), tail()],
        ) {
            let [a, b] = pools.map(|name| PoolName::new(name).unwrap());
            prop_assume!(a != b && !is_ambiguous(&a) && !is_ambiguous(&b));
            prop_assert_ne!(
                format!("dmthin-{a}-{}", tails[0]),
                format!("dmthin-{b}-{}", tails[1])
            );
        }

        #[test]
        fn parsing_never_panics_and_accepts_one_spelling(text in "(DMTHIN-)?[0-9a-f]{31,33}-[a-z]{0,9}-?[0-9]{0,21}") {
            if let Ok(own) = text.parse::<OwnUuid>() {
                prop_assert_eq!(own.to_string(), text);
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC*") {
            prop_assert!(text.parse::<OwnUuid>().is_err());
        }
    }
}
