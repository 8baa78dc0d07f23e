//! Memory that direct I/O takes.

/// A multiple of every device's block.
const ALIGN: usize = 4096;

/// So many bytes, on a boundary of a block.
#[derive(Debug)]
pub(crate) struct Aligned {
    bytes: Vec<u8>,
    len: usize,
}

impl Aligned {
    /// Zeros.
    pub(crate) fn new(len: usize) -> Self {
        Self {
            bytes: vec![0; len.saturating_add(ALIGN)],
            len,
        }
    }

    /// These bytes, and zeros up to a whole block.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut aligned = Self::new(bytes.len().next_multiple_of(ALIGN));
        if let Some(begin) = aligned.bytes().get_mut(..bytes.len()) {
            begin.copy_from_slice(bytes);
        }
        aligned
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        let offset = self.bytes.as_ptr().align_offset(ALIGN);
        let bytes = self.bytes.get_mut(offset..).unwrap_or_default();
        bytes.get_mut(..self.len).unwrap_or_default()
    }
}
