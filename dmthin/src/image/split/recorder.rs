//! Records what is read of a tar, as it is read.

use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender};

use flate2::Crc;
use flate2::write::GzEncoder;

use super::format;
use crate::ids::Digest;
use crate::image::ImageError;
use crate::image::tarball::Input;

/// Records gathered before they are handed on.
const BATCH: usize = 128 << 10;

/// Takes records to the thread that compresses them.
#[derive(Debug)]
pub(in crate::image) struct Sink {
    batch: Vec<u8>,
    out: SyncSender<Vec<u8>>,
    /// Nobody takes them any more: the thread has an error to tell.
    broken: bool,
}

impl Sink {
    pub(in crate::image) fn new(out: SyncSender<Vec<u8>>) -> Self {
        Self {
            batch: Vec::with_capacity(BATCH),
            out,
            broken: false,
        }
    }

    fn send(&mut self) {
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
        self.broken |= self.out.send(batch).is_err();
    }

    fn full(&mut self) {
        if self.batch.len() >= BATCH {
            self.send();
        }
    }
}

/// The thread's work: all batches, compressed, behind the head of the file.
pub(in crate::image) fn compress(
    mut file: &File,
    diff_id: Digest,
    batches: &Receiver<Vec<u8>>,
) -> io::Result<()> {
    io::Seek::rewind(&mut file)?;
    file.set_len(0)?;
    file.write_all(format::MAGIC)?;
    file.write_all(diff_id.as_bytes())?;
    let out = io::BufWriter::with_capacity(BATCH, file);
    let mut encoder = GzEncoder::new(out, flate2::Compression::fast());
    for batch in batches {
        encoder.write_all(&batch)?;
    }
    encoder.finish()?.flush()
}

/// A file whose content passes.
#[derive(Debug)]
struct Content {
    crc: Crc,
    /// The run at hand: where it began, and how far it is.
    offset: u64,
    len: u64,
}

/// Passes a tar on, and what it reads to the sink, where there is one.
#[derive(Debug)]
pub(in crate::image) struct Recorder<I> {
    inner: I,
    sink: Option<Sink>,
    content: Option<Content>,
}

impl<I: Input> Recorder<I> {
    pub(in crate::image) fn new(inner: I, sink: Option<Sink>) -> Self {
        Self {
            inner,
            sink,
            content: None,
        }
    }

    pub(in crate::image) fn inner(&self) -> &I {
        &self.inner
    }

    /// Reads to the end of the stream.
    pub(in crate::image) fn drain(&mut self) -> Result<(), ImageError> {
        loop {
            let n = self.fill()?.len();
            if n == 0 {
                return Ok(());
            }
            self.consume(n);
        }
    }

    /// That this was the whole of it.
    pub(in crate::image) fn end(&mut self) {
        if let Some(sink) = &mut self.sink {
            format::put_end(&mut sink.batch);
            sink.send();
        }
    }

    fn end_run(&mut self) {
        if let (Some(sink), Some(content)) = (&mut self.sink, &mut self.content)
            && content.len > 0
        {
            format::put_run(&mut sink.batch, content.offset, content.len);
            content.offset = content.offset.saturating_add(content.len);
            content.len = 0;
            sink.full();
        }
    }
}

impl<I: Input> Input for Recorder<I> {
    fn fill(&mut self) -> Result<&[u8], ImageError> {
        if self.sink.as_ref().is_some_and(|sink| sink.broken) {
            return Err(ImageError::Split(io::ErrorKind::BrokenPipe.into()));
        }
        self.inner.fill()
    }

    fn consume(&mut self, n: usize) {
        if let Some(sink) = &mut self.sink
            // Consumed is only what was there.
            && let Ok(bytes) = self.inner.fill()
        {
            let bytes = bytes.get(..n).unwrap_or(bytes);
            match &mut self.content {
                Some(content) => {
                    content.crc.update(bytes);
                    let n = u64::try_from(n).unwrap_or(u64::MAX);
                    content.len = content.len.saturating_add(n);
                }
                None => {
                    format::put_inline(&mut sink.batch, bytes);
                    sink.full();
                }
            }
        }
        self.inner.consume(n);
    }

    fn begin_file(&mut self, path: &[u8]) {
        if let Some(sink) = &mut self.sink
            && path.len() <= format::MAX_PATH
        {
            format::put_file(&mut sink.batch, path);
            self.content = Some(Content {
                crc: Crc::new(),
                offset: 0,
                len: 0,
            });
        }
    }

    fn seek_file(&mut self, offset: u64) {
        if self
            .content
            .as_ref()
            .is_some_and(|content| content.offset.checked_add(content.len) != Some(offset))
        {
            self.end_run();
            if let Some(content) = &mut self.content {
                content.offset = offset;
            }
        }
    }

    fn end_file(&mut self, size: Option<u64>) {
        self.end_run();
        if let (Some(sink), Some(content), Some(size)) = (&mut self.sink, &self.content, size) {
            format::put_sum(&mut sink.batch, size, content.crc.sum());
        }
        self.content = None;
    }
}
