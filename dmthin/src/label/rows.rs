//! Rows of the catalogue as the mirror has them: of which table, of which key, and their values in the
//! order of the table's columns.
//!
//! ```text
//! record  table u8      key i64        number of rows u16     the rows
//! row     number of values u8          the values
//! value   0                            nothing
//!         1 i64                        a number
//!         2 length u32, bytes          text, UTF-8
//!         3 length u32, bytes          bytes
//! ```
//! A record has all rows of that key: none says that there are none any more.

/// A value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A number.
    Number(i64),
    /// A text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// All rows of a table that belong to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The table's number.
    pub table: u8,
    /// What the rows have in the column by which the table is kept.
    pub key: i64,
    /// Their values.
    pub rows: Vec<Vec<Value>>,
}

const NULL: u8 = 0;
const NUMBER: u8 = 1;
const TEXT: u8 = 2;
const BYTES: u8 = 3;

impl Record {
    /// Appends the record to `out`; `None`, and nothing of use in `out`, where it has more rows or values
    /// than the format counts.
    #[must_use]
    pub fn encode(&self, out: &mut Vec<u8>) -> Option<()> {
        out.push(self.table);
        out.extend(self.key.to_le_bytes());
        out.extend(u16::try_from(self.rows.len()).ok()?.to_le_bytes());
        for row in &self.rows {
            out.push(u8::try_from(row.len()).ok()?);
            for value in row {
                let (kind, bytes) = match value {
                    Value::Null => {
                        out.push(NULL);
                        continue;
                    }
                    Value::Number(n) => {
                        out.push(NUMBER);
                        out.extend(n.to_le_bytes());
                        continue;
                    }
                    Value::Text(text) => (TEXT, text.as_bytes()),
                    Value::Bytes(bytes) => (BYTES, bytes.as_slice()),
                };
                out.push(kind);
                out.extend(u32::try_from(bytes.len()).ok()?.to_le_bytes());
                out.extend(bytes);
            }
        }
        Some(())
    }

    /// Takes a run of records apart; `None` where it is not one from the first byte to the last.
    #[must_use]
    pub fn decode_all(bytes: &[u8]) -> Option<Vec<Self>> {
        let mut rest = Rest(bytes);
        let mut records = Vec::new();
        while !rest.0.is_empty() {
            records.push(rest.record()?);
        }
        Some(records)
    }
}

/// What is left to be read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take(&mut self, len: usize) -> Option<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn counted(&mut self) -> Option<Vec<u8>> {
        let len = u32::from_le_bytes(self.array()?);
        self.take(usize::try_from(len).ok()?).map(<[u8]>::to_vec)
    }

    fn value(&mut self) -> Option<Value> {
        Some(match self.byte()? {
            NULL => Value::Null,
            NUMBER => Value::Number(self.number()?),
            TEXT => Value::Text(String::from_utf8(self.counted()?).ok()?),
            BYTES => Value::Bytes(self.counted()?),
            _ => return None,
        })
    }

    fn record(&mut self) -> Option<Record> {
        let table = self.byte()?;
        let key = self.number()?;
        let nr_rows = u16::from_le_bytes(self.array()?);
        let mut rows = Vec::new();
        for _ in 0..nr_rows {
            let nr_values = self.byte()?;
            let row: Option<Vec<_>> = (0..nr_values).map(|_| self.value()).collect();
            rows.push(row?);
        }
        Some(Record { table, key, rows })
    }
}
