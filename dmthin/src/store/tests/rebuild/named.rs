//! Data volumes, snapshots and names that go over to another volume, in the copy and in a catalogue made of it.

use crate::ids::{FsType, SnapshotName, VolumeId, VolumeKind, VolumeName, WritableName};
use crate::store::tests::rebuild::{IMAGE, again, busy, follows, id, ids, opened};
use crate::store::tests::{Temp, container, container_name, image, ready_base, reference, stack};
use crate::store::{Anonymous, Dropped, UnknownThin};
use crate::units::Bytes;

fn web() -> WritableName {
    WritableName::Container(container_name("web"))
}

fn data_name() -> VolumeName {
    VolumeName::new("pg").unwrap()
}

fn pg() -> WritableName {
    WritableName::Data(data_name())
}

fn snapshot_name(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

fn taken(catalogue: &Temp, of: &WritableName, name: &str) -> VolumeId {
    let name = snapshot_name(name);
    let taken = catalogue.begin_snapshot(of, Some(&name)).unwrap().volume.id;
    catalogue.set_ready_lazy(taken).unwrap();
    taken
}

/// As [`busy`] (thin ids 0 to 4: `web` is 3), and a data volume `pg` (5), a snapshot of `web` (6) and one of
/// `pg` (7).
fn full() -> Temp {
    let catalogue = busy();
    let data = catalogue
        .begin_data_volume(&data_name(), FsType::Xfs, Bytes::from_gib(20))
        .unwrap();
    catalogue.set_ready(data.id).unwrap();
    taken(&catalogue, &web(), "before");
    taken(&catalogue, &pg(), "nightly");
    catalogue
}

/// Where the engine tells only what a row's key is afterwards, as of a name that a rollback gives to another
/// volume, the copy had the name twice, and what was made of it lost the container.
#[test]
fn changes_of_the_later_verbs_lead_from_what_was_to_what_is() {
    let catalogue = busy();
    let volume_of = |name: &WritableName| catalogue.writable(name).unwrap().volume.id;
    let roll_back = |of: &WritableName, to: &str| {
        let snapshot = catalogue.snapshot(of, &snapshot_name(to)).unwrap();
        let old = volume_of(of);
        let new = catalogue.begin_replacement(old, snapshot.volume.id);
        catalogue.replace(old, new.unwrap().id).unwrap();
    };
    let first = || catalogue.images().unwrap()[0].id;
    let verbs: [(&str, &dyn Fn()); 13] = [
        ("tag", &|| {
            catalogue.tag(first(), &reference("two:1")).unwrap();
        }),
        ("tag of another", &|| {
            catalogue.tag(first(), &reference("new:1")).unwrap();
        }),
        ("untag", &|| {
            catalogue.untag_any(&reference("new:1")).unwrap();
        }),
        ("data volume", &|| {
            let made = catalogue.begin_data_volume(&data_name(), FsType::Ext4, Bytes::from_gib(1));
            catalogue.set_ready(made.unwrap().id).unwrap();
        }),
        ("snapshots", &|| {
            taken(&catalogue, &web(), "before");
            taken(&catalogue, &pg(), "nightly");
        }),
        ("fork", &|| {
            let new = container_name("fork");
            catalogue.begin_fork(&container_name("web"), &new).unwrap();
        }),
        ("rollback of a container", &|| roll_back(&web(), "before")),
        ("rollback of a data volume", &|| roll_back(&pg(), "nightly")),
        ("snapshot removed", &|| {
            let of = catalogue
                .snapshot(&web(), &snapshot_name("before"))
                .unwrap();
            catalogue.begin_deleting(of.volume.id).unwrap();
        }),
        ("removed with snapshots", &|| {
            catalogue
                .queue_removal_with_snapshots(volume_of(&pg()))
                .unwrap();
        }),
        ("gone", &|| {
            for removal in catalogue.removals().unwrap().into_iter().rev() {
                catalogue.make_removal_final(removal.volume.id).unwrap();
                catalogue.forget_volume(removal.volume.id).unwrap();
            }
        }),
        ("growth", &|| {
            let web = volume_of(&web());
            catalogue.begin_growth(web, Bytes::from_gib(40)).unwrap();
            catalogue.finish_growth(web).unwrap();
        }),
        ("prune", &|| {
            for name in ["web", "db", "fork"] {
                let id = volume_of(&WritableName::Container(container_name(name)));
                catalogue.begin_deleting(id).unwrap();
            }
            let images: Vec<_> = catalogue.images().unwrap().iter().map(|i| i.id).collect();
            for image in images {
                catalogue.remove_image(image).unwrap();
            }
        }),
    ];
    follows(&catalogue, &verbs);
}

#[test]
fn snapshots_and_data_volumes_are_what_they_were() {
    let catalogue = full();
    // A name that went over to another volume (8), the old one being removed.
    let before = catalogue
        .snapshot(&web(), &snapshot_name("before"))
        .unwrap();
    let old = catalogue.writable(&web()).unwrap().volume.id;
    let new = catalogue.begin_replacement(old, before.volume.id).unwrap();
    catalogue.replace(old, new.id).unwrap();
    let (rebuilding, settled) = again(&catalogue, catalogue.all_records().unwrap(), &ids(0..9));
    assert_eq!((settled.dropped, settled.unknown), (vec![], vec![]));
    let again = opened(rebuilding, &catalogue);
    assert_eq!(again.writables().unwrap(), catalogue.writables().unwrap());
    assert_eq!(
        again.all_snapshots().unwrap(),
        catalogue.all_snapshots().unwrap()
    );
    assert_eq!(again.removals().unwrap(), catalogue.removals().unwrap());
    assert_eq!(
        again.all_volumes().unwrap(),
        catalogue.all_volumes().unwrap()
    );
}

#[test]
fn what_has_lost_its_device_is_told_by_name() {
    let catalogue = full();
    let records = catalogue.all_records().unwrap();
    let (rebuilding, settled) = again(&catalogue, records, &ids([0, 1, 2, 3, 4]));
    let snapshot = |name, of| Dropped::Snapshot {
        name: snapshot_name(name),
        of: Some(of),
    };
    assert_eq!(
        settled.dropped,
        [
            Dropped::Volume(data_name()),
            snapshot("before", web()),
            snapshot("nightly", pg()),
        ]
    );
    assert_eq!(settled.unknown, []);
    let again = opened(rebuilding, &catalogue);
    assert_eq!(again.all_snapshots().unwrap(), []);
    assert_eq!(again.data_volumes().unwrap(), []);
    again.container(&container_name("web")).unwrap();
}

/// A snapshot is found by the name of what it is of only. Without that it is kept as a container, as is a data
/// volume of which the copy has no name.
#[test]
fn snapshots_of_what_is_gone_and_volumes_without_a_name_are_kept() {
    let catalogue = full();
    let mut records = catalogue.all_records().unwrap();
    // `web` is gone from the pool; of `pg` the name is lost, and so it is unknown together with its snapshot.
    records.retain(|record| record.table != 9);
    let (mut rebuilding, settled) = again(&catalogue, records, &ids([0, 1, 2, 4, 5, 6, 7]));
    assert_eq!(settled.dropped, [Dropped::Container(container_name("web"))]);
    let unknown = |n, gib| UnknownThin {
        id: id(n),
        size: Some(Bytes::from_gib(gib)),
    };
    assert_eq!(
        settled.unknown,
        [unknown(5, 20), unknown(6, 10), unknown(7, 20)]
    );
    let found: Vec<_> = settled
        .unknown
        .iter()
        .map(|unknown| Anonymous {
            id: unknown.id,
            size: unknown.size.unwrap(),
            fs: FsType::Xfs,
            fs_uuid: None,
        })
        .collect();
    rebuilding.keep(IMAGE, &found).unwrap();
    let again = opened(rebuilding, &catalogue);
    let volume = again.container(&container_name("lost-6")).unwrap().volume;
    assert_eq!(
        (volume.kind, volume.size),
        (VolumeKind::Container, Bytes::from_gib(10))
    );
    assert_eq!(again.all_snapshots().unwrap(), []);
}

/// The record of a layer's tar lies beside the catalogue under the number of its volume, which no other volume
/// may get.
#[test]
fn numbers_of_volumes_that_are_passed_over_are_not_given() {
    for records in [true, false] {
        let catalogue = busy();
        let last = catalogue.all_volumes().unwrap().last().unwrap().id.get();
        let records = match records {
            true => catalogue.all_records().unwrap(),
            false => Vec::new(),
        };
        let (mut rebuilding, _) = again(&catalogue, records, &ids([]));
        rebuilding.pass_over(VolumeId::new(last + 7)).unwrap();
        // A smaller one takes nothing back.
        rebuilding.pass_over(VolumeId::new(1)).unwrap();
        let again = opened(rebuilding, &catalogue);
        let data = again.begin_data_volume(&data_name(), FsType::Ext4, Bytes::from_gib(1));
        assert_eq!(data.unwrap().id.get(), last + 8);
    }
}

/// A fork's container of an image that is gone from the copy is unsure, as it would be without its image.
#[test]
fn an_image_that_a_fork_is_of_stays_with_it() {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    let layers = stack(&catalogue, base, &[1]);
    let image = catalogue
        .add_image(&image(1, &layers, &["one:1"]))
        .unwrap()
        .id();
    let origin = catalogue.begin_container(&container("web", image)).unwrap();
    catalogue.set_ready(origin.id).unwrap();
    let fork = container_name("fork");
    let made = catalogue.begin_fork(&container_name("web"), &fork).unwrap();
    catalogue.set_ready(made.id).unwrap();
    // The layer (1) and `web` (2) are gone: the fork (3) has all its blocks.
    let records = catalogue.all_records().unwrap();
    let (rebuilding, settled) = again(&catalogue, records, &ids([0, 3]));
    assert_eq!(settled.dropped, [Dropped::Container(container_name("web"))]);
    assert_eq!(settled.unknown, []);
    let again = opened(rebuilding, &catalogue);
    assert_eq!(again.container(&fork).unwrap().image, image);
}
