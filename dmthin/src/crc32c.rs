//! CRC-32C (Castagnoli), as the kernel's `crc32c` (`lib/crc32.c`, polynomial 0x82f63b78 reflected): the
//! checksum of the thin metadata, of our label and of an ext4's metadata.

/// Table `n` has the register that a byte leaves which `n` zeroes follow: eight bytes are looked up at a time.
const TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0_u32; 256]; 8];
    let mut before = bytes();
    let mut rest: &mut [[u32; 256]] = &mut tables;
    while let [table, tail @ ..] = rest {
        *table = before;
        before = followed(before);
        rest = tail;
    }
    tables
}

const fn bytes() -> [u32; 256] {
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

/// The same with one more zero behind each byte.
const fn followed(mut table: [u32; 256]) -> [u32; 256] {
    let first = bytes();
    let mut rest: &mut [u32] = &mut table;
    while let [entry, tail @ ..] = rest {
        *entry = (*entry >> 8) ^ lookup(&first, *entry);
        rest = tail;
    }
    table
}

/// What the table has for the lowest byte.
#[allow(
    clippy::as_conversions,
    reason = "a byte is an index of 256 entries, and no other way is const"
)]
const fn lookup(table: &[u32; 256], value: u32) -> u32 {
    let [low, ..] = value.to_le_bytes();
    table[low as usize]
}

/// The register after `data`, started at all ones. Not inverted at the end: the metadata's
/// checksums are not (`drivers/md/persistent-data/dm-block-manager.c`, `dm_bm_checksum`).
pub(crate) fn crc32c(data: &[u8]) -> u32 {
    extend(u32::MAX, data)
}

/// The register after more data. An ext4 begins its checksums with the register after its uuid
/// (`fs/ext4/ext4.h:ext4_chksum`).
pub(crate) fn extend(crc: u32, data: &[u8]) -> u32 {
    let [t0, t1, t2, t3, t4, t5, t6, t7] = &TABLES;
    let (words, rest) = data.as_chunks::<8>();
    let crc = words.iter().fold(crc, |crc, word| {
        let [a, b, c, d, e, f, g, h] = *word;
        let [i, j, k, l] = crc.to_le_bytes();
        let of = |table: &[u32; 256], byte: u8| table[usize::from(byte)];
        of(t7, a ^ i)
            ^ of(t6, b ^ j)
            ^ of(t5, c ^ k)
            ^ of(t4, d ^ l)
            ^ of(t3, e)
            ^ of(t2, f)
            ^ of(t1, g)
            ^ of(t0, h)
    });
    rest.iter().fold(crc, |crc, &byte| {
        let [low, ..] = crc.to_le_bytes();
        (crc >> 8) ^ t0[usize::from(low ^ byte)]
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

    #[test]
    fn eight_bytes_at_a_time_are_a_byte_at_a_time() {
        let bytewise = |data: &[u8]| {
            data.iter().fold(u32::MAX, |crc, byte| {
                let low = crc.to_le_bytes()[0] ^ byte;
                (crc >> 8) ^ TABLES[0][usize::from(low)]
            })
        };
        let data: Vec<u8> = (0..=255_u8).cycle().step_by(7).take(1000).collect();
        for length in [0, 1, 7, 8, 9, 15, 16, 17, 999, 1000] {
            let data = &data[..length];
            assert_eq!(crc32c(data), bytewise(data), "{length}");
        }
    }
}
