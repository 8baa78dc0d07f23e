//! Archives of images whose documents say anything, with digests that match where they are asked for.
#![no_main]

use std::io::Cursor;

use dmthin::image::{Archive, Spool, digest_of};
use dmthin::units::Bytes;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
enum Name {
    Manifest,
    OciLayout,
    Index,
    Repositories,
    /// `blobs/sha256/` and the digest of what is in it.
    Blob,
    Any(String),
}

/// A member. In its text `@0` to `@9` stand for the digests of the members after it, and `#0` to `#9` for
/// their sizes: no fuzzer guesses a digest.
#[derive(Debug, Arbitrary)]
struct Member {
    name: Name,
    text: Vec<u8>,
}

/// The text with what stands for others put in.
fn resolved(text: &[u8], after: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let digit = bytes.peek().copied().filter(u8::is_ascii_digit);
        let other = digit.and_then(|digit| after.get(usize::from(digit - b'0')));
        match (byte, other) {
            (b'@', Some(other)) => out.extend(digest_of(other).to_string().into_bytes()),
            (b'#', Some(other)) => out.extend(other.len().to_string().into_bytes()),
            _ => {
                out.push(byte);
                continue;
            }
        }
        bytes.next();
    }
    out
}

fuzz_target!(|members: (bool, Vec<Member>)| {
    let (whole, members) = members;
    // The last first: what stands for the digest of a later one is known then.
    let mut texts: Vec<Vec<u8>> = Vec::new();
    for member in members.iter().rev() {
        let text = resolved(&member.text, &texts);
        texts.insert(0, text);
    }
    let mut builder = tar::Builder::new(Vec::new());
    for (member, text) in members.iter().zip(&texts) {
        let name = match &member.name {
            Name::Manifest => "manifest.json".to_owned(),
            Name::OciLayout => "oci-layout".to_owned(),
            Name::Index => "index.json".to_owned(),
            Name::Repositories => "repositories".to_owned(),
            Name::Blob => digest_of(text)
                .to_string()
                .replacen("sha256:", "blobs/sha256/", 1),
            Name::Any(name) => name.clone(),
        };
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        let _ = builder.append_data(&mut header, name, text.as_slice());
    }
    let mut bytes = builder.into_inner().unwrap();
    if !whole {
        bytes.truncate(bytes.len() / 2);
    }
    let dir = std::env::temp_dir();
    let spool = Spool {
        dir: &dir,
        limit: Bytes::from_mib(1),
    };
    if let Ok(archive) = Archive::open_stream(Cursor::new(bytes), &spool) {
        let images = archive.images(None).unwrap_or_default();
        for layer in images.iter().flat_map(|image| &image.layers) {
            let _ = archive.layer_blob(layer);
        }
    }
});
