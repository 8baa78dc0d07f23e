//! Results on stdout: tables, aligned fields and bars for people, JSON for programs.
//!
//! Nothing else writes to stdout, and every write is checked: a full disk behind a redirection is an
//! error, not a short file. Text that came from an image is shown with its control characters
//! escaped, so that it cannot drive the terminal.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table};
use dmthin::graph::{Level, Usage};
use dmthin::units::Bytes;
use serde::Serialize;

/// The version of all JSON we print: fields are added to it, never changed or taken away.
pub(crate) const SCHEMA: &str = "dmthin/v1";

/// Cells of a usage bar.
const BAR_CELLS: u64 = 24;

/// Stdout could not be written.
#[derive(Debug)]
pub(crate) struct WriteError(pub(crate) io::Error);

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot write the result to stdout")
    }
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// Where results go, and in which form.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    colour: bool,
}

#[derive(Debug, Serialize)]
struct Reply<'a, T> {
    schema: &'static str,
    #[serde(flatten)]
    body: &'a T,
}

impl Output {
    /// Results in JSON, without what `-q` leaves out, in colours.
    pub(crate) const fn new(json: bool, quiet: bool, colour: bool) -> Self {
        Self {
            json,
            quiet,
            colour,
        }
    }

    /// The same in JSON.
    pub(crate) const fn in_json(&self) -> Self {
        Self {
            json: true,
            quiet: self.quiet,
            colour: self.colour,
        }
    }

    /// Whether `-q` was given.
    pub(crate) const fn quiet(&self) -> bool {
        self.quiet
    }

    /// Whether notes and progress for people have a place on stderr.
    pub(crate) const fn chatty(&self) -> bool {
        !self.quiet && !self.json
    }

    /// Prints what was asked for: `body` as JSON, else the text.
    pub(crate) fn show<T: Serialize>(
        &self,
        body: &T,
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        if self.json {
            let reply = Reply {
                schema: SCHEMA,
                body,
            };
            let mut line = if io::stdout().is_terminal() {
                serde_json::to_string_pretty(&reply)?
            } else {
                serde_json::to_string(&reply)?
            };
            line.push('\n');
            self.write(line.as_bytes())
        } else {
            self.write(text().as_bytes())
        }
    }

    /// Prints what a change came to; `-q` leaves out the text, never the JSON.
    pub(crate) fn done<T: Serialize>(
        &self,
        body: &T,
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        let quiet = self.quiet;
        self.show(body, || if quiet { String::new() } else { text() })
    }

    /// Says something by the way, on stderr.
    pub(crate) fn note(&self, text: &str) {
        if self.chatty() {
            // Nobody is there to be told that stderr is gone.
            let _ = writeln!(io::stderr(), "pool-cli: {text}");
        }
    }

    /// Says what can be done about what was shown, on stderr.
    pub(crate) fn hint(&self, text: &str) {
        if self.chatty() {
            // As above.
            let _ = writeln!(io::stderr(), "hint: {}", clean(text));
        }
    }

    /// Says what was lost, on stderr: `-q` does not silence it. JSON has it in the result.
    pub(crate) fn warn(&self, text: &str) {
        if !self.json {
            // As above.
            let _ = writeln!(io::stderr(), "pool-cli: warning: {}", clean(text));
        }
    }

    /// Clears the screen, where there is one: what is shown next takes the place of what was.
    pub(crate) fn clear(&self) -> anyhow::Result<()> {
        if self.json || !io::stdout().is_terminal() {
            return Ok(());
        }
        self.write(b"\x1b[H\x1b[2J")
    }

    /// Writes bytes as they are.
    pub(crate) fn write(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(bytes)
            .and_then(|()| stdout.flush())
            .map_err(|error| WriteError(error).into())
    }

    /// The text in a colour, where colours are wanted.
    pub(crate) fn paint(&self, colour: Colour, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match colour {
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Red => 31,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// A text that was laid out, parts of it in a colour: they are looked for one after the other, so
    /// that all are to be named that could be taken for a later one.
    pub(crate) fn paint_in(
        &self,
        text: &str,
        parts: impl IntoIterator<Item = (String, Option<Colour>)>,
    ) -> String {
        let (mut painted, mut rest) = (String::new(), text);
        for (part, colour) in parts {
            let part = clean(&part);
            let Some((before, after)) = rest.split_once(&part) else {
                continue;
            };
            painted.push_str(before);
            match colour {
                Some(colour) => painted.push_str(&self.paint(colour, &part)),
                None => painted.push_str(&part),
            }
            rest = after;
        }
        painted + rest
    }
}

/// The colour for how full something is.
pub(crate) const fn colour_of(level: Level) -> Colour {
    match level {
        Level::Fine => Colour::Green,
        Level::Filling => Colour::Yellow,
        Level::Short => Colour::Red,
    }
}

/// A colour of the terminal's palette.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    /// Good.
    Green,
    /// Look at it.
    Yellow,
    /// Bad.
    Red,
}

/// Escapes what is not to reach a terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let plain = (!c.is_control()).then_some(c);
            let escaped = c.is_control().then(|| c.escape_default());
            plain.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect()
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn print(table: &mut Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// Columns under their names, as `lsblk` and `docker` print them.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = plain_table();
    table.set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| clean(&cell)));
    }
    print(&mut table)
}

/// As [`table`], of any number of columns, with their names or without.
pub(crate) fn rows_table(
    header: Option<Vec<String>>,
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = plain_table();
    if let Some(header) = header {
        table.set_header(header);
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| clean(cell)));
    }
    print(&mut table)
}

/// A field a line, the values under each other.
pub(crate) fn fields<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut table = plain_table();
    for (name, value) in rows {
        let name = if name.is_empty() {
            String::new()
        } else {
            format!("{name}:")
        };
        table.add_row([name, clean(&value)]);
    }
    print(&mut table)
}

/// A name a line.
pub(crate) fn lines(names: impl IntoIterator<Item = String>) -> String {
    names
        .into_iter()
        .fold(String::new(), |text, name| text + &clean(&name) + "\n")
}

/// One record: columns with a tab between them, for `read` and `cut`.
pub(crate) fn record<const N: usize>(columns: [String; N]) -> String {
    columns.map(|column| clean(&column)).join("\t") + "\n"
}

/// How full something is: `[######..................]  25.0 %  5 GiB of 20 GiB`.
pub(crate) fn usage(usage: Usage) -> String {
    format!(
        "{} {:>5} %  {} of {}",
        bar(usage),
        percent(usage),
        usage.used,
        usage.total
    )
}

/// Full only if nothing is left, empty only if nothing is used.
pub(crate) fn bar(usage: Usage) -> String {
    let cells = share(usage, BAR_CELLS).max(u64::from(usage.used > Bytes::ZERO));
    let line: String = (0..BAR_CELLS)
        .map(|cell| if cell < cells { '#' } else { '.' })
        .collect();
    format!("[{line}]")
}

/// The same of what has two parts: `own` is `#`, the rest of it is `=`.
pub(crate) fn bar_of_two(own: Bytes, usage: Usage) -> String {
    let own = Usage {
        used: own.min(usage.used),
        total: usage.total,
    };
    let (own, all) = (bar(own), bar(usage));
    let parts = own.chars().zip(all.chars()).map(|cells| match cells {
        ('.', '#') => '=',
        (own, _) => own,
    });
    parts.collect()
}

/// With one decimal, cut and never rounded up: 100.0 means full.
fn percent(usage: Usage) -> String {
    let tenths = share(usage, 1000);
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// `parts` parts, as many of them as are used, at most all; of nothing, all is used.
fn share(usage: Usage, parts: u64) -> u64 {
    u128::from(usage.used.get())
        .saturating_mul(u128::from(parts))
        .checked_div(u128::from(usage.total.get()))
        .and_then(|used| u64::try_from(used).ok())
        .map_or(parts, |used| used.min(parts))
}

/// The value, or a dash.
pub(crate) fn or_dash<T: fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// The values with commas between them, or a dash.
pub(crate) fn list<T: fmt::Display>(values: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    if words.is_empty() {
        "-".to_owned()
    } else {
        words.join(",")
    }
}

/// The first 12 digits of a digest: enough to tell images apart.
pub(crate) fn short(digest: dmthin::ids::Digest) -> String {
    digest.to_hex().chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_no_borders_and_no_trailing_blanks() {
        let rows = [["tank", "open", "100 GiB"], ["a-longer-name", "closed", ""]];
        assert_eq!(
            table(
                ["NAME", "STATE", "SIZE"],
                rows.map(|row| row.map(str::to_owned))
            ),
            "NAME           STATE   SIZE\n\
             tank           open    100 GiB\n\
             a-longer-name  closed\n"
        );
        assert_eq!(table(["NAME", "STATE"], []), "NAME  STATE\n");
    }

    #[test]
    fn fields_stand_under_each_other() {
        assert_eq!(
            fields([
                ("Name", "tank".to_owned()),
                ("Block size", "64 KiB".to_owned()),
                ("", "more".to_owned())
            ]),
            "Name:        tank\n\
             Block size:  64 KiB\n\
             \x20            more\n"
        );
    }

    #[test]
    fn text_of_others_cannot_drive_the_terminal() {
        assert_eq!(
            lines(["a\u{1b}[31mb\nc\u{9b}".to_owned()]),
            "a\\u{1b}[31mb\\nc\\u{9b}\n"
        );
        assert_eq!(
            record(["a\tb".to_owned(), "c\u{e9}".to_owned()]),
            "a\\tb\tc\u{e9}\n"
        );
    }

    #[test]
    fn bars_are_full_only_when_full_and_empty_only_when_empty() {
        let show = |used, total| {
            usage(Usage {
                used: Bytes::new(used),
                total: Bytes::new(total),
            })
        };
        assert_eq!(
            show(0, 1 << 30),
            "[........................]   0.0 %  0 B of 1 GiB"
        );
        assert_eq!(
            show(1, 1 << 30),
            "[#.......................]   0.0 %  1 B of 1 GiB"
        );
        assert_eq!(
            show(1 << 28, 1 << 30),
            "[######..................]  25.0 %  256 MiB of 1 GiB"
        );
        assert_eq!(
            show((1 << 30) - 1, 1 << 30),
            "[#######################.]  99.9 %  1023 MiB of 1 GiB"
        );
        assert_eq!(
            show(1 << 30, 1 << 30),
            "[########################] 100.0 %  1 GiB of 1 GiB"
        );
        assert_eq!(
            show(u64::MAX, u64::MAX),
            "[########################] 100.0 %  16383 PiB of 16383 PiB"
        );
        assert_eq!(show(0, 0), "[########################] 100.0 %  0 B of 0 B");
    }

    #[test]
    fn a_bar_of_two_parts_shows_both() {
        let bar = |own, used| {
            let usage = Usage {
                used: Bytes::new(used),
                total: Bytes::new(24),
            };
            bar_of_two(Bytes::new(own), usage)
        };
        assert_eq!(bar(3, 8), "[###=====................]");
        assert_eq!(bar(0, 2), "[==......................]");
        assert_eq!(bar(8, 8), "[########................]");
        assert_eq!(bar(0, 0), "[........................]");
    }

    #[test]
    fn colours_are_used_only_where_they_are_wanted() {
        let plain = Output::new(false, false, false);
        let coloured = Output::new(false, false, true);
        assert_eq!(plain.paint(Colour::Red, "FAIL"), "FAIL");
        assert_eq!(
            coloured.paint(Colour::Red, "FAIL"),
            "\u{1b}[31mFAIL\u{1b}[0m"
        );
    }

    #[test]
    fn parts_are_painted_where_they_stand_and_plain_text_stays() {
        let parts = || {
            [
                ("5%".to_owned(), None),
                ("5%".to_owned(), Some(Colour::Red)),
                ("no such part".to_owned(), Some(Colour::Red)),
                ("ok".to_owned(), Some(Colour::Green)),
            ]
        };
        let text = "5% 15%  ok ok";
        assert_eq!(
            Output::new(false, false, false).paint_in(text, parts()),
            text
        );
        assert_eq!(
            Output::new(false, false, true).paint_in(text, parts()),
            "5% 1\u{1b}[31m5%\u{1b}[0m  \u{1b}[32mok\u{1b}[0m ok"
        );
    }

    #[test]
    fn what_is_not_there_is_a_dash() {
        assert_eq!(or_dash(None::<u64>), "-");
        assert_eq!(or_dash(Some(3)), "3");
        assert_eq!(list(Vec::<u64>::new()), "-");
        assert_eq!(list([1, 2]), "1,2");
    }
}
