//! A file of each released format is kept and must open for ever.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::ids::{
    ContainerName, FsType, SnapshotName, ThinId, TransactionId, VolumeId, VolumeKind, VolumeName,
    WritableName,
};
use crate::store::tests::{
    BASE_SIZE, Temp, checkpoint, container, digest, image, layer, pool, ready_base, reference,
    stack,
};
use crate::store::{
    BallastRecord, BallastState, Catalogue, Counts, DataVolumeRecord, NewContainer, NewImage,
    PoolState, SnapshotRecord, Timestamp, VolumeRecord, VolumeState, WhenFull,
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
#[ignore = "writes fixtures/store/5, which is made once"]
fn make_the_file_of_format_5() {
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
    let name = VolumeName::new("db").unwrap();
    let data = catalogue
        .begin_data_volume(&name, FsType::Xfs, Bytes::from_gib(3))
        .unwrap();
    catalogue.set_ready(data.id).unwrap();
    catalogue.set_active(data.id, true).unwrap();
    let monday = SnapshotName::new("monday").unwrap();
    let of_web = catalogue.begin_snapshot(&web_name(), Some(&monday));
    catalogue.set_ready(of_web.unwrap().volume.id).unwrap();
    let of_data = catalogue.begin_snapshot(&WritableName::Data(name), None);
    catalogue.set_ready(of_data.unwrap().volume.id).unwrap();
    let next = catalogue.pool().unwrap().next_thin_id.unwrap();
    let end = ThinId::new(5000).unwrap();
    catalogue.set_thin_ids(next, end).unwrap();
    catalogue.sql(
        "UPDATE pool SET created_at = 1700000000; UPDATE volumes SET created_at = 1700000000 + id;
         UPDATE images SET imported_at = 1700000100; UPDATE removals SET since = 1700000200",
    );
    checkpoint(&catalogue);
    fs::create_dir_all(golden(5).parent().unwrap()).unwrap();
    fs::copy(catalogue.path(), golden(5)).unwrap();
}

fn web_name() -> WritableName {
    WritableName::Container(ContainerName::new("web").unwrap())
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

#[test]
fn a_file_of_format_5_opens_and_says_what_was_written() {
    let promised = (false, Some(Bytes::from_mib(5)));
    let queued = (
        ContainerName::new("old").ok(),
        1_700_000_200,
        1,
        1_700_000_300,
        false,
    );
    says_what_was_written(5, queued, promised);
    let (_directory, path) = golden_copy(5);
    let catalogue = Catalogue::open(&path).unwrap();
    let [data, of_web, of_data] = kept(5).try_into().unwrap();
    let end = ThinId::new(5000).unwrap();
    assert_eq!(catalogue.pool().unwrap().thin_ids_end, end);
    let name = VolumeName::new("db").unwrap();
    let found = catalogue.data_volumes().unwrap();
    assert_eq!(
        found,
        [DataVolumeRecord {
            name: name.clone(),
            volume: data
        }]
    );
    let snapshot = |name: &str, volume: VolumeRecord| SnapshotRecord {
        name: SnapshotName::new(name).unwrap(),
        owner: volume.parent.unwrap(),
        volume,
    };
    assert_eq!(
        catalogue.snapshots(&web_name()).unwrap(),
        [snapshot("monday", of_web)]
    );
    let of = WritableName::Data(name);
    assert_eq!(catalogue.snapshots(&of).unwrap(), [snapshot("s9", of_data)]);
    // What the format's triggers are for: a change of a name is one of its image's row.
    let image = catalogue.find_image("debian").unwrap();
    let touched = "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'refs'";
    let count: u32 = catalogue
        .lock()
        .query_row(touched, (), |row| row.get(0))
        .unwrap();
    assert_eq!((count, image.names.len()), (3, 2));
}

/// What refers to volumes is there after the table was made anew, the ids of volumes that are gone are not
/// given again, and the new kinds are taken.
#[test]
fn a_file_of_format_4_takes_the_kinds_of_format_5() {
    let (_directory, path) = golden_copy(4);
    let catalogue = Catalogue::open(&path).unwrap();
    assert_eq!(catalogue.layers().unwrap().len(), 2);
    assert_eq!(catalogue.containers().unwrap().len(), 2);
    assert_eq!(catalogue.removals().unwrap().len(), 1);
    drop(catalogue);
    // One whose youngest volumes are gone: their numbers do not come back.
    let (_directory, path) = golden_copy(4);
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("DELETE FROM volumes WHERE id > 4")
        .unwrap();
    let catalogue = Catalogue::open(&path).unwrap();
    let name = VolumeName::new("db").unwrap();
    let volume = catalogue
        .begin_data_volume(&name, FsType::Xfs, BASE_SIZE)
        .unwrap();
    assert_eq!(
        (volume.id, volume.kind),
        (VolumeId::new(7), VolumeKind::Data)
    );
    let snapshot = catalogue.begin_snapshot(&web_name(), None).unwrap();
    assert_eq!(snapshot.volume.kind, VolumeKind::Snapshot);
    // Keys are looked after again.
    let refused = catalogue
        .lock()
        .execute("INSERT INTO data_volumes VALUES (99, 'x')", ());
    assert!(refused.is_err());
    catalogue.check().unwrap();
    drop(catalogue);
    Catalogue::open(&path).unwrap().check().unwrap();
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
    let kept = u64::try_from(kept(format).len()).unwrap();
    (WhenFull::Error, Some(ballast), 7 + kept)
}

fn volume(id: u64, kind: VolumeKind, state: VolumeState, parent: Option<u64>) -> VolumeRecord {
    VolumeRecord {
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
    }
}

/// The volumes of kinds that there are since format 5; the ballast has the thin id before them.
fn kept(format: u32) -> Vec<VolumeRecord> {
    if format < 5 {
        return Vec::new();
    }
    let after_the_ballast = |id, kind, parent| VolumeRecord {
        thin_id: ThinId::new(id).unwrap(),
        ..volume(id, kind, VolumeState::Ready, parent)
    };
    let of_data = |volume| VolumeRecord {
        size: Bytes::from_gib(3),
        fs: FsType::Xfs,
        fs_uuid: None,
        ..volume
    };
    let of_web = VolumeRecord {
        size: Bytes::from_gib(20),
        ..after_the_ballast(8, VolumeKind::Snapshot, Some(4))
    };
    let data = VolumeRecord {
        active: true,
        ..after_the_ballast(7, VolumeKind::Data, None)
    };
    let kept = after_the_ballast(9, VolumeKind::Snapshot, Some(7));
    vec![of_data(data), of_web, of_data(kept)]
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
    let kept = kept(format);
    let all = [&volumes[..], &kept].concat();
    assert_eq!(catalogue.all_volumes().unwrap(), all);
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
            nr_snapshots: 2 * u64::from(!kept.is_empty()),
            nr_data: u64::from(!kept.is_empty()),
            nr_creating: 1,
            nr_deleting: 1,
            containers_size: volumes[3].size.saturating_add(volumes[5].size),
            data_size: kept
                .iter()
                .filter(|volume| volume.kind == VolumeKind::Data)
                .map(|volume| volume.size)
                .fold(Bytes::ZERO, Bytes::saturating_add),
        }
    );
}
