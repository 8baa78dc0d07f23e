//! Parts of the sentences that errors are made of.

use std::path::PathBuf;

use crate::fs::Holder;
use crate::graph::who::told;
use crate::units::MetaBlocks;

pub(crate) fn join<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

pub(crate) fn things(count: u64) -> String {
    match count {
        1 => "1 thing was".to_owned(),
        n => format!("{n} things were"),
    }
}

pub(crate) fn in_block(block: MetaBlocks) -> String {
    if block == MetaBlocks::ZERO {
        String::new()
    } else {
        format!(" in block {block}")
    }
}

pub(crate) fn held_by(holders: &[Holder]) -> String {
    if holders.is_empty() {
        String::new()
    } else {
        format!(": {}", told(holders))
    }
}

pub(crate) fn holders(mounts: &[PathBuf], open_count: u32) -> String {
    if mounts.is_empty() {
        format!("in use: its device is open {open_count} times")
    } else {
        let mounts: Vec<_> = mounts.iter().map(|mount| mount.display()).collect();
        format!("mounted on {}", join(&mounts))
    }
}
