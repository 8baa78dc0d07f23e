use std::time::Duration;

use dmthin::graph::{FindingKind, NoGrowth};

use super::*;
use crate::commands::container::tests::container;
use crate::commands::pool::tests::report;
use crate::commands::volume::tests::volume;

fn watched(pool: PoolReport, measured: &Measured) -> Watched<'_> {
    Watched {
        pool,
        containers: vec![],
        volumes: vec![],
        counts: BTreeMap::new(),
        measured,
        copied: UNIX_EPOCH.checked_add(Duration::from_secs(1_700_000_000)),
    }
}

fn operation(op: MonitorOp, worked: bool, millis: u64) -> Operation {
    Operation {
        op,
        worked,
        took: Duration::from_millis(millis),
    }
}

/// The lines of the families whose names begin so.
fn lines_of(text: &str, begin: &str) -> String {
    let of = |line: &&str| {
        let line = line.strip_prefix("# HELP ").unwrap_or(line);
        line.strip_prefix("# TYPE ")
            .unwrap_or(line)
            .starts_with(begin)
    };
    text.lines()
        .filter(of)
        .map(|line| line.to_owned() + "\n")
        .collect()
}

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
    let measured = Measured::default();
    let pools = [report(), report()].map(|pool| watched(pool, &measured));
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
        "dmthin_last_metadata_backup_timestamp_seconds{pool=\"tank\"} 1700000000",
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
    let measured = Measured {
        orphans: Some([(FindingKind::MissingThin, 0)].into()),
        ..Measured::default()
    };
    let mut pool = watched(report(), &measured);
    if let Some(live) = &mut pool.pool.live {
        live.metadata = live.data;
    }
    let mut counters = Counters::default();
    counters.time(&pool.pool.name, operation(MonitorOp::Look, true, 1));
    let written = render(&[pool], &counters);
    let rules = include_str!("../../../dist/prometheus/dmthin.rules.yml");
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
fn the_document_lists_what_is_written() {
    let usage = VolumeUsage {
        volume: VolumeId::new(2),
        kind: VolumeKind::Base,
        size: Bytes::ZERO,
        mapped: Bytes::ZERO,
        exclusive: Bytes::ZERO,
    };
    let measured = Measured {
        volumes: Some(vec![usage]),
        orphans: Some([(FindingKind::Husk, 1)].into()),
        operations: vec![],
    };
    let mut pool = watched(report(), &measured);
    pool.counts
        .insert((VolumeKind::Base, VolumeState::Ready), 1);
    if let Some(live) = &mut pool.pool.live {
        live.metadata = live.data;
    }
    let mut counters = Counters::default();
    counters.time(&pool.pool.name, operation(MonitorOp::Look, true, 1));
    counters.count(
        &pool.pool.name.clone(),
        &MonitorEvent::NotGrown {
            space: Space::Data,
            why: NoGrowth::AtMost { most: Bytes::ZERO },
        },
    );
    let text = render(&[pool], &counters);
    let written: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next())
        .collect();
    let rows = include_str!("../../../docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('|').next());
    let listed: BTreeSet<&str> = rows
        .flat_map(|cell| cell.split('`'))
        .filter(|word| word.starts_with("dmthin_"))
        .collect();
    assert_eq!(written, listed);
}

#[test]
fn labels_are_escaped() {
    let labels = [("image", "a\"b\\c\nd"), ("pool", "x")];
    assert_eq!(
        Labels(&labels).to_string(),
        r#"image="a\"b\\c\nd",pool="x""#
    );
}

#[test]
fn operations_are_told_as_a_histogram() {
    let tank = PoolName::new("tank").unwrap();
    let mut counters = Counters::default();
    counters.time(&tank, operation(MonitorOp::RunQueue, false, 40_000));
    for millis in [1, 4] {
        counters.time(&tank, operation(MonitorOp::Look, true, millis));
    }
    let text = render(&[], &counters);
    assert_eq!(
        lines_of(&text, "dmthin_operation"),
        "\
# HELP dmthin_operation_duration_seconds How long the monitor's operations took.
# TYPE dmthin_operation_duration_seconds histogram
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"look\",result=\"ok\",le=\"0.001\"} 1
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"look\",result=\"ok\",le=\"0.005\"} 2
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"look\",result=\"ok\",le=\"0.025\"} 2
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"look\",result=\"ok\",le=\"0.1\"} 2
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"look\",result=\"ok\",le=\"0.5\"} 2
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"look\",result=\"ok\",le=\"2.5\"} 2
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"look\",result=\"ok\",le=\"10\"} 2
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"look\",result=\"ok\",le=\"60\"} 2
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"look\",result=\"ok\",le=\"300\"} 2
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"look\",result=\"ok\",le=\"1800\"} 2
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"look\",result=\"ok\",le=\"+Inf\"} 2
dmthin_operation_duration_seconds_sum{pool=\"tank\",op=\"look\",result=\"ok\"} 0.005
dmthin_operation_duration_seconds_count{pool=\"tank\",op=\"look\",result=\"ok\"} 2
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"run_queue\",result=\"error\",le=\"0.001\"} 0
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"run_queue\",result=\"error\",le=\"0.005\"} 0
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"run_queue\",result=\"error\",le=\"0.025\"} 0
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"run_queue\",result=\"error\",le=\"0.1\"} 0
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"run_queue\",result=\"error\",le=\"0.5\"} 0
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"run_queue\",result=\"error\",le=\"2.5\"} 0
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"run_queue\",result=\"error\",le=\"10\"} 0
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"run_queue\",result=\"error\",le=\"60\"} 1
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"run_queue\",result=\"error\",le=\"300\"} 1
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"run_queue\",result=\"error\",le=\"1800\"} 1
dmthin_operation_duration_seconds_bucket{pool=\"tank\",op=\"run_queue\",result=\"error\",le=\"+Inf\"} 1
dmthin_operation_duration_seconds_sum{pool=\"tank\",op=\"run_queue\",result=\"error\"} 40
dmthin_operation_duration_seconds_count{pool=\"tank\",op=\"run_queue\",result=\"error\"} 1
"
    );
}

#[test]
fn volumes_are_told_with_what_was_measured_of_them() {
    let usage = |volume, kind, mapped, exclusive| VolumeUsage {
        volume: VolumeId::new(volume),
        kind,
        size: Bytes::from_gib(10),
        mapped: Bytes::new(mapped),
        exclusive: Bytes::new(exclusive),
    };
    let (mut active, mut idle) = (container(true), container(false));
    (active.on.volume, idle.on.volume) = (VolumeId::new(7), VolumeId::new(8));
    idle.name = "idle".parse().unwrap();
    active.on.mapped = Some(Bytes::new(70));
    idle.on.mapped = None;
    let measured = Measured {
        volumes: Some(vec![
            usage(2, VolumeKind::Layer, 20, 2),
            usage(7, VolumeKind::Container, 60, 6),
            usage(8, VolumeKind::Container, 80, 8),
            usage(9, VolumeKind::Data, 90, 9),
        ]),
        orphans: Some([(FindingKind::UnknownThin, 3), (FindingKind::MissingThin, 0)].into()),
        operations: vec![],
    };
    let pool = Watched {
        pool: report(),
        containers: vec![active, idle],
        volumes: vec![volume()],
        counts: [
            ((VolumeKind::Layer, VolumeState::Ready), 1),
            ((VolumeKind::Container, VolumeState::Deleting), 4),
        ]
        .into(),
        measured: &measured,
        copied: None,
    };
    let text = render(&[pool], &Counters::default());
    assert_eq!(
        lines_of(&text, "dmthin_volume") + &lines_of(&text, "dmthin_orphans"),
        "\
# HELP dmthin_volume_exclusive_bytes What a volume alone maps, when the metadata were last read.
# TYPE dmthin_volume_exclusive_bytes gauge
dmthin_volume_exclusive_bytes{pool=\"tank\",volume=\"web\",kind=\"container\",image=\"debian:12\"} 6
dmthin_volume_exclusive_bytes{pool=\"tank\",volume=\"idle\",kind=\"container\",image=\"debian:12\"} 8
dmthin_volume_exclusive_bytes{pool=\"tank\",volume=\"db\",kind=\"data\"} 9
dmthin_volume_exclusive_bytes{pool=\"tank\",volume=\"2\",kind=\"layer\"} 2
# HELP dmthin_volume_mapped_bytes What a volume maps of its pool, shared blocks included.
# TYPE dmthin_volume_mapped_bytes gauge
dmthin_volume_mapped_bytes{pool=\"tank\",volume=\"web\",kind=\"container\",image=\"debian:12\"} 70
dmthin_volume_mapped_bytes{pool=\"tank\",volume=\"idle\",kind=\"container\",image=\"debian:12\"} 80
dmthin_volume_mapped_bytes{pool=\"tank\",volume=\"db\",kind=\"data\"} 3145728
dmthin_volume_mapped_bytes{pool=\"tank\",volume=\"2\",kind=\"layer\"} 20
# HELP dmthin_volume_virtual_bytes Size of a volume.
# TYPE dmthin_volume_virtual_bytes gauge
dmthin_volume_virtual_bytes{pool=\"tank\",volume=\"web\",kind=\"container\",image=\"debian:12\"} 10737418240
dmthin_volume_virtual_bytes{pool=\"tank\",volume=\"idle\",kind=\"container\",image=\"debian:12\"} 10737418240
dmthin_volume_virtual_bytes{pool=\"tank\",volume=\"db\",kind=\"data\"} 21474836480
dmthin_volume_virtual_bytes{pool=\"tank\",volume=\"2\",kind=\"layer\"} 10737418240
# HELP dmthin_volumes How many volumes there are.
# TYPE dmthin_volumes gauge
dmthin_volumes{pool=\"tank\",kind=\"layer\",state=\"ready\"} 1
dmthin_volumes{pool=\"tank\",kind=\"container\",state=\"deleting\"} 4
# HELP dmthin_orphans What does not belong, as `pool-cli check` names it, when it was last looked for.
# TYPE dmthin_orphans gauge
dmthin_orphans{pool=\"tank\",kind=\"unknown-thin\"} 3
dmthin_orphans{pool=\"tank\",kind=\"missing-thin\"} 0
"
    );
}
