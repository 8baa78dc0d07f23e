//! Where a tar stream's bytes come from, in buffers the reader looks into without copying.

use crate::image::ImageError;

/// A source of bytes.
pub(in crate::image) trait Input {
    /// The bytes at hand; empty at the end of the stream only.
    fn fill(&mut self) -> Result<&[u8], ImageError>;

    /// Marks `n` of the bytes at hand as used.
    fn consume(&mut self, n: usize);

    /// Tells that what is used from here on is the content of the file at `path`, from its beginning.
    fn begin_file(&mut self, _path: &[u8]) {}

    /// Tells where in that file what is used next belongs.
    fn seek_file(&mut self, _offset: u64) {}

    /// Tells that the file is `size` bytes long and what was used since its beginning all that it holds but
    /// zeros; without a size, that what follows is no content of it.
    fn end_file(&mut self, _size: Option<u64>) {}

    /// Passes over `n` bytes; false where the stream ends before.
    fn skip(&mut self, mut n: u64) -> Result<bool, ImageError> {
        while n > 0 {
            let here = self.fill()?.len();
            if here == 0 {
                return Ok(false);
            }
            let step = here.min(usize::try_from(n).unwrap_or(usize::MAX));
            self.consume(step);
            n = n.saturating_sub(u64::try_from(step).unwrap_or(n));
        }
        Ok(true)
    }
}
