//! The machine that is measured, as a sentence above each part of the page.

use std::fmt;

/// The machine that was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The kernel's release.
    pub kernel: String,
    /// How the guest was run.
    pub accel: String,
    /// Its processors.
    pub cpus: u8,
    /// Its memory.
    pub memory: String,
    /// Whether udevd ran in it.
    pub udev: bool,
    /// Whether the pool's files were in its memory.
    pub in_memory: bool,
    /// Milliseconds that a flush of the disk takes longer.
    pub flush_ms: u64,
    /// The host's load average before and after, as it says itself.
    pub load: [String; 2],
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, after] = &self.load;
        write!(
            f,
            "Guest: Linux {}, {}, {}, {} of memory, {} udevd; pool files {}. Host: load average {before} \
             before, {after} after.",
            self.kernel,
            self.accel,
            match self.cpus {
                1 => "1 processor".to_owned(),
                cpus => format!("{cpus} processors"),
            },
            self.memory,
            if self.udev { "with" } else { "without" },
            match (self.in_memory, self.flush_ms) {
                (true, _) => "in its memory".to_owned(),
                (false, 0) => "on an ext4 of a disk of its own".to_owned(),
                (false, ms) => format!(
                    "on an ext4 of a disk of its own, each of whose flushes dm-delay holds for {ms} ms"
                ),
            },
        )
    }
}
