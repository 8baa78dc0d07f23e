//! The steps in the list, in the code and in docs/design.md are the same.

#![allow(clippy::unwrap_used, reason = "test helper")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use dmthin::graph::Step;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn the_table_of_steps_is_the_list() {
    let design = read("../docs/design.md");
    let begin = design.find("| step | of |").unwrap();
    let rows = design[begin..]
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let told: Vec<Vec<String>> = rows
        .map(|row| {
            row.split(" | ")
                .map(|cell| cell.trim_matches([' ', '|']).to_owned())
                .collect()
        })
        .collect();
    let listed: Vec<_> = Step::ALL
        .iter()
        .map(|step| {
            vec![
                step.to_string(),
                step.verb().to_owned(),
                step.done().to_owned(),
            ]
        })
        .collect();
    let first: Vec<_> = told.iter().map(|row| row[..3].to_vec()).collect();
    assert_eq!(first, listed);
    assert!(told.iter().all(|row| row.len() == 4 && !row[3].is_empty()));
}

#[test]
fn every_step_is_passed_somewhere() {
    let mut code = String::new();
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/graph")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|ext| ext == "rs") && !path.ends_with("step.rs") {
            code += &fs::read_to_string(path).unwrap();
        }
    }
    let passed = |step: &&Step| code.contains(&format!("Step::{step}"));
    let missing: Vec<_> = Step::ALL.iter().filter(|step| !passed(step)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let ids: BTreeSet<_> = Step::ALL.iter().map(|step| step.id()).collect();
    assert_eq!(ids.len(), Step::ALL.len());
}
