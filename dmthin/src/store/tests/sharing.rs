//! Several threads and processes on one file, and processes that die.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::ids::{FsType, VolumeId};
use crate::store::tests::{Temp, begin_layer, layer, ready_base};
use crate::store::{Catalogue, NewVolume, StoreError, VolumeState};
use crate::units::Bytes;

const CHILD: &str = "store::tests::sharing::child_process";
const PATH: &str = "DMTHIN_TEST_CATALOGUE";
const ROUNDS: &str = "DMTHIN_TEST_ROUNDS";

const BASE: NewVolume = NewVolume::Base {
    fs: FsType::Ext4,
    size: Bytes::from_gib(1),
};

/// One round as commands do it: open, write an intent, settle it one way or the other, close.
fn round(path: &Path, n: u32) -> VolumeId {
    let catalogue = Catalogue::open(path).unwrap();
    let id = catalogue.begin_volume(BASE).unwrap().id;
    match n % 3 {
        0 => catalogue.forget_volume(id).unwrap(),
        1 => {
            catalogue.begin_deleting(id).unwrap();
        }
        _ => catalogue.set_active(id, false).unwrap(),
    }
    id
}

#[test]
#[ignore = "run by the tests beside it, as another process"]
fn child_process() {
    let path = std::env::var_os(PATH).unwrap();
    let rounds: u32 = std::env::var(ROUNDS).unwrap().parse().unwrap();
    for n in 0..rounds {
        println!("\ndone {}", round(Path::new(&path), n));
    }
}

fn spawn_child(path: &Path, rounds: u32) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--ignored", "--nocapture"])
        .env(PATH, path)
        .env(ROUNDS, rounds.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn reported(child: &mut Child) -> impl Iterator<Item = VolumeId> + use<> {
    BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("done ")?.parse().ok().map(VolumeId::new))
}

#[test]
fn two_processes_and_two_threads_never_get_the_same_id() {
    const ROUNDS: u32 = 40;
    let catalogue = Temp::new();
    let path = catalogue.path().to_owned();
    let mut children = [spawn_child(&path, ROUNDS), spawn_child(&path, ROUNDS)];
    let mut ids: Vec<_> = thread::scope(|scope| {
        let threads = [0, 1]
            .map(|_| scope.spawn(|| (0..ROUNDS).map(|n| round(&path, n)).collect::<Vec<_>>()));
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    for child in &mut children {
        ids.extend(reported(child));
        assert!(child.wait().unwrap().success());
    }
    ids.sort();
    let expected: Vec<_> = (1..=160).map(VolumeId::new).collect();
    assert_eq!(ids, expected);
    catalogue.check().unwrap();
    assert_eq!(catalogue.pool().unwrap().next_thin_id.unwrap().get(), 160);
    // Of each 40 rounds 14 forget, 13 delete and 13 leave the intent.
    let counts = catalogue.counts().unwrap();
    assert_eq!((counts.nr_deleting, counts.nr_creating), (52, 52));
    let thin_ids: BTreeSet<_> = catalogue
        .all_volumes()
        .unwrap()
        .iter()
        .map(|volume| volume.thin_id)
        .collect();
    assert_eq!(thin_ids.len(), 104);
}

#[test]
fn what_a_killed_process_had_done_is_there() {
    let catalogue = Temp::new();
    let mut expected = 0_u64;
    for kill_after in [1, 2, 7, 12] {
        let mut child = spawn_child(catalogue.path(), u32::MAX);
        let done: Vec<_> = reported(&mut child).take(kill_after).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(done.len(), kill_after);
        let catalogue = Catalogue::open(catalogue.path()).unwrap();
        catalogue.check().unwrap();
        let next = catalogue.begin_volume(BASE).unwrap();
        for (n, id) in done.iter().enumerate() {
            expected += 1;
            assert_eq!(*id, VolumeId::new(expected));
            let state = catalogue.volume(*id).map(|volume| volume.state).ok();
            let left = [
                None,
                Some(VolumeState::Deleting),
                Some(VolumeState::Creating),
            ];
            assert_eq!(state, left[n % 3], "round {n}");
        }
        // It may have been in the middle of some more; what it was given is not given again.
        assert!(next.id.get() > expected);
        expected = next.id.get();
        assert_eq!(u64::from(next.thin_id.get()), expected - 1);
    }
}

#[test]
fn one_of_many_racing_layers_is_sealed() {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    let ids: Vec<_> = (0..6).map(|_| begin_layer(&catalogue, base)).collect();
    let path = catalogue.path();
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = ids
            .iter()
            .map(|id| {
                scope.spawn(|| {
                    let own = Catalogue::open(path).unwrap();
                    (*id, own.seal_layer(*id, &layer(1, None)))
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let winners: Vec<_> = results
        .iter()
        .filter(|(_, r)| r.is_ok())
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(winners.len(), 1);
    for (_, result) in results.iter().filter(|(_, r)| r.is_err()) {
        assert!(
            matches!(result, Err(StoreError::LayerExists { volume, .. }) if *volume == winners[0]),
            "{result:?}"
        );
    }
    assert_eq!(catalogue.layers().unwrap()[0].volume.id, winners[0]);
}
