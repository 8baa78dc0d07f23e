//! Lists with the columns that were asked for, in the order that was asked for.

use std::fmt::Display;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory};
use dmthin::units::Bytes;

use crate::args::Cli;
use crate::nearest::nearest;
use crate::output::{Colour, Output, rows_table};
use crate::time::utc;

/// What is seen and how it is ordered: a number by its value, not by its digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Nothing,
    Number(u64),
    Text(String),
}

/// One cell of a list.
#[derive(Debug)]
pub(crate) struct Cell {
    text: String,
    key: Key,
    colour: Option<Colour>,
}

impl Cell {
    /// The same in a colour, where colours are wanted.
    pub(crate) fn coloured(self, colour: Option<Colour>) -> Self {
        Self { colour, ..self }
    }

    fn plain(text: String, key: Key) -> Self {
        Self {
            text,
            key,
            colour: None,
        }
    }

    /// A text.
    pub(crate) fn text(value: impl Display) -> Self {
        let text = value.to_string();
        let key = Key::Text(text.clone());
        Self::plain(text, key)
    }

    /// A text, or a dash.
    pub(crate) fn text_or_dash(value: Option<impl Display>) -> Self {
        value.map_or_else(Self::nothing, Self::text)
    }

    /// A count.
    pub(crate) fn number(value: u64) -> Self {
        Self::plain(value.to_string(), Key::Number(value))
    }

    /// A number with what it is counted in.
    pub(crate) fn with_unit(value: u64, unit: &str) -> Self {
        Self::plain(format!("{value}{unit}"), Key::Number(value))
    }

    /// How many there are.
    pub(crate) fn count(value: usize) -> Self {
        Self::number(u64::try_from(value).unwrap_or(u64::MAX))
    }

    /// A size.
    pub(crate) fn size(value: Bytes) -> Self {
        Self::plain(value.to_string(), Key::Number(value.get()))
    }

    /// A size, or a dash.
    pub(crate) fn size_or_dash(value: Option<Bytes>) -> Self {
        value.map_or_else(Self::nothing, Self::size)
    }

    /// A moment, in seconds since 1970.
    pub(crate) fn moment(value: u64) -> Self {
        Self::plain(utc(value), Key::Number(value))
    }

    fn nothing() -> Self {
        Self::plain("-".to_owned(), Key::Nothing)
    }
}

/// A column that a list of `T` can have.
#[derive(Debug)]
pub(crate) struct Column<T> {
    name: &'static str,
    shown: bool,
    cell: fn(&T) -> Cell,
}

/// A column that is shown where nothing else is asked for. Its head is its name in capitals, a blank
/// for each `-`.
pub(crate) const fn shown<T>(name: &'static str, cell: fn(&T) -> Cell) -> Column<T> {
    Column {
        name,
        shown: true,
        cell,
    }
}

/// A column that is shown if it is asked for.
pub(crate) const fn more<T>(name: &'static str, cell: fn(&T) -> Cell) -> Column<T> {
    Column {
        name,
        shown: false,
        cell,
    }
}

/// How a list is shown.
#[derive(Debug, Default, Args)]
pub(crate) struct ListArgs {
    /// Columns to show, with commas between them; with + in front, beside the usual ones
    #[arg(short = 'o', long, value_name = "COLUMNS")]
    columns: Option<String>,
    /// Column to sort by; with - in front the largest first
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true)]
    sort: Option<String>,
    /// Leave out the names of the columns
    #[arg(long)]
    no_headings: bool,
}

impl ListArgs {
    /// The list as text.
    pub(crate) fn table<T>(
        &self,
        columns: &[Column<T>],
        rows: &[T],
    ) -> Result<String, clap::Error> {
        self.painted(&Output::new(false, false, false), columns, rows)
    }

    /// The list as text, its cells in their colours where the output has any.
    pub(crate) fn painted<T>(
        &self,
        out: &Output,
        columns: &[Column<T>],
        rows: &[T],
    ) -> Result<String, clap::Error> {
        let wanted = self.wanted(columns)?;
        let mut rows: Vec<&T> = rows.iter().collect();
        if let Some(sort) = &self.sort {
            let (down, name) = match sort.strip_prefix('-') {
                Some(name) => (true, name),
                None => (false, sort.as_str()),
            };
            let cell = find(columns, name)?.cell;
            rows.sort_by_cached_key(|row| cell(row).key);
            if down {
                rows.reverse();
            }
        }
        let head: Vec<String> = wanted
            .iter()
            .map(|column| column.name.to_uppercase().replace('-', " "))
            .collect();
        let head = (!self.no_headings).then_some(head);
        let cells: Vec<Vec<Cell>> = rows
            .into_iter()
            .map(|row| wanted.iter().map(|column| (column.cell)(row)).collect())
            .collect();
        let texts = cells
            .iter()
            .map(|row| row.iter().map(|cell| cell.text.clone()).collect());
        let text = rows_table(head.clone(), texts);
        let heads = head.into_iter().flatten().map(|name| (name, None));
        let cells = cells.into_iter().flatten();
        Ok(out.paint_in(
            &text,
            heads.chain(cells.map(|cell| (cell.text, cell.colour))),
        ))
    }

    fn wanted<'c, T>(&self, columns: &'c [Column<T>]) -> Result<Vec<&'c Column<T>>, clap::Error> {
        let usual = columns.iter().filter(|column| column.shown);
        let Some(words) = &self.columns else {
            return Ok(usual.collect());
        };
        let (mut wanted, words) = match words.strip_prefix('+') {
            Some(words) => (usual.collect(), words),
            None => (Vec::new(), words.as_str()),
        };
        for word in words.split(',') {
            let column = find(columns, word)?;
            if !wanted
                .iter()
                .any(|there: &&Column<T>| there.name == column.name)
            {
                wanted.push(column);
            }
        }
        Ok(wanted)
    }
}

fn find<'c, T>(columns: &'c [Column<T>], word: &str) -> Result<&'c Column<T>, clap::Error> {
    let found = columns.iter().find(|column| column.name == word);
    found.ok_or_else(|| {
        let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
        let hint = match nearest(word, &names) {
            Some(name) => format!("is {name} meant?"),
            None => format!("there are {}", names.join(", ")),
        };
        let text = format!("there is no column {word:?}: {hint}");
        Cli::command().error(ErrorKind::InvalidValue, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column<(&str, u64, Option<Bytes>)>] = &[
        shown("name", |row| Cell::text(row.0)),
        shown("nr-open", |row| Cell::number(row.1)),
        more("size", |row| Cell::size_or_dash(row.2)),
    ];
    const ROWS: &[(&str, u64, Option<Bytes>)] = &[
        ("b", 10, Some(Bytes::from_mib(900))),
        ("a", 9, None),
        ("c", 10, Some(Bytes::from_gib(1))),
    ];

    fn list(columns: Option<&str>, sort: Option<&str>) -> Result<String, String> {
        let args = ListArgs {
            columns: columns.map(str::to_owned),
            sort: sort.map(str::to_owned),
            no_headings: false,
        };
        args.table(COLUMNS, ROWS).map_err(|error| {
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        })
    }

    #[test]
    fn the_usual_columns_are_shown_or_those_that_are_named() {
        assert_eq!(
            list(None, None).unwrap(),
            "NAME  NR OPEN\nb     10\na     9\nc     10\n"
        );
        assert_eq!(
            list(Some("size,name"), None).unwrap(),
            "SIZE     NAME\n900 MiB  b\n-        a\n1 GiB    c\n"
        );
        assert_eq!(
            list(Some("+size,name"), None).unwrap(),
            "NAME  NR OPEN  SIZE\nb     10       900 MiB\na     9        -\nc     10       1 GiB\n"
        );
        let bare = ListArgs {
            no_headings: true,
            ..ListArgs::default()
        };
        assert_eq!(bare.table(COLUMNS, ROWS).unwrap(), "b  10\na  9\nc  10\n");
    }

    #[test]
    fn cells_are_painted_in_their_own_place() {
        let columns: &[Column<(&str, u64)>] = &[
            shown("name", |row| Cell::text(row.0)),
            shown("use", |row| {
                Cell::with_unit(row.1, "%").coloured((row.1 > 5).then_some(Colour::Red))
            }),
            shown("state", |_| Cell::text("9")),
        ];
        let out = Output::new(false, false, true);
        let list = ListArgs::default();
        assert_eq!(
            list.painted(&out, columns, &[("9", 9), ("USE", 5)])
                .unwrap(),
            "NAME  USE  STATE\n9     \u{1b}[31m9%\u{1b}[0m   9\nUSE   5%   9\n"
        );
    }

    #[test]
    fn numbers_are_sorted_by_value_and_nothing_comes_first() {
        assert_eq!(
            list(Some("name"), Some("nr-open")).unwrap(),
            "NAME\na\nb\nc\n"
        );
        assert_eq!(list(Some("name"), Some("size")).unwrap(), "NAME\na\nb\nc\n");
        assert_eq!(
            list(Some("name"), Some("-size")).unwrap(),
            "NAME\nc\nb\na\n"
        );
    }

    #[test]
    fn a_column_that_is_not_there_is_told_with_the_nearest() {
        assert!(
            list(Some("nmae"), None)
                .unwrap_err()
                .contains("is name meant?")
        );
        let told = list(None, Some("-zzzzzzzz")).unwrap_err();
        assert!(told.contains("there are name, nr-open, size"), "{told}");
    }
}
