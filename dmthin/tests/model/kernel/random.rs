//! Words to a kernel as no verb would say them.

use dmthin::ids::DevNo;
use dmthin::ioctl::TargetLine;
use dmthin::model::{DmTold, Told};
use dmthin::units::Sectors;

use crate::plan::Random;

const WORDS: usize = 50;
/// Thin devices and ids that take part.
const NR: u64 = 4;
const BLOCK: u64 = 64 << 10;
/// Sectors of a thin device, and of the pool's data.
const VOLUME: u64 = 64 << 11;
const DATA: [u64; 3] = [16 << 11, 32 << 11, 64 << 11];
/// Numbers as good as any: each side has its own.
const METADATA_DEV: DevNo = DevNo::new(1, 0);
const DATA_DEV: DevNo = DevNo::new(1, 1);
const POOL_DEV: DevNo = DevNo::new(2, 0);

fn thin_dev(n: u64) -> DevNo {
    DevNo::new(2, 1 + u32::try_from(n).unwrap())
}

fn dm(name: &str, dev: Option<DevNo>, what: DmTold) -> Told {
    let uuid = match what {
        DmTold::Create => format!("DMTHIN-test-{name}"),
        _ => String::new(),
    };
    Told::Dm {
        name: name.to_owned(),
        uuid,
        dev,
        what,
    }
}

fn thin(n: u64, what: DmTold) -> Told {
    dm(&format!("dmthin-test-thin{n}"), Some(thin_dev(n)), what)
}

fn pool(what: DmTold) -> Told {
    dm("dmthin-test-pool", Some(POOL_DEV), what)
}

fn message(text: String) -> Told {
    pool(DmTold::Message { text })
}

fn load(len: u64, kind: &str, params: String) -> DmTold {
    DmTold::Load {
        table: vec![TargetLine {
            start: Sectors::ZERO,
            len: Sectors::new(len),
            kind: kind.to_owned(),
            params,
        }],
        read_only: false,
    }
}

fn load_pool(size: u64) -> Told {
    let params = format!("{METADATA_DEV} {DATA_DEV} 128 0");
    pool(load(size, "thin-pool", params))
}

const RESUME: DmTold = DmTold::Resume {
    noflush: false,
    skip_lockfs: false,
};
const SUSPEND: DmTold = DmTold::Suspend {
    noflush: false,
    skip_lockfs: true,
};

fn make_pool() -> [Told; 3] {
    [pool(DmTold::Create), load_pool(DATA[0]), pool(RESUME)]
}

/// Takes all away that can be, and makes the pool anew.
fn again(told: &mut Vec<Told>) {
    told.extend((0..NR).map(|nr| Told::Closed { nr }));
    told.push(pool(RESUME));
    told.extend((0..NR).map(|n| thin(n, RESUME)));
    told.extend((0..NR).map(|n| thin(n, DmTold::Remove { deferred: false })));
    told.push(pool(DmTold::Remove { deferred: false }));
    told.extend(make_pool());
}

/// The words of a seed.
pub(super) fn told(seed: u64) -> Vec<Told> {
    let mut random = Random::new(seed);
    let mut told = vec![
        Told::Attached {
            dev: METADATA_DEV,
            size: 4 << 20,
        },
        Told::Attached {
            dev: DATA_DEV,
            size: DATA[2] * 512,
        },
    ];
    told.extend(make_pool());
    let load_thin = |n, id| thin(n, load(VOLUME, "thin", format!("{POOL_DEV} {id}")));
    let wrote = |n, block| Told::Wrote {
        dev: thin_dev(n),
        blocks: vec![block],
    };
    // Else many histories are of nothing but refusals.
    for n in [0, 1] {
        told.push(message(format!("create_thin {n}")));
        told.extend([thin(n, DmTold::Create), load_thin(n, n), thin(n, RESUME)]);
        told.push(wrote(n, 1));
    }
    for _ in 0..WORDS {
        let (a, b) = (random.below(NR), random.below(NR));
        let word = match random.below(48) {
            0..5 => message(format!("create_thin {a}")),
            5..8 => message(format!("create_snap {a} {b}")),
            8..10 => message(format!("delete {a}")),
            10 => {
                let (from, to) = (random.below(3), random.below(3));
                message(format!("set_transaction_id {from} {to}"))
            }
            11 => message("reserve_metadata_snap".to_owned()),
            12 => message("release_metadata_snap".to_owned()),
            13 => message("nonsense 1".to_owned()),
            14..18 => thin(a, DmTold::Create),
            18..22 => load_thin(a, b),
            22 => thin(a, load(128, "linear", format!("{DATA_DEV} 0"))),
            23 => thin(a, DmTold::Clear),
            24..29 => thin(a, RESUME),
            29 => thin(a, SUSPEND),
            30..32 => thin(a, DmTold::Remove { deferred: false }),
            32 => thin(a, DmTold::Remove { deferred: true }),
            33 => thin(
                a,
                DmTold::Rename {
                    to: format!("dmthin-test-thin{b}"),
                },
            ),
            34 => thin(
                a,
                DmTold::Message {
                    text: "@cancel_deferred_remove".to_owned(),
                },
            ),
            35..39 => wrote(a, random.below(6)),
            39 => Told::Discarded {
                dev: thin_dev(a),
                at: random.below(4) * BLOCK,
                len: 2 * BLOCK,
            },
            40 => Told::Opened {
                nr: a,
                dev: thin_dev(b),
                exclusive: true,
            },
            41 => Told::Closed { nr: a },
            42 => pool(SUSPEND),
            43 | 44 => pool(RESUME),
            45 => {
                let size = DATA[usize::try_from(random.below(3)).unwrap()];
                // One that is too small is refused by the resume, and leaves the pool suspended.
                told.extend([load_pool(size), pool(RESUME)]);
                continue;
            }
            46 => pool(DmTold::Remove { deferred: false }),
            _ => {
                again(&mut told);
                continue;
            }
        };
        told.push(word);
    }
    told
}
