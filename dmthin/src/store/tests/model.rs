//! Random verbs against the catalogue and against a model of it in memory: same answers, same
//! refusals, same contents, whatever the order, with reopenings in between.

use std::collections::BTreeMap;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

use crate::ids::{FsType, ImageId, VolumeId, VolumeKind};
use crate::store::tests::{
    BASE_SIZE, Temp, as_long_as, container, container_name, digest, image, layer, reference,
    variant,
};
use crate::store::{NewVolume, RemovedImages, StoreError, VolumeState};

/// Numbers pick among what there is, and a little beyond it.
#[derive(Debug, Clone)]
enum Verb {
    Base,
    Layer { parent: u8 },
    Ready { volume: u8, lazy: bool },
    Seal { volume: u8, chain: u8 },
    Delete { volume: u8 },
    Forget { volume: u8 },
    Activate { volume: u8, on: bool },
    AddImage { config: u8, top: u8, name: u8 },
    RemoveImage { image: u8 },
    Untag { name: u8 },
    Container { image: u8, name: u8 },
    RemoveContainer { name: u8 },
    Finalize { volume: u8 },
    TakeBack { volume: u8, name: u8 },
    Reopen,
}

fn verb() -> impl Strategy<Value = Verb> {
    let any_u8 = any::<u8>;
    let name = || 0_u8..3;
    prop_oneof![
        1 => Just(Verb::Base),
        4 => any_u8().prop_map(|parent| Verb::Layer { parent }),
        3 => (any_u8(), any::<bool>()).prop_map(|(volume, lazy)| Verb::Ready { volume, lazy }),
        8 => (any_u8(), 0_u8..7).prop_map(|(volume, chain)| Verb::Seal { volume, chain }),
        2 => any_u8().prop_map(|volume| Verb::Delete { volume }),
        2 => any_u8().prop_map(|volume| Verb::Forget { volume }),
        2 => (any_u8(), any::<bool>()).prop_map(|(volume, on)| Verb::Activate { volume, on }),
        6 => (0_u8..3, any_u8(), name())
            .prop_map(|(config, top, name)| Verb::AddImage { config, top, name }),
        2 => any_u8().prop_map(|image| Verb::RemoveImage { image }),
        1 => name().prop_map(|name| Verb::Untag { name }),
        4 => (any_u8(), name()).prop_map(|(image, name)| Verb::Container { image, name }),
        3 => name().prop_map(|name| Verb::RemoveContainer { name }),
        1 => any_u8().prop_map(|volume| Verb::Finalize { volume }),
        3 => (any_u8(), name()).prop_map(|(volume, name)| Verb::TakeBack { volume, name }),
        1 => Just(Verb::Reopen),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct Volume {
    kind: VolumeKind,
    state: VolumeState,
    parent: Option<u64>,
    active: bool,
    chain: Option<u8>,
    thin_id: u32,
}

#[derive(Debug, Default)]
struct Model {
    volumes: BTreeMap<u64, Volume>,
    nr_volumes: u64,
    /// Config and layers, the lowest first.
    images: BTreeMap<u64, (u8, Vec<u64>)>,
    nr_images: u64,
    names: BTreeMap<u8, u64>,
    /// Name to image and volume.
    containers: BTreeMap<u8, (u64, u64)>,
    /// Containers whose removal is not final, with their image as long as there is one.
    revocable: BTreeMap<u64, Option<u64>>,
}

type Answer = Result<(), String>;

fn refuse(variant: &str) -> Answer {
    Err(variant.to_owned())
}

impl Model {
    fn begin(&mut self, kind: VolumeKind, parent: Option<u64>) -> u64 {
        let thin_id = u32::try_from(self.nr_volumes).unwrap();
        self.nr_volumes += 1;
        let volume = Volume {
            kind,
            state: VolumeState::Creating,
            parent,
            active: false,
            chain: None,
            thin_id,
        };
        self.volumes.insert(self.nr_volumes, volume);
        self.nr_volumes
    }

    fn retire(&mut self, id: u64) {
        let volume = self.volumes.get_mut(&id).unwrap();
        volume.state = VolumeState::Deleting;
        volume.active = false;
        volume.chain = None;
        self.containers.retain(|_, (_, volume)| *volume != id);
    }

    fn is_used(&self, id: u64) -> bool {
        let has_child = self
            .volumes
            .values()
            .any(|v| v.parent == Some(id) && v.state != VolumeState::Deleting);
        (self.volumes[&id].kind != VolumeKind::Container && has_child)
            || self.images.values().any(|(_, layers)| layers.contains(&id))
    }

    /// The layers up to and with this one.
    fn layers_to(&self, top: u64) -> Vec<u64> {
        let mut layers = Vec::new();
        let mut next = Some(top);
        while let Some(id) = next {
            match self.volumes.get(&id) {
                Some(volume) if volume.kind == VolumeKind::Base => break,
                Some(volume) => next = volume.parent,
                None => next = None,
            }
            layers.insert(0, id);
        }
        layers
    }

    fn chain_of(&self, id: Option<u64>) -> Option<u8> {
        self.volumes.get(&id?)?.chain
    }

    fn ready(&self, id: u64) -> Result<Volume, String> {
        let volume = self.volumes.get(&id).cloned();
        let volume = volume.ok_or("VolumeNotFound")?;
        if volume.state == VolumeState::Ready {
            Ok(volume)
        } else {
            Err("VolumeNotReady".to_owned())
        }
    }

    fn set_ready(&mut self, id: u64) -> Answer {
        let has_base = self
            .volumes
            .values()
            .any(|v| v.kind == VolumeKind::Base && v.state == VolumeState::Ready);
        let volume = self.volumes.get_mut(&id).ok_or("VolumeNotFound")?;
        match (volume.kind, volume.state) {
            (VolumeKind::Layer, _) => refuse("LayerNotSealed"),
            (_, VolumeState::Ready | VolumeState::Deleting) => refuse("VolumeTransition"),
            (VolumeKind::Base, _) if has_base => refuse("BaseExists"),
            _ => {
                volume.state = VolumeState::Ready;
                volume.active = volume.kind == VolumeKind::Container;
                Ok(())
            }
        }
    }

    fn seal(&mut self, id: u64, chain: u8, parent_chain: Option<u8>) -> Answer {
        let volume = self.volumes.get(&id).ok_or("VolumeNotFound")?;
        if volume.kind != VolumeKind::Layer {
            return refuse("NotALayer");
        }
        if volume.state != VolumeState::Creating {
            return refuse("VolumeTransition");
        }
        if self.chain_of(volume.parent) != parent_chain {
            return refuse("Lineage");
        }
        if self.volumes.values().any(|v| v.chain == Some(chain)) {
            return refuse("LayerExists");
        }
        let volume = self.volumes.get_mut(&id).unwrap();
        volume.chain = Some(chain);
        volume.state = VolumeState::Ready;
        Ok(())
    }

    fn add_image(&mut self, config: u8, layers: &[u64], name: u8) -> Answer {
        let mut below = None;
        for id in layers {
            let volume = self.ready(*id)?;
            if volume.chain.is_none() {
                return refuse("NotALayer");
            }
            // The chain a layer was sealed on stays, even where that one's row is gone.
            if self.chain_of(volume.parent) != below {
                return refuse("Lineage");
            }
            below = volume.chain;
        }
        let known = self.images.iter().find(|(_, (known, _))| *known == config);
        let id = match known {
            Some((_, (_, known))) if known != layers => return refuse("ImageDiffers"),
            Some((id, _)) => *id,
            None => {
                self.nr_images += 1;
                self.images
                    .insert(self.nr_images, (config, layers.to_vec()));
                self.nr_images
            }
        };
        self.names.insert(name, id);
        Ok(())
    }

    fn remove_image(&mut self, id: u64) -> Answer {
        let (_, layers) = self.images.get(&id).cloned().ok_or("ImageNotFound")?;
        if self.containers.values().any(|(image, _)| *image == id) {
            return refuse("ImageInUse");
        }
        self.images.remove(&id);
        for image in self.revocable.values_mut() {
            *image = image.filter(|image| *image != id);
        }
        self.names.retain(|_, image| *image != id);
        for layer in layers.iter().rev() {
            if self.is_used(*layer) {
                break;
            }
            self.retire(*layer);
        }
        Ok(())
    }

    fn untag(&mut self, name: u8) -> Answer {
        let image = *self.names.get(&name).ok_or("NameNotFound")?;
        if self.names.values().filter(|other| **other == image).count() == 1 {
            return refuse("LastName");
        }
        self.names.remove(&name);
        Ok(())
    }

    fn container(&mut self, image: u64, name: u8) -> Answer {
        if self.containers.contains_key(&name) {
            return refuse("ContainerExists");
        }
        let (_, layers) = self.images.get(&image).cloned().ok_or("ImageNotFound")?;
        let top = *layers.last().ok_or("ImageEmpty")?;
        let volume = self.begin(VolumeKind::Container, Some(top));
        self.containers.insert(name, (image, volume));
        Ok(())
    }

    fn delete(&mut self, id: u64) -> Answer {
        let state = self.volumes.get(&id).ok_or("VolumeNotFound")?.state;
        if self.is_used(id) {
            return refuse("InUse");
        }
        if state == VolumeState::Deleting {
            return refuse("VolumeTransition");
        }
        self.retire(id);
        Ok(())
    }

    fn remove_container(&mut self, name: u8) -> Answer {
        let (image, id) = *self.containers.get(&name).ok_or("ContainerNotFound")?;
        if self.volumes[&id].state == VolumeState::Ready {
            self.revocable.insert(id, Some(image));
        }
        self.retire(id);
        Ok(())
    }

    fn deleting(&self, id: u64) -> Answer {
        match self.volumes.get(&id).ok_or("VolumeNotFound")?.state {
            VolumeState::Deleting => Ok(()),
            _ => refuse("VolumeTransition"),
        }
    }

    fn finalize(&mut self, id: u64) -> Answer {
        self.deleting(id)?;
        self.revocable.remove(&id);
        Ok(())
    }

    fn take_back(&mut self, id: u64, name: u8) -> Answer {
        self.deleting(id)?;
        let image = *self.revocable.get(&id).ok_or("RemovalFinal")?;
        if self.containers.contains_key(&name) {
            return refuse("ContainerExists");
        }
        let image = image.ok_or("RemovalOrphan")?;
        self.revocable.remove(&id);
        let volume = self.volumes.get_mut(&id).unwrap();
        (volume.state, volume.active) = (VolumeState::Ready, true);
        self.containers.insert(name, (image, id));
        Ok(())
    }

    fn forget(&mut self, id: u64) -> Answer {
        if self.volumes.get(&id).ok_or("VolumeNotFound")?.state == VolumeState::Ready {
            return refuse("VolumeTransition");
        }
        self.volumes.remove(&id);
        self.revocable.remove(&id);
        self.containers.retain(|_, (_, volume)| *volume != id);
        for volume in self.volumes.values_mut().filter(|v| v.parent == Some(id)) {
            volume.parent = None;
        }
        Ok(())
    }
}

fn answer<T>(result: Result<T, StoreError>) -> Answer {
    result.map(|_| ()).map_err(|error| variant(&error))
}

/// Mostly one of those that the verb is for, else any number given out, or one never given.
fn pick(n: u8, wanted: impl Iterator<Item = u64>, nr_given: u64) -> u64 {
    let wanted: Vec<_> = wanted.collect();
    let at = n / 5;
    if n.is_multiple_of(5) || wanted.is_empty() {
        u64::from(at) % (nr_given + 2)
    } else {
        wanted[usize::from(at) % wanted.len()]
    }
}

impl Model {
    fn pick_volume(&self, n: u8, wanted: impl Fn(&Volume) -> bool) -> u64 {
        let wanted = self.volumes.iter().filter(|(_, v)| wanted(v));
        pick(n, wanted.map(|(id, _)| *id), self.nr_volumes)
    }

    fn pick_image(&self, n: u8) -> u64 {
        pick(n, self.images.keys().copied(), self.nr_images)
    }
}

/// Runs a verb on both. Gives what the model says and what the catalogue says.
fn run(model: &mut Model, real: &Temp, verb: &Verb) -> (Answer, Answer) {
    match *verb {
        Verb::Reopen => (Ok(()), Ok(())),
        Verb::Base => {
            model.begin(VolumeKind::Base, None);
            let new = NewVolume::Base {
                fs: FsType::Ext4,
                size: BASE_SIZE,
            };
            (Ok(()), answer(real.begin_volume(new)))
        }
        Verb::Layer { parent } => {
            let key = model.pick_volume(parent, |v| v.state == VolumeState::Ready);
            let expected = model.ready(key).map(|_| {
                model.begin(VolumeKind::Layer, Some(key));
            });
            let parent = VolumeId::new(key);
            (expected, answer(real.begin_volume(as_long_as(parent))))
        }
        Verb::Ready { volume, lazy } => {
            let id = VolumeId::new(model.pick_volume(volume, |v| {
                v.state == VolumeState::Creating && v.kind != VolumeKind::Layer
            }));
            let done = if lazy {
                real.set_ready_lazy(id)
            } else {
                real.set_ready(id)
            };
            (model.set_ready(id.get()), answer(done))
        }
        Verb::Seal { volume, chain } => {
            let id = VolumeId::new(model.pick_volume(volume, |v| {
                v.state == VolumeState::Creating && v.kind == VolumeKind::Layer
            }));
            // Mostly the true chain below, else a wrong one.
            let parent = model.volumes.get(&id.get()).and_then(|v| v.parent);
            let below = if chain == 6 {
                Some(9)
            } else {
                model.chain_of(parent)
            };
            let done = real.seal_layer(id, &layer(chain, below));
            (model.seal(id.get(), chain, below), answer(done))
        }
        Verb::Delete { volume } => {
            let key = model.pick_volume(volume, |v| v.state != VolumeState::Deleting);
            let done = real.begin_deleting(VolumeId::new(key));
            (model.delete(key), answer(done))
        }
        Verb::Forget { volume } => {
            let key = model.pick_volume(volume, |v| v.state != VolumeState::Ready);
            let done = real.forget_volume(VolumeId::new(key));
            (model.forget(key), answer(done))
        }
        Verb::Activate { volume, on } => {
            let key = model.pick_volume(volume, |v| v.state == VolumeState::Ready);
            let expected = if on {
                model.ready(key).map(|_| ())
            } else {
                model
                    .volumes
                    .get(&key)
                    .map(|_| ())
                    .ok_or("VolumeNotFound".to_owned())
            };
            if expected.is_ok() {
                model.volumes.get_mut(&key).unwrap().active = on;
            }
            (expected, answer(real.set_active(VolumeId::new(key), on)))
        }
        Verb::AddImage { config, top, name } => {
            let layers = model.layers_to(model.pick_volume(top, |v| v.chain.is_some()));
            let ids: Vec<_> = layers.iter().copied().map(VolumeId::new).collect();
            let done = real.add_image(&image(config, &ids, &[&format!("name:{name}")]));
            (model.add_image(config, &layers, name), answer(done))
        }
        Verb::RemoveImage { image } => {
            let key = model.pick_image(image);
            let planned = real.plan_images_removal(Some(ImageId::new(key)), &[]);
            let done = real.remove_image(ImageId::new(key));
            let ids = |removed: &RemovedImages| -> Vec<_> {
                removed.volumes.iter().map(|volume| volume.id).collect()
            };
            assert_eq!(planned.as_ref().ok().map(ids), done.as_ref().ok().map(ids));
            (model.remove_image(key), answer(done))
        }
        Verb::Untag { name } => {
            let done = real.untag(&reference(&format!("name:{name}")));
            (model.untag(name), answer(done))
        }
        Verb::Container { image, name } => {
            let key = model.pick_image(image);
            let done = real.begin_container(&container(&format!("c{name}"), ImageId::new(key)));
            (model.container(key, name), answer(done))
        }
        Verb::RemoveContainer { name } => {
            let found = real.container(&container_name(&format!("c{name}")));
            let done = found.and_then(|found| real.queue_removal(found.volume.id));
            (model.remove_container(name), answer(done))
        }
        Verb::Finalize { volume } => {
            let key = model.pick_volume(volume, |v| v.state == VolumeState::Deleting);
            let done = real.make_removal_final(VolumeId::new(key));
            (model.finalize(key), answer(done))
        }
        Verb::TakeBack { volume, name } => {
            let key = model.pick_volume(volume, |v| {
                v.state == VolumeState::Deleting && v.kind == VolumeKind::Container
            });
            let name_then = container_name(&format!("c{name}"));
            let done = real.cancel_removal(VolumeId::new(key), &name_then);
            (model.take_back(key, name), answer(done))
        }
    }
}

fn assert_same(model: &Model, real: &Temp) {
    let layers = real.layers().unwrap();
    let volumes: BTreeMap<_, _> = real
        .all_volumes()
        .unwrap()
        .into_iter()
        .map(|v| {
            let chain = layers.iter().find(|layer| layer.volume == v).map(|layer| {
                (0..=9)
                    .find(|n| digest(*n) == layer.layer.chain_id)
                    .unwrap()
            });
            let volume = Volume {
                kind: v.kind,
                state: v.state,
                parent: v.parent.map(VolumeId::get),
                active: v.active,
                chain,
                thin_id: v.thin_id.get(),
            };
            (v.id.get(), volume)
        })
        .collect();
    assert_eq!(volumes, model.volumes);

    let images = real.images().unwrap();
    assert_eq!(images.len(), model.images.len());
    for found in &images {
        let (config, layers) = &model.images[&found.id.get()];
        assert_eq!(found.config_digest, digest(*config));
        let real_layers = real.image_layers(found.id).unwrap();
        let ids: Vec<_> = real_layers.iter().map(|l| l.volume.id.get()).collect();
        assert_eq!(ids, *layers);
        let names: Vec<_> = model
            .names
            .iter()
            .filter(|(_, image)| **image == found.id.get())
            .map(|(name, _)| reference(&format!("name:{name}")))
            .collect();
        assert_eq!(found.names, names);
    }
    let containers: Vec<_> = real
        .containers()
        .unwrap()
        .into_iter()
        .map(|c| (c.name, c.image.get(), c.volume.id.get()))
        .collect();
    let expected: Vec<_> = model
        .containers
        .iter()
        .map(|(name, (image, volume))| (container_name(&format!("c{name}")), *image, *volume))
        .collect();
    assert_eq!(containers, expected);
    let revocable: Vec<_> = real.removals().unwrap();
    let revocable = revocable.iter().filter(|removal| !removal.is_final);
    let revocable: Vec<_> = revocable.map(|removal| removal.volume.id.get()).collect();
    let expected: Vec<_> = model.revocable.keys().copied().collect();
    assert_eq!(revocable, expected);
    let next = real.pool().unwrap().next_thin_id.unwrap();
    assert_eq!(u64::from(next.get()), model.nr_volumes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_catalogue_does_as_its_model(verbs in proptest::collection::vec(verb(), 1..80)) {
        let mut real = Temp::new();
        let mut model = Model::default();
        // A start that most sequences need, so that fewer of them are refusals all through.
        let start = [
            Verb::Base,
            Verb::Ready { volume: 1, lazy: false },
            Verb::Layer { parent: 1 },
            Verb::Seal { volume: 1, chain: 0 },
            Verb::Layer { parent: 6 },
            Verb::Seal { volume: 1, chain: 1 },
            Verb::AddImage { config: 0, top: 6, name: 0 },
            Verb::Container { image: 1, name: 0 },
        ];
        for verb in start.iter().chain(&verbs) {
            if matches!(verb, Verb::Reopen) {
                real = real.reopened();
            }
            let (expected, found) = run(&mut model, &real, verb);
            assert_eq!(found, expected, "{verb:?}");
            assert_same(&model, &real);
        }
        real.check().unwrap();
    }
}
