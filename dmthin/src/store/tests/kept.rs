//! Snapshots, what takes the place of another, forks, and data volumes.

use crate::ids::{FsType, ImageId, SnapshotName, VolumeId, VolumeKind, VolumeName, WritableName};
use crate::store::tests::{
    BASE_SIZE, Temp, assert_refused, container, container_name, image, ready_base, stack,
};
use crate::store::{Counts, NewContainer, StoreError, VolumeState};
use crate::units::Bytes;

fn web() -> WritableName {
    WritableName::Container(container_name("web"))
}

fn snapshot_name(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

/// A catalogue with an image and its container `web`; the image, its top layer and the container's
/// volume.
fn with_web() -> (Temp, ImageId, VolumeId, VolumeId) {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    let ids = stack(&catalogue, base, &[1]);
    let added = catalogue.add_image(&image(1, &ids, &["a"])).unwrap().id();
    let volume = catalogue
        .begin_container(&container("web", added))
        .unwrap()
        .id;
    catalogue.set_ready(volume).unwrap();
    (catalogue, added, ids[0], volume)
}

fn taken(catalogue: &Temp, of: &WritableName, name: &str) -> VolumeId {
    let name = snapshot_name(name);
    let id = catalogue.begin_snapshot(of, Some(&name)).unwrap().volume.id;
    catalogue.set_ready_lazy(id).unwrap();
    id
}

#[test]
fn a_snapshot_is_as_large_as_its_owner_and_has_a_name_of_its_own_there() {
    let (catalogue, _, _, volume) = with_web();
    let first = catalogue.begin_snapshot(&web(), None).unwrap();
    assert_eq!(first.name, snapshot_name(&format!("s{}", first.volume.id)));
    assert_eq!(
        (first.owner, first.volume.parent, first.volume.size),
        (volume, Some(volume), BASE_SIZE)
    );
    assert_eq!(
        (first.volume.kind, first.volume.state),
        (VolumeKind::Snapshot, VolumeState::Creating)
    );
    catalogue.set_ready_lazy(first.volume.id).unwrap();
    // Nobody is handed its device.
    assert!(!catalogue.volume(first.volume.id).unwrap().active);
    assert_refused!(
        catalogue.begin_snapshot(&web(), Some(&first.name)),
        StoreError::SnapshotExists { .. },
        format!(
            "container web has a snapshot {} already: choose another name or remove it",
            first.name
        )
    );
    // Refused, it left no volume.
    assert_eq!(catalogue.unsettled().unwrap(), []);
    let none = snapshot_name("none");
    assert_refused!(
        catalogue.snapshot(&web(), &none),
        StoreError::SnapshotNotFound { .. },
        "container web has no snapshot none"
    );
    assert_refused!(
        catalogue.begin_growth(first.volume.id, Bytes::from_gib(20)),
        StoreError::Sealed { .. },
        format!("volume {} is sealed and keeps its size", first.volume.id)
    );
    catalogue.check().unwrap();
}

#[test]
fn what_has_snapshots_goes_with_them_or_not_at_all() {
    let (catalogue, _, _, volume) = with_web();
    let (one, two) = (
        taken(&catalogue, &web(), "one"),
        taken(&catalogue, &web(), "two"),
    );
    for refused in [
        catalogue.begin_deleting(volume),
        catalogue.queue_removal(volume),
    ] {
        assert_refused!(
            refused,
            StoreError::HasSnapshots { .. },
            "container web has snapshot one, two: remove them first, or with it"
        );
    }
    let gone = catalogue.queue_removal_with_snapshots(volume).unwrap();
    let ids: Vec<_> = gone.iter().map(|volume| volume.id).collect();
    assert_eq!(ids, [volume, two, one]);
    assert!(gone.iter().all(|v| v.state == VolumeState::Deleting));
    let is_final: Vec<_> = catalogue
        .removals()
        .unwrap()
        .iter()
        .map(|removal| (removal.volume.id, removal.is_final))
        .collect();
    assert_eq!(is_final, [(volume, false), (one, true), (two, true)]);
    // It can be had again, without them.
    catalogue
        .cancel_removal(volume, &container_name("web"))
        .unwrap();
    assert_eq!(catalogue.snapshots(&web()).unwrap(), []);
    assert_eq!(catalogue.all_snapshots().unwrap(), []);
    catalogue.check().unwrap();
}

#[test]
fn a_replacement_has_no_name_until_it_has_all_that_the_old_one_had() {
    let (catalogue, added, top, old) = with_web();
    catalogue.sql("UPDATE volumes SET created_at = 1000");
    let one = taken(&catalogue, &web(), "one");
    catalogue.begin_growth(old, Bytes::from_gib(30)).unwrap();
    let new = catalogue.begin_replacement(old, one).unwrap();
    assert_eq!(
        (new.kind, new.state, new.parent, new.size),
        (
            VolumeKind::Container,
            VolumeState::Creating,
            Some(one),
            Bytes::from_gib(30)
        )
    );
    // So that recovery takes the one, and not the other, for a container that was made.
    assert!(!catalogue.is_named(new.id).unwrap());
    assert!(catalogue.is_named(old).unwrap() && catalogue.is_named(one).unwrap());
    assert_eq!(
        catalogue
            .container(&container_name("web"))
            .unwrap()
            .volume
            .id,
        old
    );

    let (now, gone) = catalogue.replace(old, new.id).unwrap();
    assert_eq!(
        (now.id, now.state, now.active, now.created_at.to_unix()),
        (new.id, VolumeState::Ready, true, 1000)
    );
    assert_eq!(
        (gone.id, gone.state, gone.active),
        (old, VolumeState::Deleting, false)
    );
    let record = catalogue.container(&container_name("web")).unwrap();
    assert_eq!((record.volume.id, record.image), (new.id, added));
    let kept = catalogue.snapshots(&web()).unwrap();
    assert_eq!((kept.len(), kept[0].owner), (1, new.id));
    let removal = catalogue.removals().unwrap().pop().unwrap();
    assert!(removal.is_final && removal.volume.id == old);
    // Its container keeps the image, whatever it stands on.
    assert!(matches!(
        catalogue.remove_image(added),
        Err(StoreError::ImageInUse { .. })
    ));
    let back = catalogue.begin_replacement(new.id, top).unwrap();
    assert_eq!((back.parent, back.size), (Some(top), Bytes::from_gib(30)));
    catalogue.check().unwrap();
    assert_eq!(catalogue.counts().unwrap().nr_snapshots, 1);
}

#[test]
fn a_fork_is_of_the_image_that_its_origin_is_of() {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    let ids = stack(&catalogue, base, &[1]);
    let added = catalogue.add_image(&image(1, &ids, &["a"])).unwrap().id();
    let sized = NewContainer {
        size: Some(Bytes::from_gib(20)),
        ..container("web", added)
    };
    let origin = catalogue.begin_container(&sized).unwrap().id;
    let (web, twin) = (container_name("web"), container_name("twin"));
    assert_refused!(
        catalogue.begin_fork(&web, &twin),
        StoreError::VolumeNotReady { .. },
        format!("volume {origin} is creating, not ready")
    );
    catalogue.set_ready(origin).unwrap();
    assert_refused!(
        catalogue.begin_fork(&web, &web),
        StoreError::ContainerExists { .. },
        "there is a container web already: choose another name or remove it"
    );
    let fork = catalogue.begin_fork(&web, &twin).unwrap();
    assert_eq!(
        (fork.kind, fork.parent, fork.size),
        (VolumeKind::Container, Some(origin), Bytes::from_gib(20))
    );
    let record = catalogue.container(&twin).unwrap();
    assert_eq!(
        (record.image, record.image_name.as_str()),
        (added, "debian:12")
    );
    // It stands on its own.
    catalogue.set_ready_lazy(fork.id).unwrap();
    catalogue.begin_deleting(origin).unwrap();
    catalogue.forget_volume(origin).unwrap();
    assert_eq!(catalogue.container(&twin).unwrap().volume.parent, None);
    catalogue.check().unwrap();
}

#[test]
fn a_data_volume_has_a_name_beside_those_of_containers() {
    let (catalogue, _, _, _) = with_web();
    let name = VolumeName::new("web").unwrap();
    let size = Bytes::from_gib(5);
    let volume = catalogue
        .begin_data_volume(&name, FsType::Xfs, size)
        .unwrap();
    assert_eq!(
        (volume.kind, volume.parent, volume.fs, volume.size),
        (VolumeKind::Data, None, FsType::Xfs, size)
    );
    assert_refused!(
        catalogue.begin_data_volume(&name, FsType::Ext4, size),
        StoreError::DataVolumeExists { .. },
        "there is a volume web already: choose another name or remove it"
    );
    let as_named = WritableName::Data(name.clone());
    assert!(matches!(
        catalogue.begin_snapshot(&as_named, None),
        Err(StoreError::VolumeNotReady { .. })
    ));
    // What mkfs makes, the pool cannot prove.
    assert!(!catalogue.is_named(volume.id).unwrap());
    catalogue.set_ready(volume.id).unwrap();
    assert!(catalogue.data_volume(&name).unwrap().volume.active);
    let snapshot = taken(&catalogue, &as_named, "one");
    let names: Vec<_> = catalogue
        .writables()
        .unwrap()
        .into_iter()
        .map(|writable| writable.name)
        .collect();
    assert_eq!(names, [web(), as_named.clone()]);
    let found = catalogue.writable_on(volume.id).unwrap().unwrap();
    assert_eq!((found.name, found.volume.size), (as_named.clone(), size));
    assert_eq!(catalogue.writable_on(snapshot).unwrap(), None);
    let counts = catalogue.counts().unwrap();
    assert_eq!(
        counts,
        Counts {
            nr_images: 1,
            nr_bases: 1,
            nr_layers: 1,
            nr_containers: 1,
            nr_active: 1,
            nr_snapshots: 1,
            nr_data: 1,
            nr_creating: 0,
            nr_deleting: 0,
            containers_size: Bytes::from_gib(10),
            data_size: Bytes::from_gib(5),
        }
    );
    // Those that a pool's opening has to do something for.
    assert_eq!(catalogue.growing_writables().unwrap(), []);
    catalogue
        .begin_growth(volume.id, Bytes::from_gib(6))
        .unwrap();
    let growing = catalogue.growing_writables().unwrap();
    let names: Vec<_> = growing.iter().map(|found| &found.name).collect();
    assert_eq!(names, [&as_named]);
    let web = catalogue.writable(&web()).unwrap();
    catalogue.set_active(volume.id, false).unwrap();
    assert_eq!(catalogue.active_writables().unwrap(), [web]);
    // A snapshot is not written to: what it has counts, where that is known.
    let promised = catalogue.committed().unwrap();
    catalogue.set_mapped(snapshot, Bytes::from_mib(1)).unwrap();
    let measured = catalogue.committed().unwrap();
    assert_eq!(promised.writable.checked_sub(measured.writable), Some(size));
    assert_eq!(
        measured.sealed.checked_sub(promised.sealed),
        Some(Bytes::from_mib(1))
    );
    catalogue.begin_deleting(snapshot).unwrap();
    catalogue.begin_deleting(volume.id).unwrap();
    assert_refused!(
        catalogue.data_volume(&name),
        StoreError::DataVolumeNotFound { .. },
        "there is no volume web"
    );
    catalogue.check().unwrap();
}
