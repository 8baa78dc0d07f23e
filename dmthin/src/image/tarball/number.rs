//! Numbers of tar: octal and base-256 fields, decimal pax values.

use super::entry::Mtime;

/// A header field: octal digits among blanks and NULs, or base-256 where the first bit is set.
/// An empty field is zero.
pub(super) fn field(bytes: &[u8]) -> Option<i64> {
    match bytes.first() {
        Some(first) if first & 0x80 != 0 => binary(bytes),
        _ => octal(bytes),
    }
}

fn octal(bytes: &[u8]) -> Option<i64> {
    let is_pad = |b: &u8| matches!(b, b' ' | 0);
    let start = bytes.iter().position(|b| !is_pad(b)).unwrap_or(bytes.len());
    let digits = bytes.get(start..)?;
    let end = digits.iter().position(is_pad).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at_checked(end)?;
    if !rest.iter().all(is_pad) {
        return None;
    }
    digits.iter().try_fold(0_i64, |n, d| match d {
        b'0'..=b'7' => n
            .checked_mul(8)?
            .checked_add(i64::from(d.saturating_sub(b'0'))),
        _ => None,
    })
}

/// Two's complement, big endian, over all bits but the first.
fn binary(bytes: &[u8]) -> Option<i64> {
    let (first, rest) = bytes.split_first()?;
    let negative = first & 0x40 != 0;
    let top = i64::from(first & 0x3f);
    let start = if negative {
        top.checked_sub(0x40)?
    } else {
        top
    };
    rest.iter().try_fold(start, |n, byte| {
        n.checked_mul(256)?.checked_add(i64::from(*byte))
    })
}

/// An unsigned decimal number without sign or blank.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A pax time: seconds with an optional sign and fraction. Digits past the ninth are cut.
pub(super) fn time(text: &[u8]) -> Option<Mtime> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |b| *b == b'.');
    let whole = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanos: u32 = 0;
    if let Some(fraction) = parts.next()
        && !fraction.is_empty()
    {
        decimal(fraction.get(..fraction.len().min(9))?)?;
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        for digit in fraction.iter().chain(std::iter::repeat(&b'0')).take(9) {
            nanos = nanos
                .checked_mul(10)?
                .checked_add(u32::from(digit.saturating_sub(b'0')))?;
        }
    }
    Some(match (negative, nanos) {
        (false, nanos) => Mtime {
            seconds: whole,
            nanos,
        },
        (true, 0) => Mtime {
            seconds: whole.checked_neg()?,
            nanos: 0,
        },
        // The second before, and what is left of it.
        (true, nanos) => Mtime {
            seconds: whole.checked_neg()?.checked_sub(1)?,
            nanos: 1_000_000_000_u32.checked_sub(nanos)?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields_are_octal_or_base_256() {
        for (bytes, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644 \0\0\0\0", Some(0o644)),
            (b"77777777777\0", Some(0o77_777_777_777)),
            (b"777777777777", Some(0o777_777_777_777)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"", Some(0)),
            (b"0000648\0", None),
            (b"64 4\0\0\0\0", None),
            (b"-1\0\0\0\0\0\0", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\x80\0\0\0\x01\0\0\0", Some(1 << 24)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (
                b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x9c",
                Some(-100),
            ),
            (
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                Some(i64::MAX),
            ),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(field(bytes), value, "{bytes:?}");
        }
    }

    #[test]
    fn pax_times_keep_nanoseconds_and_signs() {
        let at = |seconds, nanos| Some(Mtime { seconds, nanos });
        for (text, value) in [
            (&b"0"[..], at(0, 0)),
            (b"1350244992.023960108", at(1_350_244_992, 23_960_108)),
            (b"1350244992.0239601089", at(1_350_244_992, 23_960_108)),
            (b"1.5", at(1, 500_000_000)),
            (b"1.", at(1, 0)),
            (b"-1.5", at(-2, 500_000_000)),
            (b"-1", at(-1, 0)),
            (b"-0.000000001", at(-1, 999_999_999)),
            (b"", None),
            (b".5", None),
            (b"1.x", None),
            (b"1.2.3", None),
            (b"1e3", None),
            (b"+1", None),
            (b"99999999999999999999", None),
        ] {
            assert_eq!(time(text), value, "{}", String::from_utf8_lossy(text));
        }
    }
}
