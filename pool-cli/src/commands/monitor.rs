//! `pool-cli monitor`: looks after pools until it is stopped.

mod charge;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use dmthin::graph::{MonitorEvent, MonitorPolicy, OnFull};
use dmthin::ids::PoolName;
use dmthin::units::{Bytes, GrowthPercent, Percent};
use serde::Serialize;

use self::charge::Charges;
use crate::args::{Context, size};
use crate::config::{MonitorSettings, Threshold};
use crate::metrics::{self, Counters};
use crate::notify::Notify;
use crate::output::record;

/// Events come in bursts: a container that is made is several. One look serves all of them.
const BURST: Duration = Duration::from_millis(100);

pub(crate) const MONITOR_HELP: &str = "\
Sleeps until the kernel tells of an event, at the latest for --interval. Then, for each pool: grows
metadata and data that have reached the threshold, sooner where the guard would refuse before; runs
removals that are due; at the red line lets the ballast go and, with --on-full freeze, suspends the
containers' devices until there is room. Files are grown as far as their file system has room, block
devices are taken as large as they have become. It keeps nothing that would be lost if it is killed.

Prints what it does and sees, one a line: the pool, a word for the event, and what happened, with
tabs between them. Words: filled, mode, grew, not_grown, ballast_released, held, let_go, removed. The
program of --hook is run for each, with DMTHIN_POOL, DMTHIN_EVENT (the word) and DMTHIN_MESSAGE set, and
the event as JSON in DMTHIN_JSON. Under systemd it tells when it is ready and keeps the watchdog
content.

Examples:
  pool-cli monitor
  pool-cli monitor tank --max-size 500G --on-full freeze
  pool-cli monitor --json --metrics /var/lib/node_exporter/dmthin.prom";

/// Options of `monitor`; what is not given is taken from the settings.
#[derive(Debug, Args)]
pub(crate) struct MonitorArgs {
    /// The pools [default: all there are, and those that come]
    names: Vec<PoolName>,
    /// Share in use from which data and metadata are grown; off: never [default: 80%]
    #[arg(long, value_name = "PERCENT", value_parser = threshold)]
    threshold: Option<Threshold>,
    /// By how many percent they are grown [default: 20%]
    #[arg(long, value_name = "PERCENT", value_parser = growth)]
    grow_by: Option<GrowthPercent>,
    /// Data are not grown beyond this
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_size: Option<Bytes>,
    /// Metadata are not grown beyond this
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_metadata_size: Option<Bytes>,
    /// Share left at which the ballast is let go and containers are held [default: 5%]
    #[arg(long, value_name = "PERCENT")]
    red_line: Option<Percent>,
    /// What becomes of writers in a full pool [default: as `pool set --on-full` has it]
    #[arg(long, value_name = "WHAT", value_parser = on_full())]
    on_full: Option<OnFull>,
    /// Extend LVM volumes below a pool by running lvextend
    #[arg(long)]
    lvextend: bool,
    /// Longest time between two looks, in seconds [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    interval: Option<u64>,
    /// Program to run for each event
    #[arg(long, value_name = "PROGRAM")]
    hook: Option<PathBuf>,
    /// File to write metrics to, for Prometheus
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
}

fn threshold(text: &str) -> Result<Threshold, String> {
    if text == "off" {
        return Ok(Threshold::new(None));
    }
    match text.parse::<Percent>() {
        Ok(percent) if percent.get() >= 50 => Ok(Threshold::new(Some(percent))),
        _ => Err("a threshold is 50 to 99 percent, or off".to_owned()),
    }
}

fn growth(text: &str) -> Result<GrowthPercent, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<u64>();
    let number = number.map_err(|error| error.to_string())?;
    GrowthPercent::new(number).map_err(|error| error.to_string())
}

fn on_full() -> impl TypedValueParser<Value = OnFull> {
    let words = [OnFull::Error, OnFull::Queue, OnFull::Freeze].map(OnFull::as_str);
    PossibleValuesParser::new(words).try_map(|word| word.parse::<OnFull>())
}

impl MonitorArgs {
    fn policy(&self, settings: &MonitorSettings) -> MonitorPolicy {
        MonitorPolicy {
            autoextend_threshold: self
                .threshold
                .unwrap_or(settings.autoextend_threshold)
                .share(),
            autoextend_percent: self.grow_by.unwrap_or(settings.autoextend_percent),
            max_size: self.max_size.or(settings.max_size),
            max_metadata_size: self.max_metadata_size.or(settings.max_metadata_size),
            net: self
                .interval
                .map_or(settings.net_interval, Duration::from_secs),
            on_full: self.on_full.or(settings.on_full),
            red_line: self.red_line.unwrap_or(settings.red_line),
            lvextend: self.lvextend || settings.lvextend,
        }
    }
}

/// An event as it is printed.
#[derive(Debug, Serialize)]
struct Told<'a> {
    pool: &'a PoolName,
    #[serde(flatten)]
    event: &'a Event,
    message: String,
    warning: bool,
}

/// What the monitor saw, and what its queue did.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Event {
    Monitor(MonitorEvent),
    Removed { event: &'static str, removed: usize },
}

impl Event {
    fn word(&self) -> &'static str {
        match self {
            Self::Monitor(event) => event.word(),
            Self::Removed { event, .. } => event,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Monitor(event) => event.to_string(),
            Self::Removed { removed, .. } => format!("{removed} removed volumes are gone"),
        }
    }

    fn is_warning(&self) -> bool {
        matches!(self, Self::Monitor(event) if event.is_warning())
    }
}

/// Runs until it is stopped.
pub(crate) fn run(context: &Context, args: &MonitorArgs) -> anyhow::Result<()> {
    for name in &args.names {
        context.host.pick_pool(Some(name))?;
    }
    let events = context.host.events()?;
    let notify = Notify::from_env()?;
    // Half of the time that systemd gives: one sign of life may come late.
    let patience = notify.watchdog().and_then(|limit| limit.checked_div(2));
    if let Err(error) = events.lock_memory() {
        tracing::debug!(%error, "memory cannot be locked");
    }
    let metrics_file = args.metrics.clone().or_else(|| {
        let settings = match args.names.as_slice() {
            [name] => context.settings.monitor(name),
            _ => context.settings.monitor_of_all(),
        };
        settings.metrics_file
    });
    let mut charges = Charges::new(context, args, metrics_file.is_some());
    let mut counters = Counters::default();
    let mut hooks: Vec<Child> = Vec::new();
    notify.tell("READY=1");
    loop {
        events.arm()?;
        let started = Instant::now();
        let (seen, next) = charges.look()?;
        for (pool, event) in &seen {
            if let Event::Monitor(event) = event {
                counters.count(pool, event);
            }
            tell(context, args, &mut hooks, pool, event)?;
        }
        for (pool, operation) in charges.operations() {
            counters.time(&pool, operation);
        }
        // A child that has ended is no zombie any more.
        hooks.retain_mut(|hook| !matches!(hook.try_wait(), Ok(Some(_))));
        if let Some(path) = &metrics_file {
            let text = metrics::render(&charges.watched(), &counters);
            if let Err(error) = metrics::write(path, &text) {
                tracing::warn!(%error, path = %path.display(), "the metrics cannot be written");
            }
        }
        notify.tell("WATCHDOG=1");
        let limit = patience.map_or(next, |patience| next.min(patience));
        events.sleep(limit, &charges.bells())?;
        thread::sleep(BURST.saturating_sub(started.elapsed()));
    }
}

/// Prints an event, and has the hook told.
fn tell(
    context: &Context,
    args: &MonitorArgs,
    hooks: &mut Vec<Child>,
    pool: &PoolName,
    event: &Event,
) -> anyhow::Result<()> {
    let told = Told {
        pool,
        event,
        message: event.message(),
        warning: event.is_warning(),
    };
    context.out.done(&told, || {
        record([
            pool.to_string(),
            event.word().to_owned(),
            told.message.clone(),
        ])
    })?;
    let settings = context.settings.monitor(pool);
    let Some(hook) = args.hook.as_ref().or(settings.hook.as_ref()) else {
        return Ok(());
    };
    let started = Command::new(hook)
        .env("DMTHIN_POOL", pool.as_str())
        .env("DMTHIN_EVENT", event.word())
        .env("DMTHIN_MESSAGE", &told.message)
        .env("DMTHIN_JSON", serde_json::to_string(&told)?)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    match started {
        Ok(child) => hooks.push(child),
        // What looks after pools does not end because of it.
        Err(error) => tracing::warn!(%error, hook = %hook.display(), "the hook cannot be run"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use dmthin::graph::{NoGrowth, Space};

    use super::*;
    use crate::args::{Cli, Command as Words};

    fn policy(line: &str) -> Result<MonitorPolicy, clap::Error> {
        let words = ["pool-cli", "monitor"]
            .into_iter()
            .chain(line.split_whitespace());
        match Cli::try_parse_from(words)?.command {
            Words::Monitor(args) => Ok(args.policy(&MonitorSettings::default())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_librarys_policy_is_the_default_and_of_the_settings_too() {
        assert_eq!(policy("").unwrap(), MonitorPolicy::default());
    }

    #[test]
    fn every_option_arrives() {
        let given = policy(
            "tank --threshold 70 --grow-by 50% --max-size 1T --max-metadata-size 2G --red-line 3% \
             --on-full freeze --lvextend --interval 5",
        );
        let expected = MonitorPolicy {
            autoextend_threshold: Percent::new(70).ok(),
            autoextend_percent: GrowthPercent::new(50).unwrap(),
            max_size: Some(Bytes::from_gib(1024)),
            max_metadata_size: Some(Bytes::from_gib(2)),
            net: Duration::from_secs(5),
            on_full: Some(OnFull::Freeze),
            red_line: Percent::new(3).unwrap(),
            lvextend: true,
        };
        assert_eq!(given.unwrap(), expected);
        assert_eq!(
            policy("--threshold off").unwrap().autoextend_threshold,
            None
        );
        for bad in [
            "--threshold 49",
            "--grow-by 0",
            "--interval 0",
            "--on-full panic",
        ] {
            assert!(policy(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_event_is_told_with_its_numbers_and_in_words() {
        let pool = PoolName::new("tank").unwrap();
        let event = Event::Monitor(MonitorEvent::NotGrown {
            space: Space::Data,
            why: NoGrowth::AtMost {
                most: Bytes::from_gib(1),
            },
        });
        let told = Told {
            pool: &pool,
            event: &event,
            message: event.message(),
            warning: event.is_warning(),
        };
        let value = serde_json::to_value(&told).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "pool": "tank", "event": "not_grown", "space": "data",
                "why": "it may not be larger than 1 GiB",
                "message": "the data cannot be grown: it may not be larger than 1 GiB",
                "warning": true,
            })
        );
    }
}
