//! sha256 as the image formats use it, and the chain id that keys a layer.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::ids::Digest;

/// A running sha256 over bytes, with their count.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hasher {
    state: Sha256,
    len: u64,
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.len = self
            .len
            .saturating_add(u64::try_from(bytes.len()).expect("a slice's length fits 64 bits"));
    }

    pub(crate) fn finish(self) -> Summed {
        Summed {
            digest: Digest::from_bytes(self.state.finalize().into()),
            len: self.len,
        }
    }
}

/// What a stream turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summed {
    pub(crate) digest: Digest,
    pub(crate) len: u64,
}

/// The sha256 of some bytes.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.finish().digest
}

/// A reader that sums what passes through it, where asked to.
#[derive(Debug)]
pub(crate) struct HashingReader<R> {
    inner: R,
    hasher: Option<Hasher>,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(inner: R, hash: bool) -> Self {
        Self {
            inner,
            hasher: hash.then(Hasher::default),
        }
    }

    pub(crate) fn finish(self) -> Option<Summed> {
        self.hasher.map(Hasher::finish)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(buf.get(..n).unwrap_or_default());
        }
        Ok(n)
    }
}

/// The identity of a layer with everything below it, as the OCI image specification defines it:
/// the bottom layer's is its diff id, each further one's the sha256 of
/// `<chain id of the parent> <diff id>`.
#[must_use]
pub fn chain_id(parent: Option<Digest>, diff_id: Digest) -> Digest {
    match parent {
        None => diff_id,
        Some(parent) => digest_of(format!("{parent} {diff_id}").as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(hex: &str) -> Digest {
        format!("sha256:{hex}").parse().unwrap()
    }

    #[test]
    fn sha256_of_known_text() {
        assert_eq!(
            digest_of(b"abc"),
            digest("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        );
        assert_eq!(
            digest_of(b""),
            digest("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        );
    }

    #[test]
    fn the_bottom_layers_chain_id_is_its_diff_id() {
        let diff = digest_of(b"layer");
        assert_eq!(chain_id(None, diff), diff);
    }

    /// Values from `printf 'sha256:... sha256:...' | sha256sum`.
    #[test]
    fn chain_ids_are_those_of_sha256sum() {
        let a = digest("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let b = digest("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let ab = chain_id(Some(chain_id(None, a)), b);
        assert_eq!(
            ab,
            digest("dd8ddd90bdf3ccbd91abd3f399218c9d93e91246734fab743933f42048ac3e2c")
        );
        assert_eq!(
            chain_id(Some(ab), a),
            digest("8e9c277940fe142021d5811c9b85cc258bdc32d33c6adea713521839f5d43c85")
        );
        assert_ne!(chain_id(Some(b), a), ab);
    }

    #[test]
    fn a_hashing_reader_sums_what_was_read() {
        let mut reader = HashingReader::new(&b"abcdef"[..], true);
        let mut out = [0; 3];
        reader.read_exact(&mut out).unwrap();
        assert_eq!(
            reader.finish(),
            Some(Summed {
                digest: digest_of(b"abc"),
                len: 3
            })
        );
    }
}
