//! Identities as types, each made only by a checked constructor.

mod writable;

use std::fmt;
use std::str::FromStr;

pub use writable::WritableName;

/// The 24-bit number of a thin device inside its pool (`drivers/md/dm-thin.c`, `MAX_DEV_ID`).
///
/// Ids rise and are never reused before the space is spent: a reused id confuses every tool and
/// every crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct ThinId(u32);

/// A number too large for a thin id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a thin device id: ids are 24 bit, 0 to 16777215")]
pub struct ThinIdError(pub u64);

impl ThinId {
    /// The largest id there is.
    pub const MAX: Self = Self((1 << 24) - 1);
    /// The first one.
    pub const FIRST: Self = Self(0);
    /// That of the pool's mirror, which is given to nothing else.
    pub const MIRROR: Self = Self::MAX;

    /// Checks a number.
    ///
    /// # Errors
    /// [`ThinIdError`] above 2^24 - 1.
    pub fn new(n: u64) -> Result<Self, ThinIdError> {
        match u32::try_from(n) {
            Ok(id) if id <= Self::MAX.0 => Ok(Self(id)),
            _ => Err(ThinIdError(n)),
        }
    }

    /// The bare number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The id after this one, or `None` at the end of the space.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        (self < Self::MAX).then(|| Self(self.0.saturating_add(1)))
    }
}

impl fmt::Display for ThinId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize,
        )]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Gives a number its meaning.
            #[must_use]
            pub const fn new(n: u64) -> Self {
                Self(n)
            }

            /// The bare number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id! {
    /// The transaction id in the pool's superblock: it pairs a pool with its catalogue.
    TransactionId
}
number_id! {
    /// A volume of the catalogue: the base, a layer or a container.
    VolumeId
}
number_id! {
    /// An image of the catalogue.
    ImageId
}

impl TransactionId {
    /// The id after this one, or `None` at the end of the space.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }
}

/// A block device's number, as `/proc/partitions` and dm tables write it: `major:minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevNo {
    major: u32,
    minor: u32,
}

impl DevNo {
    /// From the two halves.
    #[must_use]
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// From a `dev_t` as `stat` gives it.
    #[must_use]
    pub fn from_dev_t(dev: u64) -> Self {
        Self {
            major: rustix::fs::major(dev),
            minor: rustix::fs::minor(dev),
        }
    }

    /// As `mknod` takes it.
    #[must_use]
    pub fn to_dev_t(self) -> u64 {
        rustix::fs::makedev(self.major, self.minor)
    }

    /// The driver's half.
    #[must_use]
    pub const fn major(self) -> u32 {
        self.major
    }

    /// The device's half.
    #[must_use]
    pub const fn minor(self) -> u32 {
        self.minor
    }
}

impl fmt::Display for DevNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl serde::Serialize for DevNo {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text that is no identity of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}: {rule}")]
pub struct IdError {
    /// What it was to be.
    pub what: &'static str,
    /// What was given.
    pub text: String,
    /// What would have been taken.
    pub rule: &'static str,
}

impl FromStr for DevNo {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split_once(':')
            .and_then(|(major, minor)| Some(Self::new(major.parse().ok()?, minor.parse().ok()?)))
            .ok_or_else(|| IdError {
                what: "a device number",
                text: text.to_owned(),
                rule: "write major:minor",
            })
    }
}

/// Names that udev and libdm leave as they are in `/dev/mapper`, and no shell minds.
fn is_plain_name(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Checks a text.
            ///
            /// # Errors
            /// [`IdError`] with the rule it breaks.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                let check: fn(&str) -> bool = $check;
                if check(&text) {
                    Ok(Self(text))
                } else {
                    Err(IdError { what: $what, text, rule: $rule })
                }
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }
    };
}

text_id! {
    /// A pool's name. Part of dm names and of paths.
    PoolName, "a pool name",
    "1 to 32 of A-Z a-z 0-9 _ . -, the first a letter or digit",
    |text| is_plain_name(text, 32)
}
text_id! {
    /// A container's name. Part of a dm name.
    ContainerName, "a container name",
    "1 to 63 of A-Z a-z 0-9 _ . -, the first a letter or digit",
    |text| is_plain_name(text, 63)
}
text_id! {
    /// A data volume's name. Part of a dm name.
    VolumeName, "a volume name",
    "1 to 63 of A-Z a-z 0-9 _ . -, the first a letter or digit",
    |text| is_plain_name(text, 63)
}
text_id! {
    /// A snapshot's name, among those of its container or data volume.
    SnapshotName, "a snapshot name",
    "1 to 63 of A-Z a-z 0-9 _ . -, the first a letter or digit",
    |text| is_plain_name(text, 63)
}
text_id! {
    /// The name of a dm device, as `/dev/mapper` shows it; at most 127 bytes
    /// (`include/uapi/linux/dm-ioctl.h`, `DM_NAME_LEN`).
    DmName, "a dm device name",
    "1 to 127 bytes, no '/' and no NUL",
    |text| (1..128).contains(&text.len()) && !text.contains(['/', '\0']) && text != "." && text != ".."
}
text_id! {
    /// The uuid of a dm device; at most 128 bytes (`DM_UUID_LEN`).
    DmUuid, "a dm device uuid",
    "1 to 128 bytes, no '/' and no NUL",
    |text| (1..129).contains(&text.len()) && !text.contains(['/', '\0'])
}
text_id! {
    /// A name an image goes by, as `debian:12` or `registry.example/team/app:v1`.
    ImageRef, "an image name",
    "1 to 255 printable ASCII characters, no blank, the first a letter or digit",
    |text| (1..256).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_graphic())
}

/// A pool's own 128 bits, in its dm uuids as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolUuid([u8; 16]);

impl PoolUuid {
    /// From 16 bytes that some random source gave.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N.checked_mul(2)? {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        // Lower case only: one identity has one spelling.
        if !pair.iter().all(|d| matches!(d, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

impl fmt::Display for PoolUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl FromStr for PoolUuid {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_hex(text).map(Self).ok_or_else(|| IdError {
            what: "a pool uuid",
            text: text.to_owned(),
            rule: "32 lower-case hexadecimal digits",
        })
    }
}

impl serde::Serialize for PoolUuid {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A sha256 digest, written `sha256:` and 64 hexadecimal digits as OCI writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// From the bytes a hasher gave.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 digits without the algorithm.
    #[must_use]
    pub fn to_hex(self) -> String {
        self.to_string().split_off("sha256:".len())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        write_hex(&self.0, f)
    }
}

impl FromStr for Digest {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("sha256:")
            .and_then(parse_hex)
            .map(Self)
            .ok_or_else(|| IdError {
                what: "a digest",
                text: text.to_owned(),
                rule: "sha256: and 64 lower-case hexadecimal digits",
            })
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A file system we make, mount and grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FsType {
    /// ext4, the default.
    Ext4,
    /// xfs; its snapshots are mounted with `nouuid`.
    Xfs,
}

impl FsType {
    /// The kernel's name of it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }
}

impl fmt::Display for FsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for FsType {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ext4" => Ok(Self::Ext4),
            "xfs" => Ok(Self::Xfs),
            _ => Err(IdError {
                what: "a file system we make",
                text: text.to_owned(),
                rule: "ext4 or xfs",
            }),
        }
    }
}

/// What a volume is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeKind {
    /// The empty file system that every first layer is a snapshot of.
    Base,
    /// A sealed layer of an image.
    Layer,
    /// A container's writable volume.
    Container,
    /// A kept state of a container or of a data volume.
    Snapshot,
    /// A writable volume that belongs to no container.
    Data,
}

impl VolumeKind {
    /// All there are.
    pub const ALL: [Self; 5] = [
        Self::Base,
        Self::Layer,
        Self::Container,
        Self::Snapshot,
        Self::Data,
    ];

    /// Its word in dm names, dm uuids and the catalogue.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Layer => "layer",
            Self::Container => "container",
            Self::Snapshot => "snapshot",
            Self::Data => "data",
        }
    }

    /// Whether it has a device that is handed out, for somebody to write to.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        matches!(self, Self::Container | Self::Data)
    }
}

impl fmt::Display for VolumeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for VolumeKind {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| IdError {
                what: "a kind of volume",
                text: text.to_owned(),
                rule: "base, layer, container, snapshot or data",
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thin_ids_are_24_bit_and_end() {
        assert_eq!(
            ThinId::new(0).unwrap().next(),
            Some(ThinId::new(1).unwrap())
        );
        assert_eq!(ThinId::new(16_777_215), Ok(ThinId::MAX));
        assert_eq!(ThinId::MAX.next(), None);
        for bad in [16_777_216, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(ThinId::new(bad), Err(ThinIdError(bad)));
        }
    }

    #[test]
    fn device_numbers_print_as_they_are_read() {
        for text in ["254:0", "7:1048575", "4095:3"] {
            let dev: DevNo = text.parse().unwrap();
            assert_eq!(dev.to_string(), text);
            assert_eq!(DevNo::from_dev_t(dev.to_dev_t()), dev);
        }
        for bad in ["", ":", "254", "254:", "a:b", "254:0:1", "-1:0"] {
            assert!(bad.parse::<DevNo>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_take_what_a_path_and_a_dm_name_bear() {
        for good in ["a", "tank", "CI-2_x.y", "0"] {
            assert!(PoolName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            ".",
            "..",
            "a/b",
            "a b",
            "\u{e9}",
            "a\n",
            &"x".repeat(33),
        ] {
            assert!(PoolName::new(bad).is_err(), "{bad}");
        }
        assert!(DmName::new("x".repeat(127)).is_ok());
        assert!(DmName::new("x".repeat(128)).is_err());
        assert!(ImageRef::new("registry.example:5000/team/app:v1@x").is_ok());
        assert!(ImageRef::new("no blanks").is_err());
    }

    #[test]
    fn a_digest_has_one_spelling() {
        let text = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let digest: Digest = text.parse().unwrap();
        assert_eq!(digest.to_string(), text);
        assert_eq!(digest.to_hex(), text[7..]);
        for bad in [
            text.to_uppercase(),
            text.replace("sha256", "sha512"),
            text[..70].to_owned(),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        let uuid = "00112233445566778899aabbccddeeff";
        assert_eq!(uuid.parse::<PoolUuid>().unwrap().to_string(), uuid);
    }
}
