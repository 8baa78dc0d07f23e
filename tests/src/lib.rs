//! The virtual machine runner and what the system tests share.

pub mod apt;
pub mod bench;
pub mod compare;
pub mod fixture;
pub mod guest;
pub mod vm;
