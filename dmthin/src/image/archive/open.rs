//! Opening an archive, of whatever form and from wherever.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::descriptor::{ImageDescriptor, LayerBlob, LayerDescriptor};
use super::source::{Source, is_seekable};
use super::{docker, oci};
use crate::image::layer::{self, Compression, MAGIC};
use crate::image::{Applied, Control, ImageError, Platform};
use crate::units::Bytes;

/// Where the copy of an archive goes that cannot be read in place.
#[derive(Debug, Clone, Copy)]
pub struct Spool<'a> {
    /// The directory that gets it, as a file without a name.
    pub dir: &'a Path,
    /// How large it may become: a stream that decompresses without end must not fill the disk.
    pub limit: Bytes,
}

/// An archive of images, open for reading.
#[derive(Debug)]
pub struct Archive {
    pub(super) source: Source,
    form: Form,
}

/// How images are found in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Oci,
    Docker,
}

impl Archive {
    /// Opens the directory, file, block device or pipe at `path`. What cannot be read at offsets,
    /// and a tar that is compressed as a whole, is copied to an unlinked file in `spool`.
    ///
    /// # Errors
    /// [`ImageError::NotAnImage`] where it is something else, [`ImageError::Read`], [`ImageError::Spool`],
    /// [`ImageError::SpoolLimit`], and what a malformed tar gives.
    pub fn open(path: &Path, spool: &Spool<'_>) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.is_dir() {
            return Self::open_directory(file.into());
        }
        if !is_seekable(&file).map_err(failed)? {
            return Self::open_stream(file, spool);
        }
        let mut start = [0; MAGIC];
        let n = file.read_at(&mut start, 0).map_err(failed)?;
        match Compression::of(start.get(..n).unwrap_or_default()) {
            Ok(Compression::None) => Self::from_source(Source::index(file)?),
            Ok(_) => Self::open_stream(file, spool),
            Err(_) => Err(ImageError::NotAnImage),
        }
    }

    /// Copies a stream to an unlinked file in `spool`, decompressed where it is compressed as a
    /// whole, and opens that.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub fn open_stream(stream: impl Read, spool: &Spool<'_>) -> Result<Self, ImageError> {
        Self::from_source(Source::index(spooled(stream, spool)?)?)
    }

    /// Opens an OCI layout in a directory.
    ///
    /// # Errors
    /// [`ImageError::NotAnImage`] where it is something else.
    pub fn open_directory(directory: OwnedFd) -> Result<Self, ImageError> {
        Self::from_source(Source::Directory(directory))
    }

    fn from_source(source: Source) -> Result<Self, ImageError> {
        let form = match (source.has("index.json"), source.has("manifest.json")) {
            (true, true) if source.has("oci-layout") => Form::Oci,
            (_, true) => Form::Docker,
            (true, false) => Form::Oci,
            (false, false) => return Err(ImageError::NotAnImage),
        };
        Ok(Self { source, form })
    }

    /// The images in the archive, each with manifest and configuration verified; of layers what is said of them, which
    /// [`layer_blob`](Self::layer_blob) looks at. `platform` chooses where an image comes for several; without one this host's is
    /// taken, or the only one there is.
    ///
    /// # Errors
    /// The first thing wrong with any of them: see [`ImageError`].
    pub fn images(&self, platform: Option<&Platform>) -> Result<Vec<ImageDescriptor>, ImageError> {
        let images = match self.form {
            Form::Oci => oci::images(&self.source, platform)?,
            Form::Docker => docker::images(&self.source, platform)?,
        };
        if images.is_empty() {
            return Err(ImageError::NoImages);
        }
        Ok(images)
    }

    /// Looks whether the blob of a layer is there, is as long as was promised, and compressed in a way that is read.
    ///
    /// # Errors
    /// [`ImageError::MissingBlob`], [`ImageError::SizeMismatch`], [`ImageError::UnsupportedCompression`],
    /// [`ImageError::NotAFile`], [`ImageError::Read`].
    pub fn layer_blob(&self, layer: &LayerDescriptor) -> Result<LayerBlob, ImageError> {
        layer.open(&self.source).map(|(blob, _)| blob)
    }

    /// Applies a layer of this archive to the directory `root`, the root of a detached mount that
    /// holds the layers below it, and verifies its digests. Nothing is synced.
    ///
    /// # Errors
    /// As of [`layer_blob`](Self::layer_blob); any that is about content ([`ImageError::DigestMismatch`],
    /// [`ImageError::PathEscape`], ...), about room ([`ImageError::NoSpace`]) or from the kernel
    /// ([`ImageError::Io`]). The directory is then in no defined state.
    pub fn apply_layer(
        &self,
        layer: &LayerDescriptor,
        root: BorrowedFd<'_>,
        control: &Control<'_>,
    ) -> Result<Applied, ImageError> {
        let (blob, bytes) = layer.open(&self.source)?;
        layer::apply_layer(bytes, layer.promise(blob.compression), root, control)
    }
}

/// Copies a stream to an unlinked file, decompressed where it is compressed as a whole.
pub(super) fn spooled(mut stream: impl Read, spool: &Spool<'_>) -> Result<File, ImageError> {
    let read_failed = |source| ImageError::Read {
        path: "-".into(),
        source,
    };
    let mut start = Vec::new();
    let limit = u64::try_from(MAGIC).unwrap_or(u64::MAX);
    (&mut stream)
        .take(limit)
        .read_to_end(&mut start)
        .map_err(read_failed)?;
    let compression = Compression::of(&start).map_err(|_| ImageError::NotAnImage)?;
    let whole = start.as_slice().chain(stream);
    let mut reader = compression.reader(whole).map_err(read_failed)?;

    let spool_failed = |source| ImageError::Spool {
        dir: spool.dir.to_owned(),
        source,
    };
    let mut file = unlinked_file(spool.dir).map_err(spool_failed)?;
    let mut buffer = vec![0; 1 << 18];
    let mut room = spool.limit.get();
    loop {
        let n = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(read_failed(e)),
        };
        room = u64::try_from(n)
            .ok()
            .and_then(|n| room.checked_sub(n))
            .ok_or_else(|| ImageError::SpoolLimit {
                dir: spool.dir.to_owned(),
                limit: spool.limit,
            })?;
        file.write_all(buffer.get(..n).unwrap_or_default())
            .map_err(spool_failed)?;
    }
    Ok(file)
}

/// A file without a name: gone when the process is.
fn unlinked_file(dir: &Path) -> io::Result<File> {
    const MODE: Mode = Mode::from_bits_retain(0o600);
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(dir, flags | OFlags::TMPFILE, MODE) {
        // A file system that knows only files with names: it has one for a moment.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let pid = std::process::id();
            for i in 0..64 {
                let path = dir.join(format!(".dmthin-spool-{pid}-{i}"));
                match rustix::fs::open(&path, flags | OFlags::CREATE | OFlags::EXCL, MODE) {
                    Ok(file) => {
                        rustix::fs::unlink(&path)?;
                        return Ok(file.into());
                    }
                    // Another import's, which is about to unlink it.
                    Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            Err(Errno::EXIST.into())
        }
        opened => Ok(opened?.into()),
    }
}
