//! Two devices, read in pieces of 64 KiB that are kept for a while.
//!
//! Where the pool says that both are the same they are read once for both. Who reads one piece after the other is given
//! several at a time: a device answers that as fast as one.
//! Buffers lie on a boundary of a block, as `O_DIRECT` asks for: the page cache of a device may have what
//! a block held before. They are used again, as fresh memory costs more than what is read into it: each of its pages is
//! a fault.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::mem;
use std::ops::{Deref, Range};
use std::rc::Rc;

use super::bytes::index;
use super::{BLOCK, FsBlock};
use crate::delta::Refusal;
use crate::thinmeta::{ChangedRun, ReadAt};
use crate::units::{BlockSize, Bytes};

/// Blocks of a piece, which no unit of a pool is smaller than.
const PIECE: u64 = 16;
/// Bytes of a piece that is whole.
const WHOLE: usize = 16 * BLOCK;
/// Pieces of both devices that are kept, and as many again of which some were not used for longer: 8 MiB in all.
const KEPT: usize = 64;
/// Pieces that are read at a time: 1 MiB.
const AT_A_TIME: u64 = 16;
/// How many readings in order are followed at once.
const ORDERS: usize = 4;

/// A buffer that lies on a boundary of a block.
#[derive(Debug)]
pub(in crate::delta) struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// Of so many bytes, zeros.
    pub(in crate::delta) fn new(len: usize) -> Self {
        let bytes = vec![0; len.saturating_add(BLOCK)];
        let start = bytes.as_ptr().align_offset(BLOCK);
        Self { bytes, start, len }
    }

    pub(in crate::delta) fn get(&self) -> &[u8] {
        let rest = self.bytes.get(self.start..).unwrap_or_default();
        rest.get(..self.len).unwrap_or_default()
    }

    pub(in crate::delta) fn get_mut(&mut self) -> &mut [u8] {
        let rest = self.bytes.get_mut(self.start..).unwrap_or_default();
        rest.get_mut(..self.len).unwrap_or_default()
    }
}

/// A block in memory.
#[derive(Debug, Clone)]
pub(in crate::delta) struct Block {
    piece: Rc<Aligned>,
    at: usize,
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let rest = self.piece.get().get(self.at..).unwrap_or_default();
        rest.get(..BLOCK).unwrap_or_default()
    }
}

/// Which of two devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::delta) enum Side {
    Old,
    New,
}

/// A piece in memory: of one device, or of both.
type Key = (Option<Side>, u64);

/// A piece of one device, and which.
type Placed = (u64, Rc<Aligned>);

/// Pieces in memory.
#[derive(Default)]
struct Kept {
    young: HashMap<Key, Rc<Aligned>>,
    old: HashMap<Key, Rc<Aligned>>,
    /// Buffers of pieces that are kept no more.
    spare: Vec<Aligned>,
}

/// What is kept of two devices.
#[derive(Default)]
pub(in crate::delta) struct Pieces {
    /// The pieces in which they may differ, in order, where that is known.
    differ: Option<Vec<Range<u64>>>,
    kept: RefCell<Kept>,
    /// What several pieces are read into at a time.
    several: RefCell<Option<Aligned>>,
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces").finish_non_exhaustive()
    }
}

impl Pieces {
    /// Of devices that differ only there, in units of a pool; anywhere, where that is not known.
    pub(in crate::delta) fn new(changed: Option<&[ChangedRun]>, unit: BlockSize) -> Rc<Self> {
        let per_unit = unit.to_bytes().get() / 4096 / PIECE;
        let differ = changed.map(|runs| {
            let ranges = runs.iter().map(|run| {
                let begin = run.begin.get().saturating_mul(per_unit);
                begin..begin.saturating_add(run.len.get().saturating_mul(per_unit))
            });
            let mut ranges: Vec<_> = ranges.collect();
            ranges.sort_by_key(|range| range.start);
            ranges
        });
        Rc::new(Self {
            differ,
            ..Self::default()
        })
    }

    fn is_common(&self, place: u64) -> bool {
        self.differ.as_ref().is_some_and(|ranges| {
            let after = ranges.partition_point(|range| range.start <= place);
            let last = after.checked_sub(1).and_then(|at| ranges.get(at));
            last.is_none_or(|range| !range.contains(&place))
        })
    }

    fn get(&self, key: Key) -> Option<Rc<Aligned>> {
        let Kept { young, old, .. } = &mut *self.kept.borrow_mut();
        if let Some(piece) = young.get(&key) {
            return Some(Rc::clone(piece));
        }
        let piece = old.remove(&key)?;
        young.insert(key, Rc::clone(&piece));
        Some(piece)
    }

    fn keep(&self, key: Key, piece: Rc<Aligned>) {
        let Kept { young, old, spare } = &mut *self.kept.borrow_mut();
        if young.len() >= KEPT {
            let gone = mem::replace(old, mem::take(young));
            let unused = gone.into_values().filter_map(Rc::into_inner);
            spare.extend(unused.filter(|piece| piece.len == WHOLE));
        }
        young.insert(key, piece);
    }

    /// A buffer for a piece of so many blocks; what is in it does not matter.
    fn buffer(&self, count: u64) -> Aligned {
        let spare = match count {
            PIECE => self.kept.borrow_mut().spare.pop(),
            _ => None,
        };
        spare.unwrap_or_else(|| Aligned::new(bytes_of(count)))
    }
}

/// Bytes of so many blocks.
pub(in crate::delta) fn bytes_of(count: u64) -> usize {
    index(count).saturating_mul(BLOCK)
}

/// A device with so many blocks of a file system.
pub(in crate::delta) struct Disk<'a> {
    device: &'a dyn ReadAt,
    blocks: u64,
    side: Side,
    pieces: Rc<Pieces>,
    /// The last two that were used, which mostly are the next ones too: a bitmap and what it is of.
    recent: RefCell<[Option<Placed>; 2]>,
    reads: Cell<u64>,
    /// The piece that comes next, of who reads in order, and how many were read last.
    orders: RefCell<VecDeque<(u64, u64)>>,
}

impl fmt::Debug for Disk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("blocks", &self.blocks)
            .field("reads", &self.reads)
            .finish_non_exhaustive()
    }
}

impl<'a> Disk<'a> {
    pub(super) fn new(
        device: &'a dyn ReadAt,
        blocks: u64,
        side: Side,
        pieces: &Rc<Pieces>,
    ) -> Self {
        Self {
            device,
            blocks,
            side,
            pieces: Rc::clone(pieces),
            recent: RefCell::default(),
            reads: Cell::new(0),
            orders: RefCell::default(),
        }
    }

    /// How often the device was read.
    pub(in crate::delta) const fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// A block of the file system.
    pub(in crate::delta) fn block(&self, block: FsBlock) -> Result<Block, Refusal> {
        let number = block.get();
        if number >= self.blocks {
            return Err(Refusal::Damaged {
                what: "the number of a block",
                at: number,
            });
        }
        let place = number / PIECE;
        let at = index(number % PIECE).saturating_mul(BLOCK);
        let recent = self
            .recent
            .borrow()
            .iter()
            .flatten()
            .find_map(|(of, piece)| (*of == place).then(|| Rc::clone(piece)));
        if let Some(piece) = recent {
            return Ok(Block { piece, at });
        }
        let piece = match self.pieces.get(self.key(place)) {
            Some(piece) => piece,
            None => self.read(place)?,
        };
        let [last, before] = &mut *self.recent.borrow_mut();
        *before = last.replace((place, Rc::clone(&piece)));
        Ok(Block { piece, at })
    }

    /// Blocks of a piece: the device may end within it.
    fn count(&self, place: u64) -> u64 {
        let first = place.saturating_mul(PIECE);
        self.blocks.saturating_sub(first).min(PIECE)
    }

    fn key(&self, place: u64) -> Key {
        // Where one device ends the other may go on.
        let is_common = self.count(place) == PIECE && self.pieces.is_common(place);
        ((!is_common).then_some(self.side), place)
    }

    /// How many pieces are read from this one on: more for who reads in order, but none that is there.
    fn in_order(&self, place: u64) -> u64 {
        let orders = &mut *self.orders.borrow_mut();
        let known = orders.iter().position(|(next, _)| *next == place);
        let last = known.and_then(|at| orders.remove(at));
        let wanted = last.map_or(1, |(_, read)| read.saturating_mul(2).min(AT_A_TIME));
        let is_absent = |ahead: &u64| {
            let place = place.saturating_add(*ahead);
            self.count(place) == PIECE && self.pieces.get(self.key(place)).is_none()
        };
        let ahead = (1..wanted).take_while(is_absent).last().unwrap_or(0);
        let read = ahead.saturating_add(1);
        if orders.len() >= ORDERS {
            orders.pop_front();
        }
        orders.push_back((place.saturating_add(read), read));
        read
    }

    fn read(&self, place: u64) -> Result<Rc<Aligned>, Refusal> {
        let first = FsBlock::new(place.saturating_mul(PIECE));
        let pieces = self.in_order(place);
        if pieces == 1 {
            let mut piece = self.pieces.buffer(self.count(place));
            self.read_once(first, piece.get_mut())?;
            return Ok(self.keep(place, piece));
        }
        let count = pieces.saturating_mul(PIECE);
        let count = count.min(self.blocks.saturating_sub(first.get()));
        let mut several = self.pieces.several.borrow_mut();
        let several = several.get_or_insert_with(|| Aligned::new(bytes_of(AT_A_TIME * PIECE)));
        let several = several.get_mut().get_mut(..bytes_of(count));
        let several = several.unwrap_or_default();
        self.read_once(first, several)?;
        let mut wanted = None;
        for (place, bytes) in (place..).zip(several.chunks(WHOLE)) {
            // Of its own, so that what is kept is no more than is counted.
            let mut piece = self.pieces.buffer(self.count(place));
            piece.get_mut().copy_from_slice(bytes);
            let piece = self.keep(place, piece);
            wanted.get_or_insert(piece);
        }
        wanted.ok_or(Refusal::Damaged {
            what: "the number of a block",
            at: first.get(),
        })
    }

    fn keep(&self, place: u64, piece: Aligned) -> Rc<Aligned> {
        let piece = Rc::new(piece);
        self.pieces.keep(self.key(place), Rc::clone(&piece));
        piece
    }

    /// Reads blocks for who looks at them once: they are not kept.
    pub(in crate::delta) fn read_once(
        &self,
        first: FsBlock,
        into: &mut [u8],
    ) -> Result<(), Refusal> {
        let at = first.to_bytes();
        self.reads.set(self.reads.get().saturating_add(1));
        let read = self.device.read_exact_at(into, at.get());
        read.map_err(|source| Refusal::Read {
            at,
            source: source.into(),
        })
    }
}

/// The first block of a device, before it is known how many there are.
pub(super) fn first_block(device: &dyn ReadAt) -> Result<Vec<u8>, Refusal> {
    let mut block = Aligned::new(BLOCK);
    device
        .read_exact_at(block.get_mut(), 0)
        .map_err(|source| Refusal::Read {
            at: Bytes::ZERO,
            source: source.into(),
        })?;
    Ok(block.get().to_vec())
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "test helper")]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashSet;
    use std::io;

    use super::{Disk, KEPT, PIECE, Pieces, Side};
    use crate::delta::ext4::FsBlock;
    use crate::thinmeta::{ChangedRun, ReadAt};
    use crate::units::{BlockSize, DataBlocks};

    const BLOCKS: u64 = 60 * PIECE + 5;

    /// Each block has its number in it, and which device it is of; what is read is noted, in blocks.
    struct Device {
        mark: u8,
        read: RefCell<Vec<(u64, u64)>>,
    }

    impl Device {
        fn new(mark: u8) -> Self {
            Self {
                mark,
                read: RefCell::default(),
            }
        }

        fn taken(&self) -> Vec<(u64, u64)> {
            self.read.take()
        }
    }

    impl ReadAt for Device {
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            let first = offset / 4096;
            let chunks = buf.chunks_mut(4096);
            let count = u64::try_from(chunks.len()).unwrap();
            assert!(first + count <= BLOCKS);
            self.read.borrow_mut().push((first, count));
            for (number, block) in (first..).zip(chunks) {
                block[..8].copy_from_slice(&number.to_le_bytes());
                block[8] = self.mark;
            }
            Ok(())
        }
    }

    fn changed(begin: u64, len: u64) -> ChangedRun {
        ChangedRun {
            begin: DataBlocks::new(begin),
            len: DataBlocks::new(len),
            old: true,
            new: true,
        }
    }

    fn mark(disk: &Disk<'_>, block: u64) -> u8 {
        let block_read = disk.block(FsBlock::new(block)).unwrap();
        assert_eq!(block_read[..8], block.to_le_bytes());
        block_read[8]
    }

    #[test]
    fn what_is_the_same_in_both_is_read_once() {
        let (first, second) = (Device::new(1), Device::new(2));
        let runs = [changed(30, 1), changed(10, 2)];
        let pieces = Pieces::new(Some(&runs), BlockSize::DEFAULT);
        let old = Disk::new(&first, BLOCKS, Side::Old, &pieces);
        let new = Disk::new(&second, BLOCKS, Side::New, &pieces);
        let of = |place: u64| [&old, &new].map(|disk| mark(disk, place * PIECE + 3));
        assert_eq!(of(5), [1, 1]);
        for place in [10, 11, 30] {
            assert_eq!(of(place), [1, 2], "{place}");
        }
        assert_eq!(of(12), [1, 1]);
        assert_eq!(of(29), [1, 1]);
        // The last one is not whole: the other device might go on.
        assert_eq!(of(60), [1, 2]);
        assert_eq!(new.reads(), 4);

        // Where nothing is known nothing is.
        let pieces = Pieces::new(None, BlockSize::DEFAULT);
        let old = Disk::new(&first, BLOCKS, Side::Old, &pieces);
        let new = Disk::new(&second, BLOCKS, Side::New, &pieces);
        assert_eq!([&old, &new].map(|disk| mark(disk, 80)), [1, 2]);
    }

    #[test]
    fn who_reads_in_order_gets_more_at_a_time() {
        let device = Device::new(1);
        let pieces = Pieces::new(None, BlockSize::DEFAULT);
        let disk = Disk::new(&device, BLOCKS, Side::Old, &pieces);
        mark(&disk, 20 * PIECE);
        device.taken();
        // Another order between them does no harm, and what is there already is not read again.
        for place in 0..21 {
            mark(&disk, place * PIECE);
            mark(&disk, (40 + place / 7) * PIECE + 1);
        }
        let pieces_of = |(first, count): (u64, u64)| (first / PIECE, count / PIECE);
        let mut read: Vec<_> = device.taken().into_iter().map(pieces_of).collect();
        read.sort_unstable();
        assert_eq!(
            read,
            [(0, 1), (1, 2), (3, 4), (7, 8), (15, 5), (40, 1), (41, 2)]
        );
        // To the device's end, which is within a piece.
        for block in 50 * PIECE..BLOCKS {
            mark(&disk, block);
        }
        let read = device.taken();
        assert_eq!(read.last(), Some(&(60 * PIECE, 5)));
        assert!(disk.block(FsBlock::new(BLOCKS)).is_err());
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_is_used_stays() {
        let pieces = Pieces::new(None, BlockSize::DEFAULT);
        let piece = || std::rc::Rc::new(super::Aligned::new(1));
        for place in 0..10_000 {
            pieces.keep((None, place), piece());
            assert!(pieces.get((None, 0)).is_some(), "{place}");
        }
        let kept = pieces.kept.borrow();
        let count = kept.young.len() + kept.old.len();
        assert!(count <= 2 * KEPT + 1, "{count}");
    }

    /// Fresh memory for each piece was seven eighths of what a comparison took on a kernel where a fault is dear.
    #[test]
    fn buffers_are_used_again() {
        struct Zeros;
        impl ReadAt for Zeros {
            fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
                Ok(())
            }
        }
        let pieces = Pieces::new(None, BlockSize::DEFAULT);
        let disk = Disk::new(&Zeros, 1 << 20, Side::Old, &pieces);
        let mut buffers = HashSet::new();
        // In order and not.
        for place in (0..1000).chain((2000..4000).step_by(2)) {
            buffers.insert(disk.block(FsBlock::new(place * PIECE)).unwrap().as_ptr());
        }
        assert!(buffers.len() <= 2 * KEPT + 4, "{}", buffers.len());
    }
}
