//! Every command keeps the same manners, and needs neither root nor device-mapper to show it.
//!
//! A new command is a line in [`conformance!`]; its help is kept in `tests/golden/`, written anew
//! with `UPDATE_GOLDEN=1 cargo test -p pool-cli`.

#![allow(clippy::unwrap_used, reason = "test helper")]

mod colour;
mod config;
mod install;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn command(root: &Path, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pool-cli"));
    command
        .env_clear()
        // Not the settings of the machine that the tests run on.
        .env("DMTHIN_CONFIG", "/dev/null")
        .arg("--root")
        .arg(root)
        .args(words.split_whitespace())
        .stdin(Stdio::null());
    command
}

fn run(root: &Path, words: &str) -> Output {
    command(root, words).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[track_caller]
fn assert_usage_error(root: &Path, words: &str) {
    let output = run(root, words);
    assert_eq!(output.status.code(), Some(2), "{words}: {output:?}");
    let stderr = text(&output.stderr);
    assert!(stderr.contains("Usage: pool-cli"), "{words}: {stderr}");
    assert_eq!(text(&output.stdout), "", "{words}");
    assert_untouched(root);
}

#[track_caller]
fn assert_untouched(root: &Path) {
    let left: Vec<PathBuf> = fs::read_dir(root)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new());
}

fn updating() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

/// The help is what the golden file says.
fn help(words: &str) {
    let root = tempfile::tempdir().unwrap();
    let output = run(root.path(), &format!("{words} --help"));
    assert_eq!(output.status.code(), Some(0));
    let name = format!("pool-cli {words}").trim().replace(' ', "-");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.txt"));
    let help = text(&output.stdout);
    if updating() {
        fs::write(&golden, help).unwrap();
    }
    let kept = fs::read_to_string(&golden).unwrap_or_default();
    assert!(
        help == kept,
        "{words} --help differs from {}; if it is meant to, run with UPDATE_GOLDEN=1:\n{help}",
        golden.display()
    );
}

/// A reader that goes away is no error.
fn closed_stdout(words: &str) {
    let root = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command(root.path(), words)
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stderr), "");
}

fn unknown_flag(words: &str, args: &str) {
    let root = tempfile::tempdir().unwrap();
    assert_usage_error(root.path(), &format!("{words} {args} --no-such-flag"));
    let output = run(
        root.path(),
        &format!("--json {words} {args} --no-such-flag"),
    );
    let error = json_error(&output);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(error["code"], "usage");
    assert_eq!(
        error["message"],
        "unexpected argument '--no-such-flag' found"
    );
}

/// Without each of its arguments, from the last, the command is refused.
fn missing_arguments(words: &str, args: &str) {
    let root = tempfile::tempdir().unwrap();
    let args: Vec<&str> = args.split_whitespace().collect();
    for given in 0..args.len() {
        let line = format!("{words} {}", args.get(..given).unwrap().join(" "));
        assert_usage_error(root.path(), &line);
    }
}

/// The one JSON object on stderr.
#[track_caller]
fn json_error(output: &Output) -> Value {
    let stderr = text(&output.stderr);
    let value: Value = serde_json::from_str(stderr).unwrap_or_else(|e| panic!("{e}: {stderr}"));
    assert_eq!(value["schema"], "dmthin/v1");
    assert!(value["error"].get("hint").is_some(), "{value}");
    assert_eq!(stderr.lines().count(), 1);
    assert_eq!(text(&output.stdout), "");
    value["error"].clone()
}

fn missing_pool(words: &str, args: &str) {
    let root = tempfile::tempdir().unwrap();
    // The verbs of `pool` name theirs; the others take it from --pool.
    let line = if words.starts_with("pool ") || words == "monitor" {
        match args.strip_prefix("tank") {
            Some(rest) => format!("{words} nope{rest}"),
            None => format!("{words} nope"),
        }
    } else {
        format!("{words} {args} --pool nope")
    };
    let output = run(root.path(), &line);
    assert_eq!(output.status.code(), Some(3), "{line}: {output:?}");
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with("pool-cli: "), "{line}: {stderr}");
    assert!(stderr.contains("nope"), "{line}: {stderr}");
    let rest: Vec<&str> = stderr.lines().skip(1).collect();
    assert!(
        rest.len() < 2 && rest.iter().all(|line| line.starts_with("hint: ")),
        "{line}: {stderr}"
    );
    assert_eq!(text(&output.stdout), "");
    assert_untouched(root.path());

    let output = run(root.path(), &format!("{line} --json"));
    assert_eq!(output.status.code(), Some(3), "{line}: {output:?}");
    let error = json_error(&output);
    assert_eq!(error["code"], "not_found");
    assert!(
        error["message"].as_str().unwrap().contains("nope"),
        "{error}"
    );
    assert_untouched(root.path());
}

macro_rules! in_pool {
    (InPool, $words:literal, $args:literal) => {
        #[test]
        fn a_pool_that_is_not_there_is_told() {
            crate::missing_pool($words, $args);
        }
    };
    ($other:ident, $words:literal, $args:literal) => {};
}

/// Name of the tests, words of the command, the arguments it must have, and whether it works
/// `InPool`, in a pool that must exist, is a `Noun` that wants a verb, or neither: `Free`.
macro_rules! conformance {
    ($($test:ident: $words:literal, $args:literal, $kind:ident;)*) => {
        $(mod $test {
            #[test]
            fn help_is_the_golden_one() {
                crate::help($words);
            }

            #[test]
            fn a_closed_stdout_is_no_error() {
                crate::closed_stdout(concat!($words, " --help"));
            }

            #[test]
            fn a_wrong_line_is_a_usage_error() {
                crate::unknown_flag($words, $args);
                crate::missing_arguments($words, $args);
                if stringify!($kind) == "Noun" {
                    crate::missing_arguments($words, "verb");
                }
            }

            in_pool!($kind, $words, $args);
        })*

        /// Words of every command.
        const COMMANDS: &[&str] = &[$($words),*];
    };
}

conformance! {
    top: "", "", Noun;
    pool: "pool", "", Noun;
    pool_create: "pool create", "tank", Free;
    pool_list: "pool list", "", Free;
    pool_status: "pool status", "", InPool;
    pool_open: "pool open", "tank", InPool;
    pool_grow: "pool grow", "", InPool;
    pool_set: "pool set", "tank --min-free-data=5", InPool;
    pool_close: "pool close", "tank", InPool;
    pool_ballast: "pool ballast", "", Noun;
    pool_ballast_make: "pool ballast make", "tank --size=1G", InPool;
    pool_ballast_release: "pool ballast release", "", InPool;
    pool_trim: "pool trim", "", InPool;
    pool_map: "pool map", "tank --output=map.svg", InPool;
    pool_repair: "pool repair", "tank", InPool;
    pool_recover: "pool recover", "tank --rebuild", InPool;
    pool_backup_metadata: "pool backup-metadata", "", InPool;
    pool_destroy: "pool destroy", "tank", InPool;
    base: "base", "", Noun;
    base_grow: "base grow", "20G", InPool;
    image: "image", "", Noun;
    image_import: "image import", "-", InPool;
    image_list: "image list", "", InPool;
    image_tree: "image tree", "", InPool;
    image_history: "image history", "debian:12", InPool;
    image_inspect: "image inspect", "debian:12", InPool;
    image_export: "image export", "debian:12", InPool;
    image_diff: "image diff", "debian:12 web:2", InPool;
    image_tag: "image tag", "debian:12 debian:stable", InPool;
    image_untag: "image untag", "debian:stable", InPool;
    image_prune: "image prune", "", InPool;
    image_verify: "image verify", "debian:12", InPool;
    image_rm: "image rm", "debian:12", InPool;
    layer: "layer", "", Noun;
    layer_list: "layer list", "", InPool;
    layer_apply: "layer apply", "debian:12 -", InPool;
    layer_diff: "layer diff", "debian:12 web:2", InPool;
    layer_inspect: "layer inspect", "debian:12", InPool;
    container: "container", "", Noun;
    container_create: "container create", "debian:12", InPool;
    container_list: "container list", "", InPool;
    container_inspect: "container inspect", "web", InPool;
    container_diff: "container diff", "web", InPool;
    container_mount: "container mount", "web /mnt", InPool;
    container_commit: "container commit", "web", InPool;
    container_grow: "container grow", "web 20G", InPool;
    container_umount: "container umount", "web", InPool;
    container_trim: "container trim", "web", InPool;
    container_who: "container who", "web", InPool;
    container_fork: "container fork", "web", InPool;
    container_snapshot: "container snapshot", "web", InPool;
    container_snapshots: "container snapshots", "web", InPool;
    container_snapshot_rm: "container snapshot-rm", "web s1", InPool;
    container_rollback: "container rollback", "web s1", InPool;
    container_reset: "container reset", "web", InPool;
    container_rm: "container rm", "web", InPool;
    volume: "volume", "", Noun;
    volume_create: "volume create", "db 1G", InPool;
    volume_list: "volume list", "", InPool;
    volume_inspect: "volume inspect", "db", InPool;
    volume_mount: "volume mount", "db /mnt", InPool;
    volume_umount: "volume umount", "db", InPool;
    volume_grow: "volume grow", "db 2G", InPool;
    volume_trim: "volume trim", "db", InPool;
    volume_who: "volume who", "db", InPool;
    volume_snapshot: "volume snapshot", "db", InPool;
    volume_snapshots: "volume snapshots", "db", InPool;
    volume_snapshot_rm: "volume snapshot-rm", "db s1", InPool;
    volume_rollback: "volume rollback", "db s1", InPool;
    volume_rm: "volume rm", "db", InPool;
    device: "device", "", Noun;
    device_list: "device list", "", Free;
    device_inspect: "device inspect", "dmthin-tank-pool", Free;
    queue: "queue", "", Noun;
    queue_list: "queue list", "", InPool;
    queue_run: "queue run", "", InPool;
    queue_cancel: "queue cancel", "web", InPool;
    who: "who", "web", InPool;
    trim: "trim", "web", InPool;
    monitor: "monitor", "", InPool;
    config_noun: "config", "", Noun;
    config_show: "config show", "", Free;
    config_check: "config check", "", Free;
    df: "df", "", InPool;
    check: "check", "", InPool;
    gc: "gc", "", InPool;
    doctor: "doctor", "", Free;
    explain: "explain", "", Free;
    completions: "completions", "bash", Free;
    man: "man", "/nonexistent", Free;
}

#[test]
fn every_command_is_in_the_table_and_has_a_page() {
    let root = tempfile::tempdir().unwrap();
    let pages = tempfile::tempdir().unwrap();
    let dir = pages.path().join("new/man8");
    let output = run(root.path(), &format!("man {} --json", dir.display()));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
    let told: Vec<&str> = reply["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file.as_str().unwrap())
        .collect();
    let wanted: Vec<String> = COMMANDS
        .iter()
        .map(|words| format!("pool-cli {words}").trim().replace(' ', "-"))
        .map(|name| dir.join(format!("{name}.8")).display().to_string())
        .collect();
    assert_eq!(told, wanted);
    for (page, words) in wanted.iter().zip(COMMANDS) {
        let page = fs::read_to_string(page).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{words}");
    }
    assert_untouched(root.path());
}

#[test]
fn every_golden_file_has_a_command() {
    if updating() {
        // The other tests are writing them just now.
        return;
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut found: Vec<String> = fs::read_dir(golden)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    let mut wanted: Vec<String> = COMMANDS
        .iter()
        .map(|words| format!("pool-cli {words}").trim().replace(' ', "-") + ".txt")
        .collect();
    wanted.sort();
    assert_eq!(found, wanted);
}

#[test]
fn pages_are_not_written_over_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    let root = tempfile::tempdir().unwrap();
    let output = run(root.path(), &format!("man {}", file.display()));
    assert_eq!(output.status.code(), Some(1));
    let expected = format!(
        "pool-cli: cannot make the directory {}: File exists (os error 17)\n",
        file.display()
    );
    assert_eq!(text(&output.stderr), expected);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}

#[test]
fn completions_know_every_verb() {
    let root = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = run(root.path(), &format!("completions {shell}"));
        assert_eq!(output.status.code(), Some(0));
        let script = text(&output.stdout);
        for words in COMMANDS {
            let word = words.split(' ').next_back().unwrap();
            assert!(script.contains(word), "{shell}: {word}");
        }
        assert!(script.contains("single-tenant"), "{shell}");
    }
    let output = run(root.path(), "completions tcsh");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_code_is_explained_by_number_and_by_word() {
    let root = tempfile::tempdir().unwrap();
    let page = run(root.path(), "explain 6");
    assert_eq!(page.status.code(), Some(0), "{page:?}");
    assert!(text(&page.stdout).starts_with("6 no_data_space: there is no room for data\n"));
    assert_eq!(
        run(root.path(), "explain no_data_space").stdout,
        page.stdout
    );
    let all = run(root.path(), "explain");
    assert_eq!(text(&all.stdout).lines().count(), 14);
    let one = run(root.path(), "explain retry --json");
    let reply: Value = serde_json::from_slice(&one.stdout).unwrap();
    assert_eq!(reply["schema"], "dmthin/v1");
    assert_eq!(reply["codes"][0]["exit"], 75);
    assert_eq!(reply["codes"][0]["code"], "retry");
    assert!(reply["codes"][0]["remedies"][0].is_string(), "{reply}");
    let unknown = run(root.path(), "explain 12");
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
    assert!(
        text(&unknown.stderr).contains("no exit code"),
        "{unknown:?}"
    );
}

#[test]
fn an_empty_root_has_no_pools() {
    let root = tempfile::tempdir().unwrap();
    let output = run(root.path(), "pool list");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        text(&output.stdout),
        "NAME  STATE  SIZE  IMAGES  CONTAINERS  PROBLEM\n"
    );
    let output = run(root.path(), "pool list --json");
    assert_eq!(
        text(&output.stdout),
        "{\"schema\":\"dmthin/v1\",\"pools\":[]}\n"
    );
    let output = run(root.path(), "pool list -q");
    assert_eq!(text(&output.stdout), "");
    let output = run(root.path(), "image list");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_untouched(root.path());
}

#[test]
fn a_result_that_nobody_reads_is_no_error() {
    for words in [
        "pool list",
        "pool list --json",
        "completions zsh",
        "--version",
    ] {
        closed_stdout(words);
    }
}

#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    for words in ["pool list", "completions bash", "--help", "--version"] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = command(root.path(), words)
            .stdout(full)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert_eq!(
            text(&output.stderr),
            "pool-cli: cannot write the result to stdout: No space left on device (os error 28)\n"
        );
    }
}

#[test]
fn bad_values_are_usage_errors_that_say_why() {
    let root = tempfile::tempdir().unwrap();
    for (words, why) in [
        ("pool create a/b", "\"a/b\" is not a pool name"),
        ("pool create tank --size 10X", "\"10X\" is not a size"),
        ("pool create tank --size 0", "a size is more than 0"),
        (
            "pool create tank --block-size 65K",
            "65 KiB is not a block size of a thin pool",
        ),
        (
            "pool create tank --fs btrfs",
            "\"btrfs\" is not a file system we make",
        ),
        (
            "pool create tank --storage-opt dm.thinpooldev=x",
            "dm.thinpooldev is refused",
        ),
        (
            "pool create tank --fs xfs --storage-opt dm.fs=xfs",
            "dm.fs cannot be used twice or together with --fs",
        ),
        (
            "container create debian --name ..",
            "\"..\" is not a container name",
        ),
        ("container create debian --size -1", "unexpected argument"),
        (
            "image import - --name \u{e9}",
            "\"\u{e9}\" is not an image name",
        ),
        (
            "pool status tank --pool ../x",
            "\"../x\" is not a pool name",
        ),
    ] {
        let output = run(root.path(), words);
        assert_eq!(output.status.code(), Some(2), "{words}: {output:?}");
        let stderr = text(&output.stderr);
        assert!(stderr.contains(why), "{words}: {stderr}");
        assert_untouched(root.path());
    }
}

#[test]
fn the_pool_is_taken_from_the_line_before_the_environment() {
    let root = tempfile::tempdir().unwrap();
    for (words, wanted) in [
        ("pool status", "from-env"),
        ("pool status --pool from-flag", "from-flag"),
        ("pool status from-name", "from-name"),
        ("pool status from-name --pool from-flag", "from-name"),
        ("image list --pool from-flag", "from-flag"),
        ("container list", "from-env"),
    ] {
        let output = command(root.path(), words)
            .env("DMTHIN_POOL", "from-env")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(3), "{words}");
        let stderr = text(&output.stderr);
        assert!(stderr.contains(wanted), "{words}: {stderr}");
    }
}

#[test]
fn the_root_is_taken_from_the_line_before_the_environment() {
    let [root, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let show = |command: &mut Command| {
        let output = command
            .env_clear()
            .env("DMTHIN_ROOT", other.path())
            .env("DMTHIN_CONFIG", "/dev/null")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        text(&output.stderr).to_owned()
    };
    let shown = show(&mut command(root.path(), "pool status nope"));
    assert!(shown.contains(root.path().to_str().unwrap()), "{shown}");
    let mut bare = Command::new(env!("CARGO_BIN_EXE_pool-cli"));
    let shown = show(bare.args(["pool", "status", "nope"]));
    assert!(shown.contains(other.path().to_str().unwrap()), "{shown}");
}
