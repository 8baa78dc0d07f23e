//! Which parts are measured.

use clap::Args;

/// A part that can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A container's device, up and down.
    Device,
    /// Removals, and many at once.
    Crowds,
    /// The opening of a pool of many volumes, and who takes its room.
    Opening,
    /// An image's import.
    Image,
    /// What a container changed.
    Diff,
    /// A commit.
    Commits,
}

/// Options that leave out all the other parts; with none of them all are measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args)]
pub struct Only {
    /// Removals and many at once.
    #[arg(long)]
    only_crowds: bool,
    /// The opening of a pool of many volumes, and who takes its room.
    #[arg(long)]
    only_opening: bool,
    /// Imports of the real image.
    #[arg(long)]
    only_image: bool,
    /// What a container changed of its image.
    #[arg(long)]
    only_diff: bool,
    /// Commits.
    #[arg(long)]
    only_commits: bool,
}

impl Only {
    const fn all(self) -> [(&'static str, Part, bool); 5] {
        [
            ("--only-crowds", Part::Crowds, self.only_crowds),
            ("--only-opening", Part::Opening, self.only_opening),
            ("--only-image", Part::Image, self.only_image),
            ("--only-diff", Part::Diff, self.only_diff),
            ("--only-commits", Part::Commits, self.only_commits),
        ]
    }

    /// The options that were given.
    pub fn options(self) -> impl Iterator<Item = &'static str> {
        let given = self.all().into_iter().filter(|(_, _, given)| *given);
        given.map(|(option, _, _)| option)
    }

    /// Whether a part is measured.
    pub(super) fn has(self, part: Part) -> bool {
        let mut given = self.all().into_iter().filter(|(_, _, given)| *given);
        self == Self::default() || given.any(|(_, given, _)| given == part)
    }
}

#[cfg(test)]
mod tests {
    use super::{Only, Part};

    #[test]
    fn without_an_option_all_is_measured() {
        assert!(Only::default().has(Part::Opening));
        assert_eq!(Only::default().options().count(), 0);
        let two = Only {
            only_diff: true,
            only_commits: true,
            ..Only::default()
        };
        assert!(two.has(Part::Diff) && two.has(Part::Commits));
        assert!(!two.has(Part::Device) && !two.has(Part::Image));
        let options: Vec<_> = two.options().collect();
        assert_eq!(options, ["--only-diff", "--only-commits"]);
    }
}
