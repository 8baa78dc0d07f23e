//! Records of pax extended headers: `length key=value newline`, the length counting itself.

use super::entry::Mtime;
use super::number;
use super::sparse::Segment;
use crate::image::TarFault;

/// What the records of one header say. `None` and empty mean: not said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Mtime>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: PaxSparse,
}

/// The `GNU.sparse.*` records, as far as they stand in the header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PaxSparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    /// Version 0 writes `size`, version 1 `realsize`.
    pub(super) real_size: Option<u64>,
    /// Version 0.1: the whole map in one value.
    pub(super) map: Option<Vec<Segment>>,
    /// Version 0.0: a pair of records for each segment.
    pub(super) pairs: Vec<Segment>,
    half_pair: Option<u64>,
}

impl PaxSparse {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One record, and what follows it.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = bytes.iter().take(20).position(|b| *b == b' ')?;
    let len = usize::try_from(number::decimal(bytes.get(..blank)?)?).ok()?;
    let record = bytes.get(blank.checked_add(1)?..len)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    let (key, value) = record.split_at_checked(equals)?;
    (!key.is_empty()).then_some((key, value.get(1..)?, bytes.get(len..)?))
}

impl Pax {
    /// Reads the data of an extended header.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, TarFault> {
        let mut pax = Self::default();
        // Some writers pad with NULs.
        while bytes.first().is_some_and(|b| *b != 0) {
            let (key, value, rest) = split_record(bytes).ok_or(TarFault::PaxRecord)?;
            pax.record(key, value)
                .ok_or_else(|| TarFault::PaxValue(String::from_utf8_lossy(key).into_owned()))?;
            bytes = rest;
        }
        if pax.sparse.half_pair.is_some() {
            return Err(TarFault::SparseMap);
        }
        Ok(pax)
    }

    /// Reads the data of a global header.
    pub(super) fn parse_global(bytes: &[u8]) -> Result<Self, TarFault> {
        let pax = Self::parse(bytes)?;
        let own_key = [
            ("path", pax.path.is_some()),
            ("linkpath", pax.link.is_some()),
            ("size", pax.size.is_some()),
            ("GNU.sparse", !pax.sparse.is_empty()),
        ];
        match own_key.into_iter().find(|(_, present)| *present) {
            Some((key, _)) => Err(TarFault::PaxGlobal(key.to_owned())),
            None => Ok(pax),
        }
    }

    /// Takes in one record; `None` where its value cannot be. An empty value takes back what an
    /// earlier record said.
    fn record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        fn number_or_unset<T: TryFrom<u64>>(value: &[u8]) -> Option<Option<T>> {
            if value.is_empty() {
                return Some(None);
            }
            Some(Some(T::try_from(number::decimal(value)?).ok()?))
        }
        let bytes_or_unset = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = bytes_or_unset(),
            b"linkpath" => self.link = bytes_or_unset(),
            b"size" => self.size = number_or_unset(value)?,
            b"uid" => self.uid = number_or_unset(value)?,
            b"gid" => self.gid = number_or_unset(value)?,
            b"mtime" => {
                self.mtime = if value.is_empty() {
                    None
                } else {
                    Some(number::time(value)?)
                }
            }
            b"GNU.sparse.major" => self.sparse.major = number_or_unset(value)?,
            b"GNU.sparse.minor" => self.sparse.minor = number_or_unset(value)?,
            b"GNU.sparse.name" => self.sparse.name = bytes_or_unset(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.real_size = number_or_unset(value)?;
            }
            b"GNU.sparse.map" => self.sparse.map = Some(comma_pairs(value)?),
            b"GNU.sparse.offset" => {
                let offset = number::decimal(value)?;
                if self.sparse.half_pair.replace(offset).is_some() {
                    return None;
                }
            }
            b"GNU.sparse.numbytes" => self.sparse.pairs.push(Segment {
                offset: self.sparse.half_pair.take()?,
                len: number::decimal(value)?,
            }),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattr(name.to_vec(), value.to_vec())?;
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    self.xattr(percent_decoded(name)?, base64_decoded(value)?)?;
                }
            }
        }
        Some(())
    }

    /// Keeps one attribute; a later one of the same name wins.
    fn xattr(&mut self, name: Vec<u8>, value: Vec<u8>) -> Option<()> {
        if name.is_empty() || name.contains(&0) {
            return None;
        }
        match self.xattrs.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => self.xattrs.push((name, value)),
        }
        Some(())
    }

    /// This header's word where it has one, else `global`'s.
    pub(super) fn or_global(mut self, global: &Self) -> Self {
        for (name, value) in &global.xattrs {
            if !self.xattrs.iter().any(|(known, _)| known == name) {
                self.xattrs.push((name.clone(), value.clone()));
            }
        }
        Self {
            uid: self.uid.or(global.uid),
            gid: self.gid.or(global.gid),
            mtime: self.mtime.or(global.mtime),
            ..self
        }
    }
}

/// `offset,length,offset,length...`
fn comma_pairs(value: &[u8]) -> Option<Vec<Segment>> {
    let mut numbers = value.split(|b| *b == b',');
    let mut pairs = Vec::new();
    if value.is_empty() {
        return Some(pairs);
    }
    while let Some(offset) = numbers.next() {
        pairs.push(Segment {
            offset: number::decimal(offset)?,
            len: number::decimal(numbers.next()?)?,
        });
    }
    Some(pairs)
}

fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        if *byte == b'%' {
            let pair = [*bytes.next()?, *bytes.next()?];
            if !pair.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            out.push(u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?);
        } else {
            out.push(*byte);
        }
    }
    Some(out)
}

/// Base64 with or without its padding.
fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let end = text
        .iter()
        .rposition(|b| *b != b'=')
        .map_or(0, |at| at.saturating_add(1));
    let digits = text.get(..end)?;
    let mut out = Vec::with_capacity(digits.len());
    for group in digits.chunks(4) {
        let mut bits: u32 = 0;
        for digit in group {
            let value = match digit {
                b'A'..=b'Z' => digit.checked_sub(b'A'),
                b'a'..=b'z' => digit.checked_sub(b'a')?.checked_add(26),
                b'0'..=b'9' => digit.checked_sub(b'0')?.checked_add(52),
                b'+' => Some(62),
                b'/' => Some(63),
                _ => None,
            }?;
            bits = (bits << 6) | u32::from(value);
        }
        let nr_bytes = match group.len() {
            4 => 3,
            3 => 2,
            2 => 1,
            _ => return None,
        };
        let missing = 4_u32.checked_sub(u32::try_from(group.len()).ok()?)?;
        let whole = bits << missing.checked_mul(6)?;
        out.extend(whole.to_be_bytes().into_iter().skip(1).take(nr_bytes));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::pax_record as record;
    use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};

    #[test]
    fn records_fill_their_fields() {
        let mut bytes = Vec::new();
        for (key, value) in [
            ("path", &b"a\n=b"[..]),
            ("linkpath", b"l"),
            ("size", b"12"),
            ("uid", b"70000"),
            ("gid", b"4294967294"),
            ("mtime", b"-1.5"),
            ("atime", b"1"),
            ("SCHILY.xattr.user.x", b"\0\x01"),
            ("SCHILY.xattr.user.x", b"\x02"),
            ("LIBARCHIVE.xattr.user.a%20b", b"AQI"),
            ("comment", b"ignored"),
        ] {
            bytes.extend(record(key, value));
        }
        assert_eq!(
            Pax::parse(&bytes),
            Ok(Pax {
                path: Some(b"a\n=b".to_vec()),
                link: Some(b"l".to_vec()),
                size: Some(12),
                uid: Some(70_000),
                gid: Some(4_294_967_294),
                mtime: Some(Mtime {
                    seconds: -2,
                    nanos: 500_000_000
                }),
                xattrs: vec![
                    (b"user.x".to_vec(), vec![2]),
                    (b"user.a b".to_vec(), vec![1, 2])
                ],
                sparse: PaxSparse::default(),
            })
        );
    }

    #[test]
    fn an_empty_value_takes_a_record_back() {
        let mut bytes = record("path", b"a");
        bytes.extend(record("path", b""));
        assert_eq!(Pax::parse(&bytes), Ok(Pax::default()));
    }

    #[test]
    fn malformed_records_are_refused() {
        for bytes in [
            &b"5 a=b"[..],
            b"7 a=b\n",
            b"6 a=b\nx",
            b"x a=b\n",
            b"4 =\n\n",
            b"99999999999999999999 a=b\n",
            b"4 ab\n",
        ] {
            assert_eq!(
                Pax::parse(bytes),
                Err(TarFault::PaxRecord),
                "{}",
                String::from_utf8_lossy(bytes)
            );
        }
        for (key, value) in [
            ("size", "-1"),
            ("uid", "4294967296"),
            ("mtime", "noon"),
            ("GNU.sparse.map", "1,2,3"),
            ("GNU.sparse.numbytes", "1"),
            ("LIBARCHIVE.xattr.user.x", "A"),
            ("LIBARCHIVE.xattr.%zz", "AQI"),
            ("SCHILY.xattr.", "x"),
        ] {
            assert_eq!(
                Pax::parse(&record(key, value.as_bytes())),
                Err(TarFault::PaxValue(key.to_owned()))
            );
        }
    }

    #[test]
    fn a_global_header_sets_attributes_only() {
        for key in ["path", "linkpath", "GNU.sparse.name"] {
            let fault = Pax::parse_global(&record(key, b"x")).unwrap_err();
            assert!(matches!(fault, TarFault::PaxGlobal(_)), "{fault:?}");
        }
        let global = Pax::parse_global(&record("uid", b"7")).unwrap();
        let own = Pax::parse(&record("gid", b"8")).unwrap();
        let both = own.or_global(&global);
        assert_eq!((both.uid, both.gid), (Some(7), Some(8)));
        let own = Pax::parse(&record("uid", b"9")).unwrap();
        assert_eq!(own.or_global(&global).uid, Some(9));
    }

    #[test]
    fn base64_is_read_padded_or_not() {
        for (text, bytes) in [
            (&b""[..], &b""[..]),
            (b"TQ==", b"M"),
            (b"TQ", b"M"),
            (b"TWE=", b"Ma"),
            (b"TWFu", b"Man"),
            (b"+/+/", b"\xfb\xff\xbf"),
        ] {
            assert_eq!(base64_decoded(text).as_deref(), Some(bytes));
        }
        assert_eq!(base64_decoded(b"T"), None);
        assert_eq!(base64_decoded(b"T-=="), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Pax::parse(&bytes);
        }

        #[test]
        fn any_path_and_value_survive(
            path in proptest::collection::vec(any::<u8>(), 1..300),
            value in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes = record("path", &path);
            bytes.extend(record("SCHILY.xattr.user.v", &value));
            let pax = Pax::parse(&bytes).unwrap();
            prop_assert_eq!(pax.path, Some(path));
            prop_assert_eq!(pax.xattrs, vec![(b"user.v".to_vec(), value)]);
        }
    }
}
