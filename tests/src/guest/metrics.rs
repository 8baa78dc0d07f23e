//! What the monitor writes for Prometheus, against what other tools say of the same pool.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::check::{pool_with, spent_ids, write_blocks};
use super::harness::{Ctx, Test, eventually, text, without_mirror, witness};
use super::monitor::{Monitor, wake_ups};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("metrics_have_what_thin_ls_has", volumes),
    ("metrics_read_nothing_above_the_red_line", red_line),
];

const BLOCK: u64 = 65536;

/// The samples of a file, by name and labels.
fn samples(file: &Path) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.map(|line| line.rsplit_once(' ').context(line.to_owned()));
    samples
        .map(|sample| sample.map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect()
}

/// Mapped and exclusive bytes of each thin id of a closed pool, by `thin_ls`, but of the copy of the catalogue.
fn thin_ls(ctx: &Ctx) -> Result<BTreeMap<u64, [u64; 2]>> {
    let file = ctx.root.join("tank/metadata.img");
    let columns = "DEV,MAPPED_BLOCKS,EXCLUSIVE_BLOCKS";
    let listed = witness("thin_ls", &["--no-headers", "-o", columns, text(&file)])?;
    let mut rows = BTreeMap::new();
    for line in without_mirror(&listed).lines() {
        let cells: Result<Vec<u64>, _> = line.split_whitespace().map(str::parse).collect();
        let [id, mapped, exclusive]: [u64; 3] = cells?.try_into().ok().context("three")?;
        rows.insert(id, [mapped, exclusive].map(|n| n.saturating_mul(BLOCK)));
    }
    Ok(rows)
}

/// Every volume's numbers, of a container without a device too, are those of `thin_ls`; what does not
/// belong is counted; and with all that told, the monitor sleeps.
fn volumes(ctx: &Ctx) -> Result<()> {
    pool_with(ctx, &["web", "db"])?;
    write_blocks("web", 0..100)?;
    write_blocks("db", 50..60)?;
    ctx.ok(&["pool", "close", "tank"])?;
    let listed = thin_ls(ctx)?;
    ctx.ok(&["pool", "open", "tank"])?;
    witness("dmsetup", &["remove", "--retry", "dmthin-tank-ctr-db"])?;
    let spent = spent_ids(ctx, &["gone"])?;
    let create = format!("create_thin {}", spent[0]);
    let message = ["message", "dmthin-tank-pool", "0", &create];
    witness("dmsetup", &message)?;
    let file = ctx.dir.join("dmthin.prom");
    let args = ["--interval", "3600", "--metrics", text(&file)];
    let monitor = Monitor::start(ctx, &args)?;
    let orphans = |kind: &str| format!("dmthin_orphans{{pool=\"tank\",kind=\"{kind}\"}}");
    let unknown = orphans("unknown-thin");
    let copied = "dmthin_last_metadata_backup_timestamp_seconds{pool=\"tank\"}";
    ensure!(
        eventually(|| {
            let told = samples(&file)?;
            Ok(told.contains_key(&unknown) && told.contains_key(copied))
        })?,
        "{}",
        fs::read_to_string(&file)?
    );
    let told = samples(&file)?;
    let value = |name: &str| -> Result<&str> {
        let value = told.get(name).with_context(|| format!("no {name}"));
        Ok(value.with_context(|| format!("{told:?}"))?.as_str())
    };
    ensure!(value(&unknown)? == "1" && value(&orphans("missing-device"))? == "1");
    ensure!(value(&orphans("missing-thin"))? == "0");
    for name in ["web", "db"] {
        let inspected = ctx.json(&["container", "inspect", name])?;
        let id = inspected["container"]["thin_id"].as_u64().context("id")?;
        let labels =
            format!("{{pool=\"tank\",volume=\"{name}\",kind=\"container\",image=\"demo:1\"}}");
        let [mapped, exclusive] = listed.get(&id).context("not listed")?;
        ensure!(value(&format!("dmthin_volume_mapped_bytes{labels}"))? == mapped.to_string());
        ensure!(value(&format!("dmthin_volume_exclusive_bytes{labels}"))? == exclusive.to_string());
        ensure!(
            *exclusive >= 10_u64.saturating_mul(BLOCK),
            "{name}: {exclusive}"
        );
    }
    // The base and two layers too: what is told of all volumes is what is listed of all.
    let sum = |of: &str| -> u64 {
        let of = told.iter().filter(|(name, _)| name.starts_with(of));
        of.filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
    };
    ensure!(
        sum("dmthin_volume_exclusive_bytes{") == listed.values().map(|row| row[1]).sum::<u64>()
    );
    ensure!(sum("dmthin_volume_mapped_bytes{") == listed.values().map(|row| row[0]).sum::<u64>());
    for (kind, count) in [("base", "1"), ("layer", "2"), ("container", "2")] {
        let name = format!("dmthin_volumes{{pool=\"tank\",kind=\"{kind}\",state=\"ready\"}}");
        ensure!(value(&name)? == count, "{name}");
    }
    for op in ["look", "read_volumes", "check"] {
        let labels = format!("{{pool=\"tank\",op=\"{op}\",result=\"ok\"");
        let count = value(&format!(
            "dmthin_operation_duration_seconds_count{labels}}}"
        ))?;
        ensure!(count != "0", "{op}");
        let all = format!("dmthin_operation_duration_seconds_bucket{labels},le=\"+Inf\"}}");
        ensure!(value(&all)? == count, "{op}");
    }
    thread::sleep(Duration::from_secs(2));
    let before = wake_ups(monitor.child.id())?;
    thread::sleep(Duration::from_secs(10));
    let after = wake_ups(monitor.child.id())?;
    ensure!(after == before, "woke up from {before} to {after}");
    drop(monitor);
    ctx.ok(&["gc"])?;
    ctx.ok(&["check"]).map(drop)
}

/// A pool above its red line has no block to spare for a metadata snapshot.
fn red_line(ctx: &Ctx) -> Result<()> {
    pool_with(ctx, &["web"])?;
    let file = ctx.dir.join("dmthin.prom");
    let args = ["--interval", "1", "--metrics", text(&file)];
    let red = ["--threshold", "off", "--red-line", "99"];
    let monitor = Monitor::start(ctx, &[&args[..], &red].concat())?;
    let open = "dmthin_pool_open{pool=\"tank\"}".to_owned();
    ensure!(eventually(|| Ok(samples(&file)?.contains_key(&open)))?);
    thread::sleep(Duration::from_secs(4));
    let read = |told: &BTreeMap<String, String>| {
        told.keys()
            .any(|name| name.contains("exclusive_bytes") || name.contains("dmthin_orphans"))
    };
    let told = samples(&file)?;
    ensure!(!read(&told), "{told:?}");
    drop(monitor);
    let _monitor = Monitor::start(ctx, &args)?;
    ensure!(eventually(|| Ok(read(&samples(&file)?)))?, "never read");
    Ok(())
}
