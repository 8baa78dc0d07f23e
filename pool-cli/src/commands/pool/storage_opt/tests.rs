use std::path::PathBuf;

use clap::Parser;
use dmthin::graph::{CreatePool, PoolOn};
use dmthin::ids::FsType;
use dmthin::units::Bytes;

use super::*;
use crate::args::{Cli, Command};
use crate::commands::pool::PoolCommand;
use crate::config::CreateSettings;

fn create(rest: &str) -> Result<CreatePool, clap::Error> {
    let line = format!("pool-cli pool create tank {rest}");
    match Cli::try_parse_from(line.split_whitespace())?.command {
        Command::Pool(PoolCommand::Create(args)) => args.options(CreateSettings::default()),
        other => panic!("{other:?}"),
    }
}

fn told(rest: &str) -> (ErrorKind, String) {
    let error = create(rest).unwrap_err();
    let text = error.render().to_string();
    let line = text.lines().next().unwrap_or_default();
    (error.kind(), line.to_owned())
}

#[test]
fn dockers_options_are_ours_by_other_names() {
    let new = create(
        "--storage-opt dm.basesize=20G --storage-opt DM.LoopDataSize=5gb --storage-opt \
         dm.loopmetadatasize=16M --storage-opt dm.blocksize=128K --storage-opt dm.fs=xfs \
         --storage-opt dm.mkfsarg=-m --storage-opt dm.mkfsarg=crc=1 --storage-opt \
         dm.min_free_space=7%",
    )
    .unwrap();
    assert_eq!(new.base_size, Bytes::from_gib(20));
    assert_eq!(new.size, Bytes::from_gib(5));
    assert_eq!(new.metadata_size, Some(Bytes::from_mib(16)));
    assert_eq!(new.block_size.to_bytes(), Bytes::from_kib(128));
    assert_eq!(new.fs, FsType::Xfs);
    assert_eq!(new.mkfs_args, ["-m", "crc=1"]);
    assert_eq!(new.guard.min_free_data.get(), 7);
    assert_eq!(new.guard.min_free_metadata.get(), 7);
    let new = create("--storage-opt dm.datadev=/dev/sdb --storage-opt dm.metadatadev=/dev/sdc");
    let PoolOn::Devices(pair) = new.unwrap().on else {
        panic!("no devices")
    };
    assert_eq!(pair.data, PathBuf::from("/dev/sdb"));
    assert_eq!(pair.metadata, PathBuf::from("/dev/sdc"));
    for name in [
        "blkdiscard",
        "use_deferred_removal",
        "use_deferred_deletion",
        "override_udev_sync_check",
    ] {
        assert!(
            create(&format!("--storage-opt dm.{name}=true")).is_ok(),
            "{name}"
        );
        let (kind, line) = told(&format!("--storage-opt dm.{name}=false"));
        assert_eq!(kind, ErrorKind::ValueValidation);
        assert!(line.contains(&format!("dm.{name} is refused: ")), "{line}");
    }
}

#[test]
fn what_means_nothing_here_is_refused_with_what_to_do_instead() {
    for (rest, line) in [
        (
            "--storage-opt dm.thinpooldev=docker-pool",
            "error: invalid value 'dm.thinpooldev=docker-pool' for '--storage-opt \
             <dm.NAME=VALUE>': dm.thinpooldev is refused: a pool that something else made has no \
             catalogue of ours; give two empty block devices as --data and --metadata",
        ),
        (
            "--storage-opt dm.basesise=1G",
            "error: invalid value 'dm.basesise=1G' for '--storage-opt <dm.NAME=VALUE>': Docker \
             has no option dm.basesise: did you mean dm.basesize?",
        ),
        (
            "--storage-opt size=1G",
            "error: invalid value 'size=1G' for '--storage-opt <dm.NAME=VALUE>': size is an \
             option of a container: see `container create --size`",
        ),
        (
            "--storage-opt dm.basesize",
            "error: invalid value 'dm.basesize' for '--storage-opt <dm.NAME=VALUE>': write it as \
             dm.NAME=VALUE, as in dm.basesize=20G",
        ),
        (
            "--storage-opt dm.basesize=10X",
            "error: invalid value '10X' for dm.basesize: \"10X\" is not a size: write a number \
             and K, M, G or T, as in 10G",
        ),
        (
            "--storage-opt dm.blkdiscard=maybe",
            "error: invalid value 'dm.blkdiscard=maybe' for '--storage-opt <dm.NAME=VALUE>': \
             dm.blkdiscard is true or false",
        ),
    ] {
        assert_eq!(told(rest), (ErrorKind::ValueValidation, line.to_owned()));
    }
    for option in OPTIONS {
        if let Meaning::Nothing(why, instead) = option.meaning {
            let (_, line) = told(&format!("--storage-opt {}=1", option.name));
            let refused = format!("{} is refused: {why}; {instead}", option.name);
            assert!(line.ends_with(&refused), "{line}");
        }
    }
}

#[test]
fn the_same_cannot_be_said_twice() {
    for (plain, name, value) in [
        ("--base-size 1G", "dm.basesize", "1G"),
        ("--size 1G", "dm.loopdatasize", "1G"),
        ("--metadata-size 8M", "dm.loopmetadatasize", "8M"),
        ("--block-size 64K", "dm.blocksize", "64K"),
        ("--fs ext4", "dm.fs", "ext4"),
        ("--mkfs-arg -F", "dm.mkfsarg", "-F"),
        ("--min-free-data 1", "dm.min_free_space", "1%"),
        ("--min-free-metadata 1", "dm.min_free_space", "1%"),
        ("--data /a --metadata /b", "dm.datadev", "/a"),
        ("--data /a --metadata /b", "dm.metadatadev", "/b"),
        ("--storage-opt dm.fs=xfs", "dm.fs", "ext4"),
    ] {
        let (kind, line) = told(&format!("{plain} --storage-opt {name}={value}"));
        assert_eq!(kind, ErrorKind::ArgumentConflict, "{plain}");
        let conflict = format!("error: {name} cannot be used twice or together with --");
        assert!(line.starts_with(&conflict), "{line}");
    }
    let pair = "--storage-opt dm.datadev=/a --storage-opt dm.metadatadev=/b";
    for (rest, kind) in [
        (
            "--storage-opt dm.datadev=/a",
            ErrorKind::MissingRequiredArgument,
        ),
        (
            "--storage-opt dm.metadatadev=/b",
            ErrorKind::MissingRequiredArgument,
        ),
        (&format!("{pair} --size 1G"), ErrorKind::ArgumentConflict),
        (
            &format!("{pair} --storage-opt dm.loopmetadatasize=8M"),
            ErrorKind::ArgumentConflict,
        ),
    ] {
        assert_eq!(told(rest).0, kind, "{rest}");
    }
}

#[test]
fn the_documented_table_is_this_one() {
    let rows: Vec<String> = OPTIONS
        .iter()
        .map(|option| {
            let here = match option.meaning {
                Meaning::Becomes(flag, _) => format!("is `{}`", flag.replace(" and ", "` and `")),
                Meaning::Always(says) => format!("`true` only: {says}"),
                Meaning::Nothing(why, instead) => format!("refused: {why}; {instead}"),
            };
            format!("| `{}` | {here} |", option.name)
        })
        .collect();
    let documented: Vec<&str> = include_str!("../../../../../docs/storage-opt.md")
        .lines()
        .filter(|line| line.starts_with("| `dm."))
        .collect();
    assert_eq!(documented, rows, "\n{}", rows.join("\n"));
    assert_eq!(rows.len(), 23);
}
