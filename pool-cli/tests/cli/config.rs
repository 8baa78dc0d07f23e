//! Settings from files, environment and command line.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::{assert_untouched, command, json_error, run, text};

/// A root, and a file of settings outside of it.
fn with_config(content: &str) -> (TempDir, TempDir, PathBuf) {
    let [root, dir] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let file = dir.path().join("config.toml");
    fs::write(&file, content).unwrap();
    (root, dir, file)
}

fn show(root: &Path, words: &str) -> Vec<(String, Value, Value)> {
    let output = run(root, &format!("config show --json {words}"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(reply["schema"], "dmthin/v1");
    let rows = reply["settings"].as_array().unwrap().iter();
    rows.map(|row| {
        let key = row["key"].as_str().unwrap().to_owned();
        (key, row["value"].clone(), row["origin"].clone())
    })
    .collect()
}

#[test]
fn a_bad_file_is_one_line_and_exit_code_2_for_every_command() {
    let (root, _dir, file) = with_config("root = \"/r\"\n[create]\nsise = \"1G\"\n");
    let told = format!(
        "{}:3: unknown key create.sise: did you mean create.size?",
        file.display()
    );
    for words in [
        "pool list",
        "pool create tank",
        "pool status",
        "doctor",
        "config show",
        "config check",
    ] {
        let line = format!("{words} --config {}", file.display());
        let output = run(root.path(), &line);
        assert_eq!(output.status.code(), Some(2), "{line}: {output:?}");
        assert_eq!(text(&output.stderr), format!("pool-cli: {told}\n"));
        assert_eq!(text(&output.stdout), "");
        assert_untouched(root.path());
        let output = run(root.path(), &format!("{line} --json"));
        assert_eq!(output.status.code(), Some(2), "{line}: {output:?}");
        let error = json_error(&output);
        assert_eq!(error["code"], "usage");
        assert_eq!(error["message"], told);
    }
    let by_name = run(root.path(), &format!("config check {}", file.display()));
    assert_eq!(text(&by_name.stderr), format!("pool-cli: {told}\n"));
    for words in ["completions bash", "config check /dev/null", "--version"] {
        let output = run(root.path(), &format!("--config {} {words}", file.display()));
        assert_eq!(output.status.code(), Some(0), "{words}: {output:?}");
    }
}

#[test]
fn a_file_that_is_missing_is_an_error_where_it_was_named() {
    let root = tempfile::tempdir().unwrap();
    let told = "pool-cli: cannot read the configuration /nonexistent/c.toml: \
                No such file or directory (os error 2)\n";
    let output = run(root.path(), "pool list --config /nonexistent/c.toml");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(text(&output.stderr), told);
    let mut by_variable = command(root.path(), "pool list");
    let output = by_variable
        .env("DMTHIN_CONFIG", "/nonexistent/c.toml")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(text(&output.stderr), told);
}

#[test]
fn a_flag_wins_over_a_variable_and_that_over_a_file() {
    let (root, _dir, file) = with_config("pool = \"from-file\"\n");
    let file = file.display();
    for (words, variable, wanted, from) in [
        ("", None, "from-file", "file"),
        ("", Some("from-env"), "from-env", "environment"),
        ("--pool from-flag", Some("from-env"), "from-flag", "flag"),
    ] {
        let line = format!("--config {file} {words}");
        let mut status = command(root.path(), &format!("{line} pool status"));
        let mut shown = command(root.path(), &format!("{line} config show --json"));
        for command in [&mut status, &mut shown] {
            if let Some(variable) = variable {
                command.env("DMTHIN_POOL", variable);
            }
        }
        let output = status.output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(text(&output.stderr).contains(wanted), "{output:?}");
        let reply: Value = serde_json::from_slice(&shown.output().unwrap().stdout).unwrap();
        assert_eq!(reply["settings"][1]["value"], wanted);
        assert_eq!(reply["settings"][1]["origin"]["from"], from);
    }
}

#[test]
fn the_root_can_come_from_a_file() {
    let [root, dir] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let file = dir.path().join("c.toml");
    fs::write(&file, format!("root = \"{}\"\n", root.path().display())).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_pool-cli"))
        .env_clear()
        .env("DMTHIN_CONFIG", &file)
        .args(["pool", "status", "nope"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let stderr = text(&output.stderr);
    assert!(stderr.contains(root.path().to_str().unwrap()), "{stderr}");
}

#[test]
fn what_is_shown_says_where_it_comes_from() {
    let (root, dir, file) = with_config("[create]\nsize = \"5G\"\n[monitor]\nlvextend = true\n");
    fs::create_dir(dir.path().join("conf.d")).unwrap();
    let tank = dir.path().join("conf.d/tank.toml");
    fs::write(&tank, "[pools.tank.monitor]\nmax_size = \"1T\"\n").unwrap();
    let line = format!("--config {}", file.display());
    let find = |rows: &[(String, Value, Value)], key: &str| {
        let row = rows.iter().find(|(name, _, _)| name == key).unwrap();
        (row.1.clone(), row.2.clone())
    };
    let rows = show(root.path(), &line);
    assert_eq!(rows.len(), 23);
    let (value, origin) = find(&rows, "create.size");
    assert_eq!(value, 5_u64 << 30);
    assert_eq!(
        origin,
        serde_json::json!({"from": "file", "file": file.to_str().unwrap(), "line": 2})
    );
    let (value, origin) = find(&rows, "root");
    assert_eq!(value, root.path().to_str().unwrap());
    assert_eq!(
        origin,
        serde_json::json!({"from": "flag", "flag": "--root"})
    );
    assert_eq!(find(&rows, "monitor.max_size").0, Value::Null);
    assert_eq!(find(&rows, "pools.tank.monitor.max_size").0, 1_u64 << 40);

    let rows = show(root.path(), &format!("{line} --pool tank"));
    assert_eq!(rows.len(), 22);
    assert_eq!(find(&rows, "monitor.max_size").0, 1_u64 << 40);
    assert_eq!(find(&rows, "monitor.lvextend").0, true);

    let output = run(root.path(), &format!("{line} config show --origin"));
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    assert!(lines[0].starts_with("KEY "), "{lines:?}");
    let words = |key: &str| -> Vec<&str> {
        let line = lines.iter().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().collect()
    };
    let origin = format!("{}:2", file.display());
    assert_eq!(words("create.size "), ["create.size", "\"5G\"", &origin]);
    assert_eq!(words("create.fs "), ["create.fs", "\"ext4\"", "default"]);
    let output = run(root.path(), &format!("{line} config show"));
    assert!(!text(&output.stdout).contains("default"), "{output:?}");

    let output = run(root.path(), &format!("{line} config check"));
    assert_eq!(
        text(&output.stdout),
        format!("{}: ok\n{}: ok\n", file.display(), tank.display())
    );
}

/// The help tells the built-in defaults in words of its own.
#[test]
fn the_help_tells_the_built_in_defaults() {
    let root = tempfile::tempdir().unwrap();
    let help = run(root.path(), "pool create --help");
    let help = text(&help.stdout)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let rows = show(root.path(), "");
    for (key, option) in [
        ("size", "--size <SIZE>"),
        ("block_size", "--block-size <SIZE>"),
        ("base_size", "--base-size <SIZE>"),
        ("fs", "--fs <TYPE>"),
        ("min_free_data", "--min-free-data <PERCENT>"),
        ("min_free_metadata", "--min-free-metadata <PERCENT>"),
    ] {
        let (_, told) = help.split_once(option).unwrap();
        let (_, told) = told.split_once("[default: ").unwrap();
        let (told, _) = told.split_once(']').unwrap();
        let row = rows.iter().find(|row| row.0 == format!("create.{key}"));
        let value = &row.unwrap().1;
        let wanted = match told {
            "100G" => Value::from(100_u64 << 30),
            "64K" => Value::from(64 << 10),
            "10G" => Value::from(10_u64 << 30),
            "10%" => Value::from(10),
            word => Value::from(word),
        };
        assert_eq!(*value, wanted, "{option}");
    }
}
