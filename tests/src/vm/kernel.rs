//! Debian's kernels by name.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

use crate::apt::{self, Apt};
use crate::vm::base;
use crate::vm::image::Image;
use crate::vm::modules;

/// A stock Debian kernel. Under QEMU it is the one for cloud machines, which has
/// what a virtual machine needs and little else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kernel {
    /// Debian 12's.
    V6_1,
    /// Debian 13's.
    V6_12,
    /// The newest Debian has, from sid.
    New,
    /// Debian 12's user-mode Linux: the same source of 6.1 as a program of this
    /// machine, with one processor and nothing emulated.
    Uml,
}

impl Kernel {
    /// All of them, oldest first.
    pub const ALL: [Self; 4] = [Self::V6_1, Self::V6_12, Self::New, Self::Uml];

    const fn suite(self) -> &'static str {
        match self {
            Self::V6_1 | Self::Uml => "bookworm",
            Self::V6_12 => "trixie",
            Self::New => "sid",
        }
    }

    /// The package that brings it, with those it needs.
    const fn package(self) -> &'static str {
        match self {
            Self::Uml => "user-mode-linux",
            _ => "linux-image-cloud-amd64",
        }
    }

    /// Whether it is a program of this machine.
    #[must_use]
    pub const fn user_mode(self) -> bool {
        matches!(self, Self::Uml)
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::New => "new",
            Self::Uml => "uml",
        })
    }
}

impl FromStr for Kernel {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL
            .into_iter()
            .find(|kernel| kernel.to_string() == text)
        {
            Some(kernel) => Ok(kernel),
            None => bail!("unknown kernel {text:?}: there are 6.1, 6.12, new and uml"),
        }
    }
}

/// One module as the agent and modprobe need to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModuleEntry {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) needs: Vec<String>,
}

/// A kernel ready to boot.
#[derive(Clone, Debug)]
pub(super) struct KernelFiles {
    pub(super) image: PathBuf,
    pub(super) release: String,
    /// Archive with `/lib/modules/<release>`.
    pub(super) modules: PathBuf,
    /// What is in it, in an order fit for loading.
    pub(super) entries: Vec<ModuleEntry>,
}

/// Fetches, unpacks and packs the kernel, unless that was done before.
pub(super) fn prepare(kernel: Kernel) -> Result<KernelFiles> {
    let packages = Apt::new(kernel.suite()).fetch_following(
        &format!("kernel-{kernel}"),
        kernel.package(),
        |name| {
            [
                "linux-image-",
                "linux-modules-",
                "linux-binary-",
                "linux-base-",
            ]
            .iter()
            .any(|p| name.starts_with(p))
        },
    )?;
    let mut image = None;
    let mut tree = None;
    let mut builtin = String::new();
    for package in &packages {
        let root = package.with_extension("");
        apt::unpack(package, &root)?;
        if let Some(found) = entry_starting(&root.join("boot"), "vmlinuz-") {
            image = Some(found);
        }
        if let Some(found) = entry_starting(&root.join("usr/bin"), "linux.uml") {
            image = Some(found);
        }
        for place in ["lib/modules", "usr/lib/modules", "usr/lib/uml/modules"] {
            let Some(found) = entry_starting(&root.join(place), "") else {
                continue;
            };
            // Debian's newer packages keep the kernel beside its modules.
            if found.join("vmlinuz").is_file() {
                image = Some(found.join("vmlinuz"));
            }
            if let Ok(list) = fs::read_to_string(found.join("modules.builtin")) {
                builtin.push_str(&list);
            }
            if found.join("kernel").is_dir() {
                tree = Some(found);
            }
        }
    }
    let image = image.with_context(|| format!("no kernel in the packages of {kernel}"))?;
    let tree = tree.with_context(|| format!("no modules in the packages of {kernel}"))?;
    let release = tree
        .file_name()
        .and_then(|name| name.to_str())
        .context("kernel release")?;
    let release = release.to_owned();
    let recipe = format!("{release} {}", include_str!("modules.rs"));
    let modules = base::cached("modules", &recipe, |archive| {
        let mut list = String::new();
        for module in modules::collect(&tree, &builtin, kernel.user_mode())? {
            let guest = format!("/lib/modules/{release}/{}", module.path);
            archive.file(&guest, 0o644, &module.content)?;
            list.push_str(&format!(
                "{} {} {}\n",
                module.name,
                module.path,
                module.needs.join(",")
            ));
        }
        Ok(list)
    })?;
    let list = fs::read_to_string(modules.with_extension("list"))?;
    let entries = list.lines().filter_map(entry).collect();
    Ok(KernelFiles {
        image,
        release,
        modules,
        entries,
    })
}

fn entry(line: &str) -> Option<ModuleEntry> {
    let mut words = line.split(' ');
    let (name, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let needs = words.next().unwrap_or_default().split(',');
    let needs = needs
        .filter(|need| !need.is_empty())
        .map(str::to_owned)
        .collect();
    Some(ModuleEntry { name, path, needs })
}

fn entry_starting(directory: &std::path::Path, prefix: &str) -> Option<PathBuf> {
    let mut entries = fs::read_dir(directory).ok()?;
    entries.find_map(|entry| {
        let entry = entry.ok()?;
        entry
            .file_name()
            .to_str()?
            .starts_with(prefix)
            .then(|| entry.path())
    })
}

/// What of `entries` can be loaded when the modules named in `without` are
/// missing.
pub(super) fn loadable(entries: &[ModuleEntry], without: &[String]) -> Vec<ModuleEntry> {
    let mut missing: Vec<String> = without
        .iter()
        .map(|name| modules::canonical(name))
        .collect();
    let mut kept = Vec::new();
    for entry in entries {
        if missing.contains(&entry.name) || entry.needs.iter().any(|need| missing.contains(need)) {
            missing.push(entry.name.clone());
        } else {
            kept.push(entry.clone());
        }
    }
    kept
}

/// Adds what tells the agent, and modprobe, which modules there are.
pub(super) fn add_module_lists(
    archive: &mut Image,
    release: &str,
    entries: &[ModuleEntry],
) -> Result<()> {
    let mut load = String::new();
    let mut dependencies = String::new();
    for entry in entries {
        load.push_str(&format!("/lib/modules/{release}/{}\n", entry.path));
        dependencies.push_str(&format!("{}:", entry.path));
        for need in &entry.needs {
            if let Some(need) = entries.iter().find(|other| other.name == *need) {
                dependencies.push_str(&format!(" {}", need.path));
            }
        }
        dependencies.push('\n');
    }
    archive.file("/etc/vm/modules", 0o644, load.as_bytes())?;
    archive.file(
        &format!("/lib/modules/{release}/modules.dep"),
        0o644,
        dependencies.as_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use super::{Kernel, entry, loadable};

    #[test]
    fn kernels_are_known_by_their_names() {
        for kernel in Kernel::ALL {
            assert_eq!(kernel.to_string().parse::<Kernel>().unwrap(), kernel);
        }
        let error = "5.10".parse::<Kernel>().unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown kernel \"5.10\": there are 6.1, 6.12, new and uml"
        );
    }

    #[test]
    fn leaving_a_module_out_leaves_out_what_needs_it() {
        let lines = [
            "dm_mod a.ko ",
            "dm_bufio b.ko dm_mod",
            "dm_thin_pool c.ko dm_bufio",
            "loop l.ko ",
        ];
        let entries: Vec<_> = lines.iter().filter_map(|line| entry(line)).collect();
        let names = |without: &[&str]| -> Vec<String> {
            let without: Vec<String> = without.iter().map(|name| (*name).to_owned()).collect();
            loadable(&entries, &without)
                .into_iter()
                .map(|entry| entry.name)
                .collect()
        };
        assert_eq!(names(&["dm-thin-pool"]), ["dm_mod", "dm_bufio", "loop"]);
        assert_eq!(names(&["dm_mod"]), ["loop"]);
        assert_eq!(names(&[]).len(), 4);
    }
}
