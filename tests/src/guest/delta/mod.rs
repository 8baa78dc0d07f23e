//! The ways to tell what changed, against a walk that shares nothing with them: random changes to file systems of
//! every kind we read, and of some that we refuse.

mod edits;
mod fuzz;
mod oracle;

pub(super) use fuzz::TESTS;
