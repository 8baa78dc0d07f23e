//! Container images: reading archives of them, and applying their layers to a directory.
//!
//! [`Archive`] opens what `docker save`, skopeo, buildah and others write, and lists the images in
//! it with every digest checked. [`Archive::apply_layer`] streams one layer into a directory,
//! which is named by a descriptor, and checks the layer's digests on the way; [`Ahead`] does that of one after
//! the other, and reads the next ones meanwhile. [`chain_id`] gives
//! the key by which images share it. What is trusted:
//! - nothing in the archive: documents are bounded and checked against their digests before they
//!   are read, names cannot leave the archive or the directory, sizes are the volume's problem
//!   ([`ImageError::NoSpace`]);
//! - a layer counts as applied only when [`Archive::apply_layer`] returns `Ok`: until then the
//!   directory holds unchecked content and is to be thrown away on an error.

mod apply;
mod archive;
mod config;
mod control;
mod digest;
mod error;
mod layer;
mod layer_tar;
mod path;
mod platform;
mod split;
mod tarball;
#[cfg(test)]
mod testing;

pub use apply::Applied;
pub use archive::{
    Ahead, Archive, ArchiveForm, ImageDescriptor, LayerBlob, LayerDescriptor, LooseLayer, OutImage,
    OutLayer, Spool, write_archive,
};
pub use config::{
    ChangeError, ChildConfig, ConfigChange, EMPTY_LAYER, HistoryEntry, ImageConfig, Keyword,
    bare_config,
};
pub use control::Control;
pub use digest::{chain_id, digest_of};
pub use error::{Content, ImageError, TarFault};
pub use layer::{Compression, record_layer};
pub use layer_tar::{LayerWritten, write_layer};
pub use platform::Platform;
pub use split::{rebuild_layer, verify_layer};
