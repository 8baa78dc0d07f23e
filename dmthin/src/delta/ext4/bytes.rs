//! Numbers in blocks, little endian. What lies past the end of the bytes reads as zero.

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or([0; N])
}

pub(super) fn byte(bytes: &[u8], at: usize) -> u8 {
    u8::from_le_bytes(field(bytes, at))
}

pub(super) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(field(bytes, at))
}

pub(super) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

/// A number in two halves, the lower one first.
pub(super) fn halves(low: u32, high: u32) -> u64 {
    (u64::from(high) << 32) | u64::from(low)
}

/// Whether a bit of a bitmap is set.
pub(super) fn bit(bytes: &[u8], at: usize) -> bool {
    byte(bytes, at / 8) & (1 << (at % 8)) != 0
}

/// Overwrites bytes with zeros, as far as they are there.
pub(super) fn clear(bytes: &mut [u8], range: std::ops::Range<usize>) {
    if let Some(part) = bytes.get_mut(range) {
        part.fill(0);
    }
}

/// A size in memory; what does not fit is beyond all limits.
pub(super) fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
