//! Streams of tar read entry by entry, handed over in pieces of odd sizes.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "test helper"
)]

use proptest::prelude::{ProptestConfig, any, proptest};

use super::entry::{Kind, Mtime};
use super::sparse::Segment;
use super::{Entry, Input, Reader};
use crate::ids::DevNo;
use crate::image::testing::{Head, Tar, pax_record};
use crate::image::{Content, ImageError, TarFault};

struct Pieces<'a> {
    bytes: &'a [u8],
    piece: usize,
}

impl Input for Pieces<'_> {
    fn fill(&mut self) -> Result<&[u8], ImageError> {
        Ok(&self.bytes[..self.piece.min(self.bytes.len())])
    }

    fn consume(&mut self, n: usize) {
        self.bytes = &self.bytes[n..];
    }
}

type Read = Result<Vec<(Entry, Vec<u8>)>, ImageError>;

fn read_in(bytes: &[u8], piece: usize) -> Read {
    let mut reader = Reader::new(Pieces { bytes, piece }, Content::LayerTar);
    let mut out = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        loop {
            let here = reader.fill_data()?.to_vec();
            if here.is_empty() {
                break;
            }
            reader.consume_data(here.len());
            data.extend(here);
        }
        out.push((entry, data));
    }
    Ok(out)
}

/// Reads in pieces of several sizes, which must not matter.
fn read(bytes: &[u8]) -> Read {
    let whole = read_in(bytes, usize::MAX);
    for piece in [1, 7, 511, 512, 4096] {
        let pieces = read_in(bytes, piece);
        assert_eq!(format!("{pieces:?}"), format!("{whole:?}"), "{piece}");
    }
    whole
}

fn fault(bytes: &[u8]) -> (u64, TarFault) {
    match read(bytes) {
        Err(ImageError::BadTar { offset, fault }) => (offset, fault),
        other => panic!("{other:?}"),
    }
}

#[test]
fn plain_entries_are_read() {
    let tar = Tar::default()
        .add(&Head::new(b'0', "a").mode(0o4755).mtime(7), "hello")
        .dir("d/")
        .symlink("s", "a")
        .hardlink("h", "a")
        .end();
    let entries = read(&tar).unwrap();
    let (a, data) = &entries[0];
    assert_eq!(data, b"hello");
    assert_eq!(
        (a.path.as_slice(), a.kind, a.mode, a.size, a.data_offset),
        (&b"a"[..], Kind::File, 0o4755, 5, 512)
    );
    assert_eq!(
        a.mtime,
        Mtime {
            seconds: 7,
            nanos: 0
        }
    );
    let rest: Vec<_> = entries[1..]
        .iter()
        .map(|(e, _)| (e.path.as_slice(), e.kind, e.link.as_slice()))
        .collect();
    assert_eq!(
        rest,
        [
            (&b"d/"[..], Kind::Directory, &b""[..]),
            (b"s", Kind::Symlink, b"a"),
            (b"h", Kind::Hardlink, b"a"),
        ]
    );
}

#[test]
fn types_are_those_of_go() {
    let mut old_dir = Head::new(0, "old/");
    old_dir.mode = 0o700;
    let mut char_device = Head::new(b'3', "c");
    char_device.device = (4, 0xfffff);
    let tar = Tar::default()
        .add(&old_dir, "")
        .add(&Head::new(0, "f"), "x")
        .add(&Head::new(b'7', "g"), "y")
        .add(&char_device, "")
        .add(&Head::new(b'4', "b"), "")
        .add(&Head::new(b'6', "p"), "")
        .end();
    let entries = read(&tar).unwrap();
    let kinds: Vec<_> = entries.iter().map(|(e, _)| e.kind).collect();
    assert_eq!(
        kinds,
        [
            Kind::Directory,
            Kind::File,
            Kind::File,
            Kind::CharDevice,
            Kind::BlockDevice,
            Kind::Fifo
        ]
    );
    assert_eq!(entries[3].0.device, DevNo::new(4, 0xfffff));
    let unknown = Tar::default().add(&Head::new(b'V', "v"), "").end();
    assert!(matches!(
        read(&unknown),
        Err(ImageError::UnsupportedEntry { kind: 'V', .. })
    ));
}

/// A link with a size has no data: readers that skip some see other entries than we do.
#[test]
fn only_files_have_data() {
    let mut block = Head::new(b'1', "l").link("f").block(512);
    block[156] = b'1';
    let tar = Tar::default().file("f", "").raw(&block).file("g", "").end();
    let names: Vec<_> = read(&tar)
        .unwrap()
        .into_iter()
        .map(|(e, _)| e.path)
        .collect();
    assert_eq!(names, [b"f", b"l", b"g"]);
}

#[test]
fn extensions_override_the_header() {
    let long = "n".repeat(300);
    let tar = Tar::default()
        .special(b'L', format!("{long}\0").as_bytes())
        .special(b'K', b"target\0")
        .add(&Head::new(b'2', "short").link("x"), "")
        .special(b'g', &pax_record("uid", b"99"))
        .add(
            &Head::new(b'0', "short")
                .pax("path", &long)
                .pax("gid", "4294967294")
                .pax("mtime", "-1.25")
                .pax("SCHILY.xattr.user.k", "v"),
            "data",
        )
        .file("last", "")
        .end();
    let entries = read(&tar).unwrap();
    assert_eq!(entries[0].0.path, long.as_bytes());
    assert_eq!(entries[0].0.link, b"target");
    let (e, data) = &entries[1];
    assert_eq!(
        (e.path.as_slice(), data.as_slice()),
        (long.as_bytes(), &b"data"[..])
    );
    assert_eq!((e.uid, e.gid), (99, 4_294_967_294));
    assert_eq!(
        e.mtime,
        Mtime {
            seconds: -2,
            nanos: 750_000_000
        }
    );
    assert_eq!(e.xattrs, [(b"user.k".to_vec(), b"v".to_vec())]);
    assert_eq!(entries[2].0.path, b"last");
    assert_eq!(entries[2].0.uid, 99);
    assert_eq!(entries[2].0.xattrs, []);
}

#[test]
fn a_pax_size_is_the_size() {
    let block = Head::new(b'0', "f").block(0);
    let mut data = b"hello".to_vec();
    data.resize(512, 0);
    let tar = Tar::default()
        .special(b'x', &pax_record("size", b"5"))
        .raw(&block)
        .raw(&data)
        .file("g", "")
        .end();
    let entries = read(&tar).unwrap();
    assert_eq!(entries[0].1, b"hello");
    assert_eq!(entries[1].0.path, b"g");
}

#[test]
fn ustar_names_are_joined_with_their_prefix() {
    let mut header = tar::Header::new_ustar();
    header
        .set_path("p".repeat(90) + "/" + &"n".repeat(90))
        .unwrap();
    header.set_size(0);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    let tar = Tar::default().raw(header.as_bytes()).end();
    let path = read(&tar).unwrap()[0].0.path.clone();
    assert_eq!(path, ("p".repeat(90) + "/" + &"n".repeat(90)).into_bytes());
}

fn segments(entry: &Entry) -> (u64, Vec<(u64, u64)>) {
    let map = entry.sparse.as_ref().unwrap();
    let pair = |s: &Segment| (s.offset, s.len);
    (map.real_size(), map.segments().iter().map(pair).collect())
}

#[test]
fn sparse_maps_of_every_form_are_read() {
    let head = |path| Head::new(b'0', path).pax("GNU.sparse.name", "real");
    let mut in_data = b"2\n0\n3\n4096\n2\n".to_vec();
    in_data.resize(512, 0);
    in_data.extend(b"abcde");
    let v00: Vec<u8> = [
        ("GNU.sparse.size", "8192"),
        ("GNU.sparse.numblocks", "2"),
        ("GNU.sparse.offset", "0"),
        ("GNU.sparse.numbytes", "3"),
        ("GNU.sparse.offset", "4096"),
        ("GNU.sparse.numbytes", "2"),
        ("GNU.sparse.name", "real"),
    ]
    .iter()
    .flat_map(|(k, v)| pax_record(k, v.as_bytes()))
    .collect();
    let tar = Tar::default()
        .special(b'x', &v00)
        .file("v00", "abcde")
        .add(
            &head("v01")
                .pax("GNU.sparse.size", "8192")
                .pax("GNU.sparse.map", "0,3,4096,2"),
            "abcde",
        )
        .add(
            &head("v10")
                .pax("GNU.sparse.major", "1")
                .pax("GNU.sparse.minor", "0")
                .pax("GNU.sparse.realsize", "8192"),
            &in_data,
        )
        .end();
    for (entry, data) in read(&tar).unwrap() {
        assert_eq!(entry.path, b"real");
        assert_eq!(data, b"abcde");
        assert_eq!(entry.size, 5);
        assert_eq!(segments(&entry), (8192, vec![(0, 3), (4096, 2)]));
    }
}

/// An old GNU header with `n` segments of one byte, each at a multiple of 1024.
fn old_gnu(n: u64) -> Vec<u8> {
    let field = |n: u64| format!("{n:011o}\0").into_bytes();
    let pairs: Vec<u8> = (0..n)
        .flat_map(|i| [field(i * 1024), field(1)].concat())
        .collect();
    let (own, mut rest) = pairs.split_at(pairs.len().min(4 * 24));
    let mut block = Head::new(b'S', "s").block(n);
    block[386..386 + own.len()].copy_from_slice(own);
    block[482] = u8::from(!rest.is_empty());
    block[483..495].copy_from_slice(&field(n * 1024));
    let mut header = tar::Header::from_byte_slice(&block).clone();
    header.set_cksum();
    let mut tar = Tar::default().raw(header.as_bytes());
    while !rest.is_empty() {
        let (here, after) = rest.split_at(rest.len().min(21 * 24));
        let mut extension = [0; 512];
        extension[..here.len()].copy_from_slice(here);
        extension[504] = u8::from(!after.is_empty());
        tar = tar.raw(&extension);
        rest = after;
    }
    let mut data = vec![b'x'; n.try_into().unwrap()];
    data.resize(data.len().next_multiple_of(512), 0);
    tar.raw(&data).file("next", "").end()
}

#[test]
fn old_gnu_maps_go_on_in_further_blocks() {
    for n in [1, 4, 5, 25, 26, 60] {
        let entries = read(&old_gnu(n)).unwrap();
        let pairs = (0..n).map(|i| (i * 1024, 1)).collect();
        assert_eq!(segments(&entries[0].0), (n * 1024, pairs));
        assert_eq!(entries[0].1.len(), usize::try_from(n).unwrap());
        assert_eq!(entries[1].0.path, b"next");
    }
}

#[test]
fn impossible_maps_are_refused() {
    for map in ["0,3,2,2", "0,9000", "0,3", "4096,2,0,3"] {
        let head = Head::new(b'0', "f")
            .pax("GNU.sparse.size", "8192")
            .pax("GNU.sparse.map", map);
        let tar = Tar::default().add(&head, "abcde").end();
        assert_eq!(fault(&tar).1, TarFault::SparseMap, "{map}");
    }
    let unknown = Head::new(b'0', "f")
        .pax("GNU.sparse.major", "2")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.realsize", "10");
    let tar = Tar::default().add(&unknown, [0; 512]).end();
    assert_eq!(fault(&tar).1, TarFault::SparseMap);
    // The map promises more lines than the data has blocks.
    let cut = Head::new(b'0', "f")
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.realsize", "10");
    let mut data = b"9\n0\n1\n".to_vec();
    data.resize(512, b'1');
    let tar = Tar::default().add(&cut, data).end();
    assert_eq!(fault(&tar).1, TarFault::SparseMap);
}

#[test]
fn the_end_is_two_blocks_of_zeros_or_the_streams() {
    let body = Tar::default().file("a", "x").cut();
    let with = |end: &[u8]| [body.as_slice(), end].concat();
    for good in [
        with(&[]),
        with(&[0; 512]),
        with(&[0; 1024]),
        with(&[0; 10_240]),
    ] {
        assert_eq!(read(&good).unwrap().len(), 1);
    }
    // What follows the end is no entry.
    assert_eq!(
        read(&with(&[[0; 1024].as_slice(), &body].concat()))
            .unwrap()
            .len(),
        1
    );
    let lone = with(&[[0; 512].as_slice(), &body].concat());
    assert_eq!(fault(&lone), (1024, TarFault::LoneZeroBlock));
    assert!(read(&[]).unwrap().is_empty());
}

#[test]
fn damage_is_told_with_its_place() {
    let good = Tar::default().file("a", "x").file("b", "y").end();
    for end in [100, 600, 1100] {
        assert!(
            matches!(
                read(&good[..end]),
                Err(ImageError::Truncated { what: Content::LayerTar, offset })
                    if offset <= u64::try_from(end).unwrap()
            ),
            "{end}"
        );
    }
    let mut flipped = good.clone();
    flipped[1024 + 5] ^= 1;
    assert_eq!(fault(&flipped), (1024, TarFault::Checksum));

    let mut head = Head::new(b'0', "a").block(0);
    head[100..108].copy_from_slice(b"0000xyz\0");
    let mut header = tar::Header::from_byte_slice(&head).clone();
    header.set_cksum();
    assert_eq!(
        fault(&Tar::default().raw(header.as_bytes()).end()),
        (0, TarFault::Number("mode"))
    );
    let mut nobody = Head::new(b'0', "a");
    nobody.uid = 0xffff_ffff;
    assert_eq!(
        fault(&Tar::default().add(&nobody, "").end()).1,
        TarFault::Number("owner")
    );
    nobody.uid = 0x1_0000_0000;
    assert_eq!(
        fault(&Tar::default().add(&nobody, "").end()).1,
        TarFault::Number("uid")
    );
    assert_eq!(
        fault(
            &Tar::default()
                .special(b'x', b"nonsense")
                .file("a", "")
                .end()
        )
        .1,
        TarFault::PaxRecord
    );
    assert_eq!(
        fault(
            &Tar::default()
                .special(b'x', &pax_record("path", b"x"))
                .end()
        )
        .1,
        TarFault::DanglingExtension
    );
    let huge = Head::new(b'x', "x").block(1 << 30);
    assert_eq!(
        fault(&Tar::default().raw(&huge).end()).1,
        TarFault::ExtensionSize(1 << 30)
    );
    assert_eq!(
        fault(
            &Tar::default()
                .special(b'g', &pax_record("path", b"x"))
                .end()
        )
        .1,
        TarFault::PaxGlobal("path".to_owned())
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_bytes_after_a_header_are_read_or_refused(
        kind in any::<u8>(),
        size in 0_u64..3000,
        tail in proptest::collection::vec(any::<u8>(), 0..3000),
    ) {
        let tar = Tar::default().raw(&Head::new(kind, "f").block(size)).raw(&tail).cut();
        let _ = read_in(&tar, 100);
    }
}
