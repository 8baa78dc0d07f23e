//! `pool-cli pool map`: a picture of the pool's data, each part in the colour of who has it.
//!
//! The cells follow a Hilbert curve, so that blocks that lie near each other on the device do so in the
//! picture, and what was written at a time is a patch.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use dmthin::graph::{BlockMap, MapCell, MapOwner, OwnSpace, VolumeSpace};
use dmthin::ids::{PoolName, ThinId, VolumeKind};
use dmthin::units::Bytes;
use serde::Serialize;

use crate::args::Context;
use crate::output::{list, record, short};
use crate::svg::{Anchor, Area, Font, Svg};

pub(super) const MAP_HELP: &str = "\
Writes an SVG, which every browser shows: the data of the pool from the first block to the last,
along a Hilbert curve, so that neighbours on the device are neighbours in the picture. Each cell
has the colour of who has most of it, the paler the less of it is mapped. A block that several
have is the base's or the layer's that it came with, in a lighter tone. The pool must be open.

Prints: the file's name. With --json it prints the cells, and who has what.

Examples:
  pool-cli pool map -o tank.svg
  pool-cli pool map tank -o - | rsvg-convert >tank.png";

/// Options of `pool map`.
#[derive(Debug, Args)]
pub(crate) struct MapArgs {
    /// Name of the pool [default: the one of --pool, else the only one]
    name: Option<PoolName>,
    /// File to write; - writes to stdout
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Debug, Serialize)]
struct Mapped<'a> {
    map: &'a BlockMap,
}

/// The grid has this many cells a side: two to the power of [`ORDER`].
const SIDE: u32 = 128;
const ORDER: u32 = 7;
const CELL: f64 = 6.0;
const MARGIN: f64 = 28.0;
const TOP: f64 = 92.0;
const GRID: f64 = 768.0;
const LEGEND: f64 = 400.0;
const LINE: f64 = 21.0;

const INK: &str = "#1f2933";
const SOFT: &str = "#667380";
const PAPER: &str = "#fdfcf9";
const FREE: &str = "#eceae4";
const EDGE: &str = "#d8d4ca";

/// A colour for what is one's own, and its tone for what others have too.
type Tones = [&'static str; 2];

const BASE: Tones = ["#5b6673", "#a3acb5"];
const BALLAST: Tones = ["#c2a633", "#e0d08a"];
const COPY: Tones = ["#5f6b7a", "#a9b3bf"];
const OTHERS: Tones = ["#8a3fa0", "#c79fd3"];
const LAYERS: &[Tones] = &[
    ["#1c5d99", "#8fb8de"],
    ["#178f8f", "#92d2cf"],
    ["#3f7d3a", "#a9d19f"],
    ["#5a55b5", "#b7b4e6"],
    ["#2f8fd0", "#a9d6f2"],
    ["#6d8f1f", "#c6da8c"],
];
const MORE_LAYERS: Tones = ["#4a7a8c", "#b0cad4"];
const CONTAINERS: &[Tones] = &[
    ["#d1495b", "#efb3bb"],
    ["#e08e1b", "#f5d3a0"],
    ["#b5542a", "#e3b49f"],
    ["#c2478f", "#e9b0d2"],
    ["#e0662f", "#f6c0a6"],
    ["#9c2f4b", "#d9a2b1"],
];
const MORE_CONTAINERS: Tones = ["#a67c52", "#d9c3aa"];
const DATA: &[Tones] = &[
    ["#3d4f9f", "#b3bbe0"],
    ["#0f7a5c", "#8fcdb9"],
    ["#7a4fa3", "#cab4dd"],
];
const MORE_DATA: Tones = ["#56658f", "#bcc4d8"];
const SNAPSHOTS: Tones = ["#7d7261", "#cbc3b6"];

/// What one colour stands for.
#[derive(Debug)]
struct Entry {
    group: &'static str,
    name: String,
    tones: Tones,
    own: Bytes,
    shared: Bytes,
}

/// Everybody who has blocks, as told in the legend, and which entry is whose.
#[derive(Debug, Default)]
struct Legend {
    entries: Vec<Entry>,
    of: BTreeMap<ThinId, usize>,
}

fn name_of(volume: &VolumeSpace) -> String {
    match (&volume.name, volume.diff_id) {
        (Some(name), _) => name.clone(),
        (None, Some(diff_id)) if volume.images.is_empty() => format!("layer {}", short(diff_id)),
        (None, Some(_)) => list(&volume.images),
        (None, None) => format!("volume {}", volume.usage.volume),
    }
}

impl Legend {
    fn new(map: &BlockMap) -> Self {
        let mut legend = Self::default();
        let volumes: BTreeMap<ThinId, &VolumeSpace> = map
            .space
            .volumes
            .iter()
            .map(|volume| (volume.thin_id, volume))
            .collect();
        let is = |owner: &&MapOwner, kind| {
            let volume = volumes.get(&owner.thin_id);
            volume.is_some_and(|volume| volume.usage.kind == kind)
        };
        let of_kind = |kind| {
            let mut of: Vec<_> = map.owners.iter().filter(|owner| is(owner, kind)).collect();
            // The largest have colours of their own; of equal ones the elder.
            of.sort_by_key(|owner| std::cmp::Reverse(owner.own.saturating_add(owner.shared)));
            of
        };
        for (kind, group, own_colours, rest) in [
            (VolumeKind::Base, "Base", &[BASE][..], BASE),
            (VolumeKind::Layer, "Layers", LAYERS, MORE_LAYERS),
            (
                VolumeKind::Container,
                "Containers",
                CONTAINERS,
                MORE_CONTAINERS,
            ),
            (VolumeKind::Data, "Data volumes", DATA, MORE_DATA),
            (VolumeKind::Snapshot, "Snapshots", &[][..], SNAPSHOTS),
        ] {
            let owners = of_kind(kind);
            for (nth, owner) in owners.iter().enumerate() {
                let volume = volumes.get(&owner.thin_id).copied();
                let tones = own_colours.get(nth).copied();
                let name = match (kind, volume) {
                    (VolumeKind::Base, _) => "empty file system".to_owned(),
                    (_, Some(volume)) => name_of(volume),
                    (_, None) => String::new(),
                };
                match tones {
                    Some(tones) => legend.add(owner, group, name, tones),
                    None => legend.join(owner, group, rest),
                }
            }
        }
        for owner in &map.owners {
            if legend.of.contains_key(&owner.thin_id) {
                continue;
            }
            let is = |own: Option<OwnSpace>| own.is_some_and(|own| own.thin_id == owner.thin_id);
            if is(map.space.ballast) {
                legend.add(owner, "Other", "ballast".to_owned(), BALLAST);
            } else if is(map.space.mirror) {
                legend.add(owner, "Other", "copy of the catalogue".to_owned(), COPY);
            } else {
                legend.join(owner, "Other", OTHERS);
            }
        }
        legend
    }

    fn add(&mut self, owner: &MapOwner, group: &'static str, name: String, tones: Tones) {
        self.of.insert(owner.thin_id, self.entries.len());
        self.entries.push(Entry {
            group,
            name,
            tones,
            own: owner.own,
            shared: owner.shared,
        });
    }

    /// Puts it to the rest of its group.
    fn join(&mut self, owner: &MapOwner, group: &'static str, tones: Tones) {
        const REST: &str = "all others";
        let mut entries = self.entries.iter_mut().enumerate();
        let rest = entries.find(|(_, entry)| entry.group == group && entry.name == REST);
        match rest {
            Some((at, entry)) => {
                entry.own = entry.own.saturating_add(owner.own);
                entry.shared = entry.shared.saturating_add(owner.shared);
                self.of.insert(owner.thin_id, at);
            }
            None => self.add(owner, group, REST.to_owned(), tones),
        }
    }
}

/// Column and row of a point of the curve through a square whose side is two to the power of `order`.
fn hilbert(order: u32, index: usize) -> (u32, u32) {
    let (mut x, mut y) = (0_u32, 0_u32);
    let mut rest = u32::try_from(index).unwrap_or(u32::MAX);
    for level in 0..order {
        let side = 1_u32.checked_shl(level).unwrap_or(0);
        let (right, down) = ((rest / 2) % 2, (rest % 2) ^ ((rest / 2) % 2));
        if down == 0 {
            if right == 1 {
                let last = side.saturating_sub(1);
                (x, y) = (last.saturating_sub(x), last.saturating_sub(y));
            }
            (x, y) = (y, x);
        }
        x = x.saturating_add(side.saturating_mul(right));
        y = y.saturating_add(side.saturating_mul(down));
        rest /= 4;
    }
    (x, y)
}

/// A colour of a cell: an entry of the legend, whether the shared tone, and how much of it is mapped.
type Style = (usize, bool, &'static str);

/// How strong the colour of a cell is.
fn opacity(cell: &MapCell) -> &'static str {
    let parts = cell.mapped.saturating_mul(4).checked_div(cell.blocks);
    match parts {
        Some(0) => "0.4",
        Some(1) => "0.6",
        Some(2) => "0.8",
        _ => "1",
    }
}

/// The runs of each style, by row.
fn runs(map: &BlockMap, legend: &Legend) -> (BTreeMap<Style, Vec<[u32; 3]>>, u32) {
    let order = (0..ORDER)
        .find(|order| 4_usize.saturating_pow(*order) >= map.cells.len())
        .unwrap_or(ORDER);
    let mut grid: BTreeMap<(u32, u32), Style> = BTreeMap::new();
    for (index, cell) in map.cells.iter().enumerate() {
        let entry = cell.owner.and_then(|owner| legend.of.get(&owner));
        if let Some(entry) = entry {
            let (column, row) = hilbert(order, index);
            grid.insert((row, column), (*entry, cell.shared, opacity(cell)));
        }
    }
    let mut runs: BTreeMap<Style, Vec<[u32; 3]>> = BTreeMap::new();
    for ((row, column), style) in grid {
        let of = runs.entry(style).or_default();
        match of.last_mut() {
            Some([begin, last, length])
                if *last == row && begin.saturating_add(*length) == column =>
            {
                *length = length.saturating_add(1);
            }
            _ => of.push([column, row, 1]),
        }
    }
    (runs, order)
}

const fn font(size: u32, bold: bool, fill: &'static str) -> Font {
    Font { size, bold, fill }
}

/// The whole picture.
fn picture(map: &BlockMap) -> String {
    let legend = Legend::new(map);
    let (pool, mapped, total) = (&map.space.pool, map.space.mapped, map.total);
    let title = format!("Pool {pool}");
    let free = total.saturating_sub(mapped);
    let groups: f64 = legend_groups(&legend)
        .len()
        .try_into()
        .map_or(0.0, |n: u32| f64::from(n));
    let lines: f64 = legend
        .entries
        .len()
        .try_into()
        .map_or(0.0, |n: u32| f64::from(n));
    let legend_height = (lines + 3.0) * LINE + groups * (LINE + 12.0);
    let height = TOP + GRID.max(legend_height) + MARGIN + 40.0;
    let width = MARGIN + GRID + MARGIN + LEGEND + MARGIN;
    let shows = format!(
        "The {total} of data of the pool, of which {mapped} are in use, coloured by who has them: {}.",
        legend
            .entries
            .iter()
            .map(|entry| format!(
                "{} ({}) {} own and {} shared",
                entry.name, entry.group, entry.own, entry.shared
            ))
            .collect::<Vec<_>>()
            .join("; ")
    );
    let mut svg = Svg::new(width, height, &title, &shows);
    let whole = Area {
        x: 0.0,
        y: 0.0,
        width,
        height,
    };
    svg.rect(whole, 0.0, PAPER, None);
    svg.text(MARGIN, 46.0, Anchor::Start, font(26, true, INK), &title);
    let line = format!("{mapped} of {total} in use, {free} free");
    svg.text(MARGIN, 70.0, Anchor::Start, font(15, false, SOFT), &line);
    grid(&mut svg, map, &legend);
    legend_text(&mut svg, &legend, free);
    svg.finish()
}

fn grid(svg: &mut Svg, map: &BlockMap, legend: &Legend) {
    let area = Area {
        x: MARGIN,
        y: TOP,
        width: GRID,
        height: GRID,
    };
    svg.rect(area, 3.0, FREE, Some(EDGE));
    let (runs, order) = runs(map, legend);
    let side = 1_u32.checked_shl(order).unwrap_or(SIDE);
    svg.begin_grid(MARGIN, TOP, CELL * f64::from(SIDE) / f64::from(side));
    for ((entry, shared, opacity), of) in runs {
        let Some(entry) = legend.entries.get(entry) else {
            continue;
        };
        let [own, lighter] = entry.tones;
        let (fill, word) = if shared {
            (lighter, "shared")
        } else {
            (own, "own")
        };
        let tip = format!("{}, {word}", entry.name);
        svg.runs(fill, opacity, &tip, of.into_iter());
    }
    svg.end_grid();
    let blocks = map.cells.iter().map(|cell| cell.blocks).max().unwrap_or(0);
    let cell = Bytes::new(blocks.saturating_mul(map.block_size.get()));
    let note = format!(
        "A cell is up to {cell} ({blocks} blocks of {}), along a Hilbert curve from the upper left to the upper \
         right; the paler, the less of it is in use.",
        map.block_size
    );
    svg.text(
        MARGIN,
        TOP + GRID + 26.0,
        Anchor::Start,
        font(12, false, SOFT),
        &note,
    );
}

/// The groups that there are, in their order.
fn legend_groups(legend: &Legend) -> Vec<&'static str> {
    let mut groups: Vec<&'static str> = legend.entries.iter().map(|entry| entry.group).collect();
    groups.dedup();
    groups
}

fn legend_text(svg: &mut Svg, legend: &Legend, free: Bytes) {
    const SWATCH: f64 = 13.0;
    let left = MARGIN + GRID + MARGIN;
    let (own_at, shared_at) = (left + LEGEND - 92.0, left + LEGEND);
    let swatch = |x, y, fill: &str, stroke, svg: &mut Svg| {
        let area = Area {
            x,
            y: y - SWATCH + 2.0,
            width: SWATCH,
            height: SWATCH,
        };
        svg.rect(area, 3.0, fill, stroke);
    };
    let mut y = TOP + 12.0;
    let head = font(12, false, SOFT);
    svg.text(own_at, y, Anchor::End, head, "own");
    svg.text(shared_at, y, Anchor::End, head, "shared");
    for group in legend_groups(legend) {
        svg.text(left, y, Anchor::Start, font(14, true, INK), group);
        y += LINE;
        for entry in legend.entries.iter().filter(|entry| entry.group == group) {
            let [own, shared] = entry.tones;
            swatch(left, y, own, None, svg);
            swatch(left + SWATCH + 3.0, y, shared, None, svg);
            let name = cut(&entry.name, 28);
            let text = font(13, false, INK);
            svg.text(left + 40.0, y, Anchor::Start, text, &name);
            svg.text(own_at, y, Anchor::End, text, &entry.own.to_string());
            svg.text(shared_at, y, Anchor::End, text, &entry.shared.to_string());
            y += LINE;
        }
        y += 12.0;
    }
    swatch(left, y, FREE, Some(EDGE), svg);
    svg.text(left + 40.0, y, Anchor::Start, font(13, false, INK), "free");
    svg.text(
        own_at,
        y,
        Anchor::End,
        font(13, false, INK),
        &free.to_string(),
    );
}

/// Not more than so many characters, the last three of them dots if there were more.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept = text.chars().take(most.saturating_sub(3));
    kept.chain("...".chars()).collect()
}

/// Draws one.
pub(super) fn run(context: &Context, args: &MapArgs) -> anyhow::Result<()> {
    let cells = SIDE.saturating_mul(SIDE);
    let cells = usize::try_from(cells).unwrap_or(usize::MAX);
    let map = context.pool(args.name.as_ref())?.block_map(cells)?;
    let picture = picture(&map);
    let out = &context.out;
    if args.output.as_os_str() == "-" {
        return out.show(&Mapped { map: &map }, || picture);
    }
    let file = &args.output;
    fs::write(file, picture).with_context(|| format!("cannot write {}", file.display()))?;
    out.done(&Mapped { map: &map }, || {
        record([file.display().to_string()])
    })
}

#[cfg(test)]
mod tests;
