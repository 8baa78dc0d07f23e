//! Times as people read them: `2026-11-21 08:03:48 UTC`.

use std::time::Duration;

const DAY: u64 = 86_400;

/// The moment so many seconds after 1970 began, in UTC.
pub(crate) fn utc(seconds: u64) -> String {
    let (year, month, day) = date(seconds / DAY);
    let rest = seconds % DAY;
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// A length of time, its two largest units: `3 h 20 min`.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [
        (seconds / DAY, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let from = units.iter().position(|(n, _)| *n > 0).unwrap_or(3);
    let told: Vec<String> = units
        .iter()
        .skip(from)
        .take(2)
        .filter(|(n, _)| *n > 0)
        .map(|(n, unit)| format!("{n} {unit}"))
        .collect();
    if told.is_empty() {
        return "0 s".to_owned();
    }
    told.join(" ")
}

/// Days since 1970 as year, month and day of the Gregorian calendar.
///
/// Years are counted from March, so that a leap day is the last of its year and the months before
/// it have the same lengths in every year.
fn date(days: u64) -> (u64, u64, u64) {
    // 1970-01-01 is day 719468 after 0000-03-01. Saturates in years no clock shows.
    let days = days.saturating_add(719_468);
    let era = days / 146_097;
    let of_era = days % 146_097;
    let leap_days = (of_era / 1460)
        .saturating_sub(of_era / 36_524)
        .saturating_add(of_era / 146_096);
    let year_of_era = of_era.saturating_sub(leap_days) / 365;
    let begin = year_of_era
        .saturating_mul(365)
        .saturating_add(year_of_era / 4)
        .saturating_sub(year_of_era / 100);
    let of_year = of_era.saturating_sub(begin);
    // Five months from March have 153 days, and so have the next five.
    let march_month = of_year.saturating_mul(5).saturating_add(2) / 153;
    let day = of_year
        .saturating_sub(march_month.saturating_mul(153).saturating_add(2) / 5)
        .saturating_add(1);
    let month = (march_month.saturating_add(2) % 12).saturating_add(1);
    let year = era
        .saturating_mul(400)
        .saturating_add(year_of_era)
        .saturating_add(u64::from(month < 3));
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_told_in_two_units() {
        let spans =
            [0, 59, 60, 3661, 7200, 90_061, 30 * 86_400].map(|n| span(Duration::from_secs(n)));
        assert_eq!(
            spans,
            [
                "0 s",
                "59 s",
                "1 min",
                "1 h 1 min",
                "2 h",
                "1 d 1 h",
                "30 d"
            ]
        );
    }

    #[test]
    fn moments_are_those_of_date_1() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
            (1_795_248_228, "2026-11-21 08:03:48 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }
}
