//! The format: records written and read.

use std::fs::File;
use std::io::{self, BufReader, Read};

use flate2::bufread::GzDecoder;

use crate::ids::Digest;
use crate::image::error::ImageError;

/// What the file begins with.
pub(super) const MAGIC: &[u8; 8] = b"dmtspl\x00\x01";

/// The longest piece of the tar in one record.
pub(super) const MAX_INLINE: usize = 64 << 10;

/// The longest path: what the kernel takes for the directory, and a name in it.
pub(super) const MAX_PATH: usize = 4096 + 256;

const END: u8 = 0;
const INLINE: u8 = 1;
const FILE: u8 = 2;
const RUN: u8 = 3;
const SUM: u8 = 4;

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    End,
    Inline(Vec<u8>),
    File(Vec<u8>),
    Run { offset: u64, len: u64 },
    Sum { size: u64, crc: u32 },
}

/// Adds bytes of the tar or a path.
fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    let len = u32::try_from(bytes.len()).expect("limited by who records");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(super) fn put_inline(out: &mut Vec<u8>, bytes: &[u8]) {
    for piece in bytes.chunks(MAX_INLINE) {
        put_bytes(out, INLINE, piece);
    }
}

pub(super) fn put_file(out: &mut Vec<u8>, path: &[u8]) {
    put_bytes(out, FILE, path);
}

pub(super) fn put_run(out: &mut Vec<u8>, offset: u64, len: u64) {
    out.push(RUN);
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
}

pub(super) fn put_sum(out: &mut Vec<u8>, size: u64, crc: u32) {
    out.push(SUM);
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(&crc.to_le_bytes());
}

pub(super) fn put_end(out: &mut Vec<u8>) {
    out.push(END);
}

/// Reads the records of a file.
#[derive(Debug)]
pub(super) struct Records<'a> {
    input: GzDecoder<BufReader<&'a File>>,
}

fn bad(source: io::Error) -> ImageError {
    ImageError::BadSplit(source)
}

fn nonsense(what: &'static str) -> ImageError {
    bad(io::Error::new(io::ErrorKind::InvalidData, what))
}

impl<'a> Records<'a> {
    /// The records of the layer with this diff id; `file` is read from where it stands.
    pub(super) fn open(mut file: &'a File, diff_id: Digest) -> Result<Self, ImageError> {
        let mut head = [0; 40];
        file.read_exact(&mut head).map_err(bad)?;
        let (magic, id) = head.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(nonsense("it does not begin as one of this version does"));
        }
        if id != diff_id.as_bytes() {
            return Err(nonsense("it is another layer's"));
        }
        Ok(Self {
            input: GzDecoder::new(BufReader::with_capacity(64 << 10, file)),
        })
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], ImageError> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(bad)?;
        Ok(bytes)
    }

    fn text(&mut self, limit: usize) -> Result<Vec<u8>, ImageError> {
        let len = usize::try_from(u32::from_le_bytes(self.bytes()?)).unwrap_or(usize::MAX);
        if len > limit {
            return Err(nonsense("a record is longer than any"));
        }
        let mut text = vec![0; len];
        self.input.read_exact(&mut text).map_err(bad)?;
        Ok(text)
    }

    /// The next record; at the end the whole is checked.
    pub(super) fn next(&mut self) -> Result<Record, ImageError> {
        let [tag] = self.bytes()?;
        Ok(match tag {
            END => {
                // The decoder compares its checksum when it meets the end.
                if self.input.read(&mut [0]).map_err(bad)? != 0 {
                    return Err(nonsense("something follows its end"));
                }
                Record::End
            }
            INLINE => Record::Inline(self.text(MAX_INLINE)?),
            FILE => Record::File(self.text(MAX_PATH)?),
            RUN => Record::Run {
                offset: u64::from_le_bytes(self.bytes()?),
                len: u64::from_le_bytes(self.bytes()?),
            },
            SUM => Record::Sum {
                size: u64::from_le_bytes(self.bytes()?),
                crc: u32::from_le_bytes(self.bytes()?),
            },
            _ => return Err(nonsense("an unknown record")),
        })
    }
}
