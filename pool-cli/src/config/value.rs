//! The types that keys have: how they are read from TOML and written again.

use std::path::PathBuf;
use std::time::Duration;

use dmthin::graph::OnFull;
use dmthin::ids::{FsType, PoolName};
use dmthin::store::WhenFull;
use dmthin::units::{BlockSize, Bytes, GrowthPercent, Percent};
use serde::Serialize;
use serde_json::{Value, json};
use toml::de::DeValue;

use crate::args::{block_size, size};
use crate::config::error::Place;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It is built in.
    Default,
    /// A line of a file.
    File(Place),
    /// A variable of the environment.
    Environment(&'static str),
    /// An option of the command line.
    Flag(&'static str),
}

impl Origin {
    /// As it is shown.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::File(place) => place.to_string(),
            Self::Environment(variable) => format!("environment {variable}"),
            Self::Flag(flag) => format!("flag {flag}"),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Default => json!({"from": "default"}),
            Self::File(Place { file, line }) => {
                json!({"from": "file", "file": file.to_string_lossy(), "line": line})
            }
            Self::Environment(variable) => json!({"from": "environment", "variable": variable}),
            Self::Flag(flag) => json!({"from": "flag", "flag": flag}),
        }
    }
}

/// A value that somebody gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given<T> {
    /// The value.
    pub(crate) value: T,
    /// Who.
    pub(crate) origin: Origin,
}

/// A key as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Row {
    /// Its name, tables before it.
    pub(crate) key: String,
    /// The value as a program wants it.
    value: Value,
    /// The value as the file spells it.
    #[serde(skip)]
    pub(crate) text: String,
    /// Where it comes from.
    #[serde(serialize_with = "origin_json")]
    pub(crate) origin: Origin,
}

fn origin_json<S: serde::Serializer>(origin: &Origin, to: S) -> Result<S::Ok, S::Error> {
    origin.json().serialize(to)
}

impl Row {
    /// The row of a value.
    pub(crate) fn new<T: Setting>(key: String, value: &T, given: Option<&Given<T>>) -> Self {
        Self {
            key,
            value: value.json(),
            text: value.toml(),
            origin: given.map_or(Origin::Default, |given| given.origin.clone()),
        }
    }
}

/// A type that a key can have.
pub(crate) trait Setting: Sized {
    /// What a value must be.
    const EXPECTED: &'static str;
    /// Reads one; `None` if it cannot be.
    fn read(value: &DeValue<'_>) -> Option<Self>;
    /// Spells it as the file does.
    fn toml(&self) -> String;
    /// Gives it to a program: sizes in bytes, times in seconds.
    fn json(&self) -> Value;
}

fn quoted(text: &str) -> String {
    // What JSON escapes, TOML's basic strings read alike.
    Value::from(text).to_string()
}

fn number(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A number, or a number in a string with `%` behind it.
fn hundredths(value: &DeValue<'_>) -> Option<u64> {
    match value.as_str() {
        Some(text) => {
            let digits = text.strip_suffix('%').unwrap_or(text);
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|_| plain)
        }
        None => number(value),
    }
}

/// A string, or a number of bytes, as the text that the command line would take.
fn size_text(value: &DeValue<'_>) -> Option<String> {
    match value.as_str() {
        Some(text) => Some(text.to_owned()),
        None => number(value).map(|bytes| bytes.to_string()),
    }
}

/// In the largest unit that leaves no rest, so that reading it gives the same.
fn exact(bytes: Bytes) -> String {
    let n = bytes.get();
    let (shift, unit) = [(40, "T"), (30, "G"), (20, "M"), (10, "K")]
        .into_iter()
        .find(|(shift, _)| n.trailing_zeros() >= *shift)
        .filter(|_| n > 0)
        .unwrap_or((0, ""));
    quoted(&format!("{}{unit}", n >> shift))
}

impl Setting for Bytes {
    const EXPECTED: &'static str = "a size of more than 0, as in \"100G\"";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        size(&size_text(value)?).ok()
    }

    fn toml(&self) -> String {
        exact(*self)
    }

    fn json(&self) -> Value {
        self.get().into()
    }
}

impl Setting for BlockSize {
    const EXPECTED: &'static str = "a multiple of \"64K\", at most \"1G\"";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        block_size(&size_text(value)?).ok()
    }

    fn toml(&self) -> String {
        exact(self.to_bytes())
    }

    fn json(&self) -> Value {
        self.to_bytes().get().into()
    }
}

impl Setting for Percent {
    const EXPECTED: &'static str = "a percentage from 0 to 99, as in 10 or \"10%\"";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        Self::new(hundredths(value)?).ok()
    }

    fn toml(&self) -> String {
        self.get().to_string()
    }

    fn json(&self) -> Value {
        self.get().into()
    }
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        value.as_bool()
    }

    fn toml(&self) -> String {
        self.to_string()
    }

    fn json(&self) -> Value {
        (*self).into()
    }
}

impl Setting for Vec<String> {
    const EXPECTED: &'static str = "an array of strings, as in [\"-O\", \"quota\"]";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        let words = value.as_array()?.iter();
        words
            .map(|word| word.get_ref().as_str().map(str::to_owned))
            .collect()
    }

    fn toml(&self) -> String {
        let words: Vec<String> = self.iter().map(|word| quoted(word)).collect();
        format!("[{}]", words.join(", "))
    }

    fn json(&self) -> Value {
        self.clone().into()
    }
}

/// A type that is a word.
macro_rules! word {
    ($type:ty = $expected:literal) => {
        impl Setting for $type {
            const EXPECTED: &'static str = $expected;

            fn read(value: &DeValue<'_>) -> Option<Self> {
                value.as_str()?.parse().ok()
            }

            fn toml(&self) -> String {
                quoted(self.as_str())
            }

            fn json(&self) -> Value {
                self.as_str().into()
            }
        }
    };
}

word! { FsType = "\"ext4\" or \"xfs\"" }

word! { PoolName = "the name of a pool" }

impl Setting for PathBuf {
    const EXPECTED: &'static str = "a path that begins with /";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        let path = Self::from(value.as_str()?);
        path.is_absolute().then_some(path)
    }

    fn toml(&self) -> String {
        quoted(&self.to_string_lossy())
    }

    fn json(&self) -> Value {
        self.to_string_lossy().into()
    }
}

/// An empty string takes back what an earlier file gave.
impl<T: Setting> Setting for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn read(value: &DeValue<'_>) -> Option<Self> {
        match value.as_str() {
            Some("") => Some(None),
            _ => T::read(value).map(Some),
        }
    }

    fn toml(&self) -> String {
        self.as_ref().map_or_else(|| quoted(""), T::toml)
    }

    fn json(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::json)
    }
}

/// The longest time that can be set: a day.
const LONGEST: u64 = 86_400;

impl Setting for Duration {
    const EXPECTED: &'static str = "a number of seconds, from 1 to 86400";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        let seconds = number(value).filter(|seconds| (1..=LONGEST).contains(seconds))?;
        Some(Self::from_secs(seconds))
    }

    fn toml(&self) -> String {
        self.as_secs().to_string()
    }

    fn json(&self) -> Value {
        self.as_secs().into()
    }
}

/// How full a pool gets before it is grown; at 100 % it never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Threshold(Option<Percent>);

impl Threshold {
    /// This share, or `None` for never.
    pub(crate) const fn new(share: Option<Percent>) -> Self {
        Self(share)
    }

    /// The share, unless it is never.
    pub(crate) const fn share(self) -> Option<Percent> {
        self.0
    }
}

impl Setting for Threshold {
    const EXPECTED: &'static str = "a percentage from 50 to 100 (100: never grow)";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        match hundredths(value)? {
            100 => Some(Self(None)),
            n @ 50.. => Percent::new(n).ok().map(|share| Self(Some(share))),
            _ => None,
        }
    }

    fn toml(&self) -> String {
        self.share()
            .map_or(100, |share| u64::from(share.get()))
            .to_string()
    }

    fn json(&self) -> Value {
        self.share().map_or(100, Percent::get).into()
    }
}

impl Setting for GrowthPercent {
    const EXPECTED: &'static str = "a percentage from 1 to 1000, as in 20 or \"20%\"";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        Self::new(hundredths(value)?).ok()
    }

    fn toml(&self) -> String {
        self.get().to_string()
    }

    fn json(&self) -> Value {
        self.get().into()
    }
}

word! { WhenFull = "\"queue\" or \"error\"" }

word! { OnFull = "\"error\", \"queue\" or \"freeze\"" }
