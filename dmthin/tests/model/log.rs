//! Which commits of a catalogue the power can take: those at the end of its log that were not flushed.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::PathBuf;

/// Bytes of the log's header, which is another one each time the log begins anew.
const HEADER: usize = 32;

#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    header: Vec<u8>,
    len: u64,
    /// Where the commits begin that were not flushed.
    flushed: Option<u64>,
}

impl Log {
    pub(crate) fn new(catalogue: PathBuf) -> Self {
        let mut path = catalogue.into_os_string();
        path.push("-wal");
        let mut log = Self {
            path: path.into(),
            header: Vec::new(),
            len: 0,
            flushed: None,
        };
        log.look(false);
        log
    }

    fn read(&self) -> (Vec<u8>, u64) {
        let mut header = vec![0; HEADER];
        let read = File::open(&self.path).and_then(|mut file| {
            file.read_exact(&mut header)?;
            file.metadata()
        });
        read.map_or((Vec::new(), 0), |found| (header, found.len()))
    }

    /// Takes note of what was committed since the last look: one commit that was not flushed, where it
    /// `is_lazy`, else at the end one that was.
    pub(crate) fn look(&mut self, is_lazy: bool) {
        let (header, len) = self.read();
        if header != self.header || len < self.len {
            self.flushed = None;
        } else if len > self.len {
            self.flushed = if is_lazy {
                self.flushed.or(Some(self.len))
            } else {
                None
            };
        }
        (self.header, self.len) = (header, len);
    }

    /// Drops them.
    pub(crate) fn lose(&mut self) {
        self.look(false);
        if let Some(len) = self.flushed.take() {
            let file = OpenOptions::new().write(true).open(&self.path).unwrap();
            file.set_len(len).unwrap();
            self.len = len;
        }
    }
}
