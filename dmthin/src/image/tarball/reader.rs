//! The reader: headers and extensions in, whole entries out.

use super::entry::{Entry, Kind, Mtime};
use super::input::Input;
use super::number;
use super::pax::Pax;
use super::sparse::{self, SparseMap};
use crate::ids::DevNo;
use crate::image::error::path_of;
use crate::image::{Content, ImageError, TarFault};

const BLOCK: usize = 512;
const BLOCK_U64: u64 = 512;

/// The longest extension header taken (a long name, or pax records): what Go's reader takes.
const MAX_EXTENSION: u64 = 1 << 20;

/// Offsets of header fields (`pax(1)`, ustar interchange format; GNU tar, `struct oldgnu_header`).
mod at {
    use std::ops::Range;

    pub(super) const MODE: Range<usize> = 100..108;
    pub(super) const UID: Range<usize> = 108..116;
    pub(super) const GID: Range<usize> = 116..124;
    pub(super) const SIZE: Range<usize> = 124..136;
    pub(super) const MTIME: Range<usize> = 136..148;
    pub(super) const CKSUM: Range<usize> = 148..156;
    pub(super) const TYPE: usize = 156;
    pub(super) const MAJOR: Range<usize> = 329..337;
    pub(super) const MINOR: Range<usize> = 337..345;
    pub(super) const SPARSE: Range<usize> = 386..482;
    pub(super) const IS_EXTENDED: usize = 482;
    pub(super) const REAL_SIZE: Range<usize> = 483..495;
    pub(super) const EXT_SPARSE: Range<usize> = 0..504;
    pub(super) const EXT_IS_EXTENDED: usize = 504;
}

/// Reads entries from an [`Input`].
#[derive(Debug)]
pub(in crate::image) struct Reader<I> {
    input: I,
    what: Content,
    /// Bytes used since the stream's beginning.
    offset: u64,
    /// Where the header at hand begins: what errors name.
    header_at: u64,
    /// Data of the entry at hand that nobody has read yet.
    data_left: u64,
    /// Bytes from the end of that data to the next block.
    padding: u64,
    global: Pax,
    ended: bool,
}

/// Extensions gathered for the entry that follows them.
#[derive(Debug, Default)]
struct Extensions {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }
}

impl<I: Input> Reader<I> {
    /// Reads `what` (for errors) from `input`.
    pub(in crate::image) fn new(input: I, what: Content) -> Self {
        Self {
            input,
            what,
            offset: 0,
            header_at: 0,
            data_left: 0,
            padding: 0,
            global: Pax::default(),
            ended: false,
        }
    }

    /// The input, to tell it what the data at hand are.
    pub(in crate::image) fn input(&mut self) -> &mut I {
        &mut self.input
    }

    /// The input, to read what follows the archive's end.
    pub(in crate::image) fn into_input(self) -> I {
        self.input
    }

    /// The next entry, what is left of the last one's data passed over; `None` at the end.
    pub(in crate::image) fn next_entry(&mut self) -> Result<Option<Entry>, ImageError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_to_block()?;
            self.header_at = self.offset;
            let Some(block) = self.header_block()? else {
                if extensions.is_empty() {
                    return Ok(None);
                }
                return Err(self.bad(TarFault::DanglingExtension));
            };
            let kind = block[at::TYPE];
            match kind {
                b'x' => {
                    let records = self.extension(&block)?;
                    let pax = Pax::parse(&records).map_err(|fault| self.bad(fault))?;
                    extensions.pax = Some(pax);
                }
                b'g' => {
                    let records = self.extension(&block)?;
                    let pax = Pax::parse_global(&records).map_err(|fault| self.bad(fault))?;
                    self.global = pax.or_global(&self.global);
                }
                b'L' => extensions.long_name = Some(self.long_text(&block)?),
                b'K' => extensions.long_link = Some(self.long_text(&block)?),
                _ => return self.entry(&block, extensions).map(Some),
            }
        }
    }

    /// The unread data of the entry at hand, as far as it is in memory; empty at its end only.
    pub(in crate::image) fn fill_data(&mut self) -> Result<&[u8], ImageError> {
        if self.data_left == 0 {
            return Ok(&[]);
        }
        let (what, offset) = (self.what.clone(), self.offset);
        let bytes = self.input.fill()?;
        if bytes.is_empty() {
            return Err(ImageError::Truncated { what, offset });
        }
        let n = bytes
            .len()
            .min(usize::try_from(self.data_left).unwrap_or(usize::MAX));
        Ok(bytes.get(..n).unwrap_or_default())
    }

    /// Marks `n` bytes of the data as read.
    pub(in crate::image) fn consume_data(&mut self, n: usize) {
        self.input.consume(n);
        let n = u64::try_from(n).unwrap_or(u64::MAX);
        self.offset = self.offset.saturating_add(n);
        self.data_left = self.data_left.saturating_sub(n);
    }

    fn bad(&self, fault: TarFault) -> ImageError {
        ImageError::BadTar {
            offset: self.header_at,
            fault,
        }
    }

    fn truncated(&self) -> ImageError {
        ImageError::Truncated {
            what: self.what.clone(),
            offset: self.offset,
        }
    }

    fn skip_to_block(&mut self) -> Result<(), ImageError> {
        let step = self
            .data_left
            .checked_add(self.padding)
            .ok_or_else(|| self.bad(TarFault::Number("size")))?;
        (self.data_left, self.padding) = (0, 0);
        if !self.input.skip(step)? {
            return Err(self.truncated());
        }
        self.offset = self.offset.saturating_add(step);
        Ok(())
    }

    /// Fills `block`; false at the end of the stream before its first byte.
    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, ImageError> {
        let mut filled = 0_usize;
        while filled < BLOCK {
            let bytes = self.input.fill()?;
            if bytes.is_empty() {
                return if filled == 0 {
                    Ok(false)
                } else {
                    Err(self.truncated())
                };
            }
            let room = block.get_mut(filled..).unwrap_or_default();
            let n = bytes.len().min(room.len());
            for (to, from) in room.iter_mut().zip(bytes) {
                *to = *from;
            }
            self.input.consume(n);
            filled = filled.saturating_add(n);
            self.offset = self
                .offset
                .saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
        }
        Ok(true)
    }

    /// The next header, its checksum checked; `None` at the archive's end.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, ImageError> {
        let mut block = [0; BLOCK];
        if self.ended || !self.read_block(&mut block)? {
            self.ended = true;
            return Ok(None);
        }
        if block.iter().all(|b| *b == 0) {
            self.ended = true;
            if self.read_block(&mut block)? && block.iter().any(|b| *b != 0) {
                return Err(self.bad(TarFault::LoneZeroBlock));
            }
            return Ok(None);
        }
        // Some old writers summed signed bytes.
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (i, byte) in block.iter().enumerate() {
            let byte = if at::CKSUM.contains(&i) { b' ' } else { *byte };
            unsigned = unsigned.saturating_add(i64::from(byte));
            signed = signed.saturating_add(i64::from(i8::from_ne_bytes([byte])));
        }
        match number::field(&block[at::CKSUM]) {
            Some(sum) if sum == unsigned || sum == signed => Ok(Some(block)),
            _ => Err(self.bad(TarFault::Checksum)),
        }
    }

    fn number(
        &self,
        block: &[u8; BLOCK],
        range: std::ops::Range<usize>,
        name: &'static str,
    ) -> Result<i64, ImageError> {
        block
            .get(range)
            .and_then(number::field)
            .ok_or_else(|| self.bad(TarFault::Number(name)))
    }

    fn size(&self, block: &[u8; BLOCK]) -> Result<u64, ImageError> {
        u64::try_from(self.number(block, at::SIZE, "size")?)
            .map_err(|_| self.bad(TarFault::Number("size")))
    }

    /// The data of an extension header.
    fn extension(&mut self, block: &[u8; BLOCK]) -> Result<Vec<u8>, ImageError> {
        let size = self.size(block)?;
        if size > MAX_EXTENSION {
            return Err(self.bad(TarFault::ExtensionSize(size)));
        }
        self.expect_data(size);
        let mut data = Vec::new();
        loop {
            let bytes = self.fill_data()?;
            if bytes.is_empty() {
                return Ok(data);
            }
            data.extend_from_slice(bytes);
            let n = bytes.len();
            self.consume_data(n);
        }
    }

    /// The data of a GNU long name or link, without the NUL that ends it.
    fn long_text(&mut self, block: &[u8; BLOCK]) -> Result<Vec<u8>, ImageError> {
        let mut text = self.extension(block)?;
        if let Some(end) = text.iter().position(|b| *b == 0) {
            text.truncate(end);
        }
        Ok(text)
    }

    fn expect_data(&mut self, size: u64) {
        self.data_left = size;
        let over = size % BLOCK_U64;
        self.padding = if over == 0 {
            0
        } else {
            BLOCK_U64.saturating_sub(over)
        };
    }

    fn entry(&mut self, block: &[u8; BLOCK], extensions: Extensions) -> Result<Entry, ImageError> {
        let header = tar::Header::from_byte_slice(block);
        let Extensions {
            pax,
            long_name,
            long_link,
        } = extensions;
        let pax = pax.unwrap_or_default().or_global(&self.global);

        let mut path = match (long_name, pax.path) {
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => header.path_bytes().into_owned(),
        };
        let link = match (long_link, pax.link) {
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => header
                .link_name_bytes()
                .map(std::borrow::Cow::into_owned)
                .unwrap_or_default(),
        };
        let flag = block[at::TYPE];
        let kind = match flag {
            // Before ustar a directory was a file whose name ends in a slash.
            0 if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::Hardlink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => {
                return Err(ImageError::UnsupportedEntry {
                    path: path_of(&path),
                    kind: char::from(flag),
                });
            }
        };
        let owner = |own: Option<u32>, range, name| match own {
            Some(id) => Ok(id),
            None => u32::try_from(self.number(block, range, name)?)
                .map_err(|_| self.bad(TarFault::Number(name))),
        };
        let uid = owner(pax.uid, at::UID, "uid")?;
        let gid = owner(pax.gid, at::GID, "gid")?;
        // To chown(2) the largest number means: leave it.
        if uid == u32::MAX || gid == u32::MAX {
            return Err(self.bad(TarFault::Number("owner")));
        }
        let mode = self.number(block, at::MODE, "mode")? & 0o7777;
        let mode = u32::try_from(mode).map_err(|_| self.bad(TarFault::Number("mode")))?;
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => Mtime {
                seconds: self.number(block, at::MTIME, "mtime")?,
                nanos: 0,
            },
        };
        let device = if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            self.device(block)?
        } else {
            DevNo::new(0, 0)
        };

        let size = match (kind, pax.size) {
            (Kind::File, Some(size)) => size,
            (Kind::File, None) => self.size(block)?,
            _ => 0,
        };
        self.expect_data(size);
        let sparse = if flag == b'S' {
            Some(self.old_gnu_sparse(block, size)?)
        } else if kind == Kind::File {
            self.pax_sparse(&pax.sparse)?
        } else {
            None
        };
        if sparse.is_some()
            && let Some(name) = pax.sparse.name
        {
            path = name;
        }
        Ok(Entry {
            path,
            link,
            kind,
            mode,
            uid,
            gid,
            mtime,
            size: self.data_left,
            device,
            xattrs: pax.xattrs,
            sparse,
            data_offset: self.offset,
        })
    }

    fn device(&self, block: &[u8; BLOCK]) -> Result<DevNo, ImageError> {
        // dev_t holds 12 bits of major and 20 of minor (include/linux/kdev_t.h).
        let half = |range, name, bits: u32| {
            let n = u32::try_from(self.number(block, range, name)?).ok();
            n.filter(|n| n.checked_shr(bits) == Some(0))
                .ok_or_else(|| self.bad(TarFault::Number(name)))
        };
        Ok(DevNo::new(
            half(at::MAJOR, "devmajor", 12)?,
            half(at::MINOR, "devminor", 20)?,
        ))
    }

    /// Old GNU: four segments in the header, 21 in each block that follows it.
    fn old_gnu_sparse(&mut self, block: &[u8; BLOCK], size: u64) -> Result<SparseMap, ImageError> {
        let real_size = u64::try_from(self.number(block, at::REAL_SIZE, "realsize")?)
            .map_err(|_| self.bad(TarFault::Number("realsize")))?;
        let mut segments = Vec::new();
        sparse::push_fields(&mut segments, &block[at::SPARSE]).map_err(|f| self.bad(f))?;
        let mut more = block[at::IS_EXTENDED] != 0;
        while more {
            let mut extension = [0; BLOCK];
            if !self.read_block(&mut extension)? {
                return Err(self.truncated());
            }
            sparse::push_fields(&mut segments, &extension[at::EXT_SPARSE])
                .map_err(|f| self.bad(f))?;
            more = extension[at::EXT_IS_EXTENDED] != 0;
        }
        SparseMap::new(real_size, segments, size).map_err(|f| self.bad(f))
    }

    /// The map that pax records tell of, where they do.
    fn pax_sparse(
        &mut self,
        told: &super::pax::PaxSparse,
    ) -> Result<Option<SparseMap>, ImageError> {
        let (real_size, segments) = match (told.major, told.minor, told.real_size, &told.map) {
            (Some(1), Some(0), Some(real_size), _) => (real_size, self.map_in_data()?),
            (Some(1..), ..) => return Err(self.bad(TarFault::SparseMap)),
            (_, _, Some(real_size), Some(map)) => (real_size, map.clone()),
            (_, _, Some(real_size), None) => (real_size, told.pairs.clone()),
            (_, _, None, None) if told.pairs.is_empty() => return Ok(None),
            _ => return Err(self.bad(TarFault::SparseMap)),
        };
        SparseMap::new(real_size, segments, self.data_left)
            .map(Some)
            .map_err(|f| self.bad(f))
    }

    /// Version 1.0: the map stands in whole blocks before the data.
    fn map_in_data(&mut self) -> Result<Vec<sparse::Segment>, ImageError> {
        let mut text = Vec::new();
        let mut nr_lines = 0_usize;
        loop {
            if self.data_left < BLOCK_U64 {
                return Err(self.bad(TarFault::SparseMap));
            }
            let mut block = [0; BLOCK];
            if !self.read_block(&mut block)? {
                return Err(self.truncated());
            }
            self.data_left = self.data_left.saturating_sub(BLOCK_U64);
            let in_block = block.iter().filter(|b| **b == b'\n').count();
            nr_lines = nr_lines.saturating_add(in_block);
            text.extend_from_slice(&block);
            // Parsed once, when whole: again at each block would take the square of its length.
            let wanted = sparse::nr_map_lines(&text).map_err(|f| self.bad(f))?;
            if wanted.is_some_and(|wanted| nr_lines >= wanted) {
                return sparse::parse_map(&text).map_err(|f| self.bad(f));
            }
        }
    }
}
