//! How `pool-cli pool` shows pools.

use dmthin::graph::{
    Adopted, BackingReport, MirrorState, PoolPlan, PoolReport, PoolSummary, PoolWord, Promised,
    Space, TimeToFull, UntilGuard,
};
use dmthin::store::Guard;
use dmthin::units::{Bytes, Percent};

use crate::columns::{Cell, Column, more, shown};
use crate::output::{Output, colour_of, fields, or_dash, record, usage};
use crate::time;

pub(super) const fn word(state: PoolWord) -> &'static str {
    match state {
        PoolWord::Open => "open",
        PoolWord::Closed => "closed",
        PoolWord::Creating => "creating",
        PoolWord::Destroying => "destroying",
        PoolWord::Damaged => "damaged",
    }
}

pub(super) fn opened(pool: &PoolReport) -> String {
    record([
        pool.name.to_string(),
        word(pool.state).to_owned(),
        or_dash(pool.live.as_ref().map(|live| live.device)),
    ])
}

pub(super) const COLUMNS: &[Column<PoolSummary>] = &[
    shown("name", |p| Cell::text(&p.name)),
    shown("state", |p| Cell::text(word(p.state))),
    shown("size", |p| Cell::size_or_dash(p.data_size)),
    shown("images", |p| Cell::number(p.images)),
    shown("containers", |p| Cell::number(p.containers)),
    shown("problem", |p| Cell::text_or_dash(p.problem.as_ref())),
    more("uuid", |p| Cell::text_or_dash(p.uuid)),
];

/// The plan, each size with its reason.
pub(super) fn plan_fields(plan: &PoolPlan) -> String {
    let (block, blocks) = (plan.block_size.to_bytes(), plan.blocks);
    fields([
        ("Pool", plan.name.to_string()),
        ("Data", plan.data.display().to_string()),
        (
            "",
            format!("{} in {blocks} blocks of {block}", plan.data_size),
        ),
        ("Metadata", plan.metadata.display().to_string()),
        (
            "",
            format!(
                "{}: the kernel's formula, 48 bytes a block, asks for {}, and snapshots written \
                 here and there take several times that",
                plan.metadata_size, plan.metadata_least
            ),
        ),
        (
            "Low water",
            format!("the kernel gives notice at {} of free data", plan.low_water),
        ),
        ("Guard", guard_text(plan.guard, None)),
        ("Base", format!("{}, {}", plan.fs, plan.base_size)),
        ("Zeroing", zeroing_text(plan.zeroing).to_owned()),
    ])
}

pub(super) const fn zeroing_text(zeroing: bool) -> &'static str {
    if zeroing {
        "new blocks are zeroed"
    } else {
        "off (single tenant): containers can read what others wrote before"
    }
}

/// The fields with how full it is in colours, where there are any.
pub(super) fn painted_fields(out: &Output, pool: &PoolReport) -> String {
    let parts = pool.live.iter().flat_map(|live| {
        let spaces = [(Space::Data, live.data), (Space::Metadata, live.metadata)];
        spaces.into_iter().filter_map(|(space, used)| {
            let level = live.level(space).map(colour_of);
            Some((usage(used?), level))
        })
    });
    out.paint_in(&pool_fields(pool), parts)
}

pub(super) fn pool_fields(pool: &PoolReport) -> String {
    let mut rows = vec![
        ("Pool", pool.name.to_string()),
        ("UUID", pool.uuid.to_string()),
        ("State", word(pool.state).to_owned()),
    ];
    if let Some(live) = &pool.live {
        let mut mode = live.mode.clone();
        if live.needs_check {
            mode.push_str(", the metadata needs a check");
        }
        if live.needs_check || mode == "fail" {
            mode.push_str(": pool-cli pool repair ");
            mode.push_str(pool.name.as_str());
        }
        let discards = if live.discard_passdown {
            "passed down to the data device"
        } else {
            "kept in the pool: the data device does not get them"
        };
        rows.extend([
            ("Device", live.device.to_string()),
            ("Mode", mode),
            ("Data", live.data.map_or_else(|| "-".to_owned(), usage)),
            (
                "Metadata",
                live.metadata.map_or_else(|| "-".to_owned(), usage),
            ),
            ("When full", or_dash(live.on_full.as_ref())),
            ("Guard", guard_text(pool.guard, live.until_guard)),
            ("Full in", full_text(live.time_to_full)),
            ("Discards", discards.to_owned()),
            ("Active volumes", live.active_volumes.to_string()),
            ("Transaction", or_dash(live.transaction_id)),
        ]);
    }
    if let Some(ballast) = pool.ballast {
        rows.push(("Ballast", format!("{ballast}, let go at the red line")));
    }
    rows.push(("Generation", pool.generation.to_string()));
    rows.extend(backing_rows(["Data on", "Metadata on"], pool));
    rows.extend([
        ("Block size", pool.block_size.to_bytes().to_string()),
        ("Zeroing", zeroing_text(pool.zeroing).to_owned()),
        ("Base", format!("{}, {}", pool.fs, pool.base_size)),
        ("Images", format!("{}, {} layers", pool.images, pool.layers)),
        (
            "Containers",
            format!(
                "{}, {} if all were full",
                pool.containers, pool.virtual_size
            ),
        ),
    ]);
    if pool.volumes > 0 {
        let (number, size) = (pool.volumes, pool.volumes_size);
        let text = format!("{number}, {size} if all were full");
        rows.push(("Data volumes", text));
    }
    if pool.snapshots > 0 {
        rows.push(("Snapshots", pool.snapshots.to_string()));
    }
    rows.push(("Overcommit", overcommit_text(pool)));
    if pool.foreign_ids {
        let text = "it may have volumes that the catalogue does not know; they are left alone";
        rows.push(("Others", text.to_owned()));
    }
    if pool.mirror == Some(MirrorState::Behind) {
        let text = "the catalogue's copy in the pool is behind it; `pool open` writes it anew";
        rows.push(("Copy", text.to_owned()));
    }
    fields(rows)
}

/// When the pool will be full, as far as that can be told.
fn full_text(until: TimeToFull) -> String {
    let parts = [("data", until.data), ("metadata", until.metadata)];
    let told: Vec<String> = parts
        .into_iter()
        .filter_map(|(what, left)| Some(format!("{what} {}", time::span(left?))))
        .collect();
    if told.is_empty() {
        return "not to be told".to_owned();
    }
    told.join(", ")
}

/// Where the catalogue came from, and what it may lack.
pub(super) fn adopted_text(pool: &PoolReport, adopted: Adopted) -> String {
    let (name, written) = (&pool.name, time::utc(adopted.written));
    let text = format!("pool {name}: its catalogue was taken from its disk, as of {written}");
    if adopted.closed {
        return text;
    }
    format!(
        "{text}; it was not closed there, so it may have volumes that the catalogue does not know: \
         they are left alone"
    )
}

fn overcommit_text(pool: &PoolReport) -> String {
    let Promised {
        writable,
        sealed,
        total,
    } = pool.promised;
    let word = if pool.overcommit { "allowed" } else { "no" };
    format!("{word}: {writable} promised, up to {sealed} for images, of {total}")
}

/// What must stay free, and what is left until then.
pub(super) fn guard_text(guard: Guard, left: Option<UntilGuard>) -> String {
    let part = |what, share: Percent, left: Option<Bytes>| match left {
        Some(Bytes::ZERO) => format!("{share} of {what} REACHED"),
        Some(left) => format!("{share} of {what} ({left} to go)"),
        None => format!("{share} of {what}"),
    };
    let data = part("data", guard.min_free_data, left.map(|left| left.data));
    let metadata = left.map(|left| left.metadata);
    let metadata = part("metadata", guard.min_free_metadata, metadata);
    format!("nothing new below {data}, {metadata}")
}

fn backing_rows(names: [&'static str; 2], pool: &PoolReport) -> Vec<(&'static str, String)> {
    let [data, metadata] = names;
    let mut rows = Vec::new();
    for (name, backing) in [(data, &pool.data), (metadata, &pool.metadata)] {
        rows.push((name, backing.path.display().to_string()));
        rows.push(("", backing_line(backing)));
    }
    rows
}

fn backing_line(backing: &BackingReport) -> String {
    let mut parts = Vec::new();
    if backing.file {
        parts.push(format!(
            "{} of {} allocated",
            backing.allocated, backing.size
        ));
    } else {
        parts.push(backing.size.to_string());
    }
    if let Some(free) = backing.host_free {
        parts.push(format!("{free} free on the host"));
    }
    if let Some(device) = backing.device {
        let node = backing.node.as_ref();
        parts.push(node.map_or_else(
            || format!("device {device}"),
            |node| format!("{} ({device})", node.display()),
        ));
    }
    if let Some(size) = backing.block_size {
        parts.push(format!("{} byte blocks", size.get()));
    }
    if let Some(direct) = backing.direct_io {
        parts.push(if direct { "direct I/O" } else { "buffered I/O" }.to_owned());
    }
    parts.join(", ")
}
