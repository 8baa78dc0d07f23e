//! The little of ELF that carrying programs and kernel modules needs: the
//! loader and libraries a program asks for, and a module's `.modinfo`.
//!
//! Only 64-bit little-endian files are read. Offsets come from the file and
//! are not trusted: anything out of bounds is an error, never a panic.

use anyhow::{Context as _, Result, ensure};

const SECTION_DYNAMIC: u32 = 6;
const PROGRAM_INTERPRETER: u32 = 3;
const TAG_NULL: u64 = 0;
const TAG_NEEDED: u64 = 1;

/// What a file says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Elf {
    /// The dynamic loader's path; `None` for static programs and libraries.
    pub(super) interpreter: Option<String>,
    /// Names of the shared libraries asked for, in order.
    pub(super) needed: Vec<String>,
    /// `key=value` entries of a kernel module.
    pub(super) modinfo: Vec<(String, String)>,
}

/// Whether the bytes start as an ELF file does.
#[must_use]
pub(super) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

impl Elf {
    /// Reads an ELF file held in memory.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        ensure!(is_elf(bytes), "not an ELF file");
        ensure!(
            bytes.get(4..6) == Some(&[2, 1]),
            "not a 64-bit little-endian ELF file"
        );
        let mut elf = Self {
            interpreter: interpreter(bytes)?,
            ..Self::default()
        };
        let sections = sections(bytes)?;
        let names = sections
            .get(usize::from(u16_at(bytes, 62)?))
            .copied()
            .unwrap_or_default();
        for section in &sections {
            if section.kind == SECTION_DYNAMIC {
                let strings = sections.get(section.link).context("no string table")?;
                elf.needed = needed(section.bytes(bytes)?, strings.bytes(bytes)?)?;
            } else if string_at(names.bytes(bytes)?, section.name)? == ".modinfo" {
                elf.modinfo = modinfo(section.bytes(bytes)?);
            }
        }
        Ok(elf)
    }

    /// The value of a `.modinfo` key, if it is there and not empty.
    #[must_use]
    pub(super) fn info(&self, key: &str) -> Option<&str> {
        let found = self.modinfo.iter().find(|(k, _)| k == key)?;
        Some(found.1.as_str()).filter(|value| !value.is_empty())
    }
}

#[derive(Clone, Copy, Default)]
struct Section {
    name: usize,
    kind: u32,
    offset: usize,
    size: usize,
    link: usize,
}

impl Section {
    fn bytes<'a>(&self, file: &'a [u8]) -> Result<&'a [u8]> {
        slice(file, self.offset, self.size)
    }
}

fn sections(bytes: &[u8]) -> Result<Vec<Section>> {
    let start = usize_at(bytes, 40)?;
    let entry_size = usize::from(u16_at(bytes, 58)?);
    let count = usize::from(u16_at(bytes, 60)?);
    let mut sections = Vec::with_capacity(count);
    for index in 0..count {
        let at = index
            .checked_mul(entry_size)
            .and_then(|o| o.checked_add(start));
        let header = slice(bytes, at.context("section table overflows")?, 64)?;
        sections.push(Section {
            name: usize::try_from(u32_at(header, 0)?)?,
            kind: u32_at(header, 4)?,
            offset: usize_at(header, 24)?,
            size: usize_at(header, 32)?,
            link: usize::try_from(u32_at(header, 40)?)?,
        });
    }
    Ok(sections)
}

fn interpreter(bytes: &[u8]) -> Result<Option<String>> {
    let start = usize_at(bytes, 32)?;
    let entry_size = usize::from(u16_at(bytes, 54)?);
    for index in 0..usize::from(u16_at(bytes, 56)?) {
        let at = index
            .checked_mul(entry_size)
            .and_then(|o| o.checked_add(start));
        let header = slice(bytes, at.context("program table overflows")?, 56)?;
        if u32_at(header, 0)? == PROGRAM_INTERPRETER {
            let text = slice(bytes, usize_at(header, 8)?, usize_at(header, 32)?)?;
            return Ok(Some(string_at(text, 0)?));
        }
    }
    Ok(None)
}

fn needed(dynamic: &[u8], strings: &[u8]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in dynamic.chunks_exact(16) {
        match u64_at(entry, 0)? {
            TAG_NULL => break,
            TAG_NEEDED => found.push(string_at(strings, usize_at(entry, 8)?)?),
            _ => {}
        }
    }
    Ok(found)
}

fn modinfo(bytes: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(bytes);
    let entries = text.split('\0').filter_map(|entry| entry.split_once('='));
    entries
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn slice(bytes: &[u8], offset: usize, size: usize) -> Result<&[u8]> {
    let end = offset.checked_add(size).context("ELF offset overflows")?;
    bytes
        .get(offset..end)
        .with_context(|| format!("ELF range {offset}..{end} is past the end"))
}

fn string_at(strings: &[u8], offset: usize) -> Result<String> {
    let tail = strings
        .get(offset..)
        .context("ELF string is past the end")?;
    let text = tail.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N]> {
    Ok(slice(bytes, offset, N)?.try_into()?)
}

fn u16_at(bytes: &[u8], offset: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(array(bytes, offset)?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(array(bytes, offset)?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(array(bytes, offset)?))
}

fn usize_at(bytes: &[u8], offset: usize) -> Result<usize> {
    Ok(usize::try_from(u64_at(bytes, offset)?)?)
}

#[cfg(test)]
mod tests {
    use super::{Elf, modinfo};
    use std::sync::LazyLock;

    use proptest::prelude::{any, prop, proptest};

    #[test]
    fn the_running_test_names_its_libraries() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let elf = Elf::parse(&bytes).unwrap();
        if elf.interpreter.is_some() {
            assert!(
                elf.needed.iter().any(|name| name == "libc.so.6"),
                "{:?}",
                elf.needed
            );
        }
    }

    #[test]
    fn modinfo_entries_are_split_at_nul() {
        let entries = modinfo(b"license=GPL\0\0depends=dm-mod,dm-bufio\0");
        let elf = Elf {
            modinfo: entries,
            ..Elf::default()
        };
        assert_eq!(elf.info("depends"), Some("dm-mod,dm-bufio"));
        assert_eq!(elf.info("license"), Some("GPL"));
        assert_eq!(elf.info("softdep"), None);
    }

    /// The first bytes of a real program.
    static HEAD: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut bytes = std::fs::read("/proc/self/exe").unwrap();
        bytes.truncate(8192);
        bytes
    });

    proptest! {
        #[test]
        fn damaged_files_are_errors_not_panics(
            at in 0_usize..4096, byte in any::<u8>(), length in 64_usize..8192,
            tail in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut bytes = HEAD[..length].to_vec();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            bytes.extend(tail);
            drop(Elf::parse(&bytes));
        }
    }
}
