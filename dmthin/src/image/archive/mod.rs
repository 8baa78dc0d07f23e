//! Archives of images: what is in them, and where; and how one is written.
//!
//! Three forms, told apart by what the archive holds and not by its name:
//! - a **docker-archive**: a tar with `manifest.json`, as `docker save` writes it, with layers at
//!   `<id>/layer.tar` (possibly links to each other) or under `blobs/sha256/`;
//! - an **OCI layout** in a tar: `oci-layout`, `index.json`, `blobs/sha256/...`;
//! - an OCI layout in a directory.
//!
//! Docker since 25 writes a tar that is both. Such a one is read as an OCI layout, which promises a
//! digest for every byte; the names are then taken from `manifest.json`, where they are spelled as
//! the user spelled them. A tar is read where it lies: an index of its members is made once, and
//! blobs are read at their offsets. A stream, or a tar that is itself compressed, is first copied
//! to an unlinked temporary file.

mod ahead;
mod descriptor;
mod docker;
mod loose;
mod oci;
mod open;
mod source;
mod write;

#[cfg(test)]
mod tests;

pub use ahead::Ahead;
pub use descriptor::{ImageDescriptor, LayerBlob, LayerDescriptor};
pub use loose::LooseLayer;
pub use open::{Archive, Spool};
pub use write::{ArchiveForm, OutImage, OutLayer, write_archive};
