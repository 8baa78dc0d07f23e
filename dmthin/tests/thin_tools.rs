//! A pool of 1000 snapshots with random writes, which `thin_restore` makes on a file: `thin_ls` and
//! `thin_delta` read in it what we read.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    missing_docs,
    reason = "test helper"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs::{self, File};
use std::process::Command;

use dmthin::ids::ThinId;
use dmthin::thinmeta::Metadata;

const SNAPSHOTS: u64 = 1000;
const BLOCKS: u64 = 400;
const WRITES: u64 = 20;

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output =
        output.unwrap_or_else(|error| panic!("{program} (thin-provisioning-tools): {error}"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The same numbers each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// What each device has mapped: an origin, snapshots of it or of another snapshot, all with some blocks
/// written anew, and some unmapped.
fn pool() -> (BTreeMap<u64, BTreeMap<u64, u64>>, u64) {
    let mut random = Random(0x7415);
    let mut next = BLOCKS;
    let origin: BTreeMap<u64, u64> = (0..BLOCKS).map(|block| (block, block)).collect();
    let mut devices = BTreeMap::from([(0, origin)]);
    for id in 1..=SNAPSHOTS {
        let of = if random.below(3) == 0 {
            random.below(id)
        } else {
            0
        };
        let mut maps = devices[&of].clone();
        for _ in 0..WRITES {
            maps.insert(random.below(BLOCKS + 50), next);
            next += 1;
        }
        maps.remove(&random.below(BLOCKS));
        devices.insert(id, maps);
    }
    (devices, next)
}

fn xml(devices: &BTreeMap<u64, BTreeMap<u64, u64>>, data: u64) -> String {
    let mut xml = format!(
        "<superblock uuid=\"\" time=\"{SNAPSHOTS}\" transaction=\"7\" flags=\"0\" version=\"2\" \
         data_block_size=\"128\" nr_data_blocks=\"{data}\">\n"
    );
    for (id, maps) in devices {
        writeln!(
            xml,
            "<device dev_id=\"{id}\" mapped_blocks=\"{}\" transaction=\"{id}\" creation_time=\"{id}\" \
             snap_time=\"{SNAPSHOTS}\">",
            maps.len()
        )
        .unwrap();
        for (block, data) in maps {
            writeln!(
                xml,
                "<single_mapping origin_block=\"{block}\" data_block=\"{data}\" time=\"{id}\"/>"
            )
            .unwrap();
        }
        xml.push_str("</device>\n");
    }
    xml + "</superblock>\n"
}

fn thin(id: u64) -> ThinId {
    ThinId::new(id).unwrap()
}

/// Blocks that the second of two devices has otherwise than the first, by `thin_delta`.
fn thin_delta(file: &str, old: u64, new: u64) -> BTreeSet<u64> {
    let told = run(
        "thin_delta",
        &[
            "--thin1",
            &old.to_string(),
            "--thin2",
            &new.to_string(),
            file,
        ],
    );
    let number = |line: &str, name: &str| -> u64 {
        let (_, rest) = line.split_once(&format!("{name}=\"")).unwrap();
        rest.split_once('"').unwrap().0.parse().unwrap()
    };
    let differs = told
        .lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with("<different") || line.starts_with("<right_only"));
    differs
        .flat_map(|line| {
            let begin = number(line, "begin");
            begin..begin + number(line, "length")
        })
        .collect()
}

#[test]
fn thin_tools_read_what_we_read_of_a_thousand_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let (source, image) = (dir.path().join("pool.xml"), dir.path().join("metadata.img"));
    let (devices, data) = pool();
    fs::write(&source, xml(&devices, data)).unwrap();
    File::create(&image).unwrap().set_len(32 << 20).unwrap();
    let (source, file) = (source.to_str().unwrap(), image.to_str().unwrap());
    run("thin_restore", &["-i", source, "-o", file]);

    let mut metadata = Metadata::of_closed(File::open(&image).unwrap())
        .unwrap()
        .unwrap();
    let exclusives = metadata.exclusives(&[]).unwrap();
    let found = metadata.devices().unwrap();
    let ours: Vec<[u64; 4]> = found
        .iter()
        .map(|device| {
            let alone = exclusives.devices[&device.id].get();
            let mapped = device.mapped.get();
            [u64::from(device.id.get()), mapped, alone, mapped - alone]
        })
        .collect();
    let columns = "DEV,MAPPED_BLOCKS,EXCLUSIVE_BLOCKS,SHARED_BLOCKS";
    let listed = run("thin_ls", &["--no-headers", "-o", columns, file]);
    let row = |line: &str| -> [u64; 4] {
        let cells = line.split_whitespace().map(|cell| cell.parse().unwrap());
        cells.collect::<Vec<_>>().try_into().unwrap()
    };
    let theirs: Vec<[u64; 4]> = listed.lines().map(row).collect();
    assert_eq!(ours.len(), 1001);
    assert_eq!(ours, theirs);
    let distinct: BTreeSet<u64> = devices
        .values()
        .flat_map(|maps| maps.values())
        .copied()
        .collect();
    assert_eq!(
        exclusives.mapped.get(),
        u64::try_from(distinct.len()).unwrap()
    );

    for (old, new) in [(0, 1), (1, 0), (1, 1000), (500, 501), (999, 3)] {
        let spans = metadata.changed(thin(new), thin(old)).unwrap().unwrap();
        let ours: BTreeSet<u64> = spans
            .iter()
            .flat_map(|span| span.begin.get()..span.begin.get() + span.len.get())
            .collect();
        assert_eq!(ours, thin_delta(file, old, new), "{new} against {old}");
        assert!(ours.len() > 15, "{new} against {old}");
    }
}
