//! The configuration: `/etc/dmthin/config.toml` and the `conf.d/*.toml` beside it.
//!
//! Files are read in the order of their names, a later one wins, key by key; over them stand
//! `DMTHIN_*` variables, and over those the command line. A key that nobody knows or a value that
//! cannot be is an error with file and line, and nothing is done: a misspelt limit must not become
//! no limit. Each value keeps where it came from, for `config show --origin`.
//!
//! [`keys`] lists all keys with their types and defaults; dist/config.toml is kept equal to it.

mod error;
mod files;
mod keys;
mod settings;
mod value;

pub(crate) use error::ConfigError;
pub(crate) use files::{check, load};
pub(crate) use keys::{CreateSettings, MonitorSettings};
pub(crate) use settings::Settings;
pub(crate) use value::{Given, Origin, Row, Threshold};
