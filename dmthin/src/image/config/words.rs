//! Words of an instruction: quotes, escapes and variables, as a Dockerfile has them.

use super::change::ChangeError;

/// How far variables within variables are followed: `${A:-${B:-${C}}}`.
const MAX_NESTING: usize = 16;

/// Splits at blanks outside quotes; quotes and escapes stay as they are.
pub(super) fn split(text: &str) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), String::new());
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            // Nothing is escaped between single quotes.
            ('\\', None | Some('"')) => {
                word.push(c);
                word.extend(chars.next());
            }
            ('\'' | '"', None) => {
                quote = Some(c);
                word.push(c);
            }
            (c, None) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            (c, _) => {
                if quote == Some(c) {
                    quote = None;
                }
                word.push(c);
            }
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// The text without its quotes and escapes, variables replaced by what `value_of` knows.
pub(super) fn expand(
    text: &str,
    value_of: &dyn Fn(&str) -> Option<String>,
) -> Result<String, ChangeError> {
    let chars: Vec<char> = text.chars().collect();
    let mut words = Expander {
        text,
        chars: &chars,
        at: 0,
        value_of,
        depth: 0,
    };
    words.until(None)
}

struct Expander<'a> {
    /// The whole, for errors.
    text: &'a str,
    chars: &'a [char],
    at: usize,
    value_of: &'a dyn Fn(&str) -> Option<String>,
    depth: usize,
}

impl Expander<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.at = self.at.saturating_add(usize::from(next.is_some()));
        next
    }

    fn unfinished(&self, what: &'static str) -> ChangeError {
        ChangeError::Unfinished {
            what,
            text: self.text.to_owned(),
        }
    }

    /// Reads on to the end, or over the closing character.
    fn until(&mut self, end: Option<char>) -> Result<String, ChangeError> {
        let mut out = String::new();
        while let Some(c) = self.next() {
            match c {
                c if Some(c) == end => return Ok(out),
                '\'' => loop {
                    match self.next() {
                        Some('\'') => break,
                        Some(c) => out.push(c),
                        None => return Err(self.unfinished("a quote")),
                    }
                },
                '"' => self.quoted(&mut out)?,
                '\\' => out.extend(self.next()),
                '$' => out.push_str(&self.variable()?),
                c => out.push(c),
            }
        }
        match end {
            None => Ok(out),
            Some(_) => Err(self.unfinished("a variable")),
        }
    }

    /// Between double quotes only these are escaped: the quote, `$`, and the backslash.
    fn quoted(&mut self, out: &mut String) -> Result<(), ChangeError> {
        loop {
            match self.next() {
                Some('"') => return Ok(()),
                Some('$') => out.push_str(&self.variable()?),
                Some('\\') => match self.next() {
                    Some(c @ ('"' | '$' | '\\')) => out.push(c),
                    Some(c) => out.extend(['\\', c]),
                    None => return Err(self.unfinished("a quote")),
                },
                Some(c) => out.push(c),
                None => return Err(self.unfinished("a quote")),
            }
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self
            .peek()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
        {
            name.push(c);
            self.at = self.at.saturating_add(1);
        }
        name
    }

    /// `$NAME`, `${NAME}`, `${NAME:-word}`, `${NAME:+word}`; a `$` before anything else is itself.
    fn variable(&mut self) -> Result<String, ChangeError> {
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(if name.is_empty() {
                "$".to_owned()
            } else {
                (self.value_of)(&name).unwrap_or_default()
            });
        }
        self.next();
        self.depth = self.depth.saturating_add(1);
        let name = self.name();
        if name.is_empty() || self.depth > MAX_NESTING {
            return Err(self.unfinished("a variable"));
        }
        let value = (self.value_of)(&name).filter(|value| !value.is_empty());
        let replaced = match (self.next(), self.peek()) {
            (Some('}'), _) => value.unwrap_or_default(),
            (Some(':'), Some(how @ ('-' | '+'))) => {
                self.next();
                let word = self.until(Some('}'))?;
                match (how, value) {
                    ('-', Some(value)) => value,
                    ('-', None) | ('+', Some(_)) => word,
                    _ => String::new(),
                }
            }
            _ => return Err(self.unfinished("a variable")),
        };
        self.depth = self.depth.saturating_sub(1);
        Ok(replaced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, ChangeError> {
        expand(text, &|name| match name {
            "PATH" => Some("/bin".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        })
    }

    #[test]
    fn blanks_in_quotes_do_not_split() {
        assert_eq!(
            split(r#" a  b="c d" e\ f 'g "h' "#),
            ["a", r#"b="c d""#, r"e\ f", r#"'g "h'"#]
        );
        assert_eq!(split(" "), Vec::<String>::new());
    }

    #[test]
    fn quotes_escapes_and_variables_are_taken_as_a_dockerfile_does() {
        for (text, expected) in [
            ("plain", "plain"),
            ("$PATH:/x", "/bin:/x"),
            ("${PATH}x", "/binx"),
            ("$NONE.", "."),
            ("'$PATH'", "$PATH"),
            (r#""$PATH \$PATH \n""#, r"/bin $PATH \n"),
            (r"\$PATH\ x", "$PATH x"),
            ("${NONE:-a b}", "a b"),
            ("${EMPTY:-${PATH:-q}}", "/bin"),
            ("${PATH:+set}${NONE:+set}", "set"),
            ("5$ and $", "5$ and $"),
        ] {
            assert_eq!(expanded(text), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_does_not_end_is_refused() {
        let deep = "${A:-".repeat(40);
        for text in [
            "'a",
            "\"a",
            "\"a\\",
            "${PATH",
            "${PATH:-x",
            "${}",
            "${A?b}",
            &deep,
        ] {
            assert!(
                matches!(expanded(text), Err(ChangeError::Unfinished { .. })),
                "{text}"
            );
        }
    }
}
