//! What the verbs of a plan are here, and what there is when they are done.

use std::collections::BTreeMap;

use dmthin::graph::{
    CreateContainer, CreatePool, CreateVolume, GrowPool, PoolError, QueueRound, Removing, Which,
};
use dmthin::ids::{SnapshotName, VolumeName, WritableName};
use dmthin::units::{Bytes, NewSize};

use super::{Checked, Files, MIB, Seen, Thing, World, container_name, pick};
use crate::plan::Verb;

/// What a container grows by, and the base.
const MORE: Bytes = Bytes::from_mib(16);
/// What a data volume has.
const VOLUME: Bytes = Bytes::from_mib(32);
const BALLAST: Bytes = Bytes::from_mib(1);

/// A verb on what there is: what it does, and what there is when it has.
pub(crate) struct Task {
    pub(crate) does: Does,
    pub(crate) after: Seen,
    /// Or this.
    pub(crate) or: Option<Seen>,
    /// Where it was cut or failed, this too.
    pub(crate) halfway: Option<Seen>,
}

impl Task {
    /// What may be there once it was done.
    pub(crate) fn outcomes(self) -> Vec<Seen> {
        std::iter::once(self.after).chain(self.or).collect()
    }
}

/// What a verb does.
pub(super) type Does = Box<dyn Fn(&World) -> Result<(), PoolError>>;

#[allow(clippy::unnecessary_wraps, reason = "as all that may be nothing")]
pub(super) fn does(what: impl Fn(&World) -> Result<(), PoolError> + 'static) -> Option<Does> {
    Some(Box::new(what))
}

fn volume_name(name: &str) -> VolumeName {
    VolumeName::new(name).unwrap()
}

fn snapshot_name(name: &str) -> SnapshotName {
    SnapshotName::new(name).unwrap()
}

fn writable(name: &str) -> WritableName {
    match name.starts_with('v') {
        true => WritableName::Data(volume_name(name)),
        false => WritableName::Container(container_name(name)),
    }
}

impl World {
    /// What a verb means here; `None` where there is nothing for it.
    pub(crate) fn task(&mut self, verb: Verb) -> Checked<Option<Task>> {
        let mut after = self.seen.clone();
        let or = match verb {
            // What is queued and due may be taken along.
            Verb::Collect => Some(self.settled(after.clone())),
            _ => None,
        };
        let Some(does) = self.doing(verb, &mut after)? else {
            return Ok(None);
        };
        after.images.sort();
        let halfway = match verb {
            // Before the catalogue has the sizes: metadata are taken as long as they are, data are not.
            Verb::GrowPool {
                data: true,
                metadata: true,
            } => Some(Seen {
                metadata: after.metadata,
                ..self.seen.clone()
            }),
            _ => None,
        };
        Ok(Some(Task {
            does,
            after,
            or,
            halfway,
        }))
    }

    fn doing(&mut self, verb: Verb, after: &mut Seen) -> Checked<Option<Does>> {
        Ok(match verb {
            Verb::Import(_)
            | Verb::RemoveImage(_)
            | Verb::Tag { .. }
            | Verb::Untag(_)
            | Verb::Prune
            | Verb::Commit(_) => self.doing_images(verb, after)?,
            Verb::Reset(nr) => {
                let rows = self.images()?;
                let names = self.seen.named('c').filter(|name| !self.is_held(name));
                let Some(name) = pick(names.cloned().collect(), nr) else {
                    return Ok(None);
                };
                let thing = after.things.get_mut(&name).expect("picked from these");
                let image = rows
                    .iter()
                    .find(|row| Some(&row.id) == thing.image.as_ref());
                thing.files = image.ok_or("its image is gone")?.seen.files.clone();
                let name = container_name(&name);
                does(move |world| world.pool()?.reset_container(&name).map(drop))
            }
            Verb::Create { image, larger } => {
                let Some(row) = pick(self.images()?, image) else {
                    return Ok(None);
                };
                let name = self.made_up("c");
                let least = Bytes::new(after.base.max(row.size));
                let size = larger.then(|| least.saturating_add(MORE));
                let thing = Thing {
                    image: Some(row.id.clone()),
                    size: size.unwrap_or(least).get(),
                    files: row.seen.files,
                    snapshots: BTreeMap::new(),
                };
                self.known.insert(name.clone(), thing.clone());
                after.things.insert(name.clone(), thing);
                let new = CreateContainer {
                    image: row.id,
                    name: Some(container_name(&name)),
                    size,
                };
                does(move |world| world.pool()?.create_container(&new).map(drop))
            }
            _ => self.doing_things(verb, after),
        })
    }

    fn doing_things(&mut self, verb: Verb, after: &mut Seen) -> Option<Does> {
        match verb {
            Verb::CreatePool => {
                after.data = CreatePool::MIN_SIZE.get();
                after.metadata = 64 * MIB;
                after.base = 64 * MIB;
                does(Self::create_pool)
            }
            Verb::Fork(nr) => {
                let of = self.container_by(nr)?;
                let name = self.made_up("c");
                let thing = Thing {
                    snapshots: BTreeMap::new(),
                    ..after.things[&of].clone()
                };
                self.known.insert(name.clone(), thing.clone());
                after.things.insert(name.clone(), thing);
                let (of, name) = (container_name(&of), container_name(&name));
                does(move |world| world.pool()?.fork_container(&of, Some(&name)).map(drop))
            }
            Verb::Diff(nr) => {
                let name = container_name(&self.container_by(nr)?);
                does(move |world| world.pool()?.diff_container(&name).map(drop))
            }
            Verb::Remove { container, queued } => {
                let name = self.container_by(container)?;
                let thing = after.things.remove(&name)?;
                if queued || self.is_held(&name) {
                    after.queued.insert(name.clone());
                }
                let how = if queued {
                    Removing::Queued
                } else {
                    Removing::Now
                };
                let name = container_name(&name);
                if thing.snapshots.is_empty() {
                    does(move |world| world.pool()?.remove_container(&name, how).map(drop))
                } else {
                    does(move |world| {
                        let pool = world.pool()?;
                        pool.remove_container_with_snapshots(&name, how).map(drop)
                    })
                }
            }
            Verb::MakeVolume => {
                let name = self.made_up("v");
                let thing = Thing {
                    image: None,
                    size: VOLUME.get(),
                    files: Files::new(),
                    snapshots: BTreeMap::new(),
                };
                after.things.insert(name.clone(), thing);
                let new = CreateVolume {
                    name: volume_name(&name),
                    size: VOLUME,
                    fs: None,
                };
                does(move |world| world.pool()?.create_volume(&new).map(drop))
            }
            Verb::RemoveVolume(nr) => {
                let name = pick(self.seen.named('v').cloned().collect(), nr)?;
                after.things.remove(&name)?;
                let name = volume_name(&name);
                does(move |world| world.pool()?.remove_volume(&name, true).map(drop))
            }
            Verb::Grow(nr) => {
                let name = self.idle(nr)?;
                let size = &mut after.things.get_mut(&name)?.size;
                *size += MORE.get();
                let size = NewSize::To(Bytes::new(*size));
                let of = writable(&name);
                does(move |world| {
                    let pool = world.pool()?;
                    match &of {
                        WritableName::Container(name) => pool.grow_container(name, size).map(drop),
                        WritableName::Data(name) => pool.grow_volume(name, size).map(drop),
                    }
                })
            }
            Verb::Snapshot(nr) => {
                let name = pick(self.seen.things.keys().cloned().collect(), nr)?;
                let snapshot = self.made_up("s");
                let thing = after.things.get_mut(&name)?;
                thing
                    .snapshots
                    .insert(snapshot.clone(), thing.files.clone());
                let (of, snapshot) = (writable(&name), snapshot_name(&snapshot));
                does(move |world| world.pool()?.take_snapshot(&of, Some(&snapshot)).map(drop))
            }
            Verb::RemoveSnapshot(nr) => {
                let (name, snapshot) = self.snapshot_by(nr, |_| true)?;
                after.things.get_mut(&name)?.snapshots.remove(&snapshot);
                let (of, snapshot) = (writable(&name), snapshot_name(&snapshot));
                does(move |world| world.pool()?.remove_snapshot(&of, &snapshot).map(drop))
            }
            Verb::Rollback(nr) => {
                let (name, snapshot) = self.snapshot_by(nr, |name| !self.is_held(name))?;
                let thing = after.things.get_mut(&name)?;
                thing.files = thing.snapshots[&snapshot].clone();
                let (of, to) = (writable(&name), snapshot_name(&snapshot));
                does(move |world| {
                    let pool = world.pool()?;
                    match &of {
                        WritableName::Container(name) => {
                            pool.rollback_container(name, &to).map(drop)
                        }
                        WritableName::Data(name) => pool.rollback_volume(name, &to).map(drop),
                    }
                })
            }
            Verb::RunQueue => {
                after.queued.retain(|name| self.is_held(name));
                does(|world| world.pool()?.run_queue(QueueRound::All).map(drop))
            }
            Verb::Cancel(nr) => {
                let queue = self.pool().ok()?.queue().ok()?;
                let names = queue
                    .into_iter()
                    .filter(|removal| !removal.is_final)
                    .filter_map(|removal| removal.name.map(|name| name.to_string()))
                    .filter(|name| self.has_image_of(name));
                let name = pick(names.collect(), nr)?;
                after.queued.remove(&name);
                let known = Thing {
                    snapshots: BTreeMap::new(),
                    ..self.known[&name].clone()
                };
                after.things.insert(name.clone(), known);
                let which = Which::Name(container_name(&name));
                does(move |world| world.pool()?.cancel_removal(&which, None).map(drop))
            }
            Verb::MakeBallast if after.ballast => None,
            Verb::MakeBallast => {
                after.ballast = true;
                does(|world| world.pool()?.make_ballast(BALLAST).map(drop))
            }
            Verb::ReleaseBallast if !after.ballast => None,
            Verb::ReleaseBallast => {
                after.ballast = false;
                does(|world| world.pool()?.release_ballast().map(drop))
            }
            Verb::GrowPool { data, metadata } => {
                let by = |grows: bool, mib| grows.then(|| NewSize::By(Bytes::from_mib(mib)));
                let grow = GrowPool {
                    data: by(data, 32),
                    metadata: by(metadata, 8),
                    ..GrowPool::default()
                };
                after.data += if data { 32 * MIB } else { 0 };
                after.metadata += if metadata { 8 * MIB } else { 0 };
                does(move |world| world.pool()?.grow(&grow).map(drop))
            }
            Verb::GrowBase => {
                after.base += MORE.get();
                let to = NewSize::To(Bytes::new(after.base));
                does(move |world| world.pool()?.grow_base(to).map(drop))
            }
            Verb::BackUp => does(|world| world.pool()?.backup_metadata(2).map(drop)),
            Verb::Check => does(|world| world.host.check(None).map(drop)),
            Verb::Collect => does(|world| world.host.gc(Some(&world.name), false).map(drop)),
            Verb::Reopen => {
                after.queued.retain(|name| self.is_held(name));
                let closes = self.held.is_none();
                does(move |world| {
                    if closes {
                        world.close()?;
                    }
                    world.open()
                })
            }
            Verb::Rebuild { torn } => {
                // Who has a device open keeps the pool from being closed.
                if self.held.is_some() {
                    return None;
                }
                after.queued.clear();
                self.lose_catalogue(torn);
                does(Self::open)
            }
            _ => None,
        }
    }

    fn has_image_of(&self, container: &str) -> bool {
        let image = self
            .known
            .get(container)
            .and_then(|thing| thing.image.as_ref());
        let rows = self.images().unwrap_or_default();
        rows.iter().any(|row| Some(&row.id) == image)
    }
}
