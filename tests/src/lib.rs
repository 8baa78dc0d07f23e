//! The virtual machine runner and what the system tests share.

pub mod apt;
pub mod bench;
pub mod compare;
mod fio;
pub mod fixture;
pub mod guest;
pub mod powercut;
pub mod resets;
mod sectors;
mod step_event;
pub mod vm;
