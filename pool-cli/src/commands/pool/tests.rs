use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use dmthin::graph::{
    BackingReport, CreatePool, LivePool, MirrorState, PoolOn, PoolWord, Promised, TimeToFull,
    UntilGuard, Usage,
};
use dmthin::ids::{DevNo, FsType, PoolUuid, TransactionId};
use dmthin::store::Guard;
use dmthin::units::{BlockSize, Bytes, DataBlocks};

use super::show::pool_fields;
use super::*;
use crate::args::{Cli, Command};
use crate::config::CreateSettings;
use crate::output::Output;

fn create(line: &str) -> Result<CreatePool, clap::Error> {
    create_with(line, CreateSettings::default())
}

fn create_with(line: &str, settings: CreateSettings) -> Result<CreatePool, clap::Error> {
    let cli = Cli::try_parse_from(line.split(' '))?;
    match cli.command {
        Command::Pool(PoolCommand::Create(args)) => args.options(settings),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pool_has_the_librarys_sizes_by_default() {
    let new = create("pool-cli pool create tank").unwrap();
    assert_eq!(new.size, CreatePool::DEFAULT_SIZE);
    assert_eq!(new.base_size, CreatePool::DEFAULT_BASE_SIZE);
    assert_eq!(new.block_size, BlockSize::DEFAULT);
    assert_eq!(new.metadata_size, None);
    assert_eq!(new.fs, FsType::Ext4);
    assert!(!new.single_tenant);
    assert!(matches!(new.on, PoolOn::Files));
    assert!(!new.force && new.overcommit);
}

#[test]
fn every_option_of_a_new_pool_arrives() {
    let new = create(
        "pool-cli pool create tank --size 5G --metadata-size 16M --block-size 128K --base-size 2G \
         --fs xfs --mkfs-arg -O --mkfs-arg ^quota --single-tenant",
    )
    .unwrap();
    assert_eq!(new.name.as_str(), "tank");
    assert_eq!(new.size, Bytes::from_gib(5));
    assert_eq!(new.metadata_size, Some(Bytes::from_mib(16)));
    assert_eq!(new.block_size.to_bytes(), Bytes::from_kib(128));
    assert_eq!(new.base_size, Bytes::from_gib(2));
    assert_eq!(new.fs, FsType::Xfs);
    assert_eq!(new.mkfs_args, ["-O", "^quota"]);
    assert!(new.single_tenant);
    let new = create("pool-cli pool create tank --data /dev/sdb --metadata /dev/sdc").unwrap();
    let PoolOn::Devices(pair) = new.on else {
        panic!("{:?}", new.on)
    };
    assert_eq!(pair.data, PathBuf::from("/dev/sdb"));
    assert_eq!(pair.metadata, PathBuf::from("/dev/sdc"));
    let new = create(
        "pool-cli pool create tank --device /dev/sdb --metadata-size 1G --force --no-overcommit",
    )
    .unwrap();
    assert!(matches!(new.on, PoolOn::Disk(path) if path.as_os_str() == "/dev/sdb"));
    assert_eq!(new.metadata_size, Some(Bytes::from_gib(1)));
    assert!(new.force && !new.overcommit);
    let new = create("pool-cli pool create tank --existing vg/pool").unwrap();
    assert!(matches!(new.on, PoolOn::ThinPool(path) if path.as_os_str() == "vg/pool"));
}

#[test]
fn settings_stand_in_for_options_and_options_win() {
    let settings = CreateSettings {
        size: Bytes::from_gib(5),
        metadata_size: Some(Bytes::from_mib(16)),
        block_size: BlockSize::from_bytes(Bytes::from_kib(128)).unwrap(),
        base_size: Bytes::from_gib(2),
        fs: FsType::Xfs,
        mkfs_args: vec!["-m".to_owned(), "crc=1".to_owned()],
        single_tenant: true,
        min_free_data: Percent::new(7).unwrap(),
        min_free_metadata: Percent::new(8).unwrap(),
        on_full: WhenFull::Error,
    };
    let taken = create_with("pool-cli pool create tank", settings.clone()).unwrap();
    assert_eq!(taken.size, settings.size);
    assert_eq!(taken.metadata_size, settings.metadata_size);
    assert_eq!(taken.block_size, settings.block_size);
    assert_eq!(taken.base_size, settings.base_size);
    assert_eq!(taken.fs, settings.fs);
    assert_eq!(taken.mkfs_args, settings.mkfs_args);
    assert!(taken.single_tenant);
    assert_eq!(taken.when_full, settings.on_full);
    assert_eq!(taken.guard.min_free_data, settings.min_free_data);
    assert_eq!(taken.guard.min_free_metadata, settings.min_free_metadata);
    let said = create_with(
        "pool-cli pool create tank --size 1G --metadata-size 8M --block-size 64K --base-size 3G \
         --fs ext4 --mkfs-arg -F --single-tenant=false --min-free-data 1 --min-free-metadata 2 \
         --on-full queue",
        settings,
    )
    .unwrap();
    assert_eq!(said.size, Bytes::from_gib(1));
    assert_eq!(said.metadata_size, Some(Bytes::from_mib(8)));
    assert_eq!(said.block_size, BlockSize::DEFAULT);
    assert_eq!(said.base_size, Bytes::from_gib(3));
    assert_eq!(said.fs, FsType::Ext4);
    assert_eq!(said.mkfs_args, ["-F"]);
    assert!(!said.single_tenant);
    assert_eq!(said.guard.min_free_data.get(), 1);
    assert_eq!(said.guard.min_free_metadata.get(), 2);
    assert_eq!(said.when_full, WhenFull::Queue);
}

#[test]
fn devices_come_in_pairs_and_have_their_own_size() {
    use clap::error::ErrorKind;
    for (rest, kind) in [
        ("--data /dev/sdb", ErrorKind::MissingRequiredArgument),
        ("--metadata /dev/sdb", ErrorKind::MissingRequiredArgument),
        (
            "--data /dev/sdb --metadata /dev/sdc --size 1G",
            ErrorKind::ArgumentConflict,
        ),
        (
            "--data /dev/sdb --metadata /dev/sdc --metadata-size 1G",
            ErrorKind::ArgumentConflict,
        ),
        ("--device /dev/sdb --size 1G", ErrorKind::ArgumentConflict),
        (
            "--device /dev/sdb --data /dev/sdc --metadata /dev/sdd",
            ErrorKind::ArgumentConflict,
        ),
        (
            "--existing p --block-size 128K",
            ErrorKind::ArgumentConflict,
        ),
        ("--existing p --no-overcommit", ErrorKind::ArgumentConflict),
        (
            "--existing p --device /dev/sdb",
            ErrorKind::ArgumentConflict,
        ),
        ("--size 0", ErrorKind::ValueValidation),
        ("--block-size 96K", ErrorKind::ValueValidation),
        ("--fs btrfs", ErrorKind::ValueValidation),
    ] {
        let error = create(&format!("pool-cli pool create tank {rest}")).unwrap_err();
        assert_eq!(error.kind(), kind, "{rest}");
    }
}

fn backing(path: &str) -> BackingReport {
    BackingReport {
        path: path.into(),
        file: true,
        device: Some(DevNo::new(7, 0)),
        node: Some("/dev/loop0".into()),
        size: Bytes::from_gib(100),
        allocated: Bytes::from_mib(300),
        host_free: Some(Bytes::from_gib(40)),
        direct_io: Some(true),
        block_size: Some(Bytes::from_kib(4)),
    }
}

pub(crate) fn report() -> PoolReport {
    PoolReport {
        name: PoolName::new("tank").unwrap(),
        uuid: PoolUuid::from_bytes([0x11; 16]),
        state: PoolWord::Open,
        block_size: BlockSize::DEFAULT,
        zeroing: true,
        guard: Guard::default(),
        when_full: WhenFull::Queue,
        low_water: Bytes::from_gib(20),
        metadata_at_full_data: Bytes::from_mib(75),
        removals: 2,
        ballast: Some(Bytes::from_gib(1)),
        fs: FsType::Ext4,
        base_size: Bytes::from_gib(10),
        data: backing("/r/tank/data.img"),
        metadata: BackingReport {
            file: false,
            host_free: None,
            direct_io: None,
            node: None,
            ..backing("/dev/vg/meta")
        },
        live: Some(LivePool {
            device: DevNo::new(254, 0),
            mode: "rw".to_owned(),
            data: Some(Usage {
                used: Bytes::from_gib(25),
                total: Bytes::from_gib(100),
            }),
            metadata: None,
            transaction_id: Some(TransactionId::new(7)),
            needs_check: true,
            discard_passdown: true,
            on_full: Some("error".to_owned()),
            time_to_full: TimeToFull {
                data: Some(Duration::from_secs(7300)),
                metadata: None,
            },
            until_guard: Some(UntilGuard {
                data: Bytes::from_gib(65),
                metadata: Bytes::ZERO,
            }),
            active_volumes: 2,
        }),
        generation: TransactionId::new(7),
        images: 2,
        layers: 5,
        containers: 3,
        snapshots: 4,
        volumes: 1,
        volumes_size: Bytes::from_gib(20),
        virtual_size: Bytes::from_gib(30),
        overcommit: false,
        promised: Promised {
            writable: Bytes::from_gib(60),
            sealed: Bytes::from_mib(300),
            total: Bytes::from_gib(100),
        },
        foreign_ids: true,
        mirror: Some(MirrorState::Behind),
    }
}

#[test]
fn bars_have_the_colour_of_what_is_left() {
    let data = |used: u64, to_go: u64| {
        let mut pool = report();
        let live = pool.live.as_mut().unwrap();
        live.data.as_mut().unwrap().used = Bytes::from_gib(used);
        live.until_guard.as_mut().unwrap().data = Bytes::from_gib(to_go);
        let text = painted_fields(&Output::new(false, false, true), &pool);
        text.lines()
            .find_map(|line| Some(line.strip_prefix("Data:")?.trim_start().to_owned()))
            .unwrap()
    };
    let bar = |code, cells: usize, rest| {
        let bar = "#".repeat(cells) + &".".repeat(24 - cells);
        format!("\u{1b}[{code}m[{bar}]  {rest}\u{1b}[0m")
    };
    assert_eq!(data(25, 65), bar(32, 6, "25.0 %  25 GiB of 100 GiB"));
    assert_eq!(data(80, 10), bar(33, 19, "80.0 %  80 GiB of 100 GiB"));
    assert_eq!(data(75, 0), bar(31, 18, "75.0 %  75 GiB of 100 GiB"));
    let plain = painted_fields(&Output::new(false, false, false), &report());
    assert_eq!(plain, pool_fields(&report()));
}

#[test]
fn a_plan_gives_its_reasons() {
    let plan = PoolPlan {
        name: PoolName::new("tank").unwrap(),
        data: "/r/tank/data.img".into(),
        data_size: Bytes::from_gib(100),
        block_size: BlockSize::DEFAULT,
        blocks: DataBlocks::new(1_638_400),
        metadata: "/r/tank/metadata.img".into(),
        metadata_size: Bytes::from_mib(300),
        metadata_least: Bytes::from_mib(75),
        low_water: Bytes::from_gib(10),
        fs: FsType::Ext4,
        base_size: Bytes::from_gib(10),
        zeroing: false,
        guard: Guard::default(),
    };
    assert_eq!(
        plan_fields(&plan),
        "\
Pool:       tank
Data:       /r/tank/data.img
            100 GiB in 1638400 blocks of 64 KiB
Metadata:   /r/tank/metadata.img
            300 MiB: the kernel's formula, 48 bytes a block, asks for 75 MiB, and snapshots written here and there take several times that
Low water:  the kernel gives notice at 10 GiB of free data
Guard:      nothing new below 10% of data, 10% of metadata
Base:       ext4, 10 GiB
Zeroing:    off (single tenant): containers can read what others wrote before
"
    );
}

#[test]
fn an_open_pool_is_shown_whole() {
    assert_eq!(
        pool_fields(&report()),
        "\
Pool:            tank
UUID:            11111111111111111111111111111111
State:           open
Device:          254:0
Mode:            rw, the metadata needs a check: pool-cli pool repair tank
Data:            [######..................]  25.0 %  25 GiB of 100 GiB
Metadata:        -
When full:       error
Guard:           nothing new below 10% of data (65 GiB to go), 10% of metadata REACHED
Full in:         data 2 h 1 min
Discards:        passed down to the data device
Active volumes:  2
Transaction:     7
Ballast:         1 GiB, let go at the red line
Generation:      7
Data on:         /r/tank/data.img
                 300 MiB of 100 GiB allocated, 40 GiB free on the host, /dev/loop0 (7:0), \
4096 byte blocks, direct I/O
Metadata on:     /dev/vg/meta
                 100 GiB, device 7:0, 4096 byte blocks
Block size:      64 KiB
Zeroing:         new blocks are zeroed
Base:            ext4, 10 GiB
Images:          2, 5 layers
Containers:      3, 30 GiB if all were full
Data volumes:    1, 20 GiB if all were full
Snapshots:       4
Overcommit:      no: 60 GiB promised, up to 300 MiB for images, of 100 GiB
Others:          it may have volumes that the catalogue does not know; they are left alone
Copy:            the catalogue's copy in the pool is behind it; `pool open` writes it anew
"
    );
}

#[test]
fn a_closed_pool_shows_what_the_catalogue_knows() {
    let closed = PoolReport {
        state: PoolWord::Closed,
        live: None,
        zeroing: false,
        ..report()
    };
    let text = pool_fields(&closed);
    assert!(text.contains("State:         closed\n"), "{text}");
    assert!(
        text.contains("Zeroing:       off (single tenant)"),
        "{text}"
    );
    assert!(!text.contains("Mode:"), "{text}");
    assert_eq!(opened(&closed), "tank\tclosed\t-\n");
    assert_eq!(opened(&report()), "tank\topen\t254:0\n");
}

#[test]
fn pools_are_listed_with_their_problems() {
    let summary = |name: &str, state, problem: Option<&str>| PoolSummary {
        name: PoolName::new(name).unwrap(),
        uuid: None,
        state,
        data_size: problem.is_none().then(|| Bytes::from_gib(100)),
        images: 1,
        containers: 2,
        problem: problem.map(str::to_owned),
    };
    assert_eq!(
        ListArgs::default()
            .table(
                COLUMNS,
                &[
                    summary("tank", PoolWord::Open, None),
                    summary("old", PoolWord::Damaged, Some("no catalogue")),
                ]
            )
            .unwrap(),
        "\
NAME  STATE    SIZE     IMAGES  CONTAINERS  PROBLEM
tank  open     100 GiB  1       2           -
old   damaged  -        1       2           no catalogue
"
    );
}
