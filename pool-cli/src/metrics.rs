//! Metrics as Prometheus reads them, in a file for node_exporter's textfile collector.

mod histogram;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Write};
use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use dmthin::graph::{
    ContainerReport, DataVolumeReport, Measured, MonitorEvent, MonitorOp, Operation, PoolReport,
    Space, VolumeUsage,
};
use dmthin::ids::{PoolName, VolumeId, VolumeKind};
use dmthin::store::VolumeState;
use dmthin::units::Bytes;

use self::histogram::Histogram;

/// What is counted since the monitor began.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    autoextend: BTreeMap<(String, Space, bool), u64>,
    durations: BTreeMap<(String, MonitorOp, bool), Histogram>,
}

impl Counters {
    /// Counts what a monitor did.
    pub(crate) fn count(&mut self, pool: &PoolName, event: &MonitorEvent) {
        let (space, worked) = match event {
            MonitorEvent::Grew { space, .. } => (*space, true),
            MonitorEvent::NotGrown { space, .. } => (*space, false),
            _ => return,
        };
        let count = self
            .autoextend
            .entry((pool.to_string(), space, worked))
            .or_default();
        *count = count.saturating_add(1);
    }

    /// Counts how long something took.
    pub(crate) fn time(&mut self, pool: &PoolName, done: Operation) {
        let key = (pool.to_string(), done.op, done.worked);
        self.durations.entry(key).or_default().observe(done.took);
    }
}

/// A pool with its volumes.
#[derive(Debug)]
pub(crate) struct Watched<'a> {
    pub(crate) pool: PoolReport,
    pub(crate) containers: Vec<ContainerReport>,
    /// Its data volumes.
    pub(crate) volumes: Vec<DataVolumeReport>,
    pub(crate) counts: BTreeMap<(VolumeKind, VolumeState), u64>,
    pub(crate) measured: &'a Measured,
    /// When its metadata were copied.
    pub(crate) copied: Option<SystemTime>,
}

/// Samples, family by family: the format wants those of one name together.
#[derive(Debug, Default)]
struct Families(BTreeMap<&'static str, (&'static str, &'static str, String)>);

/// Labels as `a="b",c="d"`.
struct Labels<'a>(&'a [(&'a str, &'a str)]);

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            write!(f, "{comma}{name}=\"{value}\"")?;
        }
        Ok(())
    }
}

impl Families {
    fn add(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        value: impl Display,
    ) {
        let kind = if name.ends_with("_total") {
            "counter"
        } else {
            "gauge"
        };
        let samples = self.family(name, help, kind);
        // Writing to a string cannot fail.
        let _ = writeln!(samples, "{name}{{{}}} {value}", Labels(labels));
    }

    fn add_histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        times: &Histogram,
    ) {
        let samples = self.family(name, help, "histogram");
        let labels = Labels(labels);
        for (end, count) in times.cumulative() {
            // As above.
            let _ = writeln!(samples, "{name}_bucket{{{labels},le=\"{end}\"}} {count}");
        }
        let sum = times.sum().as_secs_f64();
        let _ = writeln!(samples, "{name}_sum{{{labels}}} {sum}");
        let _ = writeln!(samples, "{name}_count{{{labels}}} {}", times.count());
    }

    fn family(
        &mut self,
        name: &'static str,
        help: &'static str,
        kind: &'static str,
    ) -> &mut String {
        let family = self.0.entry(name);
        let (_, _, samples) = family.or_insert_with(|| (help, kind, String::new()));
        samples
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (name, (help, kind, samples)) in &self.0 {
            let _ = write!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}"
            );
        }
        text
    }
}

/// All of it as text.
pub(crate) fn render(watched: &[Watched], counters: &Counters) -> String {
    let mut out = Families::default();
    out.add(
        "dmthin_build_info",
        "Version of the monitor.",
        &[("version", env!("CARGO_PKG_VERSION"))],
        1,
    );
    out.add(
        "dmthin_monitor_last_look_timestamp_seconds",
        "When the monitor last looked.",
        &[],
        seconds(SystemTime::now()),
    );
    for watched in watched {
        add_pool(&mut out, &watched.pool);
        if let Some(copied) = watched.copied {
            out.add(
                "dmthin_last_metadata_backup_timestamp_seconds",
                "When the newest copy of the metadata was taken.",
                &[("pool", watched.pool.name.as_str())],
                seconds(copied),
            );
        }
        add_volumes(&mut out, watched);
    }
    for ((pool, space, worked), count) in &counters.autoextend {
        let what = space.to_string();
        let result = if *worked { "grown" } else { "refused" };
        out.add(
            "dmthin_autoextend_total",
            "How often a space of a pool was to be grown.",
            &[("pool", pool), ("what", &what), ("result", result)],
            count,
        );
    }
    for ((pool, op, worked), times) in &counters.durations {
        let result = if *worked { "ok" } else { "error" };
        out.add_histogram(
            "dmthin_operation_duration_seconds",
            "How long the monitor's operations took.",
            &[("pool", pool), ("op", op.as_str()), ("result", result)],
            times,
        );
    }
    out.text()
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The volumes of a pool: those of containers and data volumes by their names, others by their numbers.
fn add_volumes(out: &mut Families, watched: &Watched<'_>) {
    let pool = watched.pool.name.as_str();
    for ((kind, state), count) in &watched.counts {
        out.add(
            "dmthin_volumes",
            "How many volumes there are.",
            &[
                ("pool", pool),
                ("kind", kind.as_str()),
                ("state", state.as_str()),
            ],
            count,
        );
    }
    for (kind, count) in watched.measured.orphans.iter().flatten() {
        out.add(
            "dmthin_orphans",
            "What does not belong, as `pool-cli check` names it, when it was last looked for.",
            &[("pool", pool), ("kind", kind.as_str())],
            count,
        );
    }
    let measured: BTreeMap<VolumeId, &VolumeUsage> = watched
        .measured
        .volumes
        .iter()
        .flatten()
        .map(|usage| (usage.volume, usage))
        .collect();
    for container in &watched.containers {
        let labels = [
            ("pool", pool),
            ("volume", container.name.as_str()),
            ("kind", VolumeKind::Container.as_str()),
            ("image", &container.image),
        ];
        let usage = measured.get(&container.on.volume);
        // The kernel's word is newer.
        let mapped = container.on.mapped.or(usage.map(|usage| usage.mapped));
        let exclusive = usage.map(|usage| usage.exclusive);
        add_volume(out, &labels, container.on.size, mapped, exclusive);
    }
    for data in &watched.volumes {
        let labels = [
            ("pool", pool),
            ("volume", data.name.as_str()),
            ("kind", VolumeKind::Data.as_str()),
        ];
        let usage = measured.get(&data.on.volume);
        let mapped = data.on.mapped.or(usage.map(|usage| usage.mapped));
        let exclusive = usage.map(|usage| usage.exclusive);
        add_volume(out, &labels, data.on.size, mapped, exclusive);
    }
    let containers = watched.containers.iter().map(|c| c.on.volume);
    let named: BTreeSet<VolumeId> = containers
        .chain(watched.volumes.iter().map(|data| data.on.volume))
        .collect();
    for usage in measured.values().filter(|u| !named.contains(&u.volume)) {
        let volume = usage.volume.to_string();
        let labels = [
            ("pool", pool),
            ("volume", volume.as_str()),
            ("kind", usage.kind.as_str()),
        ];
        let (mapped, exclusive) = (Some(usage.mapped), Some(usage.exclusive));
        add_volume(out, &labels, usage.size, mapped, exclusive);
    }
}

fn add_volume(
    out: &mut Families,
    labels: &[(&str, &str)],
    size: Bytes,
    mapped: Option<Bytes>,
    exclusive: Option<Bytes>,
) {
    let mut gauge = |name, help, value: Option<Bytes>| {
        if let Some(value) = value {
            out.add(name, help, labels, value.get());
        }
    };
    gauge(
        "dmthin_volume_virtual_bytes",
        "Size of a volume.",
        Some(size),
    );
    gauge(
        "dmthin_volume_mapped_bytes",
        "What a volume maps of its pool, shared blocks included.",
        mapped,
    );
    gauge(
        "dmthin_volume_exclusive_bytes",
        "What a volume alone maps, when the metadata were last read.",
        exclusive,
    );
}

fn add_pool(out: &mut Families, pool: &PoolReport) {
    let labels = [("pool", pool.name.as_str())];
    let mut gauge = |name, help, value: u64| out.add(name, help, &labels, value);
    gauge(
        "dmthin_pool_open",
        "Whether the pool is open.",
        u64::from(pool.live.is_some()),
    );
    gauge(
        "dmthin_pool_chunk_bytes",
        "Unit of allocation.",
        pool.block_size.to_bytes().get(),
    );
    gauge(
        "dmthin_pool_low_water_bytes",
        "Free data below which the kernel gives notice.",
        pool.low_water.get(),
    );
    gauge(
        "dmthin_pool_virtual_bytes",
        "Sizes of all containers.",
        pool.virtual_size.get(),
    );
    gauge(
        "dmthin_pool_metadata_bytes_at_full_data",
        "Metadata that all data mapped once would take.",
        pool.metadata_at_full_data.get(),
    );
    gauge(
        "dmthin_pool_backing_allocated_bytes",
        "What the data file takes on its file system.",
        pool.data.allocated.get(),
    );
    if let Some(free) = pool.data.host_free {
        gauge(
            "dmthin_pool_backing_free_bytes",
            "Free on the file system of the data file.",
            free.get(),
        );
    }
    gauge("dmthin_images", "How many images there are.", pool.images);
    gauge(
        "dmthin_removals_pending",
        "Volumes promised to go.",
        pool.removals,
    );
    gauge(
        "dmthin_pool_ballast_bytes",
        "What the ballast keeps.",
        pool.ballast.map_or(0, Bytes::get),
    );
    if let Some(live) = &pool.live {
        let spaces = [
            (
                live.data,
                ["dmthin_pool_data_bytes", "dmthin_pool_data_used_bytes"],
            ),
            (
                live.metadata,
                [
                    "dmthin_pool_metadata_bytes",
                    "dmthin_pool_metadata_used_bytes",
                ],
            ),
        ];
        for (usage, [total, used]) in spaces {
            if let Some(usage) = usage {
                gauge(total, "Size of the space.", usage.total.get());
                gauge(used, "In use of the space.", usage.used.get());
            }
        }
        if let Some(id) = live.transaction_id {
            gauge("dmthin_pool_transaction_id", "Transaction id.", id.get());
        }
        gauge(
            "dmthin_pool_needs_check",
            "Whether the metadata want a check.",
            u64::from(live.needs_check),
        );
        for mode in ["rw", "ro", "out_of_data_space", "fail", "error"] {
            out.add(
                "dmthin_pool_mode",
                "1 for the mode that the pool is in.",
                &[("pool", pool.name.as_str()), ("mode", mode)],
                u64::from(live.mode == mode),
            );
        }
    }
}

/// Puts the text where it is read; a reader sees the old one or the new one.
pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    // The collector reads `*.prom` only.
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests;
