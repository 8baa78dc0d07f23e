//! Programs for the guest: static ones from cargo, others with the shared
//! libraries they ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::apt;
use crate::vm::elf::{Elf, is_elf};
use crate::vm::image::Image;

const STATIC_TARGET: &str = "x86_64-unknown-linux-musl";
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";

/// Builds the workspace's binary `name` as a static program; `profile` is
/// cargo's name of one (`dev`, `release`). Returns where it is.
pub fn static_program(package: &str, name: &str, profile: &str) -> Result<PathBuf> {
    let found = cargo(&["build", "-p", package, "--bin", name, "--profile", profile])?;
    let found = found.into_iter().find(|(target, _)| target == name);
    Ok(found
        .with_context(|| format!("cargo built no binary named {name}"))?
        .1)
}

/// Builds the program of an independent witness, in `tests/witness`: a package that stands outside
/// the workspace, for what it needs of the machine, and is linked dynamically. Returns where it is.
pub fn witness_program() -> Result<PathBuf> {
    let directory = apt::workspace().join("tests/witness");
    let target = apt::target_directory().join("witness");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--release", "--locked", "--quiet", "--target-dir"])
        .arg(&target)
        .current_dir(directory);
    apt::run(&mut cargo).context("the witness cannot be built; has scripts/setup run?")?;
    Ok(target.join("release/dm-witness"))
}

/// Builds a package's test binaries as static programs; `arguments` select
/// them as for `cargo test` (`--test system`, `--lib`). Returns their target
/// names and where they are.
pub fn static_tests(
    package: &str,
    profile: &str,
    arguments: &[&str],
) -> Result<Vec<(String, PathBuf)>> {
    let mut all = vec!["test", "--no-run", "-p", package, "--profile", profile];
    all.extend(arguments);
    cargo(&all)
}

fn cargo(arguments: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let (verb, rest) = arguments.split_first().context("no cargo command")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg(verb).args([
        "--target",
        STATIC_TARGET,
        "--message-format=json",
        "--quiet",
    ]);
    let messages = apt::run(cargo.args(rest).current_dir(apt::workspace()))?;
    let mut found = Vec::new();
    for line in messages.lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else {
            continue;
        };
        let name = message
            .pointer("/target/name")
            .and_then(|name| name.as_str());
        let file = message
            .pointer("/executable")
            .and_then(|file| file.as_str());
        if let (Some(name), Some(file)) = (name, file) {
            found.push((name.to_owned(), PathBuf::from(file)));
        }
    }
    ensure!(
        !found.is_empty(),
        "cargo {} built no program",
        arguments.join(" ")
    );
    Ok(found)
}

/// What a program of this machine is to a guest: without what only a debugger reads, which is nine tenths of
/// a program that is built unoptimised, and would be copied at each boot.
fn stripped(host: &Path) -> Result<Vec<u8>> {
    let content = fs::read(host).with_context(|| format!("cannot read {}", host.display()))?;
    if !is_elf(&content) {
        return Ok(content);
    }
    let dir = tempfile::tempdir()?;
    let to = dir.path().join("stripped");
    apt::run(
        Command::new("strip")
            .arg("--strip-debug")
            .arg("-o")
            .arg(&to)
            .arg(host),
    )?;
    Ok(fs::read(to)?)
}

/// Adds a program of this machine, and the libraries its loader would map.
pub(super) fn add_host_program(image: &mut Image, guest: &str, host: &Path) -> Result<()> {
    let content = stripped(host)?;
    image.file(guest, 0o755, &content)?;
    if !is_elf(&content) {
        return Ok(());
    }
    let elf = Elf::parse(&content).with_context(|| format!("in {}", host.display()))?;
    let Some(interpreter) = elf.interpreter else {
        return Ok(());
    };
    image.host_file(&interpreter, Path::new(&interpreter), Some(0o755))?;
    let listing = apt::run(Command::new("ldd").arg(host))?;
    for line in listing.lines() {
        let Some((name, rest)) = line.trim().split_once(" => ") else {
            continue;
        };
        let path = rest.split(" (").next().unwrap_or_default();
        ensure!(
            path.starts_with('/'),
            "{} needs {name}, not found here",
            host.display()
        );
        image.host_file(&format!("{LIBRARIES}/{name}"), Path::new(path), Some(0o644))?;
    }
    Ok(())
}

/// The shared libraries in unpacked packages, by name.
#[derive(Debug, Default)]
pub(super) struct Libraries {
    by_name: BTreeMap<String, (PathBuf, String)>,
    added: BTreeSet<String>,
}

impl Libraries {
    /// Notes every library below the root of an unpacked package.
    pub(super) fn index(&mut self, root: &Path) -> Result<()> {
        for (path, guest) in files_below(root)? {
            let name = guest.rsplit('/').next().unwrap_or_default().to_owned();
            if name.contains(".so") {
                self.by_name.insert(name, (path, guest));
            }
        }
        Ok(())
    }

    /// Adds the libraries that a program or library asks for, and theirs.
    pub(super) fn add_needed(&mut self, image: &mut Image, content: &[u8]) -> Result<()> {
        if !is_elf(content) {
            return Ok(());
        }
        let elf = Elf::parse(content)?;
        let loader = elf
            .interpreter
            .as_deref()
            .and_then(|path| path.rsplit('/').next());
        for name in elf.needed.iter().map(String::as_str).chain(loader) {
            if !self.added.insert(name.to_owned()) {
                continue;
            }
            let found = self.by_name.get(name);
            let (path, guest) =
                found.with_context(|| format!("no fetched package has the library {name}"))?;
            let library = fs::read(path)?;
            // The loader is asked for by a path of its own.
            let guest = match &elf.interpreter {
                Some(interpreter) if interpreter.ends_with(name) => interpreter.clone(),
                _ => guest.clone(),
            };
            image.file(&guest, 0o755, &library)?;
            self.add_needed(image, &library)?;
        }
        Ok(())
    }
}

/// Files and links below `root`: where they are, and their path as the guest
/// would name it. Sorted.
pub(super) fn files_below(root: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() {
                pending.push(path);
            } else {
                let below = path.strip_prefix(root)?;
                let guest = below
                    .to_str()
                    .with_context(|| format!("{}", path.display()))?;
                let guest = format!("/{guest}");
                found.push((path, guest));
            }
        }
    }
    found.sort();
    Ok(found)
}
