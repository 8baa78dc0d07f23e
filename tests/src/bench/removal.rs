//! What `rm` takes until it returns, where the slow part is left to the queue.

use anyhow::Result;
use dmthin::graph::{CreateContainer, Pool, QueueRound, Removing};
use dmthin::ids::ContainerName;
use dmthin::store::Catalogue;

use crate::bench::samples::Phase;

/// Removes a container in each round, and commits to the catalogue once without doing anything else.
pub(super) fn measure(
    pool: &Pool,
    catalogue: &Catalogue,
    image: &str,
    rounds: u64,
) -> Result<Phase> {
    let name = ContainerName::new("removal")?;
    let new = CreateContainer {
        image: image.to_owned(),
        name: Some(name.clone()),
        size: None,
    };
    let mut phase = Phase::default();
    for round in 0..rounds {
        pool.create_container(&new)?;
        phase.step("rm", || Ok(pool.remove_container(&name, Removing::Queued)?))?;
        // Each time another value, so that there is something to commit.
        phase.step("a commit", || Ok(catalogue.set_overcommit(round % 2 == 1)?))?;
        phase.step("the rest", || Ok(pool.run_queue(QueueRound::All)?))?;
    }
    catalogue.set_overcommit(true)?;
    Ok(phase)
}
