//! Containers, images and snapshots that have blocks of each other's, and go in any order: who stays keeps all of
//! his, and the last one leaves nothing.

#![allow(clippy::arithmetic_side_effects, reason = "test helper")]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;

use anyhow::{Context, Result, ensure};

use super::dice::Dice;
use super::growth::{number, status};
use super::harness::{Ctx, Test, text, witness};
use super::removal::pool_with_image;

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[("sharing_outlives_who_goes_in_any_order", any_order)];

const SEED: u64 = 0x5eed_0046;
const TURNS: u64 = 60;
/// More than are made on the way, so that removals have a choice.
const MOST: usize = 10;
/// The file that each overwrites in place, in blocks that it shares until then.
const COMMON: &str = "common";
const LEN: usize = 512 << 10;
/// The image that is there from the first.
const FIRST: &str = "demo:1";

/// What a file is full of, by its name.
type Files = BTreeMap<String, u8>;

struct Family<'a> {
    ctx: &'a Ctx,
    dice: Dice,
    containers: BTreeMap<String, Files>,
    images: BTreeMap<String, Files>,
    made: u64,
}

impl Family<'_> {
    fn one_of(&mut self, names: Vec<String>) -> Result<String> {
        self.dice.pick(&names).cloned().context("there is none")
    }

    fn container(&mut self) -> Result<String> {
        self.one_of(self.containers.keys().cloned().collect())
    }

    fn image(&mut self) -> Result<String> {
        self.one_of(self.images.keys().cloned().collect())
    }

    fn new_name(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{kind}{}", self.made)
    }

    fn mounted<T>(
        &self,
        name: &str,
        work: impl FnOnce(&std::path::Path) -> Result<T>,
    ) -> Result<T> {
        let dir = self.ctx.mkdir("family")?;
        self.ctx.ok(&["container", "mount", name, text(&dir)])?;
        let done = work(&dir).with_context(|| name.to_owned());
        self.ctx.ok(&["container", "umount", name])?;
        done
    }

    /// A container that was just made writes into what it shares, and something of its own.
    fn write(&mut self, name: &str, mut files: Files) -> Result<()> {
        let byte = u8::try_from(1 + self.dice.below(255))?;
        self.mounted(name, |dir| {
            for file in [COMMON, name] {
                let mut open = OpenOptions::new();
                // Over what is there: its blocks are another container's too.
                let mut file = open
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(dir.join(file))?;
                file.write_all(&vec![byte; LEN])?;
                file.sync_all()?;
            }
            Ok(())
        })?;
        files.extend([(COMMON.to_owned(), byte), (name.to_owned(), byte)]);
        self.containers.insert(name.to_owned(), files);
        Ok(())
    }

    fn look(&self, name: &str) -> Result<()> {
        self.mounted(name, |dir| {
            for (file, byte) in &self.containers[name] {
                let found = fs::read(dir.join(file)).with_context(|| file.clone())?;
                let odd = found.iter().position(|found| found != byte);
                ensure!(
                    found.len() == LEN && odd.is_none(),
                    "{file}: {} bytes, not {byte} at {odd:?}",
                    found.len()
                );
            }
            Ok(())
        })?;
        let node = format!("/dev/mapper/dmthin-tank-ctr-{name}");
        witness("e2fsck", &["-fn", &node]).map(drop)
    }

    fn remove(&mut self) -> Result<()> {
        let name = self.container()?;
        self.ctx.ok(&["container", "rm", &name])?;
        self.containers.remove(&name);
        Ok(())
    }

    fn remove_image(&mut self, name: &str) -> Result<()> {
        let images = self.ctx.json(&["container", "list"])?;
        let of = |found: &serde_json::Value| found["image"] == *name;
        let used = images["containers"].as_array().context("no list")?;
        if used.iter().any(of) {
            return self.ctx.fails(&["image", "rm", name], 5, "in use");
        }
        self.ctx.ok(&["image", "rm", name])?;
        self.images.remove(name);
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        let chance = self.dice.below(10);
        if self.containers.is_empty() || (chance < 2 && self.containers.len() < MOST) {
            let (image, name) = (self.image()?, self.new_name("c"));
            self.ctx
                .ok(&["container", "create", &image, "--name", &name])?;
            let files = self.images[&image].clone();
            return self.write(&name, files);
        }
        match chance {
            0..=4 if self.containers.len() < MOST => {
                let (of, name) = (self.container()?, self.new_name("c"));
                self.ctx.ok(&["container", "fork", &of, "--name", &name])?;
                let files = self.containers[&of].clone();
                self.write(&name, files)
            }
            5 => {
                let (of, name) = (self.container()?, self.new_name("i") + ":1");
                self.ctx
                    .ok(&["container", "commit", &of, "--name", &name])?;
                let files = self.containers[&of].clone();
                self.images.insert(name, files);
                Ok(())
            }
            6 => {
                let name = self.image()?;
                if name == FIRST {
                    return Ok(());
                }
                self.remove_image(&name)
            }
            7 => {
                let name = self.container()?;
                self.ctx.ok(&["container", "snapshot", &name, "s"])?;
                let files = self.containers[&name].clone();
                self.write(&name, files.clone())?;
                self.ctx.ok(&["container", "rollback", &name, "s"])?;
                self.containers.insert(name.clone(), files);
                self.ctx.ok(&["container", "snapshot-rm", &name, "s"])?;
                self.look(&name)
            }
            _ => self.remove(),
        }
    }
}

fn any_order(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    let used = |ctx: &Ctx| number(&status(ctx)?["live"]["data"]["used"]);
    let before = used(ctx)?;
    let mut family = Family {
        ctx,
        dice: Dice::new(SEED),
        containers: BTreeMap::new(),
        images: BTreeMap::from([(FIRST.to_owned(), Files::new())]),
        made: 0,
    };
    for turn in 0..TURNS {
        family.turn().with_context(|| format!("turn {turn}"))?;
        if turn % 4 == 0 && !family.containers.is_empty() {
            let name = family.container()?;
            family.look(&name).with_context(|| format!("turn {turn}"))?;
        }
    }
    ensure!(family.images.len() > 1 && family.containers.len() > 2);
    while !family.containers.is_empty() {
        for name in family.containers.keys() {
            family.look(name)?;
        }
        family.remove()?;
    }
    for name in family.images.keys().filter(|name| *name != FIRST) {
        ctx.ok(&["image", "rm", name])?;
    }
    ctx.ok(&["queue", "run"])?;
    ctx.ok(&["check"])?;
    let after = used(ctx)?;
    ensure!(after == before, "{after} bytes used, {before} before");
    Ok(())
}
