//! A file of each released format is kept and must open for ever.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::ids::{ContainerName, FsType, ThinId, TransactionId, VolumeId, VolumeKind};
use crate::store::tests::{
    BASE_SIZE, Temp, checkpoint, container, digest, image, layer, pool, ready_base, reference,
    stack,
};
use crate::store::{
    BallastRecord, BallastState, Catalogue, Counts, NewContainer, NewImage, PoolState, Timestamp,
    VolumeRecord, VolumeState, WhenFull,
};
use crate::units::Bytes;

fn golden(format: u32) -> PathBuf {
    let path = format!("../fixtures/store/{format}/catalogue.db");
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The fixture where it may be written to.
pub(super) fn golden_copy(format: u32) -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("catalogue.db");
    fs::copy(golden(format), &path).unwrap();
    (directory, path)
}

#[test]
#[ignore = "writes fixtures/store/4, which is made once"]
fn make_the_file_of_format_4() {
    let catalogue = Temp::new();
    catalogue.set_pool_state(PoolState::Ready).unwrap();
    catalogue.set_overcommit(false).unwrap();
    let base = ready_base(&catalogue).id;
    catalogue.set_mapped(base, Bytes::from_mib(5)).unwrap();
    catalogue
        .set_fs_uuid(base, "01234567-89ab-cdef-0123-456789abcdef")
        .unwrap();
    let ids = stack(&catalogue, base, &[1, 2]);
    let new = NewImage {
        manifest_digest: Some(digest(0x33)),
        ..image(0x11, &ids, &["debian:12", "debian"])
    };
    let added = catalogue.add_image(&new).unwrap().id();
    let sized = NewContainer {
        size: Some(Bytes::from_gib(20)),
        ..container("web", added)
    };
    let web = catalogue.begin_container(&sized).unwrap().id;
    catalogue.set_ready(web).unwrap();
    catalogue.set_active(web, true).unwrap();
    catalogue.begin_growth(web, Bytes::from_gib(30)).unwrap();
    let old = catalogue
        .begin_container(&container("old", added))
        .unwrap()
        .id;
    catalogue.set_ready(old).unwrap();
    catalogue.queue_removal(old).unwrap();
    catalogue
        .put_off_removal(old, Timestamp::from_unix(1_700_000_300))
        .unwrap();
    catalogue.begin_container(&container("new", added)).unwrap();
    catalogue.begin_generation(TransactionId::new(0)).unwrap();
    catalogue.confirm_generation(TransactionId::new(1)).unwrap();
    catalogue.begin_generation(TransactionId::new(1)).unwrap();
    catalogue.begin_ballast(Bytes::from_gib(2)).unwrap();
    catalogue.set_ballast(BallastState::Ready).unwrap();
    catalogue.sql(
        "UPDATE pool SET created_at = 1700000000; UPDATE volumes SET created_at = 1700000000 + id;
         UPDATE images SET imported_at = 1700000100; UPDATE removals SET since = 1700000200",
    );
    checkpoint(&catalogue);
    fs::create_dir_all(golden(4).parent().unwrap()).unwrap();
    fs::copy(catalogue.path(), golden(4)).unwrap();
}

/// The one removal: its name, since when, attempts, next try, whether it is final; before format 4
/// all were.
type Queued = (Option<ContainerName>, u64, u64, u64, bool);

#[test]
fn a_file_of_format_1_opens_and_says_what_was_written() {
    // Of a removal nothing was written but the state: it is as old as its volume.
    says_what_was_written(1, (None, 1_700_000_005, 0, 0, true), UNKNOWN);
}

#[test]
fn a_file_of_format_2_opens_and_says_what_was_written() {
    let name = ContainerName::new("old").ok();
    says_what_was_written(2, (name, 1_700_000_200, 1, 1_700_000_300, true), UNKNOWN);
}

#[test]
fn a_file_of_format_3_opens_and_says_what_was_written() {
    let name = ContainerName::new("old").ok();
    let promised = (false, Some(Bytes::from_mib(5)));
    says_what_was_written(3, (name, 1_700_000_200, 1, 1_700_000_300, true), promised);
}

#[test]
fn a_file_of_format_4_opens_and_says_what_was_written() {
    let name = ContainerName::new("old").unwrap();
    let promised = (false, Some(Bytes::from_mib(5)));
    let queued = (Some(name.clone()), 1_700_000_200, 1, 1_700_000_300, false);
    says_what_was_written(4, queued, promised);
    let (_directory, path) = golden_copy(4);
    let back = Catalogue::open(&path)
        .unwrap()
        .cancel_removal(VolumeId::new(5), &name)
        .unwrap();
    assert_eq!(
        (back.image_name.as_str(), back.volume.state),
        ("debian:12", VolumeState::Ready)
    );
}

/// Whether overcommitment is allowed, and what the base has mapped.
type Promised = (bool, Option<Bytes>);
/// Before format 3 it always was, and nobody wrote down what was mapped.
const UNKNOWN: Promised = (true, None);

/// What a full pool does, its ballast, and the thin id that follows.
type Fullness = (WhenFull, Option<BallastRecord>, u64);

/// Before format 3 every pool queued, and none had a ballast.
fn fullness(format: u32) -> Fullness {
    if format < 3 {
        return (WhenFull::Queue, None, 6);
    }
    let ballast = BallastRecord {
        thin_id: ThinId::new(6).unwrap(),
        size: Bytes::from_gib(2),
        state: BallastState::Ready,
    };
    (WhenFull::Error, Some(ballast), 7)
}

fn says_what_was_written(format: u32, queued: Queued, promised: Promised) {
    let (_directory, path) = golden_copy(format);
    let catalogue = Catalogue::open(&path).unwrap();
    catalogue.check().unwrap();

    let new = pool();
    let record = catalogue.pool().unwrap();
    assert_eq!(record.name, new.name);
    assert_eq!(record.uuid, new.uuid);
    assert_eq!(record.created_at, Timestamp::from_unix(1_700_000_000));
    assert_eq!(
        (record.block_size, record.low_water),
        (new.block_size, new.low_water)
    );
    assert_eq!((record.data, record.data_size), (new.data, new.data_size));
    assert_eq!(
        (record.metadata, record.metadata_size),
        (new.metadata, new.metadata_size)
    );
    assert_eq!(
        (record.zeroing, record.base_size, record.fs),
        (true, BASE_SIZE, FsType::Ext4)
    );
    assert_eq!(record.mkfs_args, new.mkfs_args);
    assert_eq!((record.overcommit, record.foreign_ids), (promised.0, false));
    assert_eq!(record.state, PoolState::Ready);
    assert_eq!(record.generation, TransactionId::new(1));
    assert_eq!(record.pending_generation, Some(TransactionId::new(2)));
    let (when_full, ballast, next) = fullness(format);
    assert_eq!(record.when_full, when_full);
    assert_eq!(catalogue.ballast().unwrap(), ballast);
    assert_eq!(record.next_thin_id, ThinId::new(next).ok());

    let volume = |id: u64, kind, state, parent: Option<u64>| VolumeRecord {
        id: VolumeId::new(id),
        thin_id: ThinId::new(id - 1).unwrap(),
        kind,
        state,
        parent: parent.map(VolumeId::new),
        size: BASE_SIZE,
        growing_to: None,
        fs: FsType::Ext4,
        fs_uuid: Some("01234567-89ab-cdef-0123-456789abcdef".to_owned()),
        created_at: Timestamp::from_unix(1_700_000_000 + id),
        active: false,
        made: true,
        mapped: None,
    };
    let volumes = [
        VolumeRecord {
            mapped: promised.1,
            ..volume(1, VolumeKind::Base, VolumeState::Ready, None)
        },
        volume(2, VolumeKind::Layer, VolumeState::Ready, Some(1)),
        volume(3, VolumeKind::Layer, VolumeState::Ready, Some(2)),
        VolumeRecord {
            size: Bytes::from_gib(20),
            growing_to: Some(Bytes::from_gib(30)),
            active: true,
            ..volume(4, VolumeKind::Container, VolumeState::Ready, Some(3))
        },
        volume(5, VolumeKind::Container, VolumeState::Deleting, Some(3)),
        volume(6, VolumeKind::Container, VolumeState::Creating, Some(3)),
    ];
    assert_eq!(catalogue.all_volumes().unwrap(), volumes);
    assert_eq!(catalogue.unsettled().unwrap(), volumes[4..]);
    let removal = catalogue.removals().unwrap().pop().unwrap();
    assert_eq!(removal.volume, volumes[4]);
    let (since, next_try) = (removal.since.to_unix(), removal.next_try.to_unix());
    assert_eq!(
        (
            removal.name,
            since,
            removal.attempts,
            next_try,
            removal.is_final
        ),
        queued
    );
    let layers = catalogue.layers().unwrap();
    assert_eq!(layers.len(), 2);
    assert_eq!(
        (&layers[0].volume, &layers[0].layer),
        (&volumes[1], &layer(1, None))
    );
    assert_eq!(
        (&layers[1].volume, &layers[1].layer),
        (&volumes[2], &layer(2, Some(1)))
    );

    let found = catalogue.find_image("debian").unwrap();
    assert_eq!(
        (found.config_digest, found.manifest_digest),
        (digest(0x11), Some(digest(0x33)))
    );
    assert_eq!(
        (found.architecture.as_str(), found.os.as_str()),
        ("amd64", "linux")
    );
    assert_eq!(found.created.as_deref(), Some("2024-01-02T03:04:05Z"));
    assert_eq!(found.imported_at, Timestamp::from_unix(1_700_000_100));
    assert_eq!(
        found.names,
        [reference("debian:12"), reference("debian:latest")]
    );
    assert_eq!(catalogue.image_config(found.id).unwrap(), b"{\"n\":17}");
    assert_eq!(catalogue.image_layers(found.id).unwrap(), layers);

    let containers = catalogue.containers().unwrap();
    assert_eq!(
        containers
            .iter()
            .map(|c| (c.name.as_str(), &c.volume))
            .collect::<Vec<_>>(),
        [("new", &volumes[5]), ("web", &volumes[3])]
    );
    assert!(
        containers
            .iter()
            .all(|c| c.image == found.id && c.image_name == "debian:12")
    );
    assert_eq!(
        catalogue.counts().unwrap(),
        Counts {
            nr_images: 1,
            nr_bases: 1,
            nr_layers: 2,
            nr_containers: 1,
            nr_active: 1,
            nr_creating: 1,
            nr_deleting: 1,
        }
    );
}
