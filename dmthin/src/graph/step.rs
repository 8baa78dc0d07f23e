//! The numbered steps of the verbs that change a pool or its catalogue.
//!
//! A step is passed when what its text says is so. Whoever cuts a verb right after one finds that, and
//! what recovery makes of it is in the table of docs/design.md, which a test holds together with this one. A step is
//! told by a `tracing` event and by nothing else: nothing in the library depends on it.

use std::fmt;

use crate::ids::{PoolName, VolumeId};

/// The target of the event that tells a step: level TRACE, fields `step`, `pool` and, where it is about
/// one, `volume`.
pub const STEP_TARGET: &str = "dmthin::step";

macro_rules! steps {
    ($($id:ident $verb:literal $done:literal,)+) => {
        /// A step of a verb.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Step {
            $(#[doc = $done] $id,)+
        }

        impl Step {
            /// Every step, verb by verb, in the order in which they are passed.
            pub const ALL: &'static [Self] = &[$(Self::$id,)+];

            /// Its id, as `C1`.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self {
                    $(Self::$id => stringify!($id),)+
                }
            }

            /// The verb that it is a step of; others may pass it on their way.
            #[must_use]
            pub const fn verb(self) -> &'static str {
                match self {
                    $(Self::$id => $verb,)+
                }
            }

            /// What is so from here on.
            #[must_use]
            pub const fn done(self) -> &'static str {
                match self {
                    $(Self::$id => $done,)+
                }
            }
        }
    };
}

steps! {
    N1 "pool create" "the pool has its directory",
    N2 "pool create" "the intent: the catalogue, the pool `creating`",
    N3 "pool create" "its files are made, or its devices wiped and the disk labelled",
    N4 "pool create" "its halves have devices, the metadata begin with zeros",
    N5 "pool create" "the thin-pool is active, or another's is held",
    N6 "pool create" "the pool is `ready`",
    T1 "transaction id" "the next transaction id is pending in the catalogue",
    T2 "transaction id" "the pool has it",
    T3 "transaction id" "the catalogue confirms it (lazy)",
    B1 "base volume" "the intent: a base, `creating`",
    B2 "base volume" "the pool has its thin device",
    B3 "base volume" "its file system is made, empty, on the disk; its uuid recorded",
    B4 "base volume" "its device is gone",
    B5 "base volume" "it is `ready`",
    B6 "base grow" "new images and containers are as large as the new base",
    C1 "container create" "the intent: name, volume and thin id, `creating`",
    C2 "container create" "the pool has its snapshot",
    C3 "container create" "it has a device",
    C4 "container create" "its file system is grown, where it is larger than its image",
    C5 "container create" "it is `ready` and active (lazy, if as large as its image)",
    H1 "container snapshot" "the intent: a snapshot with its name, `creating`",
    H2 "container snapshot" "the pool has it, and what it is of goes on",
    H3 "container snapshot" "it is `ready` (lazy)",
    J1 "container rollback" "the intent: a volume without a name, `creating`",
    J2 "container rollback" "the pool has it, a snapshot of what is gone back to",
    J3 "container rollback" "its file system is grown, where it is larger than that, its device gone",
    J4 "container rollback" "it has the name and the snapshots, the old volume is `deleting`",
    J5 "container rollback" "its device is there, by the name that the old one's had",
    V1 "volume create" "the intent: name, volume and thin id, `creating`",
    V2 "volume create" "the pool has its thin device",
    V3 "volume create" "its file system is made, empty, on the disk; its uuid recorded",
    V4 "volume create" "it is `ready` and active",
    W1 "container mount" "it has a device",
    W2 "container mount" "it is mounted",
    I1 "image import" "the intent: a layer, `creating`",
    I2 "image import" "the pool has its snapshot of the layer below",
    I3 "image import" "it is applied, its digests proven",
    I4 "image import" "it is on the disk, its device gone",
    I5 "image import" "what gives its tar back is beside the catalogue, flushed",
    I6 "image import" "it is sealed with its digests",
    I7 "image import" "the image, its layers and names are recorded",
    P1 "container commit" "the intent: a layer, `creating`",
    P2 "container commit" "the pool has its snapshot of the container, which goes on",
    P3 "container commit" "its file system is clean, on the disk",
    P4 "container commit" "its digests are known, its device gone",
    P5 "container commit" "what gives its tar back is kept",
    P6 "container commit" "it is sealed, its image and name recorded",
    D1 "removal" "the promise: volume `deleting`, its name free",
    D2 "removal" "its device has given the name up, or goes with its last user",
    D3 "removal" "it is final: no cancelling from here on",
    D4 "removal" "all of it is discarded",
    D5 "removal" "its device is gone",
    D6 "removal" "the pool has deleted it",
    D7 "removal" "its row is gone (lazy)",
    D8 "image rm" "a name of an image that has others is gone",
    U1 "image tag" "the image has the name, and no other has it",
    U2 "image untag" "no image has the name",
    Q1 "queue cancel" "the kernel keeps the device, under the container's name",
    Q2 "queue cancel" "the catalogue has the container again, as active",
    Q3 "queue cancel" "its device is active",
    E1 "pool grow" "a file or LVM volume is longer, or the disk's label anew",
    E2 "pool grow" "the intent: sizes and low water in the catalogue",
    E3 "pool grow" "the loops are told, or the parts of the disk longer",
    E4 "pool grow" "the thin-pool has the new table",
    S1 "pool set" "the catalogue has the new settings",
    G1 "container grow" "the intent: `growing_to`",
    G2 "container grow" "its device is longer",
    G3 "container grow" "its file system is grown, on the disk",
    G4 "container grow" "its size is the new one",
    A1 "pool ballast" "the intent: `filling`",
    A2 "pool ballast" "the pool has its thin device",
    A3 "pool ballast" "each block of it is written and flushed, its device gone",
    A4 "pool ballast" "it is `ready`",
    A5 "pool ballast" "its release: `releasing`",
    A6 "pool ballast" "the pool has deleted it",
    A7 "pool ballast" "its row is gone",
    R1 "pool repair" "a copy of the metadata is beside the catalogue, flushed",
    R2 "pool repair" "the metadata were looked at",
    R3 "pool repair" "they are rebuilt, or the flag cleared",
    R4 "pool repair" "metadata that were nearly full have a longer file, and the catalogue says so",
    R5 "pool repair" "the pool is open",
    R6 "pool repair" "a volume's file system was checked, its device as before",
    R7 "pool recover" "what was there of the catalogue has another name",
    R8 "pool recover" "the catalogue is made again",
    O1 "pool open" "its halves have devices, and are the catalogue's",
    O2 "pool open" "the thin-pool is active, or another's is held",
    O3 "pool open" "a device that was left suspended is resumed",
    O4 "pool open" "what was whole without its row saying so is `ready`",
    O5 "pool open" "a container's device is back",
    O6 "pool open" "the disk's label is as things are",
    M1 "pool open --device" "the pool has its directory",
    M2 "pool open --device" "the disk's copy is the catalogue of this host",
    M3 "pool open --device" "a pool that is known looks for its disk here",
    K1 "copy on the disk" "the copy of the catalogue is on the disk, in its other slot",
    K2 "copy in the pool" "the pool has the thin device of its mirror",
    K3 "copy in the pool" "the mirror begins with a superblock, none of its halves counts",
    K4 "copy in the pool" "the mirror has all that the catalogue has, in its other half",
    K5 "copy in the pool" "the mirror has what a verb changed, in its log (not flushed)",
    X1 "pool close" "a volume's device is gone",
    X2 "pool close" "the pool's device, or a part of its disk, is gone",
    Y1 "pool destroy" "the pool is `destroying`: no way back",
    Y2 "pool destroy" "a device is wiped",
    Y3 "pool destroy" "its files are gone",
    Y4 "pool destroy" "its catalogue is gone",
    Y5 "pool destroy" "its directory is gone",
    F1 "diff" "the intent: a private snapshot of one of the two, `creating`",
    F2 "diff" "the pool has that snapshot",
    F3 "diff" "it has a device",
    F4 "diff" "both are compared",
    L1 "reading metadata" "the file that marks a snapshot of ours is there, durable",
    L2 "reading metadata" "the pool has a metadata snapshot, its block in the file",
    L3 "reading metadata" "the pool has none",
    L4 "reading metadata" "the file is gone",
    Z1 "gc" "something that did not belong is gone",
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl Step {
    /// Tells that it is passed.
    pub(crate) fn passed(self, pool: &PoolName) {
        tracing::trace!(target: STEP_TARGET, step = self.id(), %pool, "{}", self.done());
    }

    /// Tells that it is passed for one volume.
    pub(crate) fn passed_for(self, pool: &PoolName, volume: VolumeId) {
        tracing::trace!(target: STEP_TARGET, step = self.id(), %pool, %volume, "{}", self.done());
    }
}
