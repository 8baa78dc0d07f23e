//! The machine's apt sources, rewritten for another suite.
//!
//! Kept are the entries that name the machine's own release (or its updates
//! and security suites), whatever their mirror, keys and options; everything
//! else on the machine (third parties, backports) is left out.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

/// Source entries in apt's two formats.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sources {
    /// Stanzas for a `.sources` file.
    pub(super) deb822: String,
    /// Lines for a `.list` file.
    pub(super) one_line: String,
}

/// The sources of this machine with its suite swapped for `suite`.
pub(super) fn of_machine(suite: &str) -> Result<Sources> {
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let own = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release names no VERSION_CODENAME: this needs Debian")?;
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    files.sort();
    let mut sources = Sources::default();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.one_line.push_str(&swap_lines(&text, own, suite)),
            Some("sources") => sources.deb822.push_str(&swap_stanzas(&text, own, suite)),
            _ => {}
        }
    }
    ensure!(
        sources != Sources::default(),
        "no apt source of this machine names {own}"
    );
    Ok(sources)
}

/// `own` -> `suite`, `own-updates` -> `suite-updates`; sid has no such parts.
fn swap(word: &str, own: &str, suite: &str) -> Option<String> {
    match word.strip_prefix(own)? {
        "" => Some(suite.to_owned()),
        part @ ("-updates" | "-security") if suite != "sid" => Some(format!("{suite}{part}")),
        _ => None,
    }
}

fn swap_lines(text: &str, own: &str, suite: &str) -> String {
    let mut swapped = String::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb ") else {
            continue;
        };
        // Options may hold blanks: they end at the bracket.
        let (options, rest) = match rest
            .trim()
            .strip_prefix('[')
            .and_then(|r| r.split_once(']'))
        {
            Some((options, rest)) => (format!("[{}] ", options.trim()), rest),
            None => (String::new(), rest),
        };
        let mut words = rest.split_whitespace();
        let (Some(uri), Some(name)) = (words.next(), words.next()) else {
            continue;
        };
        if let Some(name) = swap(name, own, suite) {
            swapped.push_str(&format!("deb {options}{uri} {name} main\n"));
        }
    }
    swapped
}

fn swap_stanzas(text: &str, own: &str, suite: &str) -> String {
    let mut swapped = String::new();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for stanza in lines.split(|line| line.trim().is_empty()) {
        let mut suites = Vec::new();
        let mut kept = String::new();
        let mut enabled = true;
        let mut dropping = false;
        for line in stanza {
            if line.starts_with([' ', '\t']) {
                if !dropping {
                    kept.push_str(&format!("{line}\n"));
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let field = field.to_ascii_lowercase();
            dropping = matches!(field.as_str(), "suites" | "components" | "types");
            if field == "suites" {
                suites.extend(
                    value
                        .split_whitespace()
                        .filter_map(|name| swap(name, own, suite)),
                );
            } else if !dropping {
                kept.push_str(&format!("{line}\n"));
            }
            enabled &= !(field == "enabled" && value.trim() == "no");
        }
        if enabled && !suites.is_empty() {
            let suites = suites.join(" ");
            swapped.push_str(&format!(
                "Types: deb\nSuites: {suites}\nComponents: main\n{kept}\n"
            ));
        }
    }
    swapped
}

#[cfg(test)]
mod tests {
    use super::{swap_lines, swap_stanzas};

    const LIST: &str = "\
deb http://mirror.example/debian bookworm main contrib # the archive
deb [ signed-by=/k.gpg arch=amd64 ] http://mirror.example/debian bookworm-updates main
deb http://mirror.example/security bookworm-security main
deb http://mirror.example/debian bookworm-backports main
deb-src http://mirror.example/debian bookworm main
deb https://other.example/apt stable main
";

    #[test]
    fn lines_of_the_own_release_are_swapped_and_others_dropped() {
        let expected = "\
deb http://mirror.example/debian trixie main
deb [signed-by=/k.gpg arch=amd64] http://mirror.example/debian trixie-updates main
deb http://mirror.example/security trixie-security main
";
        assert_eq!(swap_lines(LIST, "bookworm", "trixie"), expected);
    }

    #[test]
    fn sid_has_neither_updates_nor_security() {
        let expected = "deb http://mirror.example/debian sid main\n";
        assert_eq!(swap_lines(LIST, "bookworm", "sid"), expected);
    }

    #[test]
    fn stanzas_keep_their_mirror_and_keys() {
        let text = "\
Types: deb deb-src
# a remark
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main
Signed-By:
 -----BEGIN
 -----END

Types: deb
URIs: https://other.example
Suites: nodistro
Components: main

Enabled: no
URIs: http://mirror.example/debian
Suites: bookworm
";
        let expected = "\
Types: deb
Suites: trixie trixie-updates
Components: main
URIs: http://mirror.example/debian
Signed-By:
 -----BEGIN
 -----END

";
        assert_eq!(swap_stanzas(text, "bookworm", "trixie"), expected);
    }
}
