//! The uuid of a file system.

use std::fmt;
use std::str::FromStr;

/// A file system's uuid, written `8-4-4-4-12` in lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FsUuid([u8; 16]);

/// A text that is no file-system uuid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a file-system uuid: write 32 hexadecimal digits as 8-4-4-4-12")]
pub struct FsUuidError(pub String);

/// The digits in each group.
const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];

impl FsUuid {
    /// From 16 bytes, as a superblock has them or a random source gave them.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for FsUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let dash = if matches!(at, 4 | 6 | 8 | 10) {
                "-"
            } else {
                ""
            };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for FsUuid {
    type Err = FsUuidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || FsUuidError(text.to_owned());
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        let groups: Vec<_> = text.split('-').collect();
        if !groups.iter().map(|g| g.len()).eq(GROUPS) || !groups.iter().all(|g| g.chars().all(hex))
        {
            return Err(error());
        }
        u128::from_str_radix(&groups.concat(), 16)
            .map(|n| Self(n.to_be_bytes()))
            .map_err(|_| error())
    }
}

impl serde::Serialize for FsUuid {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_has_one_spelling() {
        let text = "00112233-4455-6677-8899-aabbccddeeff";
        let uuid: FsUuid = text.parse().unwrap();
        assert_eq!(uuid.to_string(), text);
        for bad in [
            "",
            "00112233445566778899aabbccddeeff",
            "00112233-4455-6677-8899-AABBCCDDEEFF",
            "00112233-4455-6677-8899-aabbccddeef",
            "0011223-34455-6677-8899-aabbccddeeff",
            "+0112233-4455-6677-8899-aabbccddeeff",
        ] {
            assert_eq!(bad.parse::<FsUuid>(), Err(FsUuidError(bad.to_owned())));
        }
    }
}
