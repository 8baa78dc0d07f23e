//! The model of the kernel against the kernel: both are told the same, and must answer alike and look alike
//! after each word. In a virtual machine, as root (`guest-tests run model`).
//!
//! Told are histories of verbs, as the model was told by them (kills between two calls and calls that fail
//! among them, but no power cuts, which no kernel takes back), and random words, most of which are refused.

mod random;
mod side;

use std::path::Path;

use dmthin::ioctl::DEV_MAPPER;
use dmthin::model::{Model, Told};

use crate::archive::{self, Image};
use crate::plan::{Loss, Mishap, history};
use crate::steps;
use crate::world::World;

use side::Side;

/// Histories of each kind.
const HISTORIES: u64 = 12;

/// What a history of verbs tells the kernel.
fn told_by_verbs(seed: u64, images: &[Image]) -> Vec<Told> {
    let mut acts = history(seed);
    for act in &mut acts {
        for accident in act.accident.iter_mut().chain(&mut act.again) {
            accident.loss = Loss::Process;
        }
        let told_to_kernel = |mishap| !matches!(mishap, Mishap::Commit(_));
        act.accident = act.accident.filter(|found| told_to_kernel(found.mishap));
        act.again.retain(|found| told_to_kernel(found.mishap));
    }
    let mut world = World::new(images);
    let ran = crate::run_in(&mut world, &acts, 0);
    ran.unwrap_or_else(|problem| panic!("DMTHIN_MODEL_SEED={seed} without power cuts: {problem}"));
    world.model.told(0)
}

/// What is not alike, with what led there.
fn difference(told: &[Told]) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::new(&dir.path().join("model")).unwrap();
    let mut real = Side::new(&dir.path().join("real"), Path::new(DEV_MAPPER));
    let mut modelled = {
        let _entered = model.enter();
        let nodes = dir.path().join("model/dev/mapper");
        Side::new(&dir.path().join("modelled"), &nodes)
    };
    let mut different = None;
    for (nr, word) in told.iter().enumerate() {
        let found = {
            let _entered = model.enter();
            (modelled.obey(word), modelled.look(word))
        };
        let expected = (real.obey(word), real.look_for(&found.1, word));
        if found != expected {
            let so_far: Vec<_> = told[..=nr].iter().map(|word| format!("{word:?}")).collect();
            let ((answer, sees), (real, is)) = (found, expected);
            different = Some(format!(
                "{}\nthe model: {answer}\n{sees}the kernel: {real}\n{is}",
                so_far.join("\n")
            ));
            break;
        }
    }
    real.clear();
    let _entered = model.enter();
    modelled.clear();
    different
}

#[test]
#[ignore = "needs root and device-mapper"]
fn the_kernel_answers_as_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let images = archive::images(dir.path());
    let mut nr_words = 0;
    let mut nr_different = 0;
    let mut compare = |kind: &str, seed: u64, told: &[Told]| {
        nr_words += told.len();
        if let Some(found) = difference(told) {
            nr_different += 1;
            println!("{kind} {seed}: {found}\n");
        }
    };
    let histories = crate::number("DMTHIN_MODEL_HISTORIES").unwrap_or(HISTORIES);
    for seed in 0..histories {
        compare("random words", seed, &random::told(seed));
        let told = tracing::subscriber::with_default(steps::Ears, || told_by_verbs(seed, &images));
        compare("verbs", seed, &told);
    }
    println!("{nr_words} words of {histories} histories of each kind");
    assert_eq!(
        nr_different, 0,
        "histories of which the model makes something else"
    );
}
