//! Instructions that change what an image runs: those of a Dockerfile that `docker commit` takes.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::words::{expand, split};

/// Why an instruction is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// It begins with no word that we know.
    #[error("{keyword:?} is no instruction for an image: {}", Keyword::all())]
    Unknown {
        /// The word.
        keyword: String,
    },
    /// Nothing follows the word.
    #[error("{keyword} says nothing")]
    Empty {
        /// The word.
        keyword: Keyword,
    },
    /// A quote or a variable that does not end.
    #[error("{what} does not end in {text:?}")]
    Unfinished {
        /// Which.
        what: &'static str,
        /// Where.
        text: String,
    },
    /// A word that should be `name=value`.
    #[error("{keyword} takes name=value, not {word:?}")]
    NoValue {
        /// The instruction.
        keyword: Keyword,
        /// The word.
        word: String,
    },
    /// A list that is not one of strings.
    #[error("{keyword} takes words, or a JSON array of strings: {text:?}")]
    NotWords {
        /// The instruction.
        keyword: Keyword,
        /// What it has.
        text: String,
    },
    /// No port.
    #[error("{word:?} is no port: 80, 80/tcp, 8000-8010/udp")]
    Port {
        /// The word.
        word: String,
    },
    /// What must not be triggered by a build.
    #[error("{keyword} cannot be a trigger of ONBUILD")]
    Trigger {
        /// The instruction.
        keyword: String,
    },
    /// A part of the configuration that is of another type than every reader expects.
    #[error("the image's configuration has a {field} that cannot be changed")]
    Field {
        /// The part.
        field: &'static str,
    },
}

macro_rules! keywords {
    ($($id:ident $word:literal,)+) => {
        /// The instructions.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Keyword {
            $(#[doc = concat!("`", $word, "`.")] $id,)+
        }

        impl Keyword {
            const ALL: &[Self] = &[$(Self::$id,)+];

            const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$id => $word,)+
                }
            }
        }
    };
}

keywords! {
    Cmd "CMD",
    Entrypoint "ENTRYPOINT",
    Env "ENV",
    Expose "EXPOSE",
    Label "LABEL",
    Onbuild "ONBUILD",
    User "USER",
    Volume "VOLUME",
    Workdir "WORKDIR",
}

impl Keyword {
    fn all() -> String {
        let words: Vec<_> = Self::ALL.iter().map(|keyword| keyword.as_str()).collect();
        words.join(", ")
    }
}

impl fmt::Display for Keyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An instruction, read but not yet applied: its variables are those of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigChange {
    keyword: Keyword,
    rest: String,
}

impl FromStr for ConfigChange {
    type Err = ChangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let (word, rest) = text
            .split_once(char::is_whitespace)
            .map_or((text, ""), |(word, rest)| (word, rest.trim()));
        let keyword = Keyword::ALL
            .iter()
            .find(|keyword| keyword.as_str().eq_ignore_ascii_case(word))
            .copied()
            .ok_or_else(|| ChangeError::Unknown {
                keyword: word.to_owned(),
            })?;
        // `CMD` alone takes the command away.
        if rest.is_empty() && !matches!(keyword, Keyword::Cmd | Keyword::Entrypoint) {
            return Err(ChangeError::Empty { keyword });
        }
        let change = Self {
            keyword,
            rest: rest.to_owned(),
        };
        // What is wrong whatever the image is, is told before anything is done.
        if !change.rest.contains('$') {
            Running::default().apply(&change)?;
        }
        Ok(change)
    }
}

/// The part of a configuration that says what runs, while it is changed.
#[derive(Debug, Default)]
pub(super) struct Running {
    run: Map<String, Value>,
    /// Whether one of the instructions set the command.
    has_command: bool,
}

impl Running {
    pub(super) fn new(run: Map<String, Value>) -> Self {
        Self {
            run,
            has_command: false,
        }
    }

    pub(super) fn finish(self) -> Map<String, Value> {
        self.run
    }

    pub(super) fn apply(&mut self, change: &ConfigChange) -> Result<(), ChangeError> {
        let (keyword, rest) = (change.keyword, change.rest.as_str());
        match keyword {
            Keyword::Cmd => {
                let command = self.command(keyword, rest)?;
                self.set("Cmd", command);
                self.has_command = true;
            }
            Keyword::Entrypoint => {
                let command = self.command(keyword, rest)?;
                self.set("Entrypoint", command);
                // The old command was for the old entry point.
                if !self.has_command {
                    self.set("Cmd", Value::Null);
                }
            }
            Keyword::Env => {
                for (name, value) in self.pairs(keyword, rest)? {
                    self.set_env(&name, &value)?;
                }
            }
            Keyword::Label => {
                for (name, value) in self.pairs(keyword, rest)? {
                    self.object("Labels")?.insert(name, Value::String(value));
                }
            }
            Keyword::Expose => {
                for word in split(rest) {
                    for port in ports(&self.expand(&word)?)? {
                        self.object("ExposedPorts")?.insert(port, json!({}));
                    }
                }
            }
            Keyword::Volume => {
                let words = match array(keyword, rest)? {
                    Some(words) => words,
                    None => split(rest),
                };
                for word in words {
                    let path = self.expand(&word)?;
                    if path.is_empty() {
                        return Err(ChangeError::Empty { keyword });
                    }
                    self.object("Volumes")?.insert(path, json!({}));
                }
            }
            Keyword::Onbuild => {
                let trigger = rest.split_whitespace().next().unwrap_or_default();
                let keyword = trigger.to_ascii_uppercase();
                if ["ONBUILD", "FROM", "MAINTAINER"].contains(&keyword.as_str()) {
                    return Err(ChangeError::Trigger { keyword });
                }
                self.list("OnBuild")?.push(Value::from(rest));
            }
            Keyword::User => {
                let user = self.expand(rest)?;
                self.set("User", Value::String(user));
            }
            Keyword::Workdir => {
                let to = self.expand(rest)?;
                let from = self.run.get("WorkingDir").and_then(Value::as_str);
                let path = joined(from.unwrap_or_default(), &to);
                self.set("WorkingDir", Value::String(path));
            }
        }
        Ok(())
    }

    fn set(&mut self, field: &str, value: Value) {
        self.run.insert(field.to_owned(), value);
    }

    /// A field that is an object, made where there is none.
    fn object(&mut self, field: &'static str) -> Result<&mut Map<String, Value>, ChangeError> {
        let value = self.run.entry(field).or_insert(Value::Null);
        if value.is_null() {
            *value = json!({});
        }
        value.as_object_mut().ok_or(ChangeError::Field { field })
    }

    /// A field that is a list, made where there is none.
    fn list(&mut self, field: &'static str) -> Result<&mut Vec<Value>, ChangeError> {
        let value = self.run.entry(field).or_insert(Value::Null);
        if value.is_null() {
            *value = json!([]);
        }
        value.as_array_mut().ok_or(ChangeError::Field { field })
    }

    /// A JSON array, else a line for the image's shell.
    fn command(&self, keyword: Keyword, rest: &str) -> Result<Value, ChangeError> {
        if let Some(words) = array(keyword, rest).ok().flatten() {
            return Ok(Value::from(words));
        }
        if rest.is_empty() {
            return Ok(Value::Null);
        }
        let shell = self.run.get("Shell").and_then(Value::as_array);
        let mut words = match shell.filter(|shell| !shell.is_empty()) {
            Some(shell) => shell.clone(),
            None => vec![Value::from("/bin/sh"), Value::from("-c")],
        };
        words.push(Value::from(rest));
        Ok(Value::Array(words))
    }

    fn expand(&self, text: &str) -> Result<String, ChangeError> {
        expand(text, &|name| self.env(name))
    }

    fn env(&self, name: &str) -> Option<String> {
        let env = self.run.get("Env").and_then(Value::as_array)?;
        env.iter().filter_map(Value::as_str).find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            (key == name).then(|| value.to_owned())
        })
    }

    fn set_env(&mut self, name: &str, value: &str) -> Result<(), ChangeError> {
        let pair = Value::from(format!("{name}={value}"));
        let env = self.list("Env")?;
        let is_it = |old: &Value| {
            let old = old.as_str().unwrap_or_default();
            old.split_once('=').map_or(old, |(key, _)| key) == name
        };
        match env.iter_mut().find(|old| is_it(old)) {
            Some(old) => *old = pair,
            None => env.push(pair),
        }
        Ok(())
    }

    /// `name=value` and more of them, or the old form `name value`, where the value is the rest of the line.
    fn pairs(&self, keyword: Keyword, rest: &str) -> Result<Vec<(String, String)>, ChangeError> {
        let words = split(rest);
        let first = words.first().map_or("", String::as_str);
        if !first.contains('=') {
            let value = rest.strip_prefix(first).unwrap_or_default().trim();
            if value.is_empty() {
                let word = first.to_owned();
                return Err(ChangeError::NoValue { keyword, word });
            }
            return Ok(vec![(self.expand(first)?, self.expand(value)?)]);
        }
        // All of them see the variables as they were before the instruction.
        let mut pairs = Vec::new();
        for word in words {
            match word.split_once('=') {
                Some((name, value)) if !name.is_empty() => {
                    pairs.push((self.expand(name)?, self.expand(value)?));
                }
                _ => return Err(ChangeError::NoValue { keyword, word }),
            }
        }
        Ok(pairs)
    }
}

/// The strings of a JSON array; `None` where it is no array.
fn array(keyword: Keyword, text: &str) -> Result<Option<Vec<String>>, ChangeError> {
    if !text.starts_with('[') {
        return Ok(None);
    }
    serde_json::from_str(text)
        .map(Some)
        .map_err(|_| ChangeError::NotWords {
            keyword,
            text: text.to_owned(),
        })
}

/// `80`, `80/udp`, `8000-8010`: each port with its protocol.
fn ports(word: &str) -> Result<Vec<String>, ChangeError> {
    let wrong = || ChangeError::Port {
        word: word.to_owned(),
    };
    let (range, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(wrong());
    }
    let (from, to) = range.split_once('-').unwrap_or((range, range));
    let (from, to): (u16, u16) = match (from.parse(), to.parse()) {
        (Ok(from), Ok(to)) if 0 < from && from <= to => (from, to),
        _ => return Err(wrong()),
    };
    Ok((from..=to)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

/// A path from where one is, without `.` and `..`.
fn joined(from: &str, to: &str) -> String {
    let whole = if to.starts_with('/') {
        to.to_owned()
    } else {
        format!("{from}/{to}")
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests;
