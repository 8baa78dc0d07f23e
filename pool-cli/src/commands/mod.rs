//! The commands, a file for each noun: what clap reads becomes the library's options, one verb is
//! called, its answer is printed.

pub(crate) mod ballast;
pub(crate) mod base;
pub(crate) mod check;
pub(crate) mod commit;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod container;
pub(crate) mod device;
pub(crate) mod df;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod image;
pub(crate) mod layer;
pub(crate) mod man;
pub(crate) mod monitor;
pub(crate) mod plan;
pub(crate) mod pool;
pub(crate) mod queue;
pub(crate) mod recover;
pub(crate) mod repair;
pub(crate) mod snapshot;
pub(crate) mod trim;
pub(crate) mod volume;
pub(crate) mod who;
pub(crate) mod writable;
