//! Records of a layer's tar, of any kind: what is written is theirs or the layer's files', no more than these have,
//! and nothing from beside the layer.
#![no_main]

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::sync::LazyLock;

use dmthin::image::{digest_of, rebuild_layer, verify_layer};
use flate2::Compression;
use flate2::write::GzEncoder;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// What stands in a file beside the layer.
const SECRET: &[u8] = b"of nobody's business";
/// The longest file of the layer.
const LONGEST: usize = 10_000;

/// A directory with the layer, and a file beside it.
static DIR: LazyLock<TempDir> = LazyLock::new(|| {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("secret"), SECRET).unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("dir")).unwrap();
    fs::write(root.join("a"), [7; 300]).unwrap();
    fs::write(root.join("dir/b"), vec![0; LONGEST]).unwrap();
    symlink("../secret", root.join("link")).unwrap();
    symlink("..", root.join("up")).unwrap();
    dir
});

#[derive(Debug, Arbitrary)]
enum Path {
    A,
    B,
    Dir,
    Link,
    Beside,
    Up,
    Any(Vec<u8>),
}

#[derive(Debug, Arbitrary)]
enum Record {
    Inline(Vec<u8>),
    File(Path),
    Run {
        offset: u16,
        len: u16,
    },
    FarRun {
        offset: u64,
        len: u64,
    },
    Sum {
        size: u16,
        crc: u32,
    },
    End,
    /// Of no form.
    Any(Vec<u8>),
}

#[derive(Debug, Arbitrary)]
struct Input {
    records: Vec<Record>,
    /// Bytes over the compressed ones: where, and what.
    damage: Option<(u16, u8)>,
}

fn counted(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(bytes.len()).unwrap();
    [&[tag], &len.to_le_bytes()[..], bytes].concat()
}

impl Record {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::End => vec![0],
            Self::Inline(bytes) => counted(1, bytes),
            Self::File(path) => counted(
                2,
                match path {
                    Path::A => b"a",
                    Path::B => b"dir/b",
                    Path::Dir => b"dir",
                    Path::Link => b"link",
                    Path::Beside => b"../secret",
                    Path::Up => b"up/secret",
                    Path::Any(bytes) => bytes,
                },
            ),
            Self::Run { offset, len } => run(u64::from(*offset), u64::from(*len)),
            Self::FarRun { offset, len } => run(*offset, *len),
            Self::Sum { size, crc } => {
                let size = u64::from(*size).to_le_bytes();
                [&[4], &size[..], &crc.to_le_bytes()[..]].concat()
            }
            Self::Any(bytes) => bytes.clone(),
        }
    }

    /// How much of a tar it can be at most.
    fn most(&self) -> usize {
        match self {
            Self::Inline(bytes) | Self::Any(bytes) => bytes.len().saturating_mul(LONGEST),
            Self::Run { .. } | Self::FarRun { .. } => LONGEST,
            _ => 0,
        }
    }
}

fn run(offset: u64, len: u64) -> Vec<u8> {
    [&[3], &offset.to_le_bytes()[..], &len.to_le_bytes()[..]].concat()
}

fuzz_target!(|input: Input| {
    let diff_id = digest_of(b"");
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    for record in &input.records {
        gz.write_all(&record.bytes()).unwrap();
    }
    let mut packed = gz.finish().unwrap();
    if let Some((at, byte)) = input.damage {
        let at = usize::from(at) % packed.len();
        packed[at] ^= byte;
    }
    let mut split = tempfile::tempfile_in(DIR.path()).unwrap();
    split.write_all(b"dmtspl\x00\x01").unwrap();
    split.write_all(diff_id.as_bytes()).unwrap();
    split.write_all(&packed).unwrap();
    split.rewind().unwrap();
    let root = File::open(DIR.path().join("root")).unwrap();
    let mut out = Vec::new();
    let rebuilt = rebuild_layer(&split, root.as_fd(), diff_id, &mut out);
    if input.damage.is_none() {
        let most: usize = input.records.iter().map(Record::most).sum();
        assert!(out.len() <= most, "{} bytes of {most}", out.len());
    }
    // What the records say themselves is theirs to say.
    let told = input.records.iter().any(|record| {
        record
            .bytes()
            .windows(2)
            .any(|two| SECRET.windows(2).any(|s| s == two))
    });
    if !told && input.damage.is_none() {
        let found = out.windows(SECRET.len()).any(|part| part == SECRET);
        assert!(!found, "something from beside the layer");
    }
    let verified = verify_layer(&split, root.as_fd(), diff_id);
    // Whoever is content with the one is content with the other.
    assert_eq!(
        rebuilt.is_ok(),
        verified.is_ok_and(|changed| changed.is_empty())
    );
});
