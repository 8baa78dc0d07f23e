//! `scripts/install`, and what it installs: systemd reads the units and has nothing to say.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::{COMMANDS, text};

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn install(destdir: &Path, more: &[&str]) -> Output {
    Command::new(workspace().join("scripts/install"))
        .args(["--binary", env!("CARGO_BIN_EXE_pool-cli"), "--destdir"])
        .arg(destdir)
        .args(more)
        .output()
        .unwrap()
}

fn installed(more: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let output = install(dir.path(), more);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stdout), "");
    assert_eq!(text(&output.stderr), "");
    dir
}

fn files_below(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let inside = path.strip_prefix(root).unwrap();
                found.push(inside.to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn units(root: &Path) -> Vec<PathBuf> {
    let dir = root.join("usr/local/lib/systemd/system");
    let mut units: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    units.sort();
    units
}

/// `systemd-analyze verify` of the units, among copies of the system's own.
fn verify(root: &Path) -> Output {
    let system = root.join("usr/lib/systemd");
    if !system.exists() {
        fs::create_dir_all(&system).unwrap();
        let copied = Command::new("cp")
            .args(["-a", "/usr/lib/systemd/system"])
            .arg(&system)
            .status()
            .unwrap();
        assert!(copied.success());
    }
    Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--root"])
        .arg(root)
        .args(units(root))
        .output()
        .expect("systemd-analyze is needed: scripts/setup installs it")
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    let dir = installed(&[]);
    let root = dir.path();
    assert_eq!(units(root).len(), 6);
    let output = verify(root);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stderr), "");

    // It would say so: each of these is a unit that it must not like.
    for (unit, from, to) in [
        (
            "dmthin-pool@.service",
            "RemainAfterExit",
            "RemainsAfterExit",
        ),
        ("dmthin-trim@.timer", "=weekly", "=wekly"),
        ("dmthin-gc@.service", "/bin/pool-cli", "/bin/pool-clu"),
    ] {
        let file = root.join("usr/local/lib/systemd/system").join(unit);
        let sound = fs::read_to_string(&file).unwrap();
        assert!(sound.contains(from), "{unit}");
        fs::write(&file, sound.replace(from, to)).unwrap();
        let output = verify(root);
        assert!(
            text(&output.stderr).contains(unit.split('@').next().unwrap()),
            "{output:?}"
        );
        fs::write(&file, sound).unwrap();
    }
}

#[test]
fn units_run_what_was_installed_and_name_pages_that_were() {
    let dir = installed(&["--prefix", "/usr"]);
    let root = dir.path();
    let system = root.join("usr/lib/systemd/system");
    for entry in fs::read_dir(system).unwrap() {
        let unit = fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in unit.lines() {
            if let Some(command) = line.strip_prefix("Exec") {
                assert!(command.contains("=/usr/bin/pool-cli "), "{line}");
            }
            if let Some(page) = line.strip_prefix("Documentation=man:") {
                let page = page.strip_suffix("(8)").unwrap();
                let page = root.join(format!("usr/share/man/man8/{page}.8"));
                assert!(page.exists(), "{line}");
            }
        }
    }
    let before = "Before=containerd.service docker.service kubelet.service\n";
    let pool = root.join("usr/lib/systemd/system/dmthin-pool@.service");
    assert!(fs::read_to_string(pool).unwrap().contains(before));
}

#[test]
fn everything_is_installed_and_taken_away_again() {
    let dir = installed(&[]);
    let root = dir.path();
    let found = files_below(root);
    let mut wanted: Vec<String> = [
        "etc/dmthin/config.toml",
        "usr/local/bin/pool-cli",
        "usr/local/lib/systemd/system/dmthin-gc@.service",
        "usr/local/lib/systemd/system/dmthin-gc@.timer",
        "usr/local/lib/systemd/system/dmthin-monitor@.service",
        "usr/local/lib/systemd/system/dmthin-pool@.service",
        "usr/local/lib/systemd/system/dmthin-trim@.service",
        "usr/local/lib/systemd/system/dmthin-trim@.timer",
        "usr/local/lib/udev/rules.d/11-dm-dmthin.rules",
        "usr/local/share/bash-completion/completions/pool-cli",
        "usr/local/share/doc/dmthin/config.toml",
        "usr/local/share/doc/dmthin/dmthin-filter.conf",
        "usr/local/share/doc/dmthin/dmthin.rules.yml",
        "usr/local/share/doc/dmthin/installed",
        "usr/local/share/fish/vendor_completions.d/pool-cli.fish",
        "usr/local/share/zsh/site-functions/_pool-cli",
    ]
    .map(str::to_owned)
    .into();
    wanted.extend(COMMANDS.iter().map(|words| {
        let name = format!("pool-cli {words}").trim().replace(' ', "-");
        format!("usr/local/share/man/man8/{name}.8")
    }));
    wanted.sort();
    assert_eq!(found, wanted);
    let mode = |file: &str| fs::metadata(root.join(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("usr/local/bin/pool-cli"), 0o755);
    assert_eq!(mode("etc/dmthin/config.toml"), 0o644);

    // Settings that somebody changed are theirs, when installed again and when taken away.
    let config = root.join("etc/dmthin/config.toml");
    fs::write(&config, "pool = \"tank\"\n").unwrap();
    assert_eq!(install(root, &[]).status.code(), Some(0));
    assert_eq!(fs::read_to_string(&config).unwrap(), "pool = \"tank\"\n");
    let output = install(root, &["--uninstall"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(files_below(root), ["etc/dmthin/config.toml"]);
    let output = install(root, &["--uninstall"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        text(&output.stderr).contains("nothing is installed"),
        "{output:?}"
    );

    let untouched = installed(&[]);
    assert_eq!(
        install(untouched.path(), &["--uninstall"]).status.code(),
        Some(0)
    );
    assert_eq!(files_below(untouched.path()), Vec::<String>::new());
}

#[test]
fn a_wrong_line_shows_the_usage() {
    let dir = tempfile::tempdir().unwrap();
    let output = install(dir.path(), &["--prefx"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("--uninstall"), "{output:?}");
    assert_eq!(files_below(dir.path()), Vec::<String>::new());
}
