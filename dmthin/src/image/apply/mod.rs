//! Applies a layer's tar stream to a directory.
//!
//! Everything happens beneath one directory descriptor, the root of a detached mount. Names are
//! never joined into host paths: the parent directory is opened by `openat2` with
//! `RESOLVE_IN_ROOT`, so that symbolic links resolve as a process in that root would see them, and
//! the last component is only ever used with `*at` calls that do not follow links. An existing
//! file is never opened for writing. What that means for odd layers:
//! - a parent that is a symbolic link is followed, inside the root; one that dangles gets its
//!   target made, as containerd does; a parent that is no directory is an error;
//! - `..` in a name is an error, a leading `/` is dropped;
//! - a directory over a directory keeps its content and takes the new attributes; anything else
//!   replaces what was there, directories with all they hold; of two entries the last wins;
//! - a whiteout removes what lower layers left, never what this layer has put there before it, and
//!   so does an opaque marker: the order of entries does not matter;
//! - a hard link takes its attributes from its target, like in GNU tar;
//! - names that begin with `.wh..wh.` are aufs's own and are passed over.
//!
//! Directories get their times, and a mode that would shut ourselves out, at the end, the deepest
//! first. One that was reached through a link which the same layer then replaced is not found
//! again, and keeps the time of its last change.

mod applier;
mod metadata;
mod remove;
pub(super) mod tree;
mod unpacked;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

pub(super) use applier::{OPAQUE, WHITEOUT, apply};
pub use metadata::Applied;
pub(super) use remove::children;
