//! Images, their names, and containers of them.

use crate::ids::{ImageId, ImageRef, VolumeId, VolumeKind};
use crate::store::tests::{
    Temp, assert_refused, begin_layer, container, container_name, digest, image, layer, ready_base,
    reference, stack,
};
use crate::store::{
    AddedImage, ContainerRecord, ImageRecord, NewImage, PoolState, RemovedImages, StoreError,
    VolumeState,
};

fn names(catalogue: &Temp, id: ImageId) -> Vec<String> {
    let image = catalogue.image(id).unwrap();
    image.names.iter().map(ToString::to_string).collect()
}

#[test]
fn an_image_is_recorded_as_given() {
    let catalogue = Temp::new();
    let ids = {
        let base = ready_base(&catalogue).id;
        stack(&catalogue, base, &[1, 2])
    };
    let new = NewImage {
        manifest_digest: Some(digest(0x33)),
        ..image(0x11, &ids, &["debian:12", "debian"])
    };
    let added = catalogue.add_image(&new).unwrap();
    assert_eq!(added, AddedImage::Created(ImageId::new(1)));
    let record = catalogue.image(added.id()).unwrap();
    assert_eq!(
        record,
        ImageRecord {
            id: ImageId::new(1),
            config_digest: digest(0x11),
            manifest_digest: Some(digest(0x33)),
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            created: Some("2024-01-02T03:04:05Z".to_owned()),
            imported_at: record.imported_at,
            names: vec![reference("debian:12"), reference("debian:latest")],
        }
    );
    assert_eq!(catalogue.images().unwrap(), [record]);
    assert_eq!(catalogue.image_config(added.id()).unwrap(), b"{\"n\":17}");
    let layers = catalogue.image_layers(added.id()).unwrap();
    assert_eq!(layers.iter().map(|l| l.volume.id).collect::<Vec<_>>(), ids);
    assert_eq!(layers[1].layer, layer(2, Some(1)));

    assert_eq!(
        catalogue
            .add_image(&NewImage {
                names: vec![reference("d:x")],
                ..new.clone()
            })
            .unwrap(),
        AddedImage::Existing(added.id())
    );
    assert_eq!(
        names(&catalogue, added.id()),
        ["d:x", "debian:12", "debian:latest"]
    );
    assert_refused!(
        catalogue.add_image(&NewImage { layers: ids[..1].to_vec(), ..new }),
        StoreError::ImageDiffers { config_digest } if config_digest == digest(0x11),
        format!("the image {} is recorded with other layers", digest(0x11))
    );
}

#[test]
fn images_stand_on_sealed_stacks() {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    let ids = stack(&catalogue, base, &[1, 2]);
    let open = begin_layer(&catalogue, ids[1]);
    let added = |layers: &[_]| catalogue.add_image(&image(1, layers, &["x:y"]));
    assert!(matches!(added(&[base]), Err(StoreError::NotALayer { id }) if id == base));
    assert!(matches!(
        added(&[ids[0], ids[1], open]),
        Err(StoreError::VolumeNotReady { id, state: VolumeState::Creating }) if id == open
    ));
    for wrong in [vec![ids[1]], vec![ids[1], ids[0]], vec![ids[0], ids[0]]] {
        assert!(
            matches!(added(&wrong), Err(StoreError::Lineage { .. })),
            "{wrong:?}"
        );
    }
    assert_eq!(catalogue.images().unwrap(), []);
    added(&ids).unwrap();
}

#[test]
fn images_are_found_by_name_and_by_digits() {
    let catalogue = Temp::new();
    let one = NewImage {
        manifest_digest: Some(digest(0xcc)),
        ..image(0xab, &[], &["debian", "cafe", "host:5000/app"])
    };
    let one = catalogue.add_image(&one).unwrap().id();
    let mut near = [0xab; 32];
    near[31] = 0;
    let near = crate::ids::Digest::from_bytes(near);
    let two = NewImage {
        config_digest: near,
        ..image(0, &[], &["debian:11"])
    };
    let two = catalogue.add_image(&two).unwrap().id();
    let three = catalogue.add_image(&image(0xca, &[], &[])).unwrap().id();
    for (text, id) in [
        ("debian".to_owned(), one),
        ("debian:latest".to_owned(), one),
        ("debian:11".to_owned(), two),
        ("host:5000/app".to_owned(), one),
        ("host:5000/app:latest".to_owned(), one),
        // A name goes before digits.
        ("cafe".to_owned(), one),
        ("caca".to_owned(), three),
        ("sha256:caca".to_owned(), three),
        (digest(0xab).to_string(), one),
        (near.to_hex(), two),
        (digest(0xcc).to_string(), one),
        ("ccccc".to_owned(), one),
    ] {
        assert_eq!(catalogue.find_image(&text).unwrap().id, id, "{text}");
    }
    assert_eq!(
        catalogue.find_image("ccccc").unwrap().names,
        [
            reference("cafe:latest"),
            reference("debian:latest"),
            reference("host:5000/app:latest")
        ]
    );
    assert_refused!(
        catalogue.find_image("sha256:abab"),
        StoreError::ImageAmbiguous { images, .. } if images == [digest(0xab), near],
        "\"sha256:abab\" fits 2 images: write more digits"
    );
    for missing in [
        "",
        "cac",
        "CACA",
        "caca0",
        "debian:10",
        "no blanks",
        "sha256:",
        "%",
        "____",
    ] {
        let text = format!("there is no image {missing:?}");
        assert_refused!(
            catalogue.find_image(missing),
            StoreError::ImageNotFound { name } if name == missing, text
        );
    }
}

#[test]
fn a_name_is_moved_and_taken_off() {
    let catalogue = Temp::new();
    let one = catalogue
        .add_image(&image(1, &[], &["a:1", "a:2"]))
        .unwrap()
        .id();
    let two = catalogue.add_image(&image(2, &[], &["a:2"])).unwrap().id();
    assert_eq!(names(&catalogue, one), ["a:1"]);
    assert_eq!(names(&catalogue, two), ["a:2"]);
    assert_refused!(
        catalogue.untag(&reference("a:1")),
        StoreError::LastName { name, image } if name == reference("a:1") && image == one,
        "a:1 is the only name of its image: remove the image instead"
    );
    catalogue.add_image(&image(1, &[], &["a"])).unwrap();
    catalogue.untag(&reference("a:1")).unwrap();
    assert_eq!(names(&catalogue, one), ["a:latest"]);
    assert_refused!(
        catalogue.untag(&reference("a:1")),
        StoreError::NameNotFound { .. },
        "no image goes by the name a:1"
    );
    // The last name may be moved: the image is then found by its digest.
    catalogue.add_image(&image(2, &[], &["a"])).unwrap();
    assert_eq!(names(&catalogue, one), [""; 0]);
    assert_eq!(catalogue.find_image("0101").unwrap().id, one);
    let long = ImageRef::new("x".repeat(255)).unwrap();
    assert!(matches!(
        catalogue.untag(&long),
        Err(StoreError::ImageName { .. })
    ));
}

#[test]
fn a_name_moves_to_the_image_that_is_tagged_and_the_last_one_can_go() {
    let catalogue = Temp::new();
    let one = catalogue.add_image(&image(1, &[], &["a:1"])).unwrap().id();
    let two = catalogue.add_image(&image(2, &[], &[])).unwrap().id();
    let tagged = catalogue.tag(two, &reference("b")).unwrap();
    assert_eq!(
        (tagged.id, names(&catalogue, two)),
        (two, vec!["b:latest".to_owned()])
    );
    catalogue.tag(two, &reference("a:1")).unwrap();
    assert_eq!(names(&catalogue, one), [""; 0]);
    assert_eq!(names(&catalogue, two), ["a:1", "b:latest"]);
    assert!(matches!(
        catalogue.tag(ImageId::new(9), &reference("a:1")),
        Err(StoreError::ImageNotFound { .. })
    ));
    for name in ["a:1", "b"] {
        assert_eq!(catalogue.untag_any(&reference(name)).unwrap().id, two);
        assert_refused!(
            catalogue.untag_any(&reference(name)),
            StoreError::NameNotFound { .. },
            format!(
                "no image goes by the name {}",
                if name == "b" { "b:latest" } else { name }
            )
        );
    }
    assert_eq!(names(&catalogue, two), [""; 0]);
}

#[test]
fn images_go_together_with_what_only_they_need() {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    let ids = stack(&catalogue, base, &[1, 2, 3]);
    let add = |n: u8, layers: &[VolumeId], names: &[&str]| {
        catalogue.add_image(&image(n, layers, names)).unwrap().id()
    };
    let low = add(1, &ids[..1], &[]);
    let middle = add(2, &ids[..2], &["named"]);
    let top = add(3, &ids, &["top"]);
    let others = [low, middle, ImageId::new(77)];
    // What has a name by now stays, and what it stands on.
    let planned = catalogue.plan_images_removal(Some(top), &others).unwrap();
    let gone = |removed: &RemovedImages| -> (Vec<_>, Vec<_>) {
        (
            removed.images.iter().map(|image| image.id).collect(),
            removed.volumes.iter().map(|volume| volume.id).collect(),
        )
    };
    assert_eq!(gone(&planned), (vec![top, low], vec![ids[2]]));
    catalogue.untag_any(&reference("named")).unwrap();
    let removed = catalogue.remove_images(None, &others).unwrap();
    assert_eq!(gone(&removed), (vec![low, middle], vec![]));
    let removed = catalogue.remove_images(Some(top), &others).unwrap();
    assert_eq!(gone(&removed), (vec![top], vec![ids[2], ids[1], ids[0]]));
    catalogue.check().unwrap();
}

#[test]
fn a_layer_is_sealed_with_its_image_or_not_at_all() {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    let ids = stack(&catalogue, base, &[1]);
    let open = begin_layer(&catalogue, ids[0]);
    let bad = image(5, &[ids[0], ids[0]], &[]);
    assert!(matches!(
        catalogue.seal_image(open, &layer(2, Some(1)), &bad),
        Err(StoreError::Lineage { .. })
    ));
    assert_eq!(catalogue.volume(open).unwrap().state, VolumeState::Creating);
    assert_eq!(catalogue.layer_by_chain(&digest(2)).unwrap(), None);
    let good = image(5, &ids, &["a:1"]);
    let added = catalogue
        .seal_image(open, &layer(2, Some(1)), &good)
        .unwrap();
    let layers = catalogue.image_layers(added.id()).unwrap();
    assert_eq!(
        layers.iter().map(|l| l.volume.id).collect::<Vec<_>>(),
        [ids[0], open]
    );
    assert_eq!(layers[1].volume.state, VolumeState::Ready);
}

#[test]
fn a_layer_is_found_by_its_digits_or_as_the_top_of_an_image() {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    let ids = stack(&catalogue, base, &[1, 2]);
    catalogue.add_image(&image(9, &ids, &["a:1"])).unwrap();
    let (low, top) = (layer(1, None), layer(2, Some(1)));
    for (text, expected) in [
        (low.chain_id.to_string(), &low),
        (top.chain_id.to_hex(), &top),
        (top.diff_id.to_string(), &top),
        ("a:1".to_owned(), &top),
        ("09090".to_owned(), &top),
    ] {
        assert_eq!(
            catalogue.find_layer(&text).unwrap().layer,
            *expected,
            "{text}"
        );
    }
    assert_refused!(
        catalogue.find_layer("ffff"),
        StoreError::LayerNotFound { .. },
        "there is no layer \"ffff\", and no image of that name with one"
    );
}

#[test]
fn removing_an_image_frees_what_nothing_else_needs() {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    let ids = stack(&catalogue, base, &[1, 2, 3]);
    let small = catalogue
        .add_image(&image(1, &ids[..1], &["small"]))
        .unwrap()
        .id();
    let large = catalogue
        .add_image(&image(2, &ids, &["large"]))
        .unwrap()
        .id();
    let before = catalogue.image(large).unwrap();
    let removed = catalogue.remove_image(large).unwrap();
    assert_eq!(removed.images, [before]);
    let gone: Vec<_> = removed.volumes.iter().map(|v| (v.id, v.state)).collect();
    assert_eq!(
        gone,
        [
            (ids[2], VolumeState::Deleting),
            (ids[1], VolumeState::Deleting)
        ]
    );
    assert_eq!(catalogue.layer_by_chain(&digest(2)).unwrap(), None);
    assert_eq!(catalogue.image_layers(small).unwrap().len(), 1);
    assert_refused!(
        catalogue.find_image("large"),
        StoreError::ImageNotFound { .. },
        "there is no image \"large\""
    );
    for id in [large, ImageId::new(u64::MAX)] {
        assert!(matches!(
            catalogue.remove_image(id),
            Err(StoreError::ImageNotFound { .. })
        ));
        assert!(matches!(
            catalogue.image_layers(id),
            Err(StoreError::ImageNotFound { .. })
        ));
        assert!(matches!(
            catalogue.image_config(id),
            Err(StoreError::ImageNotFound { .. })
        ));
    }
    // A layer being made on the top layer keeps it.
    let open = begin_layer(&catalogue, ids[0]);
    assert_eq!(catalogue.remove_image(small).unwrap().volumes, []);
    catalogue.forget_volume(open).unwrap();
    assert_eq!(catalogue.volume(ids[0]).unwrap().state, VolumeState::Ready);
    catalogue.begin_deleting(ids[0]).unwrap();
    catalogue.check().unwrap();
}

#[test]
fn a_container_has_its_name_from_intent_to_removal() {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    let ids = stack(&catalogue, base, &[1, 2]);
    let added = catalogue
        .add_image(&image(1, &ids, &["debian:12"]))
        .unwrap()
        .id();
    let volume = catalogue.begin_container(&container("web", added)).unwrap();
    assert_eq!(volume.kind, VolumeKind::Container);
    assert_eq!(volume.state, VolumeState::Creating);
    assert_eq!(volume.parent, Some(ids[1]));
    let record = ContainerRecord {
        name: container_name("web"),
        image: added,
        image_name: "debian:12".to_owned(),
        volume: volume.clone(),
    };
    assert_eq!(catalogue.container(&container_name("web")).unwrap(), record);
    assert_refused!(
        catalogue.begin_container(&container("web", added)),
        StoreError::ContainerExists { name } if name == container_name("web"),
        "there is a container web already: choose another name or remove it"
    );
    catalogue.set_ready_lazy(volume.id).unwrap();
    catalogue.begin_container(&container("app", added)).unwrap();
    let listed = catalogue.containers().unwrap();
    assert_eq!(
        listed.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(),
        ["app", "web"]
    );
    assert_refused!(
        catalogue.remove_image(added),
        StoreError::ImageInUse { containers }
            if containers == [container_name("app"), container_name("web")],
        "the image is in use by container app, web: remove them first"
    );
    let removed = catalogue.queue_removal(volume.id).unwrap();
    assert_eq!(
        (removed.id, removed.state),
        (volume.id, VolumeState::Deleting)
    );
    assert_refused!(
        catalogue.container(&container_name("web")),
        StoreError::ContainerNotFound { .. },
        "there is no container web"
    );
    assert!(matches!(
        catalogue.queue_removal(volume.id),
        Err(StoreError::VolumeTransition { .. })
    ));
    let again = catalogue.begin_container(&container("web", added)).unwrap();
    assert_ne!(again.id, volume.id);
    // A container that was never made is forgotten with its name.
    catalogue.forget_volume(again.id).unwrap();
    let app = catalogue.container(&container_name("app")).unwrap();
    catalogue.queue_removal(app.volume.id).unwrap();
    assert_eq!(catalogue.containers().unwrap(), []);
    // What is being deleted keeps neither image nor layers.
    assert_eq!(catalogue.remove_image(added).unwrap().volumes.len(), 2);
}

#[test]
fn containers_need_an_image_with_layers() {
    let catalogue = Temp::new();
    let empty = catalogue
        .add_image(&image(1, &[], &["scratch"]))
        .unwrap()
        .id();
    assert_refused!(
        catalogue.begin_container(&container("a", empty)),
        StoreError::ImageEmpty { config_digest } if config_digest == digest(1),
        format!("the image {} has no layers: a container needs one", digest(1))
    );
    assert_refused!(
        catalogue.begin_container(&container("a", ImageId::new(9))),
        StoreError::ImageNotFound { name } if name == "9",
        "there is no image \"9\""
    );
    let base = ready_base(&catalogue).id;
    let ids = stack(&catalogue, base, &[1]);
    let added = catalogue.add_image(&image(2, &ids, &[])).unwrap().id();
    catalogue.set_pool_state(PoolState::Destroying).unwrap();
    assert!(matches!(
        catalogue.begin_container(&container("a", added)),
        Err(StoreError::PoolDestroying)
    ));
    assert_eq!(catalogue.containers().unwrap(), []);
}
