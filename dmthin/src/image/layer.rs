//! One layer from its blob into a directory: read, decompress, sum and apply at once.
//!
//! ```text
//! reader thread            summing thread       caller's thread      split thread
//! read, sum, decompress -> sum the tar       -> apply, note names -> compress, write what gives
//!        ^                                         |                 the tar back, where asked to
//!        +------------- buffers go round ----------+
//! ```
//! A fixed number of buffers is the bound on memory, which come into being as they are needed. The first two threads
//! may begin before anybody applies ([`Stream`]): they go as far ahead as the buffers do. Both sums are compared when
//! the stream has been read to its very end: the padding after a tar's end counts in a diff id.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Scope, ScopedJoinHandle};

use super::apply::{Applied, apply};
use super::control::Control;
use super::digest::{Hasher, HashingReader, Summed};
use super::error::{Content, ImageError};
use super::split::{Recorder, Sink, compress, recheck};
use super::tarball::{Input, Reader};
use crate::ids::Digest;
use crate::units::Bytes;

/// Buffers going round, and the size of each.
const NR_BUFFERS: usize = 48;
const BUFFER: usize = 256 << 10;
/// As much as the buffers of one layer may take.
pub(super) const BUFFERS: usize = NR_BUFFERS * BUFFER;

/// Batches of records that wait to be compressed.
const NR_BATCHES: usize = 4;

/// How a blob is compressed, by its first bytes: media types are often wrong about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, of one or more members.
    Gzip,
    /// zstd, of one or more frames.
    Zstd,
}

/// As many first bytes as tell compressions apart.
pub(super) const MAGIC: usize = 6;

impl Compression {
    /// By the first bytes of a blob; the name of a compression we do not read as the error.
    pub(super) fn of(start: &[u8]) -> Result<Self, &'static str> {
        match start {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            // A frame, or a skippable one before it.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Err("bzip2"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Err("lz4"),
            _ => Ok(Self::None),
        }
    }

    /// A reader of what `source` holds compressed.
    pub(super) fn reader<'a>(self, source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        const READ: usize = 128 << 10;
        Ok(match self {
            Self::None => Box::new(source),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(
                BufReader::with_capacity(READ, source),
            )),
            Self::Zstd => Box::new(zstd::Decoder::with_buffer(BufReader::with_capacity(
                READ, source,
            ))?),
        })
    }
}

/// What a layer's bytes must turn out to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promise {
    pub(super) compression: Compression,
    pub(super) diff_id: Digest,
    /// Digest of the blob as the archive holds it, where one is promised.
    pub(super) blob: Option<Digest>,
}

/// A buffer, and how much of it is filled.
#[derive(Debug)]
struct Chunk {
    buffer: Vec<u8>,
    len: usize,
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }
}

/// Applies the layer that `blob` reads to the directory `root`.
pub(super) fn apply_layer(
    blob: impl Read + Send,
    promise: Promise,
    root: BorrowedFd<'_>,
    control: &Control<'_>,
) -> Result<Applied, ImageError> {
    begun(blob, promise, |stream| {
        stream.through(control, None, |tar| apply(tar, root))
    })
}

/// Applies the layer that `open` opens to the directory `root`, and keeps in `split` what gives its tar
/// back, of which nothing is synced.
pub(super) fn apply_layer_recorded<B: Read + Send>(
    open: impl Fn() -> Result<B, ImageError>,
    promise: Promise,
    root: BorrowedFd<'_>,
    control: &Control<'_>,
    split: &File,
) -> Result<Applied, ImageError> {
    begun(open()?, promise, |stream| {
        stream.apply_recorded(open, root, control, split)
    })
}

/// Has `work` use what is read.
fn begun<T>(
    blob: impl Read + Send,
    promise: Promise,
    work: impl FnOnce(Stream<'_>) -> Result<T, ImageError>,
) -> Result<T, ImageError> {
    thread::scope(|scope| work(Stream::begin(scope, blob, promise)?))
}

/// Keeps in `split` what gives back the tar that is read, of a layer that is below `root` already. Nothing of it is
/// synced.
///
/// # Errors
/// [`ImageError::DigestMismatch`] where it is another tar, [`ImageError::Split`], and what a malformed one gives.
pub fn record_layer(
    tar: impl Read + Send,
    diff_id: Digest,
    root: BorrowedFd<'_>,
    split: &File,
) -> Result<(), ImageError> {
    let promise = Promise {
        compression: Compression::None,
        diff_id,
        blob: None,
    };
    begun(tar, promise, |stream| {
        stream.through(&Control::default(), Some(split), |tar| {
            recheck(tar, root).map(|()| Applied::default())
        })
    })
    .map(drop)
}

/// A layer that is being read. Its threads end when it is dropped.
#[derive(Debug)]
pub(super) struct Stream<'scope> {
    promise: Promise,
    chunks: Receiver<Message>,
    free: SyncSender<Vec<u8>>,
    blob_bytes: Arc<AtomicU64>,
    reading: ScopedJoinHandle<'scope, Option<Summed>>,
    summing: ScopedJoinHandle<'scope, Summed>,
}

impl<'scope> Stream<'scope> {
    /// Begins to read, decompress and sum, as far as the buffers go.
    pub(super) fn begin(
        scope: &'scope Scope<'scope, '_>,
        blob: impl Read + Send + 'scope,
        promise: Promise,
    ) -> Result<Self, ImageError> {
        let (free, free_out) = sync_channel(NR_BUFFERS);
        let (read_in, read_out) = sync_channel(NR_BUFFERS);
        let (summed_in, chunks) = sync_channel(NR_BUFFERS);
        for _ in 0..NR_BUFFERS {
            // The reader gives each its length when it first fills it.
            let sent = free.send(Vec::new());
            sent.expect("the channel holds them all, and its other end is in this function");
        }
        let blob_bytes = Arc::new(AtomicU64::new(0));
        let counted = Counted {
            inner: blob,
            count: Arc::clone(&blob_bytes),
        };
        let reading = thread::Builder::new()
            .name("layer-read".to_owned())
            .spawn_scoped(scope, move || read(counted, promise, &free_out, &read_in))
            .map_err(ImageError::Thread)?;
        let summing = thread::Builder::new()
            .name("layer-sum".to_owned())
            .spawn_scoped(scope, move || sum(&read_out, &summed_in))
            .map_err(ImageError::Thread)?;
        Ok(Self {
            promise,
            chunks,
            free,
            blob_bytes,
            reading,
            summing,
        })
    }

    /// Applies the layer as [`apply_layer_recorded`] does; `open` opens it once more, where that is needed.
    pub(super) fn apply_recorded<B: Read + Send>(
        self,
        open: impl Fn() -> Result<B, ImageError>,
        root: BorrowedFd<'_>,
        control: &Control<'_>,
        split: &File,
    ) -> Result<Applied, ImageError> {
        let promise = self.promise;
        let applied = self.through(control, Some(split), |tar| apply(tar, root))?;
        if applied.displaced {
            let quiet = control.without_progress();
            begun(open()?, promise, |stream| {
                stream.through(&quiet, Some(split), |tar| {
                    recheck(tar, root).map(|()| Applied::default())
                })
            })?;
        }
        Ok(applied)
    }

    /// Has `work` read the tar, and checks what it was promised to be.
    fn through(
        self,
        control: &Control<'_>,
        split: Option<&File>,
        work: impl FnOnce(&mut Reader<Recorder<ChunkInput<'_, '_>>>) -> Result<Applied, ImageError>,
    ) -> Result<Applied, ImageError> {
        let promise = self.promise;
        thread::scope(|scope| {
            let (sink, compressing) = match split {
                None => (None, None),
                Some(file) => {
                    let (out, batches) = sync_channel(NR_BATCHES);
                    let thread = thread::Builder::new()
                        .name("layer-split".to_owned())
                        .spawn_scoped(scope, move || compress(file, promise.diff_id, &batches))
                        .map_err(ImageError::Thread)?;
                    (Some(Sink::new(out)), Some(thread))
                }
            };

            let input = ChunkInput {
                chunks: self.chunks,
                free: self.free,
                current: None,
                at: 0,
                failed: false,
                blob_bytes: &self.blob_bytes,
                reported: 0,
                control,
            };
            let mut tar = Reader::new(Recorder::new(input, sink), Content::LayerTar);
            let applied = work(&mut tar);
            let mut input = tar.into_input();
            // A stream that makes no sense is read on: its digest tells damage from malice.
            let to_check = match &applied {
                Ok(_) => true,
                Err(ImageError::BadTar { .. } | ImageError::Truncated { .. }) => {
                    !input.inner().failed
                }
                Err(_) => false,
            };
            let drained = if to_check { input.drain() } else { Ok(()) };
            input.end();
            // The threads end when their channels do.
            drop(input);
            let tar_sum = join(self.summing.join());
            let blob_sum = join(self.reading.join());
            if let Some(compressing) = compressing {
                join(compressing.join()).map_err(ImageError::Split)?;
            }
            if to_check {
                drained?;
                // An uncompressed blob is the tar, and summed once.
                check(
                    Content::LayerBlob,
                    promise.blob,
                    blob_sum.unwrap_or(tar_sum),
                )?;
                check(Content::LayerTar, Some(promise.diff_id), tar_sum)?;
            }
            applied.map(|applied| Applied {
                tar_bytes: tar_sum.len,
                ..applied
            })
        })
    }
}

fn check(what: Content, expected: Option<Digest>, found: Summed) -> Result<(), ImageError> {
    match expected {
        Some(expected) if expected != found.digest => Err(ImageError::DigestMismatch {
            what,
            expected,
            found: found.digest,
        }),
        _ => Ok(()),
    }
}

/// A thread of ours panics by a bug only, which is then the caller's to see.
fn join<T>(result: thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Counts for the progress what another thread reads.
struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.count
            .fetch_add(u64::try_from(n).unwrap_or(0), Ordering::Relaxed);
        Ok(n)
    }
}

type Message = Result<Chunk, ImageError>;

/// The first thread. Gives the sum of the compressed blob, where one was promised.
fn read(
    blob: impl Read,
    promise: Promise,
    free: &Receiver<Vec<u8>>,
    out: &SyncSender<Message>,
) -> Option<Summed> {
    let summed = promise.blob.is_some() && promise.compression != Compression::None;
    let mut source = HashingReader::new(blob, summed);
    let end = decompress(&mut source, promise.compression, free, out);
    // What the decoder left counts in the blob's digest; a receiver that is gone has given up.
    let rest = match end {
        End::Abandoned => return None,
        End::Whole => io::copy(&mut source, &mut io::sink()).map_err(read_error),
        End::Failed(error) => {
            // Damaged, or so promised? The digest of the whole blob tells.
            let rest = io::copy(&mut source, &mut io::sink()).map_err(read_error);
            let sum = source.finish();
            let error = match (rest, sum) {
                (Ok(_), Some(sum)) => check(Content::LayerBlob, promise.blob, sum)
                    .err()
                    .unwrap_or(error),
                _ => error,
            };
            // Sent or not: nobody waits for it but the receiver.
            let _ = out.send(Err(error));
            return None;
        }
    };
    if let Err(error) = rest {
        let _ = out.send(Err(error));
    }
    source.finish()
}

enum End {
    Whole,
    Failed(ImageError),
    Abandoned,
}

fn decompress(
    source: &mut impl Read,
    compression: Compression,
    free: &Receiver<Vec<u8>>,
    out: &SyncSender<Message>,
) -> End {
    let mut reader = match compression.reader(source) {
        Ok(reader) => reader,
        Err(source) => return End::Failed(read_error(source)),
    };
    let mut offset = 0_u64;
    while let Ok(mut buffer) = free.recv() {
        buffer.resize(BUFFER, 0);
        let mut len = 0_usize;
        let mut failure = None;
        let mut at_end = false;
        // Whole buffers: a decoder gives small pieces, and passing each on costs two wake-ups.
        while let Some(room) = buffer.get_mut(len..).filter(|room| !room.is_empty()) {
            match reader.read(room) {
                Ok(0) => {
                    at_end = true;
                    break;
                }
                Ok(n) => len = len.saturating_add(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    failure = Some(e);
                    break;
                }
            }
        }
        offset = offset.saturating_add(u64::try_from(len).unwrap_or(0));
        if len > 0 && out.send(Ok(Chunk { buffer, len })).is_err() {
            return End::Abandoned;
        }
        if let Some(e) = failure {
            return End::Failed(stream_error(e, compression, offset));
        }
        if at_end {
            return End::Whole;
        }
    }
    End::Abandoned
}

fn read_error(source: io::Error) -> ImageError {
    ImageError::Read {
        path: Content::LayerBlob.to_string().into(),
        source,
    }
}

/// What a decoder's error means: it has no type of its own for its stream's faults, but an error
/// of the file below has an errno.
fn stream_error(e: io::Error, compression: Compression, offset: u64) -> ImageError {
    match e.kind() {
        _ if compression == Compression::None || e.raw_os_error().is_some() => read_error(e),
        io::ErrorKind::UnexpectedEof => ImageError::Truncated {
            what: Content::LayerTar,
            offset,
        },
        _ => ImageError::Corrupt(e),
    }
}

/// The second thread. Gives the sum of the tar stream.
fn sum(chunks: &Receiver<Message>, out: &SyncSender<Message>) -> Summed {
    let mut hasher = Hasher::default();
    for message in chunks {
        if let Ok(chunk) = &message {
            hasher.update(chunk.bytes());
        }
        if out.send(message).is_err() {
            break;
        }
    }
    hasher.finish()
}

/// The caller's end: buffers in, empty ones back.
struct ChunkInput<'a, 'c> {
    chunks: Receiver<Message>,
    free: SyncSender<Vec<u8>>,
    current: Option<Chunk>,
    at: usize,
    /// Whether the stream itself broke off.
    failed: bool,
    blob_bytes: &'a AtomicU64,
    reported: u64,
    control: &'a Control<'c>,
}

impl ChunkInput<'_, '_> {
    fn report(&mut self) {
        let read = self.blob_bytes.load(Ordering::Relaxed);
        self.control.report(read.saturating_sub(self.reported));
        self.reported = read;
    }
}

impl Input for ChunkInput<'_, '_> {
    fn fill(&mut self) -> Result<&[u8], ImageError> {
        if self.current.as_ref().is_none_or(|c| self.at >= c.len) {
            if let Some(chunk) = self.current.take() {
                // Refused only when the reader has ended.
                let _ = self.free.send(chunk.buffer);
            }
            self.control.check()?;
            self.at = 0;
            self.current = match self.chunks.recv() {
                Ok(Ok(chunk)) => Some(chunk),
                Ok(Err(error)) => {
                    self.failed = true;
                    return Err(error);
                }
                Err(_) => None,
            };
            self.report();
        }
        let bytes = self.current.as_ref().map(Chunk::bytes).unwrap_or_default();
        Ok(bytes.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, n: usize) {
        self.at = self.at.saturating_add(n);
    }
}

/// Checks a blob's size against the one its descriptor promises.
pub(super) fn check_size(
    what: Content,
    digest: Digest,
    expected: u64,
    found: u64,
) -> Result<(), ImageError> {
    if expected == found {
        return Ok(());
    }
    Err(ImageError::SizeMismatch {
        what,
        digest,
        expected: Bytes::new(expected),
        found: Bytes::new(found),
    })
}

#[cfg(test)]
mod tests;
