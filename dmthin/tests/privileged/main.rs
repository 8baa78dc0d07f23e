//! Tests on a real kernel: they need root and device mapper, so they are ignored by default and
//! run with `--ignored --test-threads=1` in a throw-away machine.
//!
//! A machine without device mapper fails them: none passes by not running.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "test helper"
)]

mod control;
mod devices;
mod filesystems;
mod loops;
mod pools;
mod support;
