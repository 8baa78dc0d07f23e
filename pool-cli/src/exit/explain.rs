//! What each exit code means to whoever gets it: the text of `pool-cli explain`.

use dmthin::graph::ErrorCode;
use serde::Serialize;

use crate::exit::{TABLE, row};

/// One exit code, explained.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Explanation {
    /// The exit code.
    pub(crate) exit: u8,
    /// Its word.
    pub(crate) code: &'static str,
    #[serde(flatten)]
    pub(crate) text: &'static Text,
}

/// What there is to say about one.
#[derive(Debug, Serialize)]
pub(crate) struct Text {
    #[serde(skip)]
    of: Option<ErrorCode>,
    /// What it means.
    pub(crate) meaning: &'static str,
    /// What it usually comes from.
    pub(crate) causes: &'static [&'static str],
    /// What to do.
    pub(crate) remedies: &'static [&'static str],
}

/// In the order of [`TABLE`], success before it.
const TEXTS: &[Text] = &[
    Text {
        of: None,
        meaning: "done, or done before; what was reported is on disk",
        causes: &["a reader of stdout that went away is no error either"],
        remedies: &["nothing"],
    },
    Text {
        of: Some(ErrorCode::Failure),
        meaning: "something went wrong that has no code of its own",
        causes: &[
            "an I/O error of the disk below the pool",
            "a pool that is not open",
            "a check of `pool-cli doctor` that failed",
            "a pool or container of which only a part was made before a crash",
        ],
        remedies: &[
            "read the whole line: causes stand behind it, the last is the kernel's",
            "open the pool, which settles what was cut: `pool-cli pool open NAME`",
            "look at the kernel's log for errors of the disk: dmesg",
        ],
    },
    Text {
        of: Some(ErrorCode::Usage),
        meaning: "the command line or a file of settings is wrong; nothing was done",
        causes: &[
            "an unknown option, a value that cannot be, two options that exclude each other",
            "a misspelt key or a bad value in /etc/dmthin/config.toml or conf.d",
            "several pools and none named, or a size that is too small or too large",
        ],
        remedies: &[
            "add --help to the command",
            "check the settings: `pool-cli config check`",
            "name the pool with --pool or DMTHIN_POOL",
        ],
    },
    Text {
        of: Some(ErrorCode::NotFound),
        meaning: "what was named does not exist",
        causes: &[
            "a pool under another root than the one in force",
            "an image, container, file or device of another name, or in another pool",
            "an image for no platform of this host",
        ],
        remedies: &[
            "see what there is: `pool-cli pool list`, `pool-cli image list`, `pool-cli container list`",
            "see which root and pool are in force: `pool-cli config show --origin`",
        ],
    },
    Text {
        of: Some(ErrorCode::Exists),
        meaning: "the name is taken",
        causes: &[
            "a pool, container or device of that name is there already",
            "files of a pool lie where the new one is to be; they are never overwritten",
        ],
        remedies: &[
            "choose another name, or remove the old one: `pool-cli container rm NAME`",
            "in a script, take it for success if what is there is what you wanted",
        ],
    },
    Text {
        of: Some(ErrorCode::Busy),
        meaning: "something uses it",
        causes: &[
            "a container that is mounted, or whose device a virtual machine has open",
            "an image with containers, a container or volume with snapshots",
            "a data device that carries something else, or a command that works on the pool",
        ],
        remedies: &[
            "see who holds a container: `pool-cli who NAME`",
            "stop or unmount that, then try again",
            "see what is open or mounted: `pool-cli device list`",
        ],
    },
    Text {
        of: Some(ErrorCode::NoDataSpace),
        meaning: "there is no room for data",
        causes: &[
            "less of the pool is free than `pool create --min-free-data` or `pool set` asks for",
            "the pool's data device, or the host's file system below its file, is full",
            "an image that is larger than the base volume",
        ],
        remedies: &[
            "see which it is: `pool-cli pool status`",
            "give back what containers do not use: `pool-cli pool trim`",
            "remove containers and images; end removals that wait: `pool-cli queue run`",
            "grow the pool: `pool-cli pool grow --data +50G`, or the base volume: \
             `pool-cli base grow 20G`",
        ],
    },
    Text {
        of: Some(ErrorCode::NoMetadataSpace),
        meaning: "there is no room for metadata; a pool that runs out of it turns read-only",
        causes: &[
            "many snapshots that were written here and there",
            "less is free than `pool create --min-free-metadata` or `pool set` asks for",
        ],
        remedies: &[
            "grow the metadata soon: `pool-cli pool grow --metadata +1G`",
            "remove containers and images that nobody needs",
        ],
    },
    Text {
        of: Some(ErrorCode::NeedsCheck),
        meaning: "the pool must be checked before it is used; nothing was written to it",
        causes: &[
            "an I/O error or full metadata made the kernel set needs_check",
            "the catalogue is not the one of this pool, as after one of them was restored alone",
            "a device below the pool became smaller, or the catalogue is damaged",
        ],
        remedies: &[
            "copy the metadata device and catalogue.db before anything else",
            "close the pool and check: thin_check METADATA; mend what it finds: thin_repair",
            "where one was restored, restore the other of the same moment too",
        ],
    },
    Text {
        of: Some(ErrorCode::Permission),
        meaning: "it is not allowed",
        causes: &[
            "run without root, or in a container without CAP_SYS_ADMIN",
            "a device that is read-only",
            "a file of settings that this user cannot read",
        ],
        remedies: &[
            "run it as root on the host",
            "see what is missing: `pool-cli doctor`",
        ],
    },
    Text {
        of: Some(ErrorCode::Unsupported),
        meaning: "this machine or this version cannot",
        causes: &[
            "no device mapper, thin-pool target or loop device in the kernel",
            "mkfs for the file system is not installed",
            "a compression or media type of an image that nobody here knows",
            "a catalogue that a later version wrote",
        ],
        remedies: &[
            "see what is missing and how to get it: `pool-cli doctor`",
            "load the modules: modprobe dm-thin-pool loop",
        ],
    },
    Text {
        of: Some(ErrorCode::BadImage),
        meaning: "the image archive is damaged, lies or would write where it must not",
        causes: &[
            "a copy or download that was cut short",
            "a layer whose digest is not the one in its manifest",
            "names with .. in them, or a file that is no image",
        ],
        remedies: &[
            "make the archive again and compare its checksum",
            "nothing was left behind: import the sound one with `pool-cli image import FILE`",
        ],
    },
    Text {
        of: Some(ErrorCode::Retry),
        meaning: "somebody was in the way; the same may work in a moment",
        causes: &["another command kept the catalogue locked for 10 s"],
        remedies: &["wait some seconds and run it again"],
    },
];

/// All of them, in the order of their numbers.
pub(crate) fn explanations() -> Vec<Explanation> {
    TEXTS
        .iter()
        .map(|text| {
            let (code, exit) = text.of.map_or(("ok", 0), row);
            Explanation { exit, code, text }
        })
        .collect()
}

/// The one of a number or a word.
pub(crate) fn explanation(asked: &str) -> Result<Explanation, String> {
    let found = explanations()
        .into_iter()
        .find(|one| one.code == asked || one.exit.to_string() == asked);
    found.ok_or_else(|| {
        let words: Vec<&str> = TABLE.iter().map(|(_, word, _)| *word).collect();
        format!(
            "no exit code: there are 0 to 11 and 75, or ok, {}",
            words.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn every_code_is_explained_once_and_in_order() {
        let explained: Vec<_> = TEXTS.iter().map(|text| text.of).collect();
        let wanted: Vec<_> = [None]
            .into_iter()
            .chain(TABLE.iter().map(|(code, _, _)| Some(*code)))
            .collect();
        assert_eq!(explained, wanted);
        for text in TEXTS {
            assert!(!text.meaning.is_empty(), "{:?}", text.of);
            assert!(!text.causes.is_empty(), "{:?}", text.of);
            assert!(!text.remedies.is_empty(), "{:?}", text.of);
        }
    }

    #[test]
    fn numbers_and_words_are_found() {
        for (exit, word) in [(0, "ok"), (6, "no_data_space"), (75, "retry")] {
            for asked in [exit.to_string(), word.to_owned()] {
                let found = explanation(&asked).unwrap();
                assert_eq!((found.exit, found.code), (exit, word));
            }
        }
        for asked in ["12", "-1", "", "6.0", "06", "No_Data_Space"] {
            assert!(explanation(asked).is_err(), "{asked}");
        }
    }

    /// What is advised can be done.
    #[test]
    fn every_command_in_the_text_is_there() {
        let texts = TEXTS
            .iter()
            .flat_map(|text| [text.causes, text.remedies].concat());
        let mut seen = 0;
        for text in texts {
            for quoted in text.split('`').skip(1).step_by(2) {
                let words = quoted.split(' ').filter(|word| *word != "pool-cli");
                let mut command = Cli::command();
                for word in words {
                    if let Some(option) = word.strip_prefix("--") {
                        assert!(
                            command
                                .get_arguments()
                                .any(|arg| arg.get_long() == Some(option)),
                            "{quoted}: {word}"
                        );
                    } else if command.has_subcommands() {
                        let found = command.find_subcommand(word).cloned();
                        command = found.unwrap_or_else(|| panic!("{quoted}: {word}"));
                    }
                }
                assert!(!command.has_subcommands(), "{quoted}");
                seen += 1;
            }
        }
        assert!(seen > 10, "{seen}");
    }
}
