//! The queue of removals.

use crate::ids::{ContainerName, ImageId, VolumeId};
use crate::store::tests::{
    Temp, assert_refused, container, container_name, image, ready_base, stack,
};
use crate::store::{StoreError, Timestamp, VolumeState};
use crate::units::Bytes;

#[test]
fn a_removal_keeps_its_name_and_its_tries_until_it_is_done() {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    let ids = stack(&catalogue, base, &[1]);
    let added = catalogue.add_image(&image(1, &ids, &[])).unwrap().id();
    let begin = |name: &str| {
        catalogue
            .begin_container(&container(name, added))
            .unwrap()
            .id
    };
    let before = Timestamp::now();
    let (web, db) = (begin("web"), begin("db"));
    assert_eq!(catalogue.removals().unwrap(), []);
    catalogue.queue_removal(web).unwrap();
    catalogue.begin_deleting(db).unwrap();
    // The name is free at once, and may be queued twice.
    let second = begin("web");
    catalogue.begin_deleting(second).unwrap();

    let catalogue = catalogue.reopened();
    let queued = |catalogue: &Temp| -> Vec<(VolumeId, Option<ContainerName>, u64, u64)> {
        let removals = catalogue.removals().unwrap();
        assert!(removals.iter().all(|r| r.since >= before));
        removals
            .into_iter()
            .map(|r| (r.volume.id, r.name, r.attempts, r.next_try.to_unix()))
            .collect()
    };
    let name = |text: &str| Some(container_name(text));
    assert_eq!(
        queued(&catalogue),
        [
            (web, name("web"), 0, 0),
            (db, name("db"), 0, 0),
            (second, name("web"), 0, 0)
        ]
    );
    for at in [100, 200] {
        catalogue
            .put_off_removal(web, Timestamp::from_unix(at))
            .unwrap();
    }
    catalogue.forget_volume(db).unwrap();
    assert_eq!(
        queued(&catalogue),
        [(web, name("web"), 2, 200), (second, name("web"), 0, 0)]
    );
    catalogue.check().unwrap();
}

#[test]
fn only_what_is_being_deleted_is_put_off() {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    let at = Timestamp::from_unix(1);
    assert_refused!(
        catalogue.put_off_removal(base, at),
        StoreError::VolumeTransition {
            from: VolumeState::Ready,
            to: Some(VolumeState::Deleting),
            ..
        },
        format!("volume {base} is ready and cannot become deleting")
    );
    let missing = VolumeId::new(99);
    assert_refused!(
        catalogue.put_off_removal(missing, at),
        StoreError::VolumeNotFound { .. },
        "there is no volume 99"
    );
}

/// An image of one layer, and a container of it that is ready.
fn with_container(name: &str) -> (Temp, ImageId, VolumeId) {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    let ids = stack(&catalogue, base, &[1]);
    let image = catalogue.add_image(&image(1, &ids, &[])).unwrap().id();
    let volume = catalogue
        .begin_container(&container(name, image))
        .unwrap()
        .id;
    catalogue.set_ready(volume).unwrap();
    (catalogue, image, volume)
}

#[test]
fn a_removal_is_taken_back_whole() {
    let (catalogue, _, web) = with_container("web");
    catalogue.begin_growth(web, Bytes::from_gib(50)).unwrap();
    let before = catalogue.container(&container_name("web")).unwrap();
    catalogue.queue_removal(web).unwrap();
    catalogue
        .put_off_removal(web, Timestamp::from_unix(9))
        .unwrap();
    let catalogue = catalogue.reopened();
    assert!(!catalogue.removals().unwrap()[0].is_final);

    let back = catalogue.cancel_removal(web, &container_name("web"));
    assert_eq!(back.unwrap(), before);
    assert_eq!(catalogue.container(&before.name).unwrap(), before);
    assert_eq!(catalogue.removals().unwrap(), []);
    // Nothing of the first removal is left in a second.
    catalogue.queue_removal(web).unwrap();
    let removal = catalogue.removals().unwrap().pop().unwrap();
    assert_eq!((removal.attempts, removal.next_try.to_unix()), (0, 0));
    let other = container_name("other");
    let renamed = catalogue.cancel_removal(web, &other).unwrap();
    assert_eq!((renamed.name, renamed.volume), (other, before.volume));
    catalogue.check().unwrap();
}

#[test]
fn a_removal_that_is_final_stays_one() {
    let (catalogue, image, web) = with_container("web");
    let name = container_name("web");
    assert_refused!(
        catalogue.cancel_removal(web, &name),
        StoreError::VolumeTransition {
            from: VolumeState::Ready,
            to: Some(VolumeState::Ready),
            ..
        },
        format!("volume {web} is ready and cannot become ready")
    );
    catalogue.queue_removal(web).unwrap();
    // Somebody has the name by now.
    let second = catalogue.begin_container(&container("web", image)).unwrap();
    assert!(matches!(
        catalogue.cancel_removal(web, &name),
        Err(StoreError::ContainerExists { .. })
    ));
    catalogue.make_removal_final(web).unwrap();
    catalogue.make_removal_final(web).unwrap();
    let catalogue = catalogue.reopened();
    let free = container_name("free");
    assert_refused!(
        catalogue.cancel_removal(web, &free),
        StoreError::RemovalFinal { .. },
        format!("the removal of volume {web} cannot be taken back: its space is being given back")
    );
    // One that begins at once, and one of a container that was never whole.
    let third = catalogue
        .begin_container(&container("third", image))
        .unwrap();
    catalogue.set_ready(third.id).unwrap();
    catalogue.begin_deleting(third.id).unwrap();
    catalogue.queue_removal(second.id).unwrap();
    for id in [second.id, third.id] {
        assert!(matches!(
            catalogue.cancel_removal(id, &free),
            Err(StoreError::RemovalFinal { .. })
        ));
    }
    assert!(matches!(
        catalogue.make_removal_final(VolumeId::new(99)),
        Err(StoreError::VolumeNotFound { .. })
    ));
}

#[test]
fn a_container_without_its_image_does_not_come_back() {
    let (catalogue, image, web) = with_container("web");
    catalogue.queue_removal(web).unwrap();
    // What is to go does not keep the image.
    catalogue.remove_image(image).unwrap();
    assert_refused!(
        catalogue.cancel_removal(web, &container_name("web")),
        StoreError::RemovalOrphan { .. },
        format!("the removal of volume {web} cannot be taken back: its image was removed")
    );
    catalogue.check().unwrap();
}
