//! The writer: entries in, ustar blocks out, with pax records where ustar has no room.
//!
//! The same entries always give the same bytes: nothing is taken from the clock, the host or the user
//! database. No times but that of modification, no names of owners, and a pax header only where a field
//! does not hold what is to be said.

use std::io::{self, Write};

use super::entry::{Entry, Kind, Mtime};
use super::sparse::SparseMap;
use crate::image::digest::{Hasher, Summed};

const BLOCK: usize = 512;

/// As many bytes as the fields for names hold.
const NAME: usize = 100;

/// The largest numbers that ustar's fields hold: 7 and 11 octal digits.
const MAX_ID: u32 = 0o7_777_777;
const MAX_LONG: u64 = 0o77_777_777_777;

/// What a pax header is called: nobody makes a file of it.
const PAX_NAME: &[u8] = b"././@PaxHeader";

/// How GNU tar calls sparse files for readers that know no sparse files.
const SPARSE_NAME: &[u8] = b"GNUSparseFile.0/";

/// Writes a tar to `out` and sums it.
#[derive(Debug)]
pub(in crate::image) struct Writer<W> {
    out: W,
    hasher: Hasher,
    /// Bytes of the entry at hand since its header, for the padding.
    in_entry: u64,
}

impl<W: Write> Writer<W> {
    pub(in crate::image) fn new(out: W) -> Self {
        Self {
            out,
            hasher: Hasher::default(),
            in_entry: 0,
        }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.out.write_all(bytes)
    }

    /// Begins an entry: `entry.size` bytes of data are to follow, then the next entry or the end.
    pub(in crate::image) fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.pad()?;
        let map = entry.sparse.as_ref().map(map_text);
        let stored = entry
            .size
            .saturating_add(map.as_ref().map_or(0, |map| count(map.len())));
        let records = records(entry, stored);
        if !records.is_empty() {
            let mut header = Header::new(b'x', PAX_NAME);
            header.number(124..136, count(records.len()));
            self.put(&header.finish())?;
            self.data(&records)?;
            self.pad()?;
        }
        self.put(&header_of(entry, stored))?;
        match map {
            Some(map) => self.data(&map),
            None => Ok(()),
        }
    }

    /// A piece of the entry's data.
    pub(in crate::image) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.in_entry = self.in_entry.saturating_add(count(bytes.len()));
        self.put(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        let over = std::mem::take(&mut self.in_entry).checked_rem(count(BLOCK));
        let over = over.and_then(|over| usize::try_from(over).ok());
        let over = over.expect("less than a block, which is not of no length");
        if over == 0 {
            return Ok(());
        }
        let zeros = [0; BLOCK];
        self.put(zeros.get(over..).unwrap_or_default())
    }

    /// Ends the archive; gives its digest and length.
    pub(in crate::image) fn end(mut self) -> io::Result<Summed> {
        self.pad()?;
        self.put(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.hasher.finish())
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).expect("a length in memory fits 64 bits")
}

/// A header block.
struct Header([u8; BLOCK]);

impl Header {
    fn new(kind: u8, name: &[u8]) -> Self {
        let mut header = Self([0; BLOCK]);
        header.text(0..NAME, name);
        header.number(100..108, 0o644);
        header.number(108..116, 0);
        header.number(116..124, 0);
        header.number(124..136, 0);
        header.number(136..148, 0);
        header.text(156..157, &[kind]);
        header.text(257..265, b"ustar\x0000");
        header
    }

    /// As much of `text` as the field holds.
    fn text(&mut self, field: std::ops::Range<usize>, text: &[u8]) {
        let field = self.0.get_mut(field).unwrap_or_default();
        for (to, from) in field.iter_mut().zip(text) {
            *to = *from;
        }
    }

    /// Octal digits with leading zeros up to the NUL at the field's end; a number that has more is left
    /// to a pax record, and zero here.
    fn number(&mut self, field: std::ops::Range<usize>, n: u64) {
        let width = field.len().saturating_sub(1);
        let digits = format!("{n:0width$o}");
        if digits.len() == width {
            self.text(field, digits.as_bytes());
        } else {
            self.text(field, &vec![b'0'; width]);
        }
    }

    fn finish(mut self) -> [u8; BLOCK] {
        self.text(148..156, b"        ");
        let sum: u64 = self.0.iter().map(|byte| u64::from(*byte)).sum();
        self.text(148..156, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

fn header_of(entry: &Entry, stored: u64) -> [u8; BLOCK] {
    let kind = match entry.kind {
        Kind::File => b'0',
        Kind::Hardlink => b'1',
        Kind::Symlink => b'2',
        Kind::CharDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    };
    let name = match entry.sparse {
        Some(_) => [SPARSE_NAME, &entry.path].concat(),
        None => entry.path.clone(),
    };
    let mut header = Header::new(kind, &name);
    header.number(100..108, entry.mode.into());
    header.number(108..116, entry.uid.into());
    header.number(116..124, entry.gid.into());
    header.number(124..136, stored);
    let seconds = u64::try_from(entry.mtime.seconds).unwrap_or(0);
    header.number(136..148, seconds);
    header.text(157..257, &entry.link);
    if matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice) {
        header.number(329..337, entry.device.major().into());
        header.number(337..345, entry.device.minor().into());
    }
    header.finish()
}

/// The pax records an entry needs, in a fixed order; none where the header says it all.
fn records(entry: &Entry, stored: u64) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(map) = &entry.sparse {
        record(&mut out, b"GNU.sparse.major", b"1");
        record(&mut out, b"GNU.sparse.minor", b"0");
        record(&mut out, b"GNU.sparse.name", &entry.path);
        let size = map.real_size().to_string();
        record(&mut out, b"GNU.sparse.realsize", size.as_bytes());
    } else if entry.path.len() > NAME {
        record(&mut out, b"path", &entry.path);
    }
    if entry.link.len() > NAME {
        record(&mut out, b"linkpath", &entry.link);
    }
    if stored > MAX_LONG {
        record(&mut out, b"size", stored.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], entry.uid), (b"gid", entry.gid)] {
        if id > MAX_ID {
            record(&mut out, key, id.to_string().as_bytes());
        }
    }
    let fits = u64::try_from(entry.mtime.seconds).is_ok_and(|seconds| seconds <= MAX_LONG);
    if !fits || entry.mtime.nanos != 0 {
        record(&mut out, b"mtime", decimal_time(entry.mtime).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        if name.contains(&b'=') {
            // A key ends at the first `=`: libarchive's form writes names so that they have none.
            let key = [b"LIBARCHIVE.xattr.", percent_encoded(name).as_slice()].concat();
            record(&mut out, &key, base64_encoded(value).as_bytes());
        } else {
            record(
                &mut out,
                &[b"SCHILY.xattr.", name.as_slice()].concat(),
                value,
            );
        }
    }
    out
}

/// Adds `length key=value newline`, the length counting itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let body = key.len().saturating_add(value.len()).saturating_add(3);
    let mut len = body.saturating_add(1);
    loop {
        let whole = body.saturating_add(len.to_string().len());
        if whole == len {
            break;
        }
        len = whole;
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Seconds with a fraction that has no zeros at its end. What is before 1970 counts down from it, while
/// the nanoseconds of a time always count up.
fn decimal_time(time: Mtime) -> String {
    let (sign, seconds, nanos) = match (time.seconds, time.nanos) {
        (seconds @ 0.., nanos) => ("", seconds.unsigned_abs(), nanos),
        (seconds, 0) => ("-", seconds.unsigned_abs(), 0),
        (seconds, nanos) => (
            "-",
            seconds.unsigned_abs().saturating_sub(1),
            1_000_000_000_u32.saturating_sub(nanos),
        ),
    };
    if nanos == 0 {
        return format!("{sign}{seconds}");
    }
    let fraction = format!("{nanos:09}");
    format!("{sign}{seconds}.{}", fraction.trim_end_matches('0'))
}

fn percent_encoded(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    for byte in name {
        if matches!(byte, b'=' | b'%') {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            out.push(*byte);
        }
    }
    out
}

fn base64_encoded(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let mut padded = [0; 4];
        for (to, from) in padded.iter_mut().skip(1).zip(group) {
            *to = *from;
        }
        let bits = u32::from_be_bytes(padded);
        for (i, shift) in [18_u32, 12, 6, 0].into_iter().enumerate() {
            let digit = usize::try_from((bits >> shift) & 0x3f).expect("six bits");
            let digit = DIGITS.get(digit).copied().unwrap_or(b'A');
            out.push(if i > group.len() {
                '='
            } else {
                char::from(digit)
            });
        }
    }
    out
}

/// The map before the data of a sparse file in version 1.0: decimal lines, filled up to whole blocks.
fn map_text(map: &SparseMap) -> Vec<u8> {
    let mut text = format!("{}\n", map.segments().len());
    for segment in map.segments() {
        text.push_str(&format!("{}\n{}\n", segment.offset, segment.len));
    }
    let mut text = text.into_bytes();
    text.resize(text.len().next_multiple_of(BLOCK), 0);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::DevNo;
    use crate::image::Content;
    use crate::image::tarball::Reader;
    use crate::image::tarball::sparse::Segment;
    use crate::image::testing::Slice;
    use proptest::prelude::{ProptestConfig, Strategy, any, prop_assert_eq, prop_oneof, proptest};

    fn plain(path: &[u8], kind: Kind) -> Entry {
        Entry {
            path: path.to_vec(),
            link: Vec::new(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Mtime::default(),
            size: 0,
            device: DevNo::new(0, 0),
            xattrs: Vec::new(),
            sparse: None,
            data_offset: 0,
        }
    }

    fn written(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out);
        for (entry, data) in entries {
            writer.entry(entry).unwrap();
            writer.data(data).unwrap();
        }
        let summed = writer.end().unwrap();
        assert_eq!(summed.digest, crate::image::digest_of(&out));
        assert_eq!(summed.len, count(out.len()));
        out
    }

    fn read(tar: Vec<u8>) -> Vec<(Entry, Vec<u8>)> {
        let mut reader = Reader::new(Slice(&tar), Content::LayerTar);
        let mut found = Vec::new();
        while let Some(mut entry) = reader.next_entry().unwrap() {
            entry.data_offset = 0;
            let mut data = Vec::new();
            loop {
                let bytes = reader.fill_data().unwrap();
                if bytes.is_empty() {
                    break;
                }
                data.extend_from_slice(bytes);
                let n = bytes.len();
                reader.consume_data(n);
            }
            found.push((entry, data));
        }
        found
    }

    /// What a header can say costs one block.
    #[test]
    fn plain_entries_have_no_extension() {
        let mut file = plain(b"etc/hostname", Kind::File);
        file.size = 3;
        let tar = written(&[(file, b"abc".to_vec())]);
        assert_eq!(tar.len(), 4 * BLOCK);
        assert_eq!(tar.get(257..265), Some(&b"ustar\x0000"[..]));
        // Of what the tarfile module of Python writes as ustar.
        assert_eq!(
            crate::image::digest_of(&tar).to_string(),
            "sha256:0a077bcd8752299045086e81ed7b26e95acca83a2a004534f0b935d9dfa504d8"
        );
    }

    #[test]
    fn times_before_1970_count_down() {
        for (seconds, nanos, text) in [
            (0, 0, "0"),
            (5, 500_000_000, "5.5"),
            (5, 1, "5.000000001"),
            (-1, 0, "-1"),
            (-2, 500_000_000, "-1.5"),
            (-1, 999_999_999, "-0.000000001"),
            (i64::MIN, 0, "-9223372036854775808"),
        ] {
            assert_eq!(decimal_time(Mtime { seconds, nanos }), text);
        }
    }

    #[test]
    fn base64_of_known_text() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"M", "TQ=="),
            (b"Ma", "TWE="),
            (b"Man", "TWFu"),
            (b"\xfb\xff\xbf", "+/+/"),
        ] {
            assert_eq!(base64_encoded(bytes), text);
        }
    }

    fn name(longest: usize) -> impl Strategy<Value = Vec<u8>> {
        let byte = any::<u8>().prop_filter("not in a name", |b| *b != 0 && *b != b'/');
        proptest::collection::vec(byte, 1..longest)
    }

    fn entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
        let id = || prop_oneof![0..3_u32, MAX_ID - 1..MAX_ID + 3, u32::MAX - 2..u32::MAX];
        let time = (
            prop_oneof![
                any::<i32>().prop_map(i64::from),
                any::<i64>().prop_map(|n| n / 2)
            ],
            prop_oneof![0..1_u32, 0..1_000_000_000_u32],
        );
        let xattrs = proptest::collection::btree_map(
            name(30),
            proptest::collection::vec(any::<u8>(), 0..80),
            0..3,
        );
        let what = (
            0..8_u8,
            name(300),
            proptest::collection::vec(any::<u8>(), 0..1100),
        );
        (name(300), what, 0..0o10000_u32, id(), id(), time, xattrs).prop_map(
            |(path, (kind, link, data), mode, uid, gid, (seconds, nanos), xattrs)| {
                let kind = match kind {
                    0 | 1 => Kind::File,
                    2 => Kind::Hardlink,
                    3 => Kind::Symlink,
                    4 => Kind::CharDevice,
                    5 => Kind::BlockDevice,
                    6 => Kind::Directory,
                    _ => Kind::Fifo,
                };
                let data = if kind == Kind::File { data } else { Vec::new() };
                let mut entry = Entry {
                    mode,
                    uid,
                    gid,
                    mtime: Mtime { seconds, nanos },
                    size: count(data.len()),
                    xattrs: xattrs.into_iter().collect(),
                    ..plain(&path, kind)
                };
                if matches!(kind, Kind::Hardlink | Kind::Symlink) {
                    entry.link = link;
                }
                if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
                    entry.device = DevNo::new(4095, (1 << 20) - 1);
                }
                if nanos % 2 == 1 && !data.is_empty() {
                    let real = count(data.len()).saturating_add(10);
                    let segments = vec![
                        Segment {
                            offset: 5,
                            len: count(data.len()),
                        },
                        Segment {
                            offset: real,
                            len: 0,
                        },
                    ];
                    entry.sparse = Some(SparseMap::new(real, segments, entry.size).unwrap());
                }
                (entry, data)
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        #[test]
        fn any_entries_are_read_as_they_were_written(
            entries in proptest::collection::vec(entry(), 0..4),
        ) {
            prop_assert_eq!(read(written(&entries)), entries);
        }
    }
}
