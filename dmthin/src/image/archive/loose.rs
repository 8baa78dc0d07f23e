//! A layer's tar that belongs to no archive.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::open::{Spool, spooled};
use super::source::is_seekable;
use crate::ids::Digest;
use crate::image::digest::HashingReader;
use crate::image::layer::{self, Compression, MAGIC, Promise};
use crate::image::{Applied, Control, ImageError};

/// The tar of a layer, plain or compressed, with its digest.
#[derive(Debug)]
pub struct LooseLayer {
    file: File,
    compression: Compression,
    diff_id: Digest,
}

/// Reads a file from its begin, whoever else reads it.
#[derive(Debug)]
struct FromBegin<'a> {
    file: &'a File,
    at: u64,
}

impl Read for FromBegin<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buf, self.at)?;
        self.at = self.at.saturating_add(u64::try_from(n).unwrap_or(0));
        Ok(n)
    }
}

impl LooseLayer {
    /// Opens a file, and reads it once for its digest. What cannot be read twice is copied to an unlinked
    /// file in `spool`.
    ///
    /// # Errors
    /// [`ImageError::Read`], [`ImageError::Corrupt`], [`ImageError::NotAnImage`] of a compression that is not
    /// known, [`ImageError::Spool`], [`ImageError::SpoolLimit`].
    pub fn open(path: &Path, spool: &Spool<'_>) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        if is_seekable(&file).map_err(failed)? {
            Self::of(file, failed)
        } else {
            Self::open_stream(file, spool)
        }
    }

    /// As [`open`](Self::open), from a stream.
    ///
    /// # Errors
    /// As of [`open`](Self::open).
    pub fn open_stream(stream: impl Read, spool: &Spool<'_>) -> Result<Self, ImageError> {
        Self::of(spooled(stream, spool)?, |source| ImageError::Spool {
            dir: spool.dir.to_owned(),
            source,
        })
    }

    fn of(file: File, failed: impl Fn(io::Error) -> ImageError) -> Result<Self, ImageError> {
        let mut start = [0; MAGIC];
        let n = file.read_at(&mut start, 0).map_err(&failed)?;
        let compression = Compression::of(start.get(..n).unwrap_or_default())
            .map_err(|_| ImageError::NotAnImage)?;
        let whole = FromBegin { file: &file, at: 0 };
        let plain = compression.reader(whole).map_err(&failed)?;
        let mut summed = HashingReader::new(plain, true);
        io::copy(&mut summed, &mut io::sink()).map_err(|error| {
            // An error of the file has an errno, one of what is in it has none.
            if error.raw_os_error().is_some() {
                failed(error)
            } else {
                ImageError::Corrupt(error)
            }
        })?;
        let sum = summed.finish().expect("it was told to sum");
        Ok(Self {
            file,
            compression,
            diff_id: sum.digest,
        })
    }

    /// Digest of the tar, uncompressed.
    #[must_use]
    pub fn diff_id(&self) -> Digest {
        self.diff_id
    }

    /// As [`Ahead::apply_layer_recorded`](super::Ahead::apply_layer_recorded).
    ///
    /// # Errors
    /// As of that.
    pub fn apply_recorded(
        &self,
        root: BorrowedFd<'_>,
        control: &Control<'_>,
        split: &File,
    ) -> Result<Applied, ImageError> {
        let open = || {
            Ok(FromBegin {
                file: &self.file,
                at: 0,
            })
        };
        let promise = Promise {
            compression: self.compression,
            diff_id: self.diff_id,
            blob: None,
        };
        layer::apply_layer_recorded(open, promise, root, control, split)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;

    use super::*;
    use crate::image::testing::{Tar, compressed};
    use crate::image::{digest_of, rebuild_layer};
    use crate::units::Bytes;

    #[test]
    fn a_tar_is_applied_by_its_digest_however_it_is_compressed_and_given_back() {
        let tar = Tar::default().file("a", "content").file("b", "x").end();
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool {
            dir: dir.path(),
            limit: Bytes::from_mib(1),
        };
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let blob = compressed(compression, &tar);
            let path = dir.path().join("layer");
            fs::write(&path, &blob).unwrap();
            for layer in [
                LooseLayer::open(&path, &spool).unwrap(),
                LooseLayer::open_stream(&*blob, &spool).unwrap(),
            ] {
                assert_eq!(layer.diff_id(), digest_of(&tar));
                let root = tempfile::tempdir().unwrap();
                let opened = File::open(root.path()).unwrap();
                let split = tempfile::tempfile().unwrap();
                layer
                    .apply_recorded(opened.as_fd(), &Control::default(), &split)
                    .unwrap();
                assert_eq!(fs::read(root.path().join("a")).unwrap(), b"content");
                let mut back = Vec::new();
                rebuild_layer(&split, opened.as_fd(), layer.diff_id(), &mut back).unwrap();
                assert_eq!(back, tar);
            }
        }
        fs::write(
            dir.path().join("cut"),
            &compressed(Compression::Gzip, &tar)[..20],
        )
        .unwrap();
        assert!(matches!(
            LooseLayer::open(&dir.path().join("cut"), &spool),
            Err(ImageError::Corrupt(_))
        ));
    }
}
