//! Maps of sparse files: which bytes of the file the stream holds.

use super::number;
use crate::image::TarFault;

/// A run of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::image) struct Segment {
    /// Where in the file it begins.
    pub(in crate::image) offset: u64,
    /// Its length in bytes.
    pub(in crate::image) len: u64,
}

/// A checked map: segments rise, do not touch each other's bytes, end within the file, and are
/// together as long as the data in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::image) struct SparseMap {
    real_size: u64,
    segments: Vec<Segment>,
}

/// Segments a map may have: a file of a million holes is no honest layer's.
const MAX_SEGMENTS: usize = 1 << 20;

impl SparseMap {
    /// Checks a map against the file's size and the bytes of data in the stream.
    pub(in crate::image) fn new(
        real_size: u64,
        segments: Vec<Segment>,
        data: u64,
    ) -> Result<Self, TarFault> {
        let mut end = 0_u64;
        let mut sum = 0_u64;
        for segment in &segments {
            let segment_end = segment.offset.checked_add(segment.len);
            let segment_end = segment_end.ok_or(TarFault::SparseMap)?;
            if segment.offset < end || segment_end > real_size {
                return Err(TarFault::SparseMap);
            }
            end = segment_end;
            sum = sum.saturating_add(segment.len);
        }
        // The kernel's file offsets are signed.
        if sum != data || i64::try_from(real_size).is_err() {
            return Err(TarFault::SparseMap);
        }
        Ok(Self {
            real_size,
            segments,
        })
    }

    /// The size of the file with its holes.
    pub(in crate::image) fn real_size(&self) -> u64 {
        self.real_size
    }

    /// The runs of data, in the order of the stream.
    pub(in crate::image) fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

/// Adds one segment, within the limit.
pub(super) fn push(segments: &mut Vec<Segment>, segment: Segment) -> Result<(), TarFault> {
    if segments.len() >= MAX_SEGMENTS {
        return Err(TarFault::SparseMap);
    }
    segments.push(segment);
    Ok(())
}

/// Segments of an old GNU header or of one of its extension blocks: pairs of 12-byte fields. An
/// empty pair ends the list.
pub(super) fn push_fields(segments: &mut Vec<Segment>, fields: &[u8]) -> Result<(), TarFault> {
    for pair in fields.chunks_exact(24) {
        let (offset, len) = pair.split_at(12);
        if len.first() == Some(&0) {
            break;
        }
        let number = |field| {
            number::field(field)
                .and_then(|n| u64::try_from(n).ok())
                .ok_or(TarFault::SparseMap)
        };
        let segment = Segment {
            offset: number(offset)?,
            len: number(len)?,
        };
        push(segments, segment)?;
    }
    Ok(())
}

/// A line of the map that stands before the data in version 1.0, and what follows it; `None`
/// where the line has no end yet.
fn map_line(text: &[u8]) -> Result<Option<(u64, &[u8])>, TarFault> {
    const LONGEST: usize = 20;
    match text.iter().take(LONGEST + 1).position(|b| *b == b'\n') {
        Some(at) => {
            let (digits, rest) = text.split_at(at);
            let n = number::decimal(digits).ok_or(TarFault::SparseMap)?;
            Ok(Some((n, rest.get(1..).unwrap_or_default())))
        }
        None if text.len() > LONGEST => Err(TarFault::SparseMap),
        None => Ok(None),
    }
}

/// How many lines the map has, by its first one; `None` while that one has no end.
pub(super) fn nr_map_lines(text: &[u8]) -> Result<Option<usize>, TarFault> {
    let Some((count, _)) = map_line(text)? else {
        return Ok(None);
    };
    match usize::try_from(count) {
        Ok(count) if count <= MAX_SEGMENTS => Ok(Some(count.saturating_mul(2).saturating_add(1))),
        _ => Err(TarFault::SparseMap),
    }
}

/// Reads the map: lines of decimal numbers, first how many segments, then offset and length of
/// each.
pub(super) fn parse_map(text: &[u8]) -> Result<Vec<Segment>, TarFault> {
    let line = |text| map_line(text)?.ok_or(TarFault::SparseMap);
    let (count, mut rest) = line(text)?;
    let mut segments = Vec::new();
    for _ in 0..count {
        let (offset, after) = line(rest)?;
        let (len, after) = line(after)?;
        rest = after;
        push(&mut segments, Segment { offset, len })?;
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(pairs: &[(u64, u64)]) -> Vec<Segment> {
        pairs
            .iter()
            .map(|&(offset, len)| Segment { offset, len })
            .collect()
    }

    #[test]
    fn maps_must_rise_and_add_up() {
        for (size, pairs, data, good) in [
            (10, &[(0, 2), (5, 3)][..], 5, true),
            (10, &[(0, 2), (2, 3)], 5, true),
            (10, &[(10, 0)], 0, true),
            (10, &[], 0, true),
            (10, &[(0, 2), (1, 3)], 5, false),
            (10, &[(5, 3), (0, 2)], 5, false),
            (10, &[(8, 3)], 3, false),
            (10, &[(0, 2)], 3, false),
            (u64::MAX, &[(u64::MAX, 1)], 1, false),
            (u64::MAX, &[], 0, false),
        ] {
            let map = SparseMap::new(size, segments(pairs), data);
            assert_eq!(map.is_ok(), good, "{pairs:?}");
        }
    }

    #[test]
    fn a_map_in_the_data_is_read_when_whole() {
        assert_eq!(
            parse_map(b"2\n0\n3\n8\n4\n\0\0"),
            Ok(segments(&[(0, 3), (8, 4)]))
        );
        assert_eq!(parse_map(b"0\n"), Ok(Vec::new()));
        for text in [
            &b"2\n0\n3\n8\n4"[..],
            b"",
            b"1\nx\n3\n",
            b"999999999999999999999\n",
        ] {
            assert_eq!(parse_map(text), Err(TarFault::SparseMap), "{text:?}");
        }
        assert_eq!(nr_map_lines(b"2\n0"), Ok(Some(5)));
        assert_eq!(nr_map_lines(b"2"), Ok(None));
        assert_eq!(nr_map_lines(b"1048577\n"), Err(TarFault::SparseMap));
        assert_eq!(nr_map_lines(&[b'0'; 25]), Err(TarFault::SparseMap));
    }
}
