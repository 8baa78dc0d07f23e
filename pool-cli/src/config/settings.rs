//! All that files, environment and command line gave, put together.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use dmthin::ids::PoolName;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::config::error::{ConfigError, Place};
use crate::config::keys::{
    CreateSettings, CreateTable, MonitorSettings, MonitorTable, Refused, Table, TopSettings,
    TopTable,
};
use crate::config::value::{Origin, Row};
use crate::nearest::nearest;

const CREATE: &str = "create";
const MONITOR: &str = "monitor";
const POOLS: &str = "pools";

/// All settings.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// The files that were read, in their order.
    pub(crate) files: Vec<PathBuf>,
    /// What stands before all tables.
    pub(crate) top: TopTable,
    create: CreateTable,
    monitor: MonitorTable,
    pools: BTreeMap<PoolName, MonitorTable>,
}

impl Settings {
    /// Root and pool.
    pub(crate) fn top(&self) -> TopSettings {
        self.top.settings()
    }

    /// What `pool create` makes where its options say nothing else.
    pub(crate) fn create(&self) -> CreateSettings {
        self.create.settings()
    }

    /// How the monitor treats this pool.
    pub(crate) fn monitor(&self, pool: &PoolName) -> MonitorSettings {
        self.monitor_table(pool).settings()
    }

    /// How it treats those of which nothing more is said.
    pub(crate) fn monitor_of_all(&self) -> MonitorSettings {
        self.monitor.settings()
    }

    fn monitor_table(&self, pool: &PoolName) -> MonitorTable {
        let own = self.pools.get(pool).cloned().unwrap_or_default();
        own.over(&self.monitor)
    }

    /// Every key with its value; those of the monitor for this pool, else for all, and then what
    /// is given for single pools.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let top = self.top();
        let mut rows = self.top.rows("", &top);
        rows.extend(self.create.rows("create.", &self.create()));
        if let Some(pool) = &top.pool {
            let table = self.monitor_table(pool);
            rows.extend(table.rows("monitor.", &self.monitor(pool)));
            return rows;
        }
        rows.extend(self.monitor.rows("monitor.", &self.monitor.settings()));
        for (pool, table) in &self.pools {
            let own = table.rows(&format!("pools.{pool}.monitor."), &self.monitor(pool));
            rows.extend(own.into_iter().filter(|row| row.origin != Origin::Default));
        }
        rows
    }

    /// Takes a file in; its keys win over those before.
    pub(crate) fn apply(&mut self, file: &Path, text: &str) -> Result<(), ConfigError> {
        let source = Source { file, text };
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            place: source.place(error.span().unwrap_or_default()),
            reason: error.message().replace('\n', ", "),
        })?;
        for (key, value) in in_order(table.get_ref()) {
            match key.get_ref().as_ref() {
                CREATE => source.table(CREATE, value, &mut self.create)?,
                MONITOR => source.table(MONITOR, value, &mut self.monitor)?,
                POOLS => self.apply_pools(&source, value)?,
                _ => source.key("", key, value, &mut self.top, &[CREATE, MONITOR, POOLS])?,
            }
        }
        self.files.push(file.to_owned());
        Ok(())
    }

    fn apply_pools(
        &mut self,
        source: &Source<'_>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), ConfigError> {
        for (name, value) in in_order(source.as_table(POOLS, value)?) {
            let text = name.get_ref().as_ref();
            let path = format!("{POOLS}.{text}");
            let pool: PoolName = text.parse().map_err(|_| ConfigError::BadValue {
                place: source.place(name.span()),
                key: path.clone(),
                expected: "named after a pool: letters, digits and _ . -, at most 32",
                found: format!("{text:?}"),
            })?;
            let own = self.pools.entry(pool).or_default();
            for (key, value) in in_order(source.as_table(&path, value)?) {
                if key.get_ref() != MONITOR {
                    return Err(source.unknown(&format!("{path}."), key, vec![MONITOR]));
                }
                source.table(&format!("{path}.{MONITOR}"), value, own)?;
            }
        }
        Ok(())
    }
}

/// As they stand in the file, so that the first error is the first to be told.
fn in_order<'a, 'i>(
    table: &'a DeTable<'i>,
) -> Vec<(&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>)> {
    let mut pairs: Vec<_> = table.iter().collect();
    pairs.sort_by_key(|(key, _)| key.span().start);
    pairs
}

/// The file that is being read.
struct Source<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn place(&self, span: Range<usize>) -> Place {
        let before = self.text.bytes().take(span.start);
        let line = before.filter(|byte| *byte == b'\n').count();
        Place {
            file: self.file.to_owned(),
            line: line.saturating_add(1),
        }
    }

    fn as_table<'v, 'i>(
        &self,
        key: &str,
        value: &'v Spanned<DeValue<'i>>,
    ) -> Result<&'v DeTable<'i>, ConfigError> {
        let table = value.get_ref().as_table();
        table.ok_or_else(|| ConfigError::BadValue {
            place: self.place(value.span()),
            key: key.to_owned(),
            expected: "a table",
            found: self.found(value),
        })
    }

    fn table<T: Table>(
        &self,
        name: &str,
        value: &Spanned<DeValue<'_>>,
        to: &mut T,
    ) -> Result<(), ConfigError> {
        let prefix = format!("{name}.");
        for (key, value) in in_order(self.as_table(name, value)?) {
            self.key(&prefix, key, value, to, &[])?;
        }
        Ok(())
    }

    fn key<T: Table>(
        &self,
        prefix: &str,
        key: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
        to: &mut T,
        tables: &[&'static str],
    ) -> Result<(), ConfigError> {
        let place = self.place(key.span());
        let origin = Origin::File(place.clone());
        to.take(key.get_ref(), value.get_ref(), origin)
            .map_err(|refused| match refused {
                Refused::Unknown => self.unknown(prefix, key, [T::KEYS, tables].concat()),
                Refused::Expected(expected) => ConfigError::BadValue {
                    place,
                    key: format!("{prefix}{}", key.get_ref()),
                    expected,
                    found: self.found(value),
                },
            })
    }

    /// A value as it was written, or what it is where that is long.
    fn found(&self, value: &Spanned<DeValue<'_>>) -> String {
        match self.text.get(value.span()) {
            Some(text) if text.len() <= 60 && !text.contains('\n') => text.to_owned(),
            _ => format!("this {}", value.get_ref().type_str()),
        }
    }

    fn unknown(
        &self,
        prefix: &str,
        key: &Spanned<DeString<'_>>,
        known: Vec<&'static str>,
    ) -> ConfigError {
        let word = key.get_ref();
        let nearest = nearest(word, &known).map(|name| format!("{prefix}{name}"));
        ConfigError::UnknownKey {
            place: self.place(key.span()),
            key: format!("{prefix}{word}"),
            nearest,
            known,
        }
    }
}

#[cfg(test)]
mod tests;
