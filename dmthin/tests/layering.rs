//! Data flows down: a module may name only the modules listed for it.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "test helper"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// Every top-level module of the library with those it may import.
const MODULES: &[(&str, &[&str])] = &[
    ("units", &[]),
    ("crc32c", &[]),
    ("ids", &["units"]),
    ("ioctl", &["units", "ids"]),
    ("model", &["units", "ids", "crc32c", "ioctl"]),
    ("dm", &["units", "ids", "ioctl"]),
    ("backing", &["units", "ids", "ioctl"]),
    ("thinmeta", &["units", "ids", "crc32c"]),
    ("label", &["units", "ids", "crc32c"]),
    ("store", &["units", "ids", "label"]),
    ("fs", &["units", "ids", "ioctl", "label"]),
    (
        "delta",
        &["units", "ids", "crc32c", "ioctl", "thinmeta", "fs"],
    ),
    ("image", &["units", "ids", "fs", "delta"]),
    (
        "graph",
        &[
            "units", "ids", "ioctl", "dm", "backing", "thinmeta", "label", "store", "fs", "delta",
            "image",
        ],
    ),
];

fn rust_files(path: &Path, out: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            rust_files(&entry.unwrap().path(), out);
        }
    } else if path.extension().is_some_and(|e| e == "rs") {
        out.push(path.to_owned());
    }
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Whether `text` names the module as `crate::NAME`, and not a longer name that begins like it.
fn names(text: &str, module: &str) -> bool {
    text.match_indices("crate::").any(|(at, prefix)| {
        text[at + prefix.len()..]
            .strip_prefix(module)
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    })
}

#[test]
fn modules_name_only_allowed_modules() {
    let mut bad = Vec::new();
    for (module, allowed) in MODULES {
        let mut files = Vec::new();
        rust_files(&source().join(module), &mut files);
        rust_files(&source().join(format!("{module}.rs")), &mut files);
        for file in files.iter().filter(|f| f.exists()) {
            let text = fs::read_to_string(file).unwrap();
            for (other, _) in MODULES {
                if names(&text, other) && other != module && !allowed.contains(other) {
                    bad.push(format!("{} names crate::{other}", file.display()));
                }
            }
            if text.contains("crate::{") || text.contains("super::super::super") {
                bad.push(format!(
                    "{} hides a module's name from this test",
                    file.display()
                ));
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn every_module_is_in_the_table() {
    for entry in fs::read_dir(source()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(
            name == "lib" || MODULES.iter().any(|(m, _)| *m == name),
            "{name} is not listed"
        );
    }
}

#[test]
fn unsafe_code_is_allowed_in_one_file_only() {
    let mut files = Vec::new();
    rust_files(&source(), &mut files);
    let allowed: Vec<_> = files
        .iter()
        .filter(|f| fs::read_to_string(f).unwrap().contains("allow(unsafe_code"))
        .map(|f| f.strip_prefix(source()).unwrap().display().to_string())
        .collect();
    assert!(allowed.iter().all(|f| f == "ioctl/raw.rs"), "{allowed:?}");
}
