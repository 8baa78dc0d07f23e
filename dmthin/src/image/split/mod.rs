//! What gives a layer's tar back, byte by byte: its headers and padding as they came, and of the files'
//! contents only where they are in the layer.
//!
//! ```text
//! 0   8  magic, with the format's version
//! 8  32  diff id of the layer
//! 40     records, as one gzip member, to the file's end
//! ```
//! A record is a tag of one byte and what follows, numbers little endian:
//! ```text
//! 0 end
//! 1 bytes of the tar       u32 length, the bytes
//! 2 a file of the layer    u32 length, its path
//! 3 a run of its content   u64 offset, u64 length: these bytes of the tar are those of the file
//! 4 the file's sum         u64 size, u32 CRC-32 of the runs since the path
//! ```
//! The sum says which file is another than it was: that some one is, the diff id says, so that 32 bits will
//! do. A file of which a run is used and that has no sum is one whose name came more than once.
//!
//! It is made while the layer is applied, from the entries' names. Where an entry took away what another one
//! of the same tar had made, or a directory or link on the way to it, that is not enough: then the tar is
//! read once more, each file compared with what is at its path now, and what is not there kept in full.
//! Deflate, as the decoder is here anyway and the encoder for it is small; headers shrink to a tenth or less.

mod format;
mod rebuild;
mod recheck;
mod recorder;

#[cfg(test)]
mod tests;

pub use rebuild::{rebuild_layer, verify_layer};
pub(super) use recheck::recheck;
pub(super) use recorder::{Recorder, Sink, compress};
