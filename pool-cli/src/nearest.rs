//! What was meant by a misspelt name.

/// A name that is further from what was written was not meant.
const FAR: usize = 4;

/// The name that is the fewest slips of the hand away from `word`, if it is near at all.
pub(crate) fn nearest<'a>(word: &str, names: &[&'a str]) -> Option<&'a str> {
    names
        .iter()
        .map(|name| (strsim::osa_distance(name, word), *name))
        .min()
        .filter(|(distance, name)| *distance < FAR.min(name.len()))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_seen_and_other_words_are_not() {
        let names = ["size", "base_size", "fs"];
        for (word, meant) in [
            ("sise", Some("size")),
            ("size", Some("size")),
            ("baze_szie", Some("base_size")),
            ("f", Some("fs")),
            ("xy", None),
            ("base_volume", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &names), meant, "{word}");
        }
    }
}
