//! The words of a target's parameter text, and why such a text is not understood.
//!
//! The kernel separates words by blanks and often leaves one at the end (`drivers/md/dm-thin.c`,
//! `pool_status`), so blanks carry no meaning here: two lines with the same words are the same.

use std::str::{FromStr, SplitAsciiWhitespace};

/// Why a table or status text was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// The text ends before this field.
    #[error("the {target} line {line:?} ends before its {field}")]
    Missing {
        /// The kind of target.
        target: &'static str,
        /// What was expected next.
        field: &'static str,
        /// The whole text.
        line: String,
    },
    /// A word is not what this field holds.
    #[error("the {target} line {line:?} has {found:?} where its {field} should be")]
    Invalid {
        /// The kind of target.
        target: &'static str,
        /// What was expected.
        field: &'static str,
        /// The word that stood there.
        found: String,
        /// The whole text.
        line: String,
    },
    /// Words follow the last field. A table with words we do not know must not be loaded again.
    #[error("the {target} line {line:?} goes on with {found:?}, which this version does not know")]
    Trailing {
        /// The kind of target.
        target: &'static str,
        /// The first word too many.
        found: String,
        /// The whole text.
        line: String,
    },
    /// The kernel shows a state word instead of the table: the pool has failed (`Fail`), or the
    /// thin device is not bound to it (`-`) (`drivers/md/dm-thin.c`, `thin_status`).
    #[error("the kernel shows {word:?} instead of the {target} table: look at the pool's status")]
    Withheld {
        /// The kind of target.
        target: &'static str,
        /// The word it shows.
        word: String,
    },
}

/// The words of one line, taken from the left.
#[derive(Debug)]
pub(super) struct Words<'a> {
    target: &'static str,
    line: &'a str,
    rest: SplitAsciiWhitespace<'a>,
}

impl<'a> Words<'a> {
    pub(super) fn new(target: &'static str, line: &'a str) -> Self {
        Self {
            target,
            line,
            rest: line.split_ascii_whitespace(),
        }
    }

    /// The next word, if there is one.
    pub(super) fn optional(&mut self) -> Option<&'a str> {
        self.rest.next()
    }

    /// The next word.
    pub(super) fn word(&mut self, field: &'static str) -> Result<&'a str, LineError> {
        self.rest.next().ok_or_else(|| LineError::Missing {
            target: self.target,
            field,
            line: self.line.to_owned(),
        })
    }

    /// That `found` is no `field`.
    pub(super) fn invalid(&self, field: &'static str, found: &str) -> LineError {
        LineError::Invalid {
            target: self.target,
            field,
            found: found.to_owned(),
            line: self.line.to_owned(),
        }
    }

    /// The next word, made by `convert`.
    pub(super) fn parse<T>(
        &mut self,
        field: &'static str,
        convert: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, LineError> {
        let word = self.word(field)?;
        convert(word).ok_or_else(|| self.invalid(field, word))
    }

    /// The next word, a decimal number.
    pub(super) fn number<T: FromStr>(&mut self, field: &'static str) -> Result<T, LineError> {
        self.parse(field, decimal)
    }

    /// The words left.
    pub(super) fn into_rest(self) -> Vec<String> {
        self.rest.map(str::to_owned).collect()
    }

    /// Checks that no word is left.
    pub(super) fn end(mut self) -> Result<(), LineError> {
        match self.rest.next() {
            None => Ok(()),
            Some(found) => Err(LineError::Trailing {
                target: self.target,
                found: found.to_owned(),
                line: self.line.to_owned(),
            }),
        }
    }
}

/// A number in digits only: the kernel never prints a sign.
pub(super) fn decimal<T: FromStr>(word: &str) -> Option<T> {
    if word.bytes().all(|b| b.is_ascii_digit()) {
        word.parse().ok()
    } else {
        None
    }
}
