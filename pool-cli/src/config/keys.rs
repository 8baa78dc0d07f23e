//! All keys, with their types and defaults.

use std::path::PathBuf;
use std::time::Duration;

use dmthin::graph::{CreatePool, MonitorPolicy, OnFull};
use dmthin::ids::{FsType, PoolName};
use dmthin::store::WhenFull;
use dmthin::units::{BlockSize, Bytes, GrowthPercent, Percent};
use toml::de::DeValue;

use crate::config::value::{Given, Origin, Row, Setting, Threshold};

/// Why a key was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is none of that name.
    Unknown,
    /// It must be this.
    Expected(&'static str),
}

/// The keys of a table, as far as somebody gave them.
pub(crate) trait Table: Default + Clone {
    /// What they come to.
    type Settings;
    /// Their names.
    const KEYS: &'static [&'static str];
    /// Takes a key; it replaces what was given before.
    fn take(&mut self, key: &str, value: &DeValue<'_>, origin: Origin) -> Result<(), Refused>;
    /// These, and `below` where none is given.
    fn over(self, below: &Self) -> Self;
    /// The values, with the defaults where none is given.
    fn settings(&self) -> Self::Settings;
    /// A row for each key, its name after `prefix`.
    fn rows(&self, prefix: &str, settings: &Self::Settings) -> Vec<Row>;
}

macro_rules! table {
    ($(#[$doc:meta])* $settings:ident from $table:ident {
        $($(#[$key_doc:meta])* $key:ident: $type:ty = $default:expr;)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(crate) struct $settings {
            $($(#[$key_doc])* pub(crate) $key: $type,)*
        }

        impl Default for $settings {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }

        /// What was given of it.
        #[derive(Debug, Clone, Default)]
        pub(crate) struct $table {
            $($(#[$key_doc])* pub(crate) $key: Option<Given<$type>>,)*
        }

        impl Table for $table {
            type Settings = $settings;
            const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];

            fn take(
                &mut self,
                key: &str,
                value: &DeValue<'_>,
                origin: Origin,
            ) -> Result<(), Refused> {
                match key {
                    $(stringify!($key) => {
                        let expected = Refused::Expected(<$type>::EXPECTED);
                        let value = Setting::read(value).ok_or(expected)?;
                        self.$key = Some(Given { value, origin });
                    })*
                    _ => return Err(Refused::Unknown),
                }
                Ok(())
            }

            fn over(self, below: &Self) -> Self {
                Self { $($key: self.$key.or_else(|| below.$key.clone()),)* }
            }

            fn settings(&self) -> $settings {
                let mut settings = $settings::default();
                $(if let Some(given) = &self.$key {
                    settings.$key = given.value.clone();
                })*
                settings
            }

            fn rows(&self, prefix: &str, settings: &$settings) -> Vec<Row> {
                vec![$(Row::new(
                    format!("{prefix}{}", stringify!($key)),
                    &settings.$key,
                    self.$key.as_ref(),
                )),*]
            }
        }
    };
}

table! {
    /// What stands before all tables.
    TopSettings from TopTable {
        /// Directory that holds the state of all pools.
        root: PathBuf = PathBuf::from("/var/lib/dmthin");
        /// The pool to work on.
        pool: Option<PoolName> = None;
    }
}

table! {
    /// `[create]`: what `pool create` makes where its options say nothing else.
    CreateSettings from CreateTable {
        /// Size of the data file.
        size: Bytes = CreatePool::DEFAULT_SIZE;
        /// Size of the metadata file, else what the data size needs.
        metadata_size: Option<Bytes> = None;
        /// The unit of allocation.
        block_size: BlockSize = BlockSize::DEFAULT;
        /// Size of the base volume.
        base_size: Bytes = CreatePool::DEFAULT_BASE_SIZE;
        /// File system of all volumes.
        fs: FsType = FsType::Ext4;
        /// More arguments for mkfs.
        mkfs_args: Vec<String> = Vec::new();
        /// Whether new blocks are not zeroed.
        single_tenant: bool = false;
        /// Share of the data that must stay free for something new to be made.
        min_free_data: Percent = Percent::TENTH;
        /// The same of the metadata.
        min_free_metadata: Percent = Percent::TENTH;
        /// What a full pool does.
        on_full: WhenFull = WhenFull::Queue;
    }
}

table! {
    /// `[monitor]`, and `[pools.NAME.monitor]` for one pool: what the monitor does with a pool.
    MonitorSettings from MonitorTable {
        /// How full the pool gets before it is grown.
        autoextend_threshold: Threshold = Threshold::new(MonitorPolicy::default().autoextend_threshold);
        /// By how much it is grown.
        autoextend_percent: GrowthPercent = GrowthPercent::FIFTH;
        /// Its data are grown no further than this.
        max_size: Option<Bytes> = None;
        /// Its metadata are grown no further than this.
        max_metadata_size: Option<Bytes> = None;
        /// How often it is looked at without an event of the kernel.
        net_interval: Duration = MonitorPolicy::default().net;
        /// What is done when it is full and cannot grow.
        on_full: Option<OnFull> = None;
        /// Share left at which the ballast is let go and containers are held.
        red_line: Percent = MonitorPolicy::default().red_line;
        /// Program that is run when something happens.
        hook: Option<PathBuf> = None;
        /// File that metrics are written to.
        metrics_file: Option<PathBuf> = None;
        /// Whether LVM volumes below the pool are made larger.
        lvextend: bool = false;
    }
}
