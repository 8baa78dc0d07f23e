//! `df -v`: a line for each image and each volume of a pool.

use dmthin::graph::{ImageSpace, Level, OtherSpace, OwnSpace, SpaceReport, Usage, VolumeSpace};
use dmthin::ids::VolumeKind;
use dmthin::units::Bytes;
use serde::Serialize;

use crate::args::Context;
use crate::columns::{Cell, Column, ListArgs, more, shown};
use crate::output::{bar_of_two, colour_of, lines, list, short};

#[derive(Debug, Serialize)]
pub(super) struct Space<'a> {
    pub(super) space: &'a SpaceReport,
}

/// A line, of whatever it is.
#[derive(Debug)]
struct Row<'a> {
    what: What<'a>,
    mapped: Bytes,
    exclusive: Bytes,
    shared: Bytes,
    freed: Option<Bytes>,
}

#[derive(Debug, Clone, Copy)]
enum What<'a> {
    Image(&'a ImageSpace),
    Volume(&'a VolumeSpace),
    Ballast(OwnSpace),
    Mirror(OwnSpace),
    Other(OtherSpace),
}

/// What a volume is called in a list.
pub(super) fn name(volume: &VolumeSpace) -> String {
    match (volume.usage.kind, volume.diff_id) {
        (VolumeKind::Layer, Some(diff_id)) => short(diff_id),
        _ => match &volume.name {
            Some(name) => name.clone(),
            None => "-".to_owned(),
        },
    }
}

impl Row<'_> {
    fn volume(&self) -> Option<&VolumeSpace> {
        match self.what {
            What::Volume(volume) => Some(volume),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self.what {
            What::Image(_) => "image",
            What::Volume(volume) => volume.usage.kind.as_str(),
            What::Ballast(_) => "ballast",
            What::Mirror(_) => "copy",
            What::Other(_) => "unknown",
        }
    }

    fn name(&self) -> String {
        match self.what {
            What::Image(image) if image.names.is_empty() => short(image.id),
            What::Image(image) => list(&image.names),
            What::Volume(volume) => name(volume),
            What::Ballast(_) | What::Mirror(_) => "-".to_owned(),
            What::Other(other) => other.thin_id.to_string(),
        }
    }

    fn thin_id(&self) -> Option<u32> {
        let id = match self.what {
            What::Image(_) => None,
            What::Volume(volume) => Some(volume.thin_id),
            What::Ballast(own) | What::Mirror(own) => Some(own.thin_id),
            What::Other(other) => Some(other.thin_id),
        };
        id.map(dmthin::ids::ThinId::get)
    }
}

/// The bar of a volume, and how full it is.
pub(super) fn volume_bar(volume: &VolumeSpace) -> (String, Level) {
    let usage = Usage {
        used: volume.usage.mapped,
        total: volume.usage.size,
    };
    (bar_of_two(volume.usage.exclusive, usage), volume.level())
}

fn columns<'a>() -> Vec<Column<Row<'a>>> {
    vec![
        shown("kind", |r| Cell::text(r.kind())),
        shown("name", |r| Cell::text(r.name())),
        shown("image", |r| {
            Cell::text(list(r.volume().map_or(&[][..], |v| &v.images)))
        }),
        shown("size", |r| {
            Cell::size_or_dash(r.volume().map(|volume| volume.usage.size))
        }),
        shown("mapped", |r| Cell::size(r.mapped)),
        shown("exclusive", |r| Cell::size(r.exclusive)),
        shown("shared", |r| Cell::size(r.shared)),
        shown("freed", |r| Cell::size_or_dash(r.freed)),
        more("bar", |r| match r.volume().map(volume_bar) {
            Some((bar, level)) => Cell::text(bar).coloured(Some(colour_of(level))),
            None => Cell::text_or_dash(None::<u64>),
        }),
        more("state", |r| {
            Cell::text_or_dash(r.volume().map(|volume| volume.state))
        }),
        more("volume", |r| {
            Cell::text_or_dash(r.volume().map(|volume| volume.usage.volume))
        }),
        more("thin-id", |r| Cell::text_or_dash(r.thin_id())),
    ]
}

fn rows(space: &SpaceReport) -> Vec<Row<'_>> {
    let images = space.images.iter().map(|image| Row {
        what: What::Image(image),
        mapped: image.mapped,
        exclusive: image.exclusive,
        shared: image.shared,
        freed: image.freed,
    });
    let volumes = space.volumes.iter().map(|volume| Row {
        what: What::Volume(volume),
        mapped: volume.usage.mapped,
        exclusive: volume.usage.exclusive,
        shared: volume.shared,
        freed: volume.freed,
    });
    let ballast = space.ballast.iter().map(|ballast| Row {
        what: What::Ballast(*ballast),
        mapped: ballast.mapped,
        exclusive: ballast.mapped,
        shared: Bytes::ZERO,
        freed: Some(ballast.mapped),
    });
    let mirror = space.mirror.iter().map(|mirror| Row {
        what: What::Mirror(*mirror),
        mapped: mirror.mapped,
        exclusive: mirror.mapped,
        shared: Bytes::ZERO,
        freed: None,
    });
    let others = space.others.iter().map(|other| Row {
        what: What::Other(*other),
        mapped: other.mapped,
        exclusive: other.exclusive,
        shared: other.mapped.saturating_sub(other.exclusive),
        freed: None,
    });
    let of_pool = ballast.chain(mirror);
    images.chain(volumes).chain(of_pool).chain(others).collect()
}

/// Shows them.
pub(super) fn run(context: &Context, list: &ListArgs) -> anyhow::Result<()> {
    let space = context.pool(None)?.space()?;
    let rows = rows(&space);
    let out = &context.out;
    let text = list.painted(out, &columns(), &rows)?;
    out.show(&Space { space: &space }, || {
        if out.quiet() {
            lines(rows.iter().map(Row::name))
        } else {
            text
        }
    })
}

#[cfg(test)]
pub(crate) mod tests;
