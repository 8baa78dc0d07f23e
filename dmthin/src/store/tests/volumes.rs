//! Volumes and layers: ids, states, what keeps what.

use crate::ids::{FsType, ThinId, VolumeId, VolumeKind};
use crate::store::tests::{
    BASE_SIZE, Temp, as_long_as, assert_refused, begin_layer, container, digest, image, layer,
    ready_base, stack,
};
use crate::store::{
    Catalogue, Counts, NewContainer, NewVolume, SealedLayer, StoreError, VolumeRecord, VolumeState,
};
use crate::units::Bytes;

const BASE: NewVolume = NewVolume::Base {
    fs: FsType::Ext4,
    size: BASE_SIZE,
};

#[test]
fn a_base_is_made_once_per_class() {
    let catalogue = Temp::new();
    let base = catalogue.begin_volume(BASE).unwrap();
    assert_eq!(
        base,
        VolumeRecord {
            id: VolumeId::new(1),
            thin_id: ThinId::new(0).unwrap(),
            kind: VolumeKind::Base,
            state: VolumeState::Creating,
            parent: None,
            size: BASE_SIZE,
            growing_to: None,
            fs: FsType::Ext4,
            fs_uuid: None,
            created_at: base.created_at,
            active: false,
            made: true,
            mapped: None,
        }
    );
    let second = catalogue.begin_volume(BASE).unwrap();
    assert_eq!(catalogue.base(FsType::Ext4, BASE_SIZE).unwrap(), None);
    catalogue
        .set_fs_uuid(base.id, "01234567-89ab-cdef-0123-456789abcdef")
        .unwrap();
    catalogue.set_ready(base.id).unwrap();
    let ready = catalogue.base(FsType::Ext4, BASE_SIZE).unwrap().unwrap();
    assert_eq!(ready, catalogue.volume(base.id).unwrap());
    assert_eq!(ready.state, VolumeState::Ready);
    assert_eq!(
        ready.fs_uuid.as_deref(),
        Some("01234567-89ab-cdef-0123-456789abcdef")
    );
    assert_refused!(
        catalogue.set_ready(second.id),
        StoreError::BaseExists { volume } if volume == base.id,
        "volume 1 is the base of that file system and size already"
    );
    assert_eq!(catalogue.base(FsType::Xfs, BASE_SIZE).unwrap(), None);
    assert_eq!(
        catalogue.base(FsType::Ext4, Bytes::from_gib(20)).unwrap(),
        None
    );
}

#[test]
fn ids_rise_and_are_never_given_twice() {
    let catalogue = Temp::new();
    for n in 0_u32..4 {
        let volume = catalogue.begin_volume(BASE).unwrap();
        assert_eq!(volume.id, VolumeId::new(u64::from(n) + 1));
        assert_eq!(volume.thin_id.get(), n);
        catalogue.forget_volume(volume.id).unwrap();
    }
    let catalogue = catalogue.reopened();
    assert_eq!(catalogue.begin_volume(BASE).unwrap().id, VolumeId::new(5));
    assert_eq!(catalogue.pool().unwrap().next_thin_id, ThinId::new(5).ok());
}

#[test]
fn the_last_thin_id_but_the_mirrors_is_given_and_then_no_more() {
    let catalogue = Temp::new();
    catalogue.sql("UPDATE pool SET next_thin_id = 16777214");
    let last = catalogue.begin_volume(BASE).unwrap();
    assert_eq!(last.thin_id.next(), Some(ThinId::MIRROR));
    assert_eq!(catalogue.pool().unwrap().next_thin_id, None);
    assert_refused!(
        catalogue.begin_volume(BASE),
        StoreError::ThinIdsSpent,
        "the pool's thin device ids are spent"
    );
    catalogue.forget_volume(last.id).unwrap();
    assert!(matches!(
        catalogue.begin_volume(BASE),
        Err(StoreError::ThinIdsSpent)
    ));
    assert!(catalogue.has_thin_id(last.thin_id).is_ok_and(|has| !has));
}

#[test]
fn thin_ids_that_are_free_again_are_given_in_order_and_no_further() {
    let catalogue = Temp::new();
    let id = |n| ThinId::new(n).unwrap();
    catalogue.set_thin_ids(id(7), id(9)).unwrap();
    for n in [7, 8] {
        let volume = catalogue.begin_volume(BASE).unwrap();
        assert_eq!(volume.thin_id, id(n));
        assert!(catalogue.has_thin_id(id(n)).unwrap());
    }
    assert!(matches!(
        catalogue.begin_volume(BASE),
        Err(StoreError::ThinIdsSpent)
    ));
    assert_eq!(catalogue.pool().unwrap().next_thin_id, None);
}

/// What a pool has of the ids that are still to be given out was made by a later catalogue. One that the
/// counter has passed, or that lies behind the end, was not.
#[test]
fn ids_that_were_not_given_out_yet_tell_an_older_catalogue() {
    let catalogue = Temp::new();
    let id = |n| ThinId::new(n).unwrap();
    catalogue.set_thin_ids(id(7), id(9)).unwrap();
    let record = catalogue.pool().unwrap();
    for (found, expected) in [
        (&[][..], None),
        (&[0, 6, 9, 40], None),
        (&[6, 7, 9], Some(7)),
        (&[7, 8, 9], Some(8)),
    ] {
        let found = found.iter().map(|n| id(*n)).collect();
        assert_eq!(record.not_given(&found), expected.map(id));
    }
}

#[test]
fn states_change_by_their_table_only() {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    assert_refused!(
        catalogue.set_ready(base),
        StoreError::VolumeTransition {
            from: VolumeState::Ready,
            to: Some(VolumeState::Ready),
            ..
        },
        "volume 1 is ready and cannot become ready"
    );
    assert_refused!(
        catalogue.forget_volume(base),
        StoreError::VolumeTransition {
            from: VolumeState::Ready,
            to: None,
            ..
        },
        "volume 1 is ready and cannot be forgotten"
    );
    catalogue.set_active(base, true).unwrap();
    let deleting = catalogue.begin_deleting(base).unwrap();
    assert_eq!(
        (deleting.state, deleting.active),
        (VolumeState::Deleting, false)
    );
    assert_eq!(catalogue.volume(base).unwrap(), deleting);
    for (result, to) in [
        (catalogue.set_ready(base), Some(VolumeState::Ready)),
        (catalogue.set_ready_lazy(base), Some(VolumeState::Ready)),
        (
            catalogue.begin_deleting(base).map(|_| ()),
            Some(VolumeState::Deleting),
        ),
    ] {
        match result.unwrap_err() {
            StoreError::VolumeTransition {
                id,
                from,
                to: found,
            } => {
                assert_eq!((id, from, found), (base, VolumeState::Deleting, to));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_refused!(
        catalogue.set_active(base, true),
        StoreError::VolumeNotReady {
            state: VolumeState::Deleting,
            ..
        },
        "volume 1 is deleting, not ready"
    );
    catalogue.set_active(base, false).unwrap();
    assert_eq!(catalogue.unsettled().unwrap(), [deleting]);
    catalogue.forget_volume(base).unwrap();
    for missing in [base, VolumeId::new(99), VolumeId::new(u64::MAX)] {
        let text = format!("there is no volume {missing}");
        assert_refused!(
            catalogue.volume(missing),
            StoreError::VolumeNotFound { id } if id == missing, text
        );
        assert!(matches!(
            catalogue.forget_volume(missing),
            Err(StoreError::VolumeNotFound { .. })
        ));
        assert!(matches!(
            catalogue.begin_volume(as_long_as(missing)),
            Err(StoreError::VolumeNotFound { .. })
        ));
    }
    assert_eq!(catalogue.all_volumes().unwrap(), []);
}

#[test]
fn a_layer_is_a_snapshot_of_a_ready_volume() {
    let catalogue = Temp::new();
    let base = catalogue.begin_volume(BASE).unwrap();
    assert_refused!(
        catalogue.begin_volume(as_long_as(base.id)),
        StoreError::VolumeNotReady {
            state: VolumeState::Creating,
            ..
        },
        "volume 1 is creating, not ready"
    );
    // Refusing took no thin id.
    assert_eq!(catalogue.pool().unwrap().next_thin_id, ThinId::new(1).ok());
    catalogue.set_fs_uuid(base.id, "u").unwrap();
    catalogue.set_ready(base.id).unwrap();
    let volume = catalogue.begin_volume(as_long_as(base.id)).unwrap();
    assert_eq!(volume.parent, Some(base.id));
    assert_eq!((volume.size, volume.fs), (BASE_SIZE, FsType::Ext4));
    assert_eq!(volume.fs_uuid.as_deref(), Some("u"));
    assert_refused!(
        catalogue.set_ready(volume.id),
        StoreError::LayerNotSealed { .. },
        "volume 2 is a layer: it becomes ready when it is sealed"
    );
    catalogue.seal_layer(volume.id, &layer(1, None)).unwrap();
    let volume = catalogue.volume(volume.id).unwrap();
    assert_eq!(volume.state, VolumeState::Ready);
    let sealed = SealedLayer {
        volume,
        layer: layer(1, None),
    };
    assert_eq!(
        catalogue.layer_by_chain(&digest(1)).unwrap(),
        Some(sealed.clone())
    );
    assert_eq!(catalogue.layers().unwrap(), [sealed]);
    assert_eq!(catalogue.layer_by_chain(&digest(2)).unwrap(), None);
}

#[test]
fn one_of_two_equal_layers_is_sealed() {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    let first = begin_layer(&catalogue, base);
    let second = begin_layer(&catalogue, base);
    catalogue.seal_layer(second, &layer(1, None)).unwrap();
    assert_refused!(
        catalogue.seal_layer(first, &layer(1, None)),
        StoreError::LayerExists { chain_id, volume } if chain_id == digest(1) && volume == second,
        format!("volume 3 holds the layer {} already", digest(1))
    );
    // The refusal undid the step to ready as well.
    assert_eq!(
        catalogue.volume(first).unwrap().state,
        VolumeState::Creating
    );
    // Once the first is on its way out, its chain id is free.
    catalogue.begin_deleting(second).unwrap();
    assert_eq!(catalogue.layer_by_chain(&digest(1)).unwrap(), None);
    catalogue.seal_layer(first, &layer(1, None)).unwrap();
}

#[test]
fn a_layer_goes_on_the_layer_it_is_a_snapshot_of() {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    let low = stack(&catalogue, base, &[1])[0];
    let high = begin_layer(&catalogue, low);
    assert_refused!(
        catalogue.seal_layer(high, &layer(2, None)),
        StoreError::Lineage { expected: None, found: Some(found), .. } if found == digest(1),
        format!("volume 3 is a snapshot of {}, its layer goes on the base", digest(1))
    );
    assert_refused!(
        catalogue.seal_layer(high, &layer(2, Some(9))),
        StoreError::Lineage {
            expected: Some(_),
            found: Some(_),
            ..
        },
        format!(
            "volume 3 is a snapshot of {}, its layer goes on {}",
            digest(1),
            digest(9)
        )
    );
    catalogue.seal_layer(high, &layer(2, Some(1))).unwrap();
    assert_refused!(
        catalogue.seal_layer(base, &layer(3, None)),
        StoreError::NotALayer { id } if id == base,
        "volume 1 is no layer"
    );
}

#[test]
fn what_others_stand_on_is_kept() {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    let ids = stack(&catalogue, base, &[1, 2]);
    let added = catalogue.add_image(&image(1, &ids, &[])).unwrap().id();
    assert_refused!(
        catalogue.begin_deleting(base),
        StoreError::InUse { children, images, .. } if children == [ids[0]] && images.is_empty(),
        "volume 1 is in use by volume 2"
    );
    assert_refused!(
        catalogue.begin_deleting(ids[0]),
        StoreError::InUse { children, images, .. } if children == [ids[1]] && images == [added],
        "volume 2 is in use by volume 3, image 1"
    );
    assert_refused!(
        catalogue.begin_deleting(ids[1]),
        StoreError::InUse { children, images, .. } if children.is_empty() && images == [added],
        "volume 3 is in use by image 1"
    );
    let volume = catalogue.begin_container(&container("a", added)).unwrap();
    catalogue.set_ready(volume.id).unwrap();
    let child = begin_layer(&catalogue, volume.id);
    // A snapshot of a container does not keep the container, and outlives its row.
    catalogue.begin_deleting(volume.id).unwrap();
    catalogue.forget_volume(volume.id).unwrap();
    assert_eq!(catalogue.volume(child).unwrap().parent, None);
}

#[test]
fn a_layer_may_be_longer_than_its_parent_but_not_shorter() {
    let catalogue = Temp::new();
    let parent = ready_base(&catalogue).id;
    let begin = |size| catalogue.begin_volume(NewVolume::Layer { parent, size });
    let longer = begin(Bytes::from_gib(11)).unwrap();
    assert_eq!(longer.size, Bytes::from_gib(11));
    assert!(matches!(
        begin(Bytes::from_gib(9)),
        Err(StoreError::TooSmall { least, .. }) if least == BASE_SIZE
    ));
}

#[test]
fn only_containers_grow_and_nothing_shrinks() {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    assert_refused!(
        catalogue.begin_growth(base, Bytes::from_gib(20)),
        StoreError::Sealed { id } if id == base,
        "volume 1 is sealed and keeps its size"
    );
    let ids = stack(&catalogue, base, &[1]);
    let added = catalogue.add_image(&image(1, &ids, &[])).unwrap().id();
    assert_refused!(
        catalogue.begin_container(&NewContainer {
            size: Some(Bytes::from_gib(9)),
            ..container("a", added)
        }),
        StoreError::TooSmall { size, least } if size == Bytes::from_gib(9) && least == BASE_SIZE,
        "a size of 9 GiB is too small: it takes at least 10 GiB"
    );
    let volume = catalogue
        .begin_container(&NewContainer {
            size: Some(Bytes::from_gib(11)),
            ..container("a", added)
        })
        .unwrap();
    assert_eq!(volume.size, Bytes::from_gib(11));
    assert!(matches!(
        catalogue.begin_growth(volume.id, Bytes::from_gib(12)),
        Err(StoreError::VolumeNotReady { .. })
    ));
    catalogue.set_ready_lazy(volume.id).unwrap();
    let sizes = |catalogue: &Catalogue| {
        let volume = catalogue.volume(volume.id).unwrap();
        (volume.size, volume.growing_to)
    };
    let gib = Bytes::from_gib;
    // To the size it has: nothing is begun.
    catalogue.begin_growth(volume.id, gib(11)).unwrap();
    assert_eq!(sizes(&catalogue), (gib(11), None));
    catalogue.begin_growth(volume.id, gib(12)).unwrap();
    assert_eq!(sizes(&catalogue), (gib(11), Some(gib(12))));
    // Cut there, its file system may be that large already: it can be promised more, not less.
    assert!(matches!(
        catalogue.begin_growth(volume.id, gib(11)),
        Err(StoreError::TooSmall { least, .. }) if least == gib(12)
    ));
    catalogue.begin_growth(volume.id, gib(13)).unwrap();
    let grown = catalogue.finish_growth(volume.id).unwrap();
    assert_eq!((grown.size, grown.growing_to), (gib(13), None));
    assert_eq!(catalogue.finish_growth(volume.id).unwrap(), grown);
    assert!(matches!(
        catalogue.begin_growth(volume.id, Bytes::new(u64::MAX)),
        Err(StoreError::TooLarge {
            what: "a size",
            value: u64::MAX
        })
    ));
}

#[test]
fn counts_tell_what_there_is() {
    let catalogue = Temp::new();
    assert_eq!(catalogue.counts().unwrap(), Counts::default());
    let base = ready_base(&catalogue).id;
    let ids = stack(&catalogue, base, &[1, 2, 3]);
    let added = catalogue.add_image(&image(1, &ids, &[])).unwrap().id();
    let volumes: Vec<_> = ["a", "b", "c", "d", "e"]
        .into_iter()
        .map(|name| {
            catalogue
                .begin_container(&container(name, added))
                .unwrap()
                .id
        })
        .collect();
    for id in &volumes[..4] {
        catalogue.set_ready(*id).unwrap();
    }
    catalogue.set_active(volumes[3], false).unwrap();
    catalogue.begin_deleting(volumes[1]).unwrap();
    catalogue.begin_deleting(volumes[2]).unwrap();
    assert_eq!(
        catalogue.counts().unwrap(),
        Counts {
            nr_images: 1,
            nr_bases: 1,
            nr_layers: 3,
            nr_containers: 2,
            nr_active: 1,
            nr_snapshots: 0,
            nr_data: 0,
            nr_creating: 1,
            nr_deleting: 2,
            containers_size: Bytes::from_gib(30),
            data_size: Bytes::ZERO,
        }
    );
}
