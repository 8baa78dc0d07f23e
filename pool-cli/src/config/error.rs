//! What is wrong with a configuration, and where.

use std::fmt;
use std::io;
use std::path::PathBuf;

use dmthin::graph::ErrorCode;

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The file.
    pub(crate) file: PathBuf,
    /// Its line, the first is 1.
    pub(crate) line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Why a configuration was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A file or directory of it cannot be read.
    #[error("cannot read the configuration {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Anybody could have written it, and programs in it are run as root.
    #[error(
        "{} can be written by everyone: look at what is in it, then run chmod o-w",
        .path.display()
    )]
    WorldWritable {
        /// The file or directory.
        path: PathBuf,
    },
    /// It is not TOML.
    #[error("{place}: not TOML: {reason}")]
    Syntax {
        /// Where it stops to be.
        place: Place,
        /// What the parser says.
        reason: String,
    },
    /// A key that there is not.
    #[error("{place}: unknown key {key}: {}", known_keys(.nearest.as_deref(), .known))]
    UnknownKey {
        /// Where.
        place: Place,
        /// Its name, tables before it.
        key: String,
        /// The one that was meant, perhaps.
        nearest: Option<String>,
        /// All there are in this table.
        known: Vec<&'static str>,
    },
    /// A value that the key cannot have.
    #[error("{place}: {key} must be {expected}, not {found}")]
    BadValue {
        /// Where.
        place: Place,
        /// The key, tables before it.
        key: String,
        /// What it must be.
        expected: &'static str,
        /// What was found.
        found: String,
    },
}

fn known_keys(nearest: Option<&str>, known: &[&str]) -> String {
    match nearest {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => format!("there are {}", known.join(", ")),
    }
}

impl ConfigError {
    /// Its sort: the settings are part of the command line, so a bad one is a usage error.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorCode::Permission
            }
            _ => ErrorCode::Usage,
        }
    }
}
