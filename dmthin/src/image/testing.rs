//! Tar streams made for tests, well-formed or not.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "test helper"
)]

use std::os::fd::AsFd;
use std::path::Path;

use super::control::Control;
use super::digest::digest_of;
use super::layer::{Compression, Promise, apply_layer};
use super::tarball::Input;
use super::{Applied, ImageError};

pub(super) fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut len = body + 1;
    while len != body + len.to_string().len() {
        len = body + len.to_string().len();
    }
    let mut out = format!("{len} {key}=").into_bytes();
    out.extend(value);
    out.push(b'\n');
    out
}

/// A header to be changed before it is added.
pub(super) struct Head {
    pub(super) kind: u8,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) mtime: u64,
    pub(super) device: (u32, u32),
    pub(super) pax: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// Of the user who runs the test.
    pub(super) fn new(kind: u8, path: impl AsRef<[u8]>) -> Self {
        Self {
            kind,
            path: path.as_ref().to_vec(),
            link: Vec::new(),
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            uid: rustix::process::geteuid().as_raw().into(),
            gid: rustix::process::getegid().as_raw().into(),
            mtime: 1_000_000_000,
            device: (0, 0),
            pax: Vec::new(),
        }
    }

    pub(super) fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub(super) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(super) fn link(mut self, link: impl AsRef<[u8]>) -> Self {
        self.link = link.as_ref().to_vec();
        self
    }

    pub(super) fn mtime(mut self, mtime: u64) -> Self {
        self.mtime = mtime;
        self
    }

    pub(super) fn block(&self, size: u64) -> [u8; 512] {
        let mut header = tar::Header::new_gnu();
        for (to, from) in header.as_old_mut().name.iter_mut().zip(&self.path) {
            *to = *from;
        }
        for (to, from) in header.as_old_mut().linkname.iter_mut().zip(&self.link) {
            *to = *from;
        }
        header.set_mode(self.mode);
        header.set_uid(self.uid);
        header.set_gid(self.gid);
        header.set_mtime(self.mtime);
        header.set_size(size);
        header.as_old_mut().linkflag = [self.kind];
        header.set_device_major(self.device.0).unwrap();
        header.set_device_minor(self.device.1).unwrap();
        header.set_cksum();
        *header.as_bytes()
    }
}

/// A tar being made.
#[derive(Default)]
pub(super) struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    fn padded(self, data: &[u8]) -> Self {
        let over = data.len() % 512;
        let padding = if over == 0 { 0 } else { 512 - over };
        self.raw(data).raw(&vec![0; padding])
    }

    /// Adds an entry, its long names as pax records.
    pub(super) fn add(mut self, head: &Head, data: impl AsRef<[u8]>) -> Self {
        let data = data.as_ref();
        let mut records = Vec::new();
        for (key, value, room) in [("path", &head.path, 100), ("linkpath", &head.link, 100)] {
            if value.len() > room {
                records.extend(pax_record(key, value));
            }
        }
        for (key, value) in &head.pax {
            records.extend(pax_record(key, value));
        }
        if !records.is_empty() {
            self = self.special(b'x', &records);
        }
        self.raw(&head.block(data.len().try_into().unwrap()))
            .padded(data)
    }

    /// Adds an extension header.
    pub(super) fn special(self, kind: u8, data: &[u8]) -> Self {
        let block = Head::new(kind, "././@extension").block(data.len().try_into().unwrap());
        self.raw(&block).padded(data)
    }

    pub(super) fn file(self, path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        self.add(&Head::new(b'0', path), data)
    }

    pub(super) fn dir(self, path: impl AsRef<[u8]>) -> Self {
        self.add(&Head::new(b'5', path), "")
    }

    pub(super) fn symlink(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.add(&Head::new(b'2', path).link(target), "")
    }

    pub(super) fn hardlink(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.add(&Head::new(b'1', path).link(target), "")
    }

    /// Ends the archive.
    pub(super) fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).bytes
    }

    /// The archive without its end.
    pub(super) fn cut(self) -> Vec<u8> {
        self.bytes
    }
}

/// Applies an uncompressed tar, through the whole pipeline.
pub(super) fn apply_to(root: &Path, tar: &[u8]) -> Result<Applied, ImageError> {
    let promise = Promise {
        compression: Compression::None,
        diff_id: digest_of(tar),
        blob: None,
    };
    let root = std::fs::File::open(root).unwrap();
    apply_layer(tar, promise, root.as_fd(), &Control::default())
}

/// The same bytes, compressed.
pub(super) fn compressed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    match compression {
        Compression::None => bytes.to_vec(),
        Compression::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(bytes, 1).unwrap(),
    }
}

/// Bytes in memory as a source of a tar.
pub(super) struct Slice<'a>(pub(super) &'a [u8]);

impl Input for Slice<'_> {
    fn fill(&mut self) -> Result<&[u8], ImageError> {
        Ok(self.0)
    }

    fn consume(&mut self, n: usize) {
        self.0 = self.0.get(n..).unwrap();
    }
}
