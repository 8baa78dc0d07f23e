//! What a pool may lie on, ids that may be another's, and what was promised.

use tempfile::TempDir;

use crate::ids::{DmName, PoolName, ThinId, VolumeKind};
use crate::store::tests::{BASE, BASE_SIZE, Temp, container, image, pool, ready_base, stack};
use crate::store::{
    BackingRecord, Catalogue, Committed, ExistingPool, MovedPool, NewContainer, NewPool,
    PoolRecord, StoreError,
};
use crate::units::Bytes;

fn existing(uuid: Option<&str>) -> ExistingPool {
    ExistingPool {
        name: DmName::new("vg-pool-tpool").unwrap(),
        uuid: uuid.map(|uuid| uuid.parse().unwrap()),
    }
}

fn shared_pool() -> NewPool {
    let backing = BackingRecord::ThinPool(existing(Some("LVM-abc-tpool")));
    NewPool {
        data: backing.clone(),
        metadata: backing,
        first_thin_id: ThinId::new(1 << 23).unwrap(),
        ..pool()
    }
}

fn part(path: &str, mib: u64) -> BackingRecord {
    BackingRecord::Part {
        path: path.into(),
        start: Bytes::from_mib(mib),
    }
}

fn disk_pool() -> NewPool {
    NewPool {
        data: part("/dev/sdb", 193),
        metadata: part("/dev/sdb", 65),
        ..pool()
    }
}

/// A catalogue of this pool, as long as its directory is kept.
fn create(new: &NewPool) -> (TempDir, Catalogue) {
    let dir = tempfile::tempdir().unwrap();
    let catalogue = Catalogue::create(dir.path().join("c.db"), new).unwrap();
    (dir, catalogue)
}

/// What is new about the pool on another host.
fn moved(foreign_ids: bool) -> MovedPool {
    MovedPool {
        name: PoolName::new("other").unwrap(),
        disk: "/dev/vdc".into(),
        foreign_ids,
    }
}

#[test]
fn every_backing_is_read_as_it_was_written() {
    let thin_pool = |uuid| BackingRecord::ThinPool(existing(uuid));
    for (data, metadata, foreign_ids) in [
        (part("/dev/sdb", 193), part("/dev/sdb", 65), false),
        (
            thin_pool(Some("LVM-abc-tpool")),
            thin_pool(Some("LVM-abc-tpool")),
            true,
        ),
        (thin_pool(None), thin_pool(None), true),
    ] {
        let new = NewPool {
            data: data.clone(),
            metadata: metadata.clone(),
            ..pool()
        };
        let (_dir, catalogue) = create(&new);
        let record = catalogue.pool().unwrap();
        assert_eq!((&record.data, &record.metadata), (&data, &metadata));
        assert_eq!(record.foreign_ids, foreign_ids);
        catalogue.check().unwrap();
    }
    let one = existing(Some("LVM-abc-tpool"));
    let renamed = ExistingPool {
        name: DmName::new("other").unwrap(),
        ..one.clone()
    };
    assert!(one.is(&renamed) && !one.is(&existing(None)) && existing(None).is(&existing(None)));
}

#[test]
fn a_disk_is_known_by_its_new_path() {
    let (_dir, catalogue) = create(&disk_pool());
    let record = catalogue.set_disk("/dev/sdc".as_ref()).unwrap();
    assert_eq!(record.data, part("/dev/sdc", 193));
    assert_eq!(record.metadata, part("/dev/sdc", 65));
    // A pool on anything else has no disk.
    let other = Temp::new();
    let before = other.pool().unwrap();
    assert_eq!(other.set_disk("/dev/sdc".as_ref()).unwrap(), before);
}

/// Where others have ids too, one is ours only once the kernel made it.
#[test]
fn an_id_that_is_not_made_can_be_changed_for_the_next() {
    let (_dir, catalogue) = create(&shared_pool());
    let id = |n: u64| ThinId::new((1 << 23) + n).unwrap();
    let volume = catalogue.begin_volume(BASE).unwrap();
    assert_eq!((volume.thin_id, volume.made), (id(0), false));
    let volume = catalogue.take_another_thin_id(volume.id).unwrap();
    assert_eq!((volume.thin_id, volume.made), (id(1), false));
    let volume = catalogue.set_made(volume.id).unwrap();
    assert_eq!((volume.thin_id, volume.made), (id(1), true));
    assert_eq!(catalogue.take_another_thin_id(volume.id).unwrap(), volume);
    assert_eq!(catalogue.begin_volume(BASE).unwrap().thin_id, id(2));
    // In a pool of our own every id is ours from the begin.
    let own = Temp::new();
    let volume = own.begin_volume(BASE).unwrap();
    assert!(volume.made);
    assert_eq!(own.take_another_thin_id(volume.id).unwrap(), volume);
}

#[test]
fn every_byte_that_a_writer_may_fill_is_counted() {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    let layers = stack(&catalogue, base, &[1]);
    let sums = |writable: Bytes, sealed: Bytes| {
        assert_eq!(
            catalogue.committed().unwrap(),
            Committed { writable, sealed }
        );
    };
    let times = |n: u64| Bytes::new(BASE_SIZE.get() * n);
    // What nobody measured counts in full.
    sums(times(2), Bytes::ZERO);
    let odd = Bytes::new((5 << 20) + 1);
    catalogue.set_mapped(base, odd).unwrap();
    catalogue.set_mapped(layers[0], Bytes::from_mib(7)).unwrap();
    let block = Bytes::from_kib(64);
    let sealed = Bytes::from_mib(12).saturating_add(block);
    sums(Bytes::ZERO, sealed);
    let added = catalogue
        .add_image(&image(9, &layers, &["a:1"]))
        .unwrap()
        .id();
    let sized = NewContainer {
        size: Some(BASE_SIZE.saturating_add(Bytes::from_kib(4))),
        ..container("web", added)
    };
    let web = catalogue.begin_container(&sized).unwrap();
    assert_eq!(web.kind, VolumeKind::Container);
    sums(BASE_SIZE.saturating_add(block), sealed);
    catalogue.set_ready(web.id).unwrap();
    catalogue.begin_growth(web.id, times(3)).unwrap();
    sums(times(3), sealed);
    catalogue.undo_growth(web.id, None).unwrap();
    sums(BASE_SIZE.saturating_add(block), sealed);
    assert_eq!(catalogue.volume(web.id).unwrap().growing_to, None);
    // Who holds what was removed may write in it until it is gone.
    catalogue.begin_deleting(web.id).unwrap();
    sums(BASE_SIZE.saturating_add(block), sealed);
    catalogue.forget_volume(web.id).unwrap();
    sums(Bytes::ZERO, sealed);
    assert!(matches!(
        catalogue.undo_growth(web.id, None),
        Err(StoreError::VolumeNotFound { .. })
    ));
}

/// As another host gets it: the same catalogue, but for what is new about the pool there.
#[test]
fn a_catalogue_moves_as_bytes() {
    let (here, catalogue) = create(&disk_pool());
    let base = ready_base(&catalogue);
    let before = catalogue.pool().unwrap();
    assert!(catalogue.was_written());
    let content = catalogue.content().unwrap();
    assert!(!catalogue.was_written());
    // What comes after the copy is not in it; what is beside the catalogue is what was there before.
    catalogue.begin_volume(BASE).unwrap();
    assert!(!here.path().join("c.db.copy").exists());

    let there = tempfile::tempdir().unwrap();
    let path = there.path().join("c.db");
    for foreign_ids in [false, true] {
        let moved = moved(foreign_ids);
        let adopted = Catalogue::adopt(&path, &content, &moved).unwrap();
        adopted.check().unwrap();
        let expected = PoolRecord {
            name: moved.name.clone(),
            data: part("/dev/vdc", 193),
            metadata: part("/dev/vdc", 65),
            foreign_ids,
            ..before.clone()
        };
        assert_eq!(adopted.pool().unwrap(), expected);
        assert_eq!(adopted.all_volumes().unwrap(), std::slice::from_ref(&base));
        assert_eq!(adopted.begin_volume(BASE).unwrap().made, !foreign_ids);
        // One that is there is never replaced.
        assert!(matches!(
            Catalogue::adopt(&path, &content, &moved),
            Err(StoreError::CatalogueExists { .. })
        ));
        drop(adopted);
        Catalogue::delete(&path).unwrap();
    }
    let moved = moved(false);
    assert!(Catalogue::adopt(&path, &content[..5000], &moved).is_err());
    assert!(Catalogue::adopt(&path, b"nonsense", &moved).is_err());
    assert_eq!(std::fs::read_dir(there.path()).unwrap().count(), 0);
}
