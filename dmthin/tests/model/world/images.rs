//! The verbs of images.

use dmthin::graph::{Commit, Freeze, ImportSource, Parents};
use dmthin::ids::ImageRef;
use dmthin::store::Timestamp;

use super::tasks::{Does, does};
use super::{Checked, Seen, World, container_name, pick, require, told};
use crate::plan::Verb;

fn image_ref(name: &str) -> ImageRef {
    name.parse().unwrap()
}

impl World {
    pub(super) fn doing_images(&mut self, verb: Verb, after: &mut Seen) -> Checked<Option<Does>> {
        let mut rows = self.images()?;
        Ok(match verb {
            Verb::Import(nr) => {
                let Some(image) = pick(self.images.clone(), nr) else {
                    return Ok(None);
                };
                match rows.iter().find(|row| row.id == image.id) {
                    // It only gets its name back.
                    Some(row) => {
                        let at = after.images.iter().position(|seen| *seen == row.seen);
                        after.free(&image.name);
                        let found = &mut after.images[at.ok_or("it was not seen")?];
                        found.names.insert(image.name);
                    }
                    None => after.add_image(&image.name, image.files.into_iter().collect()),
                }
                let source = ImportSource::File(image.archive);
                does(move |world| {
                    let pool = world.pool()?;
                    pool.import(&source, None, &mut |_| {}).map(drop)
                })
            }
            Verb::Commit(nr) => {
                let (tag, Some(name)) = (self.made_up("made"), self.container_by(nr)) else {
                    return Ok(None);
                };
                let tag = format!("{tag}:1");
                after.add_image(&tag, after.things[&name].files.clone());
                let commit = Commit {
                    name: Some(image_ref(&tag)),
                    message: None,
                    author: None,
                    changes: Vec::new(),
                    created: Timestamp::from_unix(self.named),
                };
                let name = container_name(&name);
                does(move |world| {
                    let pool = world.pool()?;
                    pool.commit_container(&name, Freeze::Yes, &commit).map(drop)
                })
            }
            Verb::RemoveImage(nr) => {
                rows.retain(|row| !row.in_use);
                let Some(row) = pick(rows, nr) else {
                    return Ok(None);
                };
                let at = after.images.iter().position(|seen| *seen == row.seen);
                after.images.remove(at.ok_or("it was not seen")?);
                does(move |world| {
                    let removed = world.pool()?.remove_image(&row.id, Parents::Keep);
                    removed.map(drop)
                })
            }
            Verb::Tag { image, name } => {
                let Some(row) = pick(rows, image) else {
                    return Ok(None);
                };
                let name = format!("tag{name}:1");
                let at = after.images.iter().position(|seen| *seen == row.seen);
                after.free(&name);
                let found = &mut after.images[at.ok_or("it was not seen")?];
                found.names.insert(name.clone());
                let name = image_ref(&name);
                does(move |world| world.pool()?.tag_image(&row.id, &name).map(drop))
            }
            Verb::Untag(nr) => {
                let names = rows.into_iter().flat_map(|row| row.seen.names);
                let Some(name) = pick(names.collect(), nr) else {
                    return Ok(None);
                };
                after.free(&name);
                let name = image_ref(&name);
                does(move |world| world.pool()?.untag_image(&name).map(drop))
            }
            _ => {
                let plan = self.pool().and_then(|pool| pool.plan_prune());
                let gone = plan.map_err(told)?.names;
                require(
                    rows.iter().all(|row| {
                        !gone.contains(&row.id) || (row.seen.names.is_empty() && !row.in_use)
                    }),
                    || format!("{gone:?} would be pruned"),
                )?;
                rows.retain(|row| !gone.contains(&row.id));
                after.images = rows.into_iter().map(|row| row.seen).collect();
                does(|world| world.pool()?.prune_images().map(drop))
            }
        })
    }
}
