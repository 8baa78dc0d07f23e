//! Answers about a pool's space, and the text that they are kept as.
//!
//! ```text
//! dmthin-space 1 CHECKSUM          CRC-32C of all that follows
//! pool UUID
//! at TRANSACTION USED MAPPED       of the stamp; MAPPED is what anybody has mapped, each block once
//! d ID MAPPED TRANSACTION CREATED SNAPSHOTTED ALONE
//! s ALONE ID,ID...                 a set of which no other has a device
//! u MAPPED ALONE ID,ID...          a set
//! ```
//! It is worth no more than the time to ask again: what is not understood to the last byte is as good as
//! nothing, and what is understood counts only for a stamp and questions that are the same.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::crc32c::crc32c;
use crate::ids::{PoolUuid, ThinId, TransactionId};
use crate::thinmeta::device::ReadAt;
use crate::thinmeta::metadata::{Metadata, ThinDevice};
use crate::thinmeta::space::{Exclusives, Stamp, Union};
use crate::thinmeta::superblock::ReadError;
use crate::units::DataBlocks;

const HEAD: &str = "dmthin-space 1";

/// What is asked about sets of devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Questions {
    /// What only the devices of each of these have: [`Metadata::exclusives`].
    pub sets: Vec<BTreeSet<ThinId>>,
    /// What the devices of each of these have: [`Metadata::unions`].
    pub unions: Vec<BTreeSet<ThinId>>,
}

/// What was answered, and when that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answers {
    /// The devices.
    pub devices: Vec<ThinDevice>,
    /// What each of them has alone, and each of the sets.
    pub exclusives: Exclusives,
    /// What each of the unions has.
    pub unions: Vec<Union>,
}

/// Answers that hold for a stamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    stamp: Stamp,
    questions: Questions,
    answers: Answers,
}

impl<D: ReadAt> Metadata<D> {
    /// Answers questions: with what was kept, if that still holds, else by reading all trees; the latter
    /// with what is to be kept, unless the pool is written to.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn answer(
        &mut self,
        questions: &Questions,
        kept: Option<Kept>,
    ) -> Result<(Answers, Option<Kept>), ReadError> {
        let stamp = self.stamp()?;
        if let Some(kept) = kept
            && stamp.as_ref() == Some(&kept.stamp)
            && kept.questions == *questions
        {
            return Ok((kept.answers, None));
        }
        let devices = match &stamp {
            Some(stamp) => stamp.devices.clone(),
            None => self.devices()?,
        };
        let answers = Answers {
            devices,
            exclusives: self.exclusives(&questions.sets)?,
            unions: self.unions(&questions.unions)?,
        };
        // Else some blocks are about to be given back: see `Stamp`.
        let settled = |stamp: &Stamp| stamp.used == answers.exclusives.mapped;
        let kept = stamp.filter(settled).map(|stamp| Kept {
            stamp,
            questions: questions.clone(),
            answers: answers.clone(),
        });
        Ok((answers, kept))
    }
}

fn ids(set: &BTreeSet<ThinId>) -> String {
    let ids: Vec<String> = set.iter().map(ToString::to_string).collect();
    ids.join(",")
}

impl Kept {
    /// The text to keep.
    #[must_use]
    pub fn encode(&self, pool: PoolUuid) -> String {
        let Self {
            stamp,
            questions,
            answers,
        } = self;
        let mut body = format!("pool {pool}\n");
        let mut line = |text: std::fmt::Arguments<'_>| {
            body.write_fmt(text).expect("a string takes all");
            body.push('\n');
        };
        line(format_args!(
            "at {} {} {}",
            stamp.transaction_id.get(),
            stamp.used,
            answers.exclusives.mapped
        ));
        for device in &stamp.devices {
            let alone = answers.exclusives.devices.get(&device.id);
            line(format_args!(
                "d {} {} {} {} {} {}",
                device.id,
                device.mapped,
                device.transaction_id.get(),
                device.created,
                device.snapshotted,
                alone.copied().unwrap_or(DataBlocks::ZERO)
            ));
        }
        for (set, alone) in questions.sets.iter().zip(&answers.exclusives.sets) {
            line(format_args!("s {alone} {}", ids(set)));
        }
        for (set, union) in questions.unions.iter().zip(&answers.unions) {
            line(format_args!(
                "u {} {} {}",
                union.mapped,
                union.alone,
                ids(set)
            ));
        }
        format!("{HEAD} {:08x}\n{body}", crc32c(body.as_bytes()))
    }

    /// What a text of this pool keeps; `None` where it is none, or is damaged.
    #[must_use]
    pub fn decode(text: &str, pool: PoolUuid) -> Option<Self> {
        let (head, body) = text.split_once('\n')?;
        let sum = head.strip_prefix(HEAD)?.strip_prefix(' ')?;
        if sum != format!("{:08x}", crc32c(body.as_bytes())) {
            return None;
        }
        let mut lines = body.lines();
        if lines.next()?.strip_prefix("pool ")? != pool.to_string() {
            return None;
        }
        let [transaction, used, mapped] = numbers(lines.next()?.strip_prefix("at ")?)?;
        let mut devices = Vec::new();
        let mut questions = Questions::default();
        let mut unions = Vec::new();
        let mut exclusives = Exclusives {
            mapped: DataBlocks::new(mapped),
            ..Exclusives::default()
        };
        for line in lines {
            let (what, rest) = line.split_once(' ')?;
            match what {
                "d" => {
                    let [id, mapped, transaction, created, snapshotted, alone] = numbers(rest)?;
                    let id = ThinId::new(id).ok()?;
                    devices.push(ThinDevice {
                        id,
                        mapped: DataBlocks::new(mapped),
                        transaction_id: TransactionId::new(transaction),
                        created,
                        snapshotted,
                    });
                    exclusives.devices.insert(id, DataBlocks::new(alone));
                }
                "s" => {
                    let (alone, ids) = rest.split_once(' ')?;
                    let [alone] = numbers(alone)?;
                    exclusives.sets.push(DataBlocks::new(alone));
                    questions.sets.push(set(ids)?);
                }
                "u" => {
                    let (counts, ids) = rest.rsplit_once(' ')?;
                    let [mapped, alone] = numbers(counts)?.map(DataBlocks::new);
                    unions.push(Union { mapped, alone });
                    questions.unions.push(set(ids)?);
                }
                _ => return None,
            }
        }
        Some(Self {
            stamp: Stamp {
                transaction_id: TransactionId::new(transaction),
                used: DataBlocks::new(used),
                devices: devices.clone(),
            },
            questions,
            answers: Answers {
                devices,
                exclusives,
                unions,
            },
        })
    }
}

fn numbers<const N: usize>(text: &str) -> Option<[u64; N]> {
    let numbers: Result<Vec<u64>, _> = text.split(' ').map(str::parse).collect();
    numbers.ok()?.try_into().ok()
}

fn set(text: &str) -> Option<BTreeSet<ThinId>> {
    if text.is_empty() {
        return Some(BTreeSet::new());
    }
    let id = |id: &str| ThinId::new(id.parse().ok()?).ok();
    text.split(',').map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: &str = "0f8f2d3e6d3b4c0a9d573a1b2c4d5e6f";

    fn thin(id: u64) -> ThinId {
        ThinId::new(id).unwrap()
    }

    fn kept() -> Kept {
        let device = |id, mapped| ThinDevice {
            id: thin(id),
            mapped: DataBlocks::new(mapped),
            transaction_id: TransactionId::new(id.wrapping_add(3)),
            created: id.wrapping_add(4),
            snapshotted: id.wrapping_add(5),
        };
        let devices = vec![device(0, 10), device(7, 30)];
        let blocks = DataBlocks::new;
        Kept {
            stamp: Stamp {
                transaction_id: TransactionId::new(9),
                used: blocks(35),
                devices: devices.clone(),
            },
            questions: Questions {
                sets: vec![[thin(0), thin(7)].into(), BTreeSet::new()],
                unions: vec![[thin(7)].into()],
            },
            answers: Answers {
                devices,
                exclusives: Exclusives {
                    mapped: blocks(35),
                    devices: [(thin(0), blocks(5)), (thin(7), blocks(25))].into(),
                    sets: vec![blocks(35), blocks(0)],
                },
                unions: vec![Union {
                    mapped: blocks(30),
                    alone: blocks(30),
                }],
            },
        }
    }

    #[test]
    fn what_is_kept_is_what_is_read_again_and_a_damaged_text_is_nothing() {
        let uuid: PoolUuid = POOL.parse().unwrap();
        let text = kept().encode(uuid);
        assert_eq!(Kept::decode(&text, uuid), Some(kept()));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let damaged = String::from_utf8(bytes).unwrap();
            assert_eq!(Kept::decode(&damaged, uuid), None, "{at}");
            assert_eq!(Kept::decode(&text[..at], uuid), None, "{at}");
        }
        let other = POOL.replace('0', "1").parse().unwrap();
        assert_eq!(Kept::decode(&text, other), None);
    }

    #[test]
    fn a_text_whose_checksum_is_right_may_be_nonsense_all_the_same() {
        let uuid: PoolUuid = POOL.parse().unwrap();
        for (rest, understood) in [
            ("at 1 2 3", true),
            ("at 1 2", false),
            ("at 1 2 -3", false),
            ("at 1 2 3\nd 1 2 3 4 5", false),
            ("at 1 2 3\nd 16777216 2 3 4 5 6", false),
            ("at 1 2 3\ns 4 1,2", true),
            ("at 1 2 3\ns 4 1,,2", false),
            ("at 1 2 3\ns 4", false),
            ("at 1 2 3\nx 4 1", false),
        ] {
            let body = format!("pool {POOL}\n{rest}\n");
            let text = format!("{HEAD} {:08x}\n{body}", crc32c(body.as_bytes()));
            assert_eq!(Kept::decode(&text, uuid).is_some(), understood, "{rest}");
        }
    }
}
