//! Metrics as Prometheus reads them, in a file for node_exporter's textfile collector.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};
use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use dmthin::graph::{ContainerReport, MonitorEvent, PoolReport, Space};
use dmthin::ids::PoolName;

/// What is counted since the monitor began.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    autoextend: BTreeMap<(String, Space, bool), u64>,
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
}

/// A pool with its containers.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) pool: PoolReport,
    pub(crate) containers: Vec<ContainerReport>,
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
        let (_, _, samples) = self
            .0
            .entry(name)
            .or_insert_with(|| (help, kind, String::new()));
        // Writing to a string cannot fail.
        let _ = writeln!(samples, "{name}{{{}}} {value}", Labels(labels));
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
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    out.add(
        "dmthin_monitor_last_look_timestamp_seconds",
        "When the monitor last looked.",
        &[],
        now,
    );
    for Watched { pool, containers } in watched {
        add_pool(&mut out, pool);
        for container in containers {
            let labels = [
                ("pool", pool.name.as_str()),
                ("volume", container.name.as_str()),
                ("kind", "container"),
                ("image", &container.image),
            ];
            out.add(
                "dmthin_volume_virtual_bytes",
                "Size of a volume.",
                &labels,
                container.size.get(),
            );
            if let Some(mapped) = container.mapped {
                out.add(
                    "dmthin_volume_mapped_bytes",
                    "What a volume maps of its pool, shared blocks included, while it is active.",
                    &labels,
                    mapped.get(),
                );
            }
        }
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
    out.text()
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
    gauge(
        "dmthin_removals_pending",
        "Volumes promised to go.",
        pool.removals,
    );
    gauge(
        "dmthin_pool_ballast_bytes",
        "What the ballast keeps.",
        pool.ballast.map_or(0, dmthin::units::Bytes::get),
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
    let volumes = [
        ("image", pool.images),
        ("layer", pool.layers),
        ("container", pool.containers),
    ];
    for (kind, count) in volumes {
        out.add(
            "dmthin_volumes",
            "How many there are.",
            &[("pool", pool.name.as_str()), ("kind", kind)],
            count,
        );
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
mod tests {
    use dmthin::graph::NoGrowth;
    use dmthin::units::Bytes;

    use super::*;
    use crate::commands::pool::tests::report;

    #[test]
    fn every_family_comes_once_with_its_type_before_its_samples() {
        let tank = PoolName::new("tank").unwrap();
        let mut counters = Counters::default();
        for _ in 0..2 {
            counters.count(
                &tank,
                &MonitorEvent::Grew {
                    space: Space::Data,
                    from: Bytes::ZERO,
                    to: Bytes::ZERO,
                },
            );
        }
        counters.count(
            &tank,
            &MonitorEvent::NotGrown {
                space: Space::Metadata,
                why: NoGrowth::AtMost { most: Bytes::ZERO },
            },
        );
        counters.count(&tank, &MonitorEvent::LetGo { containers: 1 });
        let pools = [report(), report()].map(|pool| Watched {
            pool,
            containers: vec![],
        });
        let text = render(&pools, &counters);
        for line in [
            "dmthin_pool_data_bytes{pool=\"tank\"} 107374182400",
            "dmthin_pool_data_used_bytes{pool=\"tank\"} 26843545600",
            "dmthin_pool_mode{pool=\"tank\",mode=\"rw\"} 1",
            "dmthin_pool_mode{pool=\"tank\",mode=\"ro\"} 0",
            "dmthin_pool_needs_check{pool=\"tank\"} 1",
            "dmthin_removals_pending{pool=\"tank\"} 2",
            "dmthin_pool_ballast_bytes{pool=\"tank\"} 1073741824",
            "dmthin_autoextend_total{pool=\"tank\",what=\"data\",result=\"grown\"} 2",
            "dmthin_autoextend_total{pool=\"tank\",what=\"metadata\",result=\"refused\"} 1",
            "# TYPE dmthin_autoextend_total counter",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        let mut families = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let name = rest.split(' ').next().unwrap();
                assert!(!families.contains(&name), "{name} comes twice");
                families.push(name);
            } else if !line.starts_with('#') {
                let name = line.split('{').next().unwrap();
                assert_eq!(families.last(), Some(&name), "{line}");
            }
        }
    }

    #[test]
    fn the_alert_rules_ask_for_what_is_written() {
        let mut pool = Watched {
            pool: report(),
            containers: vec![],
        };
        if let Some(live) = &mut pool.pool.live {
            live.metadata = live.data;
        }
        let written = render(&[pool], &Counters::default());
        let rules = include_str!("../../dist/prometheus/dmthin.rules.yml");
        let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
        let mut asked = 0;
        for line in rules.lines().filter(|line| line.contains("expr:")) {
            for word in line
                .split(|c| !is_part(c))
                .filter(|w| w.starts_with("dmthin_"))
            {
                assert!(
                    written.contains(&format!("\n{word}{{")),
                    "{word} is not written"
                );
                asked += 1;
            }
        }
        assert!(asked > 10, "{asked}");
    }

    #[test]
    fn labels_are_escaped() {
        let labels = [("image", "a\"b\\c\nd"), ("pool", "x")];
        assert_eq!(
            Labels(&labels).to_string(),
            r#"image="a\"b\\c\nd",pool="x""#
        );
    }
}
