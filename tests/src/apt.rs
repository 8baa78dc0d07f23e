//! Debian packages of any suite, fetched without root and without touching
//! the machine's own package state.
//!
//! Where from and which keys: the machine's own apt sources with the suite
//! swapped, so that mirrors and proxies keep working. apt runs with private
//! lists and an empty package status, checks signatures and hashes as always,
//! and its results stay in the build directory: a set that was fetched once
//! needs no network again. Remove `target/vm` to fetch newer packages.

mod sources;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// The build directory for virtual machines and fixtures, `target/vm`.
#[must_use]
pub fn work_directory() -> PathBuf {
    target_directory().join("vm")
}

/// Cargo's target directory of this workspace.
#[must_use]
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), |path| workspace().join(path))
}

/// The top of the source tree.
#[must_use]
pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// The private apt of one suite.
#[derive(Debug)]
pub struct Apt {
    suite: String,
    directory: PathBuf,
}

impl Apt {
    /// The apt of `suite`, with its directories under `target/vm`.
    #[must_use]
    pub fn new(suite: &str) -> Self {
        Self {
            suite: suite.to_owned(),
            directory: work_directory().join("apt").join(suite),
        }
    }

    /// Fetches `packages` and all they depend on into the directory of the
    /// set `name`; returns the package files, sorted.
    pub fn fetch_with_dependencies(&self, name: &str, packages: &[&str]) -> Result<Vec<PathBuf>> {
        self.fetch_set(name, &packages.join(" "), |directory| {
            let mut archives = std::ffi::OsString::from("Dir::Cache::archives=");
            archives.push(directory);
            let mut apt = self.command("apt-get")?;
            apt.arg("-o").arg(archives);
            apt.args([
                "-y",
                "--download-only",
                "--no-install-recommends",
                "install",
            ]);
            run(apt.args(packages)).map(drop)
        })
    }

    /// Fetches the package `root` and those of its dependencies, and theirs,
    /// whose name `follow` takes; returns the package files, sorted.
    pub fn fetch_following(
        &self,
        name: &str,
        root: &str,
        follow: fn(&str) -> bool,
    ) -> Result<Vec<PathBuf>> {
        self.fetch_set(name, root, |directory| {
            let mut wanted = vec![root.to_owned()];
            let mut next = 0;
            while let Some(package) = wanted.get(next) {
                for found in self.dependencies(package)? {
                    if follow(&found) && !wanted.contains(&found) {
                        wanted.push(found);
                    }
                }
                next = next.saturating_add(1);
            }
            self.download(&wanted, directory)
        })
    }

    /// Fetches `packages` and nothing they depend on; returns the package
    /// files, sorted.
    pub fn fetch(&self, name: &str, packages: &[&str]) -> Result<Vec<PathBuf>> {
        self.fetch_set(name, &packages.join(" "), |directory| {
            self.download(packages, directory)
        })
    }

    fn download(&self, packages: &[impl AsRef<std::ffi::OsStr>], directory: &Path) -> Result<()> {
        let mut apt = self.command("apt-get")?;
        run(apt.arg("download").args(packages).current_dir(directory)).map(drop)
    }

    fn fetch_set(
        &self,
        name: &str,
        request: &str,
        fetch: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Vec<PathBuf>> {
        let directory = work_directory().join("packages").join(name);
        let stamp = directory.join("request");
        let request = format!("{}: {request}\n", self.suite);
        if fs::read_to_string(&stamp).ok().as_deref() != Some(request.as_str()) {
            if directory.exists() {
                fs::remove_dir_all(&directory)?;
            }
            fs::create_dir_all(directory.join("partial"))?;
            self.update()?;
            eprintln!("fetching packages: {name} ({})", self.suite);
            fetch(&directory).with_context(|| {
                format!(
                    "cannot fetch the packages {name} of {}; is the network up?",
                    self.suite
                )
            })?;
            fs::write(&stamp, &request)?;
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                files.push(path);
            }
        }
        files.sort();
        ensure!(
            !files.is_empty(),
            "apt put no package into {}",
            directory.display()
        );
        Ok(files)
    }

    fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let text = run(self.command("apt-cache")?.args(["depends", package]))?;
        let names = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    fn update(&self) -> Result<()> {
        let stamp = self.directory.join("updated");
        if stamp.exists() {
            return Ok(());
        }
        for part in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(self.directory.join(part))?;
        }
        fs::write(self.directory.join("status"), "")?;
        let sources = sources::of_machine(&self.suite)?;
        fs::write(self.directory.join("debian.sources"), sources.deb822)?;
        fs::write(self.directory.join("debian.list"), sources.one_line)?;
        eprintln!("fetching the package lists of {}", self.suite);
        run(self.command("apt-get")?.arg("update"))?;
        fs::write(stamp, "")?;
        Ok(())
    }

    fn command(&self, program: &str) -> Result<Command> {
        let place = self
            .directory
            .to_str()
            .context("the build directory is not UTF-8")?;
        let mut apt = Command::new(program);
        for option in [
            // An own parts directory takes both kinds of source file.
            "Dir::Etc::sourcelist=/dev/null".to_owned(),
            format!("Dir::Etc::sourceparts={place}"),
            "Dir::Etc::preferences=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
            format!("Dir::State={place}"),
            format!("Dir::State::lists={place}/lists"),
            format!("Dir::State::status={place}/status"),
            format!("Dir::Cache={place}"),
            format!("Dir::Cache::archives={place}/archives"),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "APT::Sandbox::User=".to_owned(),
            "Debug::NoLocking=1".to_owned(),
            "APT::Architecture=amd64".to_owned(),
            "APT::Architectures=amd64".to_owned(),
        ] {
            apt.arg("-o").arg(option);
        }
        apt.env("LC_ALL", "C").stdin(Stdio::null());
        Ok(apt)
    }
}

/// Unpacks a package's files below `destination`, unless that was done before.
pub fn unpack(package: &Path, destination: &Path) -> Result<()> {
    // Appended, not `with_extension`: versions hold dots.
    let mut stamp = destination.as_os_str().to_owned();
    stamp.push(".unpacked");
    let stamp = PathBuf::from(stamp);
    if stamp.exists() {
        return Ok(());
    }
    if destination.exists() {
        fs::remove_dir_all(destination)?;
    }
    fs::create_dir_all(destination)?;
    run(Command::new("dpkg-deb")
        .arg("-x")
        .arg(package)
        .arg(destination))?;
    fs::write(stamp, "")?;
    Ok(())
}

/// Runs a program to its end and returns what it printed; a failure carries
/// the program's own words.
pub fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("{name} is not installed: run scripts/setup")
        }
        Err(error) => return Err(error).with_context(|| format!("cannot start {name}")),
    };
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {}", output.status, words.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
