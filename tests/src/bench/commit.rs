//! A commit of twelve bytes, against the making of a container and nothing else.

use std::fs;
use std::path::Path;

use anyhow::Result;
use dmthin::graph::{Commit, CreateContainer, Freeze, Parents, Pool, Removing};
use dmthin::ids::{ContainerName, ImageRef};
use dmthin::store::Timestamp;

use crate::bench::samples::Phase;

/// Makes a container in each round, changes twelve bytes of it and commits it while it is mounted.
pub(super) fn measure(pool: &Pool, image: &ImageRef, dir: &Path, rounds: u64) -> Result<Phase> {
    let name = ContainerName::new("committed")?;
    let new = CreateContainer {
        image: image.to_string(),
        name: Some(name.clone()),
        size: None,
    };
    let commit = Commit {
        name: Some(ImageRef::new("bench:committed")?),
        message: None,
        author: None,
        changes: Vec::new(),
        created: Timestamp::from_unix(0),
    };
    let mut phase = Phase::default();
    fs::create_dir_all(dir)?;
    for round in 0..rounds {
        phase.step("create", || Ok(pool.create_container(&new)?))?;
        pool.mount_container(&name, dir)?;
        // Each time others, so that each time it is another layer.
        fs::write(dir.join("hello"), format!("{round:012}"))?;
        phase.step("commit", || {
            Ok(pool.commit_container(&name, Freeze::Yes, &commit)?)
        })?;
        pool.unmount_container(&name)?;
        pool.remove_container(&name, Removing::Now)?;
        pool.remove_image("bench:committed", Parents::Keep)?;
    }
    Ok(phase)
}
