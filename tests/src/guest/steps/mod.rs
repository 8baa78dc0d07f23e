//! Every verb, cut right after each of its steps: what `pool open` makes of it, again and again.
//!
//! The library tells each step as an event; `pool-cli`, which is a library too, runs in a process of this
//! program that kills itself when the event comes.

mod child;
mod errno;
mod going_back;
mod lost;
mod pools;
mod recovery;
mod sweep;
mod volumes;

use super::harness::Test;

pub use child::main as step;
pub(super) use sweep::cut_after;

/// The tests of calls that fail.
pub(super) const ERRORS: &[Test] = errno::TESTS;

/// The tests of verbs that are cut.
pub(super) fn tests() -> Vec<Test> {
    [
        volumes::TESTS,
        going_back::TESTS,
        pools::TESTS,
        lost::TESTS,
        recovery::TESTS,
    ]
    .concat()
}
