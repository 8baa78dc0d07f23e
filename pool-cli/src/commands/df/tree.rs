//! `df --tree`: what stands on what, with how full each is.

use std::collections::BTreeMap;

use dmthin::graph::{SpaceReport, VolumeSpace};
use dmthin::ids::{VolumeId, VolumeKind};

use super::space::{Space, name, volume_bar};
use crate::args::Context;
use crate::output::{Colour, Output, clean, colour_of, list, usage};

/// A line of the tree, before it is known how wide the first column is.
#[derive(Debug)]
struct Line {
    label: String,
    bar: String,
    colour: Option<Colour>,
    numbers: String,
}

type Children<'a> = BTreeMap<Option<VolumeId>, Vec<&'a VolumeSpace>>;

fn line(volume: &VolumeSpace, prefix: &str) -> Line {
    let (bar, level) = volume_bar(volume);
    let what = match volume.usage.kind {
        VolumeKind::Base => "base".to_owned(),
        VolumeKind::Layer if volume.images.is_empty() => name(volume),
        VolumeKind::Layer => format!("{} {}", name(volume), list(&volume.images)),
        VolumeKind::Container => name(volume),
        VolumeKind::Snapshot => format!("snapshot {}", name(volume)),
        VolumeKind::Data => format!("volume {}", name(volume)),
    };
    let usage = &volume.usage;
    Line {
        label: clean(&format!("{prefix}{what}")),
        bar,
        colour: Some(colour_of(level)),
        numbers: format!(
            "{} of {}, {} own",
            usage.mapped, usage.size, usage.exclusive
        ),
    }
}

fn branch(volume: &VolumeSpace, [first, rest]: [&str; 2], of: &Children<'_>, out: &mut Vec<Line>) {
    out.push(line(volume, first));
    let children = of.get(&Some(volume.usage.volume));
    // A volume is younger than what it stands on, so that no path is a ring.
    let younger = |child: &&&VolumeSpace| child.usage.volume > volume.usage.volume;
    let children: Vec<_> = children.into_iter().flatten().filter(younger).collect();
    let mut left = children.len();
    for child in children {
        left = left.saturating_sub(1);
        let [mark, below] = if left == 0 {
            ["`- ", "   "]
        } else {
            ["|- ", "|  "]
        };
        let prefixes = [&format!("{rest}{mark}")[..], &format!("{rest}{below}")];
        branch(child, prefixes, of, out);
    }
}

fn text(space: &SpaceReport, out: &Output) -> String {
    let mut of: Children<'_> = BTreeMap::new();
    for volume in &space.volumes {
        // What it stood on may be forgotten.
        let parent = volume.parent.filter(|parent| {
            let found = space
                .volumes
                .iter()
                .find(|other| other.usage.volume == *parent);
            found.is_some_and(|other| other.usage.volume < volume.usage.volume)
        });
        of.entry(parent).or_default().push(volume);
    }
    let mut lines = Vec::new();
    for root in of.get(&None).into_iter().flatten() {
        branch(root, ["", ""], &of, &mut lines);
    }
    let width = |label: &str| label.chars().count();
    let widest = lines
        .iter()
        .map(|line| width(&line.label))
        .max()
        .unwrap_or(0);
    let mut text = match space.data {
        Some(data) => format!("{}  {}\n", space.pool, usage(data)),
        None => format!("{}\n", space.pool),
    };
    for line in &lines {
        let pad = " ".repeat(widest.saturating_sub(width(&line.label)));
        let bar = match line.colour {
            Some(colour) => out.paint(colour, &line.bar),
            None => line.bar.clone(),
        };
        text.push_str(&format!("{}{pad}  {bar}  {}\n", line.label, line.numbers));
    }
    text
}

/// Shows it.
pub(super) fn run(context: &Context) -> anyhow::Result<()> {
    let space = context.pool(None)?.space()?;
    let out = &context.out;
    out.show(&Space { space: &space }, || text(&space, out))
}

#[cfg(test)]
mod tests {
    use super::super::space::tests::report;
    use super::*;

    #[test]
    fn what_stands_on_what_is_a_tree_with_bars() {
        let plain = Output::new(false, false, false);
        assert_eq!(
            text(&report(), &plain),
            "\
tank  [######..................]  25.0 %  1 GiB of 4 GiB
base                       [#.......................]  2 MiB of 2 GiB, 1 MiB own
`- 111111111111            [=.......................]  34 MiB of 2 GiB, 0 B own
   `- 222222222222 demo:1  [#=......................]  200 MiB of 2 GiB, 3 MiB own
      |- web               [######################==]  2 GiB of 2 GiB, 1.8 GiB own
      `- db                [#======.................]  600 MiB of 2 GiB, 64 KiB own
"
        );
        let coloured = text(&report(), &Output::new(false, false, true));
        for bar in [
            "\u{1b}[31m[######################==]\u{1b}[0m",
            "\u{1b}[32m[#======.................]\u{1b}[0m",
        ] {
            assert!(coloured.contains(bar), "{coloured}");
        }
    }
}
