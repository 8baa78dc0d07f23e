//! CRC-32C (Castagnoli), as the kernel's `crc32c` (`lib/crc32.c`, polynomial 0x82f63b78 reflected): the
//! checksum of the thin metadata and of our label.

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0_u32; 256];
    let mut value = 0_u32;
    let mut rest: &mut [u32] = &mut table;
    while let [entry, tail @ ..] = rest {
        let mut crc = value;
        let mut bit = 0_u32;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
            bit = bit.saturating_add(1);
        }
        *entry = crc;
        value = value.saturating_add(1);
        rest = tail;
    }
    table
}

/// The register after `data`, started at all ones. Not inverted at the end: the metadata's
/// checksums are not (`drivers/md/persistent-data/dm-block-manager.c`, `dm_bm_checksum`).
pub(crate) fn crc32c(data: &[u8]) -> u32 {
    data.iter().fold(u32::MAX, |crc, &byte| {
        let [low, ..] = crc.to_le_bytes();
        (crc >> 8) ^ TABLE[usize::from(low ^ byte)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_published_check_values() {
        // RFC 3720, appendix B.4, and the catalogue's check value; all inverted at the end.
        for (data, value) in [
            (b"123456789".to_vec(), 0xe306_9283_u32),
            (vec![0; 32], 0x8a91_36aa),
            (vec![0xff; 32], 0x62a8_ab43),
            ((0..32).collect(), 0x46dd_794e),
            (Vec::new(), 0),
        ] {
            assert_eq!(!crc32c(&data), value);
        }
    }
}
