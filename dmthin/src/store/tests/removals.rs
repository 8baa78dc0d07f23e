//! The queue of removals.

use crate::ids::{ContainerName, VolumeId};
use crate::store::tests::{
    Temp, assert_refused, container, container_name, image, ready_base, stack,
};
use crate::store::{StoreError, Timestamp, VolumeState};

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
    catalogue
        .begin_container_removal(&container_name("web"))
        .unwrap();
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
