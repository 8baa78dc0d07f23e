//! Writer of `newc` cpio archives, the format the kernel unpacks as its
//! first root (`init/initramfs.c:do_header`).
//!
//! Several archives may follow one another in a file and the kernel unpacks
//! them in turn, later entries replacing earlier ones: a cached archive and a
//! small one of today's files are simply concatenated. Every archive is padded
//! to 512 bytes so that the next one starts aligned. Owners are root, times 0.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// An archive being written.
#[derive(Debug)]
pub(super) struct Writer<W> {
    out: W,
    inode: u32,
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Starts an archive on `out`.
    pub(super) const fn new(out: W) -> Self {
        Self {
            out,
            inode: 1,
            written: 0,
        }
    }

    /// Adds a directory; `path` has no leading slash.
    pub(super) fn directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.entry(path, DIRECTORY | mode, (0, 0), &[])
    }

    /// Adds a regular file.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, REGULAR | mode, (0, 0), content)
    }

    /// Adds a symbolic link that says `target`.
    pub(super) fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, SYMLINK | 0o777, (0, 0), target.as_bytes())
    }

    /// Adds a character device node.
    pub(super) fn character(
        &mut self,
        path: &str,
        mode: u32,
        major: u32,
        minor: u32,
    ) -> io::Result<()> {
        self.entry(path, CHARACTER | mode, (major, minor), &[])
    }

    /// Ends the archive and gives the output back.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.pad(512)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &str, mode: u32, rdev: (u32, u32), data: &[u8]) -> io::Result<()> {
        let too_large = |_| io::Error::other(format!("{path} is too large for a cpio archive"));
        let size = u32::try_from(data.len()).map_err(too_large)?;
        let name_size = u32::try_from(path.len().saturating_add(1)).map_err(too_large)?;
        let fields = [
            self.inode, mode, 0, 0, 1, 0, size, 0, 0, rdev.0, rdev.1, name_size, 0,
        ];
        self.inode = self.inode.saturating_add(1);
        self.put(b"070701")?;
        for field in fields {
            self.put(format!("{field:08x}").as_bytes())?;
        }
        self.put(path.as_bytes())?;
        self.put(&[0])?;
        self.pad(4)?;
        self.put(data)?;
        self.pad(4)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        let count = u64::try_from(bytes.len()).map_err(io::Error::other)?;
        self.written = self.written.saturating_add(count);
        Ok(())
    }

    fn pad(&mut self, alignment: u64) -> io::Result<()> {
        while !self.written.is_multiple_of(alignment) {
            self.put(&[0])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Writer;

    #[test]
    fn an_archive_is_laid_out_as_the_kernel_reads_it() {
        let mut archive = Writer::new(Vec::new());
        archive.file("etc/motd", 0o644, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        let header = concat!(
            "070701", "00000001", "000081a4", "00000000", "00000000", "00000001", "00000000",
            "00000005", "00000000", "00000000", "00000000", "00000000", "00000009", "00000000",
        );
        assert_eq!(&bytes[..110], header.as_bytes());
        assert_eq!(&bytes[110..120], b"etc/motd\0\0");
        assert_eq!(&bytes[120..128], b"hello\0\0\0");
        assert_eq!(&bytes[128..134], b"070701");
        assert_eq!(&bytes[238..249], b"TRAILER!!!\0");
        assert_eq!(bytes.len(), 512);
    }

    #[test]
    fn nodes_carry_their_numbers() {
        let mut archive = Writer::new(Vec::new());
        archive.character("dev/console", 0o600, 5, 1).unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(&bytes[14..22], b"00002180");
        assert_eq!(&bytes[78..94], b"0000000500000001");
    }
}
