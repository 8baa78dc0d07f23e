use dmthin::graph::OnFull;
use dmthin::units::GrowthPercent;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::config::value::{Given, Threshold};

fn settings(texts: &[&str]) -> Result<Settings, ConfigError> {
    let mut settings = Settings::default();
    for (n, text) in texts.iter().enumerate() {
        settings.apply(Path::new(&format!("{n}.toml")), text)?;
    }
    Ok(settings)
}

fn row(settings: &Settings, key: &str) -> (String, Value, String) {
    let rows = settings.rows();
    let row = rows.iter().find(|row| row.key == key).unwrap();
    let value = serde_json::to_value(row).unwrap()["value"].clone();
    (row.text.clone(), value, row.origin.text())
}

const EVERY_KEY: &str = r#"
root = "/srv/pools"
pool = "tank"
[create]
size = "1536M"
metadata_size = 16777216
block_size = "128K"
base_size = "2G"
fs = "xfs"
mkfs_args = ["-m", "crc=1"]
single_tenant = true
min_free_data = "5%"
min_free_metadata = 0
on_full = "error"
[monitor]
autoextend_threshold = "70%"
autoextend_percent = 150
max_size = "1T"
max_metadata_size = "1G"
net_interval = 0x10
on_full = "freeze"
red_line = 3
hook = "/usr/local/bin/hook"
metrics_file = "/run/metrics"
lvextend = true
"#;

#[test]
fn every_key_arrives_and_is_shown_with_its_line() {
    let settings = settings(&[EVERY_KEY]).unwrap();
    let shown: Vec<(String, String, Value)> = settings
        .rows()
        .into_iter()
        .enumerate()
        .map(|(n, row)| {
            let tables = n.saturating_sub(1).min(1) + usize::from(n > 11);
            assert_eq!(row.origin.text(), format!("0.toml:{}", n + 2 + tables));
            let json = serde_json::to_value(&row).unwrap();
            assert_eq!(json["origin"]["file"], "0.toml");
            (row.key, row.text, json["value"].clone())
        })
        .collect();
    let wanted = [
        ("root", "\"/srv/pools\"", json!("/srv/pools")),
        ("pool", "\"tank\"", json!("tank")),
        ("create.size", "\"1536M\"", json!(1_610_612_736)),
        ("create.metadata_size", "\"16M\"", json!(16_777_216)),
        ("create.block_size", "\"128K\"", json!(131_072)),
        ("create.base_size", "\"2G\"", json!(2_147_483_648_u32)),
        ("create.fs", "\"xfs\"", json!("xfs")),
        (
            "create.mkfs_args",
            "[\"-m\", \"crc=1\"]",
            json!(["-m", "crc=1"]),
        ),
        ("create.single_tenant", "true", json!(true)),
        ("create.min_free_data", "5", json!(5)),
        ("create.min_free_metadata", "0", json!(0)),
        ("create.on_full", "\"error\"", json!("error")),
        ("monitor.autoextend_threshold", "70", json!(70)),
        ("monitor.autoextend_percent", "150", json!(150)),
        ("monitor.max_size", "\"1T\"", json!(1_u64 << 40)),
        ("monitor.max_metadata_size", "\"1G\"", json!(1 << 30)),
        ("monitor.net_interval", "16", json!(16)),
        ("monitor.on_full", "\"freeze\"", json!("freeze")),
        ("monitor.red_line", "3", json!(3)),
        (
            "monitor.hook",
            "\"/usr/local/bin/hook\"",
            json!("/usr/local/bin/hook"),
        ),
        (
            "monitor.metrics_file",
            "\"/run/metrics\"",
            json!("/run/metrics"),
        ),
        ("monitor.lvextend", "true", json!(true)),
    ]
    .map(|(key, text, value)| (key.to_owned(), text.to_owned(), value));
    assert_eq!(shown, wanted);
}

#[test]
fn nothing_given_is_the_defaults() {
    let settings = settings(&[]).unwrap();
    assert_eq!(settings.top().root, PathBuf::from("/var/lib/dmthin"));
    assert_eq!(settings.top().pool, None);
    assert_eq!(settings.create(), CreateSettings::default());
    let monitor = settings.monitor(&PoolName::new("tank").unwrap());
    assert_eq!(monitor, MonitorSettings::default());
    assert_eq!(
        monitor
            .autoextend_threshold
            .share()
            .map(|share| share.get()),
        Some(80)
    );
    assert_eq!(monitor.autoextend_percent.get(), 20);
    assert_eq!(monitor.net_interval.as_secs(), 30);
    assert_eq!(monitor.on_full, None);
    assert!(
        settings
            .rows()
            .iter()
            .all(|row| row.origin == Origin::Default)
    );
}

#[test]
fn the_last_file_wins_key_by_key() {
    let settings = settings(&[
        "[create]\nsize = \"1G\"\nmkfs_args = [\"-a\"]\nmetadata_size = \"8M\"",
        "create.size = \"2G\"\n",
        "[create]\nmkfs_args = []\nmetadata_size = \"\"",
    ])
    .unwrap();
    assert_eq!(row(&settings, "create.size").2, "1.toml:1");
    assert_eq!(row(&settings, "create.size").0, "\"2G\"");
    assert_eq!(
        row(&settings, "create.mkfs_args"),
        ("[]".to_owned(), json!([]), "2.toml:2".to_owned())
    );
    assert_eq!(
        row(&settings, "create.metadata_size"),
        ("\"\"".to_owned(), Value::Null, "2.toml:3".to_owned())
    );
}

#[test]
fn a_pools_own_monitor_keys_win_wherever_they_stand() {
    let settings = settings(&[
        "[pools.tank.monitor]\non_full = \"error\"\nautoextend_threshold = 100\n",
        "[monitor]\non_full = \"freeze\"\nautoextend_threshold = 50\nautoextend_percent = 7\n",
    ])
    .unwrap();
    let tank = settings.monitor(&PoolName::new("tank").unwrap());
    assert_eq!(tank.on_full, Some(OnFull::Error));
    assert_eq!(tank.autoextend_threshold, Threshold::new(None));
    assert_eq!(tank.autoextend_percent.get(), 7);
    let other = settings.monitor(&PoolName::new("other").unwrap());
    assert_eq!(other.on_full, Some(OnFull::Freeze));
    assert_eq!(row(&settings, "monitor.on_full").0, "\"freeze\"");
    assert_eq!(
        row(&settings, "pools.tank.monitor.autoextend_threshold"),
        ("100".to_owned(), json!(100), "0.toml:3".to_owned())
    );
    let of_tank = Settings {
        top: TopTable {
            pool: Some(Given {
                value: PoolName::new("tank").ok(),
                origin: Origin::Flag("--pool"),
            }),
            ..TopTable::default()
        },
        ..settings
    };
    assert_eq!(row(&of_tank, "pool").2, "flag --pool");
    assert_eq!(row(&of_tank, "monitor.on_full").0, "\"error\"");
    assert_eq!(row(&of_tank, "monitor.autoextend_percent").2, "1.toml:4");
    assert_eq!(of_tank.rows().len(), 22);
}

#[test]
fn what_is_wrong_is_told_with_file_line_and_key() {
    for (text, told) in [
        (
            "root = \"/a\"\n[create]\n\nsise = 1\n",
            "0.toml:4: unknown key create.sise: did you mean create.size?",
        ),
        (
            "[montior]\n",
            "0.toml:1: unknown key montior: did you mean monitor?",
        ),
        (
            "[create]\nzzzzzzzzzz = 1\n",
            "0.toml:2: unknown key create.zzzzzzzzzz: there are size, metadata_size, block_size, \
             base_size, fs, mkfs_args, single_tenant, min_free_data, min_free_metadata, on_full",
        ),
        (
            "[pools.tank]\nmonitors = 1\n",
            "0.toml:2: unknown key pools.tank.monitors: did you mean pools.tank.monitor?",
        ),
        (
            "[pools.tank.monitor]\nhok = 1\n",
            "0.toml:2: unknown key pools.tank.monitor.hok: did you mean \
             pools.tank.monitor.hook?",
        ),
        (
            "[pools.\"a/b\".monitor]\n",
            "0.toml:1: pools.a/b must be named after a pool: letters, digits and _ . -, at most \
             32, not \"a/b\"",
        ),
        (
            "[create]\nsize = \"10X\"\n",
            "0.toml:2: create.size must be a size of more than 0, as in \"100G\", not \"10X\"",
        ),
        (
            "[create]\nsize = 0\n",
            "0.toml:2: create.size must be a size of more than 0, as in \"100G\", not 0",
        ),
        ("create = 3\n", "0.toml:1: create must be a table, not 3"),
        (
            "[create]\nfs = [\"\"\"\n\n\"\"\"]\n",
            "0.toml:2: create.fs must be \"ext4\" or \"xfs\", not this array",
        ),
        (
            "[monitor]\nlvextend = 1\n",
            "0.toml:2: monitor.lvextend must be true or false, not 1",
        ),
        (
            "[monitor]\nhook = \"bin/x\"\n",
            "0.toml:2: monitor.hook must be a path that begins with /, not \"bin/x\"",
        ),
        (
            "pool = \"a/b\"\n",
            "0.toml:1: pool must be the name of a pool, not \"a/b\"",
        ),
    ] {
        let error = settings(&[text]).unwrap_err();
        assert_eq!(error.to_string(), told);
        assert_eq!(error.code(), dmthin::graph::ErrorCode::Usage);
    }
    let syntax = settings(&["[create]\nsize = \n"]).unwrap_err();
    assert!(
        syntax.to_string().starts_with("0.toml:2: not TOML: "),
        "{syntax}"
    );
    assert!(!syntax.to_string().contains('\n'), "{syntax}");
}

#[test]
fn values_have_bounds() {
    for (line, good) in [
        ("autoextend_threshold = 49", false),
        ("autoextend_threshold = 50", true),
        ("autoextend_threshold = 100", true),
        ("autoextend_threshold = 101", false),
        ("autoextend_threshold = \"+60\"", false),
        ("autoextend_percent = 0", false),
        ("autoextend_percent = 1", true),
        ("autoextend_percent = -1", false),
        ("autoextend_percent = 1.5", false),
        ("autoextend_percent = 4294967296", false),
        ("net_interval = 0", false),
        ("net_interval = 1", true),
        ("net_interval = 86400", true),
        ("net_interval = 86401", false),
        ("net_interval = \"30\"", false),
        ("on_full = \"Queue\"", false),
        ("max_size = \"\"", true),
        ("max_size = false", false),
        ("hook = \"\"", true),
    ] {
        let text = format!("[monitor]\n{line}\n");
        assert_eq!(settings(&[&text]).is_ok(), good, "{line}");
    }
    for line in [
        "block_size = \"96K\"",
        "min_free_data = 100",
        "mkfs_args = [1]",
    ] {
        assert!(
            settings(&[&format!("[create]\n{line}\n")]).is_err(),
            "{line}"
        );
    }
}

fn uncommented(text: &str) -> String {
    text.lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|line| !line.starts_with(' '))
                .unwrap_or(line)
        })
        .fold(String::new(), |text, line| text + line + "\n")
}

proptest! {
    /// Any file is taken or refused, and what is told names a line that it has.
    #[test]
    fn any_text_is_taken_or_refused(text in "([a-z_.=\\[\\]\"0-9 {}#]{0,12}\n){0,6}") {
        if let Err(error) = settings(&[&text]) {
            let told = error.to_string();
            let line: usize = told.split(':').nth(1).unwrap().parse().unwrap();
            prop_assert!(line >= 1 && line.saturating_sub(1) <= text.lines().count().max(1), "{told}");
        }
    }

    /// Of any files, in which some give the pool's value, some the general one, the model says
    /// which of them counts.
    #[test]
    fn files_are_merged_as_the_model_says(
        files in prop::collection::vec((prop::option::of(1_u16..99), prop::option::of(1_u16..99)), 0..6)
    ) {
        let (mut general, mut own) = (20, None);
        let mut texts = Vec::new();
        for (for_all, for_tank) in files {
            let line = |table: &str, n: Option<u16>| n.map_or(String::new(), |n| {
                format!("[{table}]\nautoextend_percent = {n}\n")
            });
            general = for_all.unwrap_or(general);
            own = for_tank.or(own);
            texts.push(line("monitor", for_all) + &line("pools.tank.monitor", for_tank));
        }
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let settings = settings(&texts).unwrap();
        let percent = |pool: &str| {
            settings.monitor(&PoolName::new(pool).unwrap()).autoextend_percent.get()
        };
        prop_assert_eq!(percent("tank"), own.unwrap_or(general));
        prop_assert_eq!(percent("other"), general);
    }

    /// What is shown can be written into a file, and reads the same.
    #[test]
    fn what_is_shown_reads_the_same(
        size in 1_u64.., seconds in 1_u64..=86_400, percent in 1_u64..=1000, words in prop::collection::vec("\\PC*", 0..3)
    ) {
        let given = MonitorTable {
            max_size: Some(Given { value: Some(dmthin::units::Bytes::new(size)), origin: Origin::Default }),
            net_interval: Some(Given { value: std::time::Duration::from_secs(seconds), origin: Origin::Default }),
            autoextend_percent: Some(Given {
                value: GrowthPercent::new(percent).unwrap(), origin: Origin::Default,
            }),
            ..MonitorTable::default()
        };
        let create = CreateTable {
            mkfs_args: Some(Given { value: words, origin: Origin::Default }),
            ..CreateTable::default()
        };
        let mut rows = given.rows("monitor.", &given.settings());
        rows.extend(create.rows("create.", &create.settings()));
        let text = rows.iter().fold(String::new(), |text, row| text + &row.key + " = " + &row.text + "\n");
        let read = settings(&[&text]).unwrap();
        prop_assert_eq!(read.monitor.settings(), given.settings());
        prop_assert_eq!(read.create(), create.settings());
    }
}

/// dist/config.toml shows every key, each commented out with its default.
#[test]
fn the_example_shows_every_default() {
    let example = include_str!("../../../../dist/config.toml");
    assert_eq!(
        settings(&[example]).unwrap().rows(),
        Settings::default().rows()
    );
    let read = settings(&[&uncommented(example)]).unwrap();
    let defaults = Settings::default().rows();
    for (read, default) in read.rows().iter().zip(&defaults) {
        assert_eq!((&read.key, &read.text), (&default.key, &default.text));
        assert!(
            matches!(read.origin, Origin::File(_)),
            "{} is not there",
            read.key
        );
    }
    assert_eq!(read.rows().len(), defaults.len());
}
