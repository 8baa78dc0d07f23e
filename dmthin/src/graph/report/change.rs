//! Whether anything was done.

use serde::Serialize;

/// Whether a verb found something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It was made so.
    Changed,
    /// It was so already.
    Unchanged,
}
