//! A path that is otherwise in one tree than in another.

use std::path::PathBuf;

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// Only the newer tree has it. What is in a directory that was added is told too, each by itself.
    Added,
    /// Both have it, with another type, content, owner, mode, device number, extended attribute, link
    /// target, set of hard links, or time of its content; for a directory also where nothing but what is in it
    /// changed, as then its time did.
    Modified,
    /// Only the older tree has it. What was in a directory that is gone is not told.
    Deleted,
}

/// A path and what became of it.
///
/// Lists of them are in the order of [`PathBuf`], which compares component by component: a directory comes
/// before what is in it. A path that has another type now (a file where a directory was) is
/// [`ChangeKind::Modified`], and what is in the new directory is added.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Relative to the root, which is the empty path; any bytes but NUL.
    pub path: PathBuf,
    /// What became of it.
    pub kind: ChangeKind,
}
