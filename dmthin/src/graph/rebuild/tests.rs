#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "test helper"
)]

use std::collections::BTreeSet;
use std::fs::{self, File};

use super::put_aside;
use super::remade::{LOST_CONFIG, thin_ids};
use super::remains::Thin;
use crate::graph::reading::Window;
use crate::ids::ThinId;
use crate::thinmeta::Run;
use crate::units::{BlockSize, Bytes, DataBlocks};

fn id(n: u64) -> ThinId {
    ThinId::new(n).unwrap()
}

fn ids(ids: &[u64]) -> BTreeSet<ThinId> {
    ids.iter().map(|n| id(*n)).collect()
}

#[test]
fn thin_ids_go_on_above_all_that_are_taken() {
    let end = u64::from(ThinId::MIRROR.get());
    for (taken, next) in [(&[][..], 0), (&[0, 4], 5), (&[end - 2], end - 1)] {
        assert_eq!(thin_ids(None, &ids(taken)), (id(next), ThinId::MIRROR));
    }
    // None is left above.
    assert_eq!(thin_ids(None, &ids(&[3, end - 1])), (id(4), id(end - 1)));
}

#[test]
fn what_is_there_of_a_catalogue_is_put_aside_and_never_over_another() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalogue.db");
    let names = || {
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(put_aside(&path).unwrap(), None);
    fs::write(&path, "1").unwrap();
    fs::write(dir.path().join("catalogue.db-wal"), "log").unwrap();
    // Who has the old one open still must not share the index of a log with the new one.
    fs::write(dir.path().join("catalogue.db-shm"), "index").unwrap();
    let aside = dir.path().join("catalogue.db.lost-1");
    assert_eq!(put_aside(&path).unwrap(), Some(aside.clone()));
    assert_eq!(names(), ["catalogue.db.lost-1", "catalogue.db.lost-1-wal"]);
    // A log alone, as a cut between the two leaves; a directory in place of the file.
    fs::write(dir.path().join("catalogue.db-wal"), "log").unwrap();
    put_aside(&path).unwrap();
    fs::create_dir(&path).unwrap();
    put_aside(&path).unwrap();
    assert_eq!(
        names(),
        [
            "catalogue.db.lost-1",
            "catalogue.db.lost-1-wal",
            "catalogue.db.lost-2-wal",
            "catalogue.db.lost-3"
        ]
    );
    assert_eq!(fs::read(aside).unwrap(), b"1");
}

#[test]
fn bytes_of_a_thin_device_come_from_where_they_are_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let data = [b'a', b'b', b'c'].map(|byte| vec![byte; 65_536]).concat();
    fs::write(&path, data).unwrap();
    let window = Window::from(File::open(&path).unwrap(), Bytes::ZERO);
    let run = |begin, data, len| Run {
        begin: DataBlocks::new(begin),
        data: DataBlocks::new(data),
        len: DataBlocks::new(len),
    };
    let thin = Thin {
        data: &window,
        runs: vec![run(0, 2, 1), run(2, 0, 2)],
        block_size: BlockSize::from_bytes(Bytes::from_kib(64)).unwrap(),
    };
    let at = |kib| thin.read(Bytes::from_kib(kib), Bytes::from_kib(4)).unwrap()[0];
    let found = [at(0), at(60), at(64), at(128), at(192), at(256)];
    assert_eq!(found, [b'c', b'c', 0, b'a', b'b', 0]);
    let across = thin.read(Bytes::from_kib(60), Bytes::from_kib(72)).unwrap();
    assert_eq!(across[..4096], [b'c'; 4096]);
    assert_eq!(across[4096..69_632], [0; 65_536]);
    assert_eq!(across[69_632..], [b'a'; 4096]);
}

#[test]
fn an_image_of_nothing_has_a_configuration_that_reads() {
    let parsed: serde_json::Value = serde_json::from_str(LOST_CONFIG).unwrap();
    assert_eq!(parsed["rootfs"]["diff_ids"], serde_json::json!([]));
}
