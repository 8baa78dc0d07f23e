//! Programs of the distribution that do what no ioctl does.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::fs::error::FsError;
use crate::ioctl::stand_in;

/// How much of a failed program's standard error is kept, in bytes.
const STDERR_TAIL: usize = 2048;

/// A program, and the package that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// Its name.
    pub name: &'static str,
    /// What to install.
    pub package: &'static str,
}

impl Tool {
    /// Runs it on a device or file, which comes last; it must succeed.
    ///
    /// # Errors
    /// [`FsError::ToolMissing`], [`FsError::ToolStart`], [`FsError::ToolFailed`].
    pub fn run(self, args: &[String], node: &Path) -> Result<(), FsError> {
        self.answer(args, node).map(drop)
    }

    /// As [`run`](Self::run); gives what it printed.
    ///
    /// # Errors
    /// As of [`run`](Self::run).
    pub fn answer(self, args: &[String], node: &Path) -> Result<String, FsError> {
        let output = self.output(args, node)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(FsError::ToolFailed {
            tool: self.name,
            node: node.to_owned(),
            status: output.status,
            stderr: tail(&output.stderr),
        })
    }

    /// Runs it: by the search path, else where system programs are; a plain `su` leaves them out of
    /// the path.
    ///
    /// # Errors
    /// [`FsError::ToolMissing`], [`FsError::ToolStart`].
    pub fn output(self, args: &[String], node: &Path) -> Result<Output, FsError> {
        tracing::debug!(tool = self.name, ?args, node = %node.display(), "run");
        let places = ["", "/usr/sbin/", "/sbin/"];
        for place in places {
            let result = match stand_in() {
                Some(kernel) => kernel.run(self.name, args, node),
                None => Command::new(format!("{place}{}", self.name))
                    .args(args)
                    .arg(AsRef::<OsStr>::as_ref(node))
                    .env("LC_ALL", "C")
                    .stdin(Stdio::null())
                    .output(),
            };
            match result {
                Ok(output) => return Ok(output),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(FsError::ToolStart {
                        tool: self.name,
                        source,
                    });
                }
            }
        }
        Err(FsError::ToolMissing {
            tool: self.name,
            package: self.package,
        })
    }
}

impl Tool {
    /// The end of what a program printed, on one line.
    #[must_use]
    pub fn last_words(output: &Output) -> String {
        tail(&output.stdout)
    }
}

/// The last part of a program's words, on one line.
pub(super) fn tail(bytes: &[u8]) -> String {
    let start = bytes.len().saturating_sub(STDERR_TAIL);
    let text = String::from_utf8_lossy(bytes.get(start..).unwrap_or_default());
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_its_package() {
        let missing = Tool {
            name: "mkfs.dmthin-no-such-tool",
            package: "some-package",
        };
        assert!(matches!(
            missing.run(&[], Path::new("/nonexistent")),
            Err(FsError::ToolMissing {
                tool: "mkfs.dmthin-no-such-tool",
                package: "some-package"
            })
        ));
    }

    #[test]
    fn only_the_end_of_many_words_is_kept() {
        let words = [b"first".as_slice(), &[b'x'; 5000], b"\nlast\n"].concat();
        let kept = tail(&words);
        assert!(kept.ends_with("xx last"));
        assert!(kept.len() <= STDERR_TAIL);
    }
}
