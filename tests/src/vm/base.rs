//! Archives that are made once and kept: the guest's tools, and (for
//! `kernel`) the modules.
//!
//! A kept archive is named after a hash of all it was made from, so a changed
//! recipe or newer packages make a new one. Tools are those of Debian 12
//! whatever the kernel: the whole programs of the packages in `TOOLS` and
//! only the libraries they ask for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::apt::{self, Apt};
use crate::vm::image::Image;
use crate::vm::programs::{Libraries, files_below};

const SUITE: &str = "bookworm";

/// Packages whose programs, rules and settings the guest gets.
const TOOLS: &[&str] = &[
    "attr",
    "bash",
    "busybox-static",
    "coreutils",
    "dash",
    "diffutils",
    "dmsetup",
    "e2fsprogs",
    "findutils",
    "grep",
    "gzip",
    "libcap2-bin",
    "lvm2",
    "mount",
    "sed",
    "strace",
    "tar",
    "thin-provisioning-tools",
    "udev",
    "util-linux",
    "util-linux-extra",
    "xfsprogs",
    "zstd",
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n";

/// The groups that udev's rules name.
const GROUPS: &[(&str, u32)] = &[
    ("root", 0),
    ("tty", 5),
    ("disk", 6),
    ("lp", 7),
    ("kmem", 15),
    ("dialout", 20),
    ("cdrom", 24),
    ("tape", 26),
    ("audio", 29),
    ("video", 44),
    ("input", 104),
    ("kvm", 105),
    ("render", 106),
    ("sgx", 107),
    ("nogroup", 65534),
];

/// The archive of tools.
pub(super) fn prepare() -> Result<PathBuf> {
    programs("tools", TOOLS, skeleton, add_busybox)
}

/// The archive of one more package's programs, which lies on the tools.
pub(super) fn package(name: &str) -> Result<PathBuf> {
    programs(name, &[name], |_| Ok(()), |_| Ok(()))
}

/// The archive `name` of these packages' programs, and of what each does before and after them.
fn programs(
    name: &str,
    wanted: &[&str],
    before: impl FnOnce(&mut Image) -> Result<()>,
    after: impl FnOnce(&mut Image) -> Result<()>,
) -> Result<PathBuf> {
    let packages = Apt::new(SUITE).fetch_with_dependencies(name, wanted)?;
    let names: Vec<String> = packages.iter().map(|package| file_name(package)).collect();
    let recipe = format!(
        "{} {} {}",
        names.join(" "),
        include_str!("base.rs"),
        include_str!("image.rs")
    );
    cached(name, &recipe, |image| {
        let roots: Vec<PathBuf> = packages
            .iter()
            .map(|package| package.with_extension(""))
            .collect();
        let mut libraries = Libraries::default();
        for (package, root) in packages.iter().zip(&roots) {
            apt::unpack(package, root)?;
            libraries.index(root)?;
        }
        before(image)?;
        for root in &roots {
            let name = file_name(root);
            let package = name.split('_').next().unwrap_or_default();
            if wanted.contains(&package) {
                add_package(image, &mut libraries, root)
                    .with_context(|| format!("cannot pack {package} for the guest"))?;
            }
        }
        after(image)?;
        Ok(String::new())
    })
}

/// The kept archive `name` for this recipe, made by `fill` if it is not there;
/// what `fill` returns is kept beside it, with the extension `list`.
pub(super) fn cached(
    name: &str,
    recipe: &str,
    fill: impl FnOnce(&mut Image) -> Result<String>,
) -> Result<PathBuf> {
    let directory = apt::work_directory().join("cache");
    fs::create_dir_all(&directory)?;
    let hash: String = Sha256::digest(recipe)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let path = directory.join(format!("{name}-{hash}.cpio"));
    if !path.exists() {
        let partial = path.with_extension("partial");
        let mut image = Image::create(&partial)?;
        let list = fill(&mut image)?;
        image.finish()?;
        fs::write(path.with_extension("list"), list)?;
        fs::rename(partial, &path)?;
    }
    Ok(path)
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn skeleton(image: &mut Image) -> Result<()> {
    for directory in [
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "etc",
        "dev",
        "proc",
        "sys",
    ] {
        image.directory(directory, 0o755)?;
    }
    for directory in ["run", "mnt", "root", "var/lib", "var/log", "var/tmp"] {
        image.directory(directory, 0o755)?;
    }
    image.directory("tmp", 0o1777)?;
    for link in ["bin", "sbin", "lib", "lib64"] {
        image.symlink(link, &format!("usr/{link}"))?;
    }
    image.symlink("/var/run", "/run")?;
    image.symlink("/etc/mtab", "/proc/self/mounts")?;
    image.character("/dev/console", 0o600, (5, 1))?;
    image.character("/dev/null", 0o666, (1, 3))?;
    image.file("/etc/passwd", 0o644, PASSWD.as_bytes())?;
    let groups: String = GROUPS
        .iter()
        .map(|(name, id)| format!("{name}:x:{id}:\n"))
        .collect();
    image.file("/etc/group", 0o644, groups.as_bytes())
}

fn add_package(image: &mut Image, libraries: &mut Libraries, root: &Path) -> Result<()> {
    for (path, guest) in files_below(root)? {
        if !wanted(&guest) {
            continue;
        }
        if path.is_symlink() {
            let target = fs::read_link(&path)?;
            let target = target.to_str().context("a link is not UTF-8")?;
            image.symlink(&guest, target)?;
        } else {
            image.host_file(&guest, &path, None)?;
            libraries.add_needed(image, &fs::read(&path)?)?;
        }
    }
    Ok(())
}

fn wanted(guest: &str) -> bool {
    let path = guest.strip_prefix("/usr").unwrap_or(guest);
    let programs = [
        "/bin/",
        "/sbin/",
        "/lib/udev/",
        "/lib/systemd/systemd-udevd",
        "/etc/",
    ];
    let unused = [
        "/lib/udev/hwdb.d/",
        "/etc/init.d/",
        "/etc/cron",
        "/etc/default/",
        "/etc/skel/",
        // It alone would bring 37 MB of Unicode tables.
        "/sbin/xfs_scrub",
    ];
    programs.iter().any(|start| path.starts_with(start))
        && !unused.iter().any(|start| path.starts_with(start))
}

/// Links for those of busybox's programs that nothing else provides.
fn add_busybox(image: &mut Image) -> Result<()> {
    let packages = apt::work_directory().join("packages/tools");
    for entry in fs::read_dir(packages)? {
        let program = entry?.path().join("bin/busybox");
        if !program.is_file() {
            continue;
        }
        for applet in apt::run(Command::new(&program).arg("--list"))?.lines() {
            let places = [format!("/usr/bin/{applet}"), format!("/usr/sbin/{applet}")];
            if !places.iter().any(|place| image.has(place)) {
                image.symlink(&format!("/usr/bin/{applet}"), "busybox")?;
            }
        }
    }
    // Where the kernel looks for it (`kernel/module/kmod.c:modprobe_path`).
    image.symlink("/usr/sbin/modprobe", "../bin/busybox")
}

#[cfg(test)]
mod tests {
    use super::wanted;

    #[test]
    fn programs_rules_and_settings_are_packed_but_no_manuals() {
        for path in [
            "/sbin/mkfs.ext4",
            "/usr/bin/tar",
            "/lib/udev/rules.d/55-dm.rules",
            "/etc/mke2fs.conf",
        ] {
            assert!(wanted(path), "{path}");
        }
        for path in [
            "/usr/share/man/man8/dmsetup.8.gz",
            "/lib/udev/hwdb.d/20-usb.hwdb",
            "/etc/init.d/udev",
        ] {
            assert!(!wanted(path), "{path}");
        }
    }
}
