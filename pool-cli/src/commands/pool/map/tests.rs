use std::collections::BTreeSet;

use super::*;
use crate::commands::df::tests_report;

fn thin(id: u64) -> ThinId {
    ThinId::new(id).unwrap()
}

/// A pool of 16384 cells: base, layers and containers lie one after the other, with gaps.
fn map() -> BlockMap {
    let cell = |at: u64| -> MapCell {
        let owner = match at {
            0..100 => Some((0, 16, true)),
            100..1500 => Some((1, 16, true)),
            1500..2600 => Some((2, 16, !at.is_multiple_of(7))),
            2600..5000 => Some((
                3,
                16_u64.saturating_sub(at.checked_rem(16).unwrap_or(0)),
                false,
            )),
            5500..6200 => Some((4, 16, at.is_multiple_of(3))),
            7000..7300 => Some((9, 16, false)),
            7400..7410 => Some((u64::from(ThinId::MIRROR.get()), 16, false)),
            8000..8100 => Some((77, 4, false)),
            _ => None,
        };
        MapCell {
            blocks: 16,
            mapped: owner.map_or(0, |(_, mapped, _)| mapped),
            owner: owner.map(|(id, _, _)| thin(id)),
            shared: owner.is_some_and(|(_, _, shared)| shared),
        }
    };
    let owner = |id, own, shared| MapOwner {
        thin_id: thin(id),
        own: Bytes::from_mib(own),
        shared: Bytes::from_mib(shared),
    };
    let mut space = tests_report();
    for volume in &mut space.volumes {
        if volume.name.as_deref() == Some("db") {
            volume.name = Some("<db & \"co\">".to_owned());
        }
    }
    BlockMap {
        space,
        block_size: Bytes::from_kib(64),
        total: Bytes::from_gib(16),
        cells: (0..16384).map(cell).collect(),
        owners: vec![
            owner(0, 1, 100),
            owner(1, 0, 1400),
            owner(2, 157, 943),
            owner(3, 1945, 0),
            owner(4, 467, 233),
            owner(9, 300, 0),
            owner(77, 25, 0),
            owner(u64::from(ThinId::MIRROR.get()), 2, 0),
        ],
    }
}

#[test]
fn the_curve_goes_through_every_cell_to_a_neighbour() {
    let mut seen = BTreeSet::new();
    let mut last = None;
    for index in 0..16384 {
        let (x, y) = hilbert(ORDER, index);
        assert!(x < SIDE && y < SIDE && seen.insert((x, y)));
        if let Some((from_x, from_y)) = last.replace((x, y)) {
            assert_eq!(x.abs_diff(from_x) + y.abs_diff(from_y), 1, "{index}");
        }
    }
    assert_eq!((hilbert(ORDER, 0), last), ((0, 0), Some((SIDE - 1, 0))));
}

#[test]
fn every_cell_with_an_owner_is_drawn_once_and_in_its_colour() {
    let map = map();
    let legend = Legend::new(&map);
    let (runs, order) = runs(&map, &legend);
    assert_eq!(order, ORDER);
    let of = |entry: usize, shared| -> u32 {
        let styles = runs
            .iter()
            .filter(|((e, s, _), _)| *e == entry && *s == shared);
        styles.flat_map(|(_, runs)| runs).map(|run| run[2]).sum()
    };
    let names: Vec<&str> = legend.entries.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "empty file system",
            "layer 111111111111",
            "demo:1",
            "web",
            "<db & \"co\">",
            "ballast",
            "all others",
            "copy of the catalogue"
        ]
    );
    let drawn: Vec<[u32; 2]> = (0..names.len())
        .map(|n| [of(n, false), of(n, true)])
        .collect();
    assert_eq!(
        drawn,
        [
            [0, 100],
            [0, 1400],
            [157, 943],
            [2400, 0],
            [467, 233],
            [300, 0],
            [100, 0],
            [10, 0]
        ]
    );
}

#[test]
fn many_owners_share_the_last_colour_of_their_kind() {
    let mut map = map();
    let like = map.space.volumes[3].clone();
    for id in 100..110 {
        let mut volume = like.clone();
        volume.thin_id = thin(id);
        map.space.volumes.push(volume);
        map.owners.push(MapOwner {
            thin_id: thin(id),
            own: Bytes::from_mib(id),
            shared: Bytes::from_mib(1),
        });
    }
    let legend = Legend::new(&map);
    let containers: Vec<_> = legend
        .entries
        .iter()
        .filter(|entry| entry.group == "Containers")
        .map(|entry| (entry.name.as_str(), entry.own, entry.shared))
        .collect();
    assert_eq!(containers.len(), 7);
    // 106 to 109 have colours of their own, beside the two that are larger.
    let rest: u64 = (100..106).sum();
    assert_eq!(
        containers[6],
        ("all others", Bytes::from_mib(rest), Bytes::from_mib(6))
    );
}

/// Written where `DMTHIN_PICTURE` says, to be looked at.
#[test]
fn a_picture_is_the_same_each_time_and_says_what_it_shows() {
    let text = picture(&map());
    assert_eq!(text, picture(&map()));
    assert!(text.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""));
    assert!(text.contains("<title id=\"title\">Pool tank</title>"));
    assert!(text.contains("&lt;db &amp; &quot;co&quot;&gt;"));
    assert!(!text.contains("<db"));
    assert!(text.contains(">1.8 GiB</text>"), "{text}");
    assert!(text.len() < 200_000, "{}", text.len());
    if let Some(file) = std::env::var_os("DMTHIN_PICTURE") {
        fs::write(file, text).unwrap();
    }
}
