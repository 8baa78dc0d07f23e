//! The pools that a monitor looks after, and what it has done beside it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dmthin::graph::{
    Bell, Look, Measured, MonitorOp, Operation, PoolError, PoolMonitor, QueueRound, QueueRun,
};
use dmthin::ids::PoolName;

use super::{Event, MonitorArgs};
use crate::args::Context;
use crate::metrics::Watched;

/// How often what runs beside a monitor is looked at, for what it has done.
const BESIDE_RUNS: Duration = Duration::from_secs(1);

/// One pool that is looked after.
struct Charge {
    monitor: PoolMonitor,
    /// While we have it, removals leave the slow part to us.
    bell: Option<Bell>,
    queue: Option<JoinHandle<(Result<QueueRun, PoolError>, Operation)>>,
    measuring: Option<JoinHandle<Measured>>,
    copying: Option<JoinHandle<Operation>>,
    measured: Measured,
    /// What was done beside the monitor.
    operations: Vec<Operation>,
}

/// What a thread came to, once it has ended.
fn ended<T>(thread: &mut Option<JoinHandle<T>>) -> Option<T> {
    thread.take_if(|thread| thread.is_finished())?.join().ok()
}

impl Charge {
    /// Looks once; events come with those of a queue that has ended since.
    fn look(&mut self, measure: bool) -> Result<(Look, Vec<Event>), PoolError> {
        let mut look = self.monitor.look()?;
        let mut events = Vec::new();
        if let Some((run, operation)) = ended(&mut self.queue) {
            self.operations.push(operation);
            match run {
                Ok(run) if run.removed.is_empty() => {}
                Ok(run) => events.push(Event::Removed {
                    event: "removed",
                    removed: run.removed.len(),
                }),
                Err(error) => tracing::warn!(%error, "the queue cannot be run"),
            }
        }
        if look.queue_due && self.queue.is_none() {
            let pool = Arc::clone(self.monitor.pool());
            // Beside us: discarding takes its time, and a pool that fills does not wait.
            self.queue = Some(thread::spawn(move || {
                Operation::timed(MonitorOp::RunQueue, || pool.run_queue(QueueRound::Due))
            }));
        }
        if measure && look.open {
            self.measure()?;
        }
        self.operations.extend(ended(&mut self.copying));
        if look.open && self.copying.is_none() && self.monitor.copy_due()? {
            let pool = Arc::clone(self.monitor.pool());
            self.copying = Some(thread::spawn(move || pool.copy_in_time()));
        }
        if !self.is_idle() {
            // Its end is no event of the kernel's.
            look.next = look.next.min(BESIDE_RUNS);
        }
        Ok((look, events))
    }

    /// Takes what was measured, and has measured what is due: beside us too.
    fn measure(&mut self) -> Result<(), PoolError> {
        if let Some(measured) = ended(&mut self.measuring) {
            self.operations.extend(&measured.operations);
            self.measured.update(measured);
        }
        if self.measuring.is_none()
            && let Some(what) = self.monitor.measure_due()?
        {
            let pool = Arc::clone(self.monitor.pool());
            self.measuring = Some(thread::spawn(move || pool.measure(what)));
        }
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.queue.is_none() && self.measuring.is_none() && self.copying.is_none()
    }
}

/// The pools that are looked after.
pub(super) struct Charges<'a> {
    context: &'a Context,
    args: &'a MonitorArgs,
    charges: BTreeMap<PoolName, Charge>,
    /// The last trouble with each, so that it is told once.
    troubles: BTreeMap<PoolName, String>,
    /// Whether metrics are wanted, for which more is asked.
    measure: bool,
}

impl<'a> Charges<'a> {
    pub(super) const fn new(context: &'a Context, args: &'a MonitorArgs, measure: bool) -> Self {
        Self {
            context,
            args,
            charges: BTreeMap::new(),
            troubles: BTreeMap::new(),
            measure,
        }
    }

    fn names(&self) -> Result<Vec<PoolName>, PoolError> {
        if !self.args.names.is_empty() {
            return Ok(self.args.names.clone());
        }
        let pools = self.context.host.pools()?;
        Ok(pools.into_iter().map(|pool| pool.name).collect())
    }

    fn look_at(&mut self, name: &PoolName) -> Result<(Look, Vec<Event>), PoolError> {
        if !self.charges.contains_key(name) {
            let pool = Arc::new(self.context.host.pool(name)?);
            let policy = self.args.policy(&self.context.settings.monitor(name));
            let bell = match pool.bell() {
                Ok(bell) => Some(bell),
                // All else goes on without it.
                Err(error) => {
                    tracing::warn!(pool = %name, %error, "removals cannot call the monitor");
                    None
                }
            };
            let charge = Charge {
                bell,
                monitor: PoolMonitor::new(pool, policy),
                queue: None,
                measuring: None,
                copying: None,
                measured: Measured::default(),
                operations: Vec::new(),
            };
            self.charges.insert(name.clone(), charge);
        }
        match self.charges.get_mut(name) {
            Some(charge) => charge.look(self.measure),
            None => Err(PoolError::PoolNotOpen { name: name.clone() }),
        }
    }

    /// Looks at each pool; gives what happened, and when to look again.
    pub(super) fn look(&mut self) -> Result<(Vec<(PoolName, Event)>, Duration), PoolError> {
        let mut all = Vec::new();
        // For who waits for pools to come.
        let mut next = self
            .args
            .policy(&self.context.settings.monitor_of_all())
            .net;
        let names = self.names()?;
        self.charges.retain(|name, _| names.contains(name));
        for name in names {
            match self.look_at(&name) {
                Ok((look, events)) => {
                    self.troubles.remove(&name);
                    next = next.min(look.next);
                    let seen = look.events.into_iter().map(Event::Monitor);
                    all.extend(seen.chain(events).map(|event| (name.clone(), event)));
                    let idle = self.charges.get(&name).is_some_and(Charge::is_idle);
                    if !look.open && idle {
                        // It may be another one when it opens again.
                        self.charges.remove(&name);
                    }
                }
                Err(error) => {
                    self.charges.remove(&name);
                    let text = error.to_string();
                    if self.troubles.get(&name) != Some(&text) {
                        tracing::warn!(pool = %name, %error, "cannot look at the pool");
                        self.troubles.insert(name, text);
                    }
                }
            }
        }
        Ok((all, next))
    }

    pub(super) fn bells(&self) -> Vec<&Bell> {
        let charges = self.charges.values();
        charges.filter_map(|charge| charge.bell.as_ref()).collect()
    }

    /// What was done since this was asked last.
    pub(super) fn operations(&mut self) -> Vec<(PoolName, Operation)> {
        let mut all = Vec::new();
        for (name, charge) in &mut self.charges {
            let beside = std::mem::take(&mut charge.operations);
            let done = charge.monitor.operations().into_iter().chain(beside);
            all.extend(done.map(|operation| (name.clone(), operation)));
        }
        all
    }

    /// The open pools as metrics tell them.
    pub(super) fn watched(&self) -> Vec<Watched<'_>> {
        let mut watched = Vec::new();
        for charge in self.charges.values() {
            let pool = charge.monitor.pool();
            let asked = || {
                Ok::<_, PoolError>(Watched {
                    pool: pool.status()?,
                    containers: pool.containers()?,
                    volumes: pool.volumes()?,
                    counts: pool.volume_counts()?,
                    measured: &charge.measured,
                    copied: pool.metadata_copied(),
                })
            };
            match asked() {
                Ok(pool) => watched.push(pool),
                Err(error) => tracing::debug!(%error, "no metrics of a pool"),
            }
        }
        watched
    }
}
