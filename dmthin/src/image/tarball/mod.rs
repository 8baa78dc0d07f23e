//! A streaming reader of tar: ustar, GNU and pax, with what layers need of each; and a writer of pax.
//!
//! The `tar` crate lends its header type; entries are put together here, because its reader drops
//! sparse maps in pax form, negative and sub-second times, and numbers' errors. Where readers of
//! tar disagree, this one does as Go's `archive/tar` does, which made most layers; where that is
//! silent, as GNU tar does:
//! - links, devices, directories and fifos have no data, whatever their size field says;
//! - a GNU long name wins over a pax path, a pax record over the header's field;
//! - the archive ends at two blocks of zeros, or at the end of the stream after a whole entry;
//! - a global pax header may set attributes (owner, times, extended attributes) and no more.

mod entry;
mod input;
mod number;
mod pax;
mod reader;
mod sparse;
mod writer;

#[cfg(test)]
mod tests;

pub(super) use entry::{Entry, Kind, Mtime};
pub(super) use input::Input;
pub(super) use reader::Reader;
pub(super) use sparse::{Segment, SparseMap};
pub(super) use writer::Writer;
