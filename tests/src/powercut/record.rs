//! The history as it happens, on the disk whose writes are logged: in the guest.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail, ensure};

use super::history::{self, Act, Op};
use super::layout::{Layout, MARKS, Stage, unmap};
use super::log::{Kind, Log};
use crate::guest::harness::{run, witness};
use crate::sectors::Sectors;

const DISK: &str = "/dev/vm/disk";
const MARK: &[u8; 8] = b"DMTHINPC";

/// Sets everything up and goes through the history.
///
/// # Errors
/// Where a step fails.
pub fn record(layout: Layout) -> Result<()> {
    history::write_images(Path::new("/tmp/images"))?;
    layout.assemble(DISK, Stage::Made)?;
    let state = "/dev/mapper/pc-state";
    let options = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
    witness("mkfs.ext4", &["-q", "-E", options, "-J", "size=8", state])?;
    fs::create_dir_all("/srv")?;
    witness("mount", &["-o", "discard", state, "/srv"])?;
    fs::create_dir("/srv/root")?;
    rustix::fs::sync();
    let marks = Sectors::open(DISK)?;
    for (n, op) in (0_u64..).zip(history::ops(layout)) {
        let begin = n.saturating_mul(2);
        mark(&marks, begin)?;
        perform(layout, &op)?;
        mark(&marks, begin.saturating_add(1))?;
        println!("{}", op.title());
    }
    witness("umount", &["/srv"])?;
    unmap(&layout.names())
}

fn perform(layout: Layout, op: &Op) -> Result<()> {
    match &op.act {
        Act::Cli(words) => {
            if let ["container", "mount", _, dir] = words.as_slice() {
                fs::create_dir_all(dir)?;
            }
            let args: Vec<_> = ["--root", "/srv/root", "-q"]
                .into_iter()
                .chain(words.iter().copied())
                .collect();
            let output = run("pool-cli", &args)?;
            ensure!(
                output.code == 0,
                "{}: {} {}",
                op.title(),
                output.code,
                output.stderr
            );
            Ok(())
        }
        Act::Write(container, file) => {
            let content = history::file_content(&format!("{container}/{file}"));
            let dir = format!("/mnt/{container}");
            let mut written = File::create(Path::new(&dir).join(file))?;
            written.write_all(&content)?;
            written.sync_all()?;
            Ok(File::open(dir)?.sync_all()?)
        }
        Act::Unlink(container, file) => {
            let dir = format!("/mnt/{container}");
            fs::remove_file(Path::new(&dir).join(file))?;
            Ok(File::open(dir)?.sync_all()?)
        }
        Act::Enlarge => layout.enlarge(DISK, Stage::Grown),
    }
}

/// Sectors before everything else on the disk. One is written when it is time, without a flush, which would
/// make durable what nobody else did: where it stands in the log is all that matters.
fn mark(disk: &Sectors, number: u64) -> Result<()> {
    let mark: Vec<u8> = MARK.iter().copied().chain(number.to_le_bytes()).collect();
    disk.write(number, &mark)
}

/// Where each mark stands in the log.
pub(crate) fn marks(log: &Log) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    for (n, entry) in log.entries.iter().enumerate() {
        let Kind::Write(at) = entry.kind else {
            continue;
        };
        if entry.start >= MARKS {
            continue;
        }
        let mut words = [0; 16];
        log.data(at, &mut words)?;
        let (magic, number) = words.split_at(8);
        let number: [u8; 8] = number.try_into()?;
        if magic != MARK || u64::from_le_bytes(number) != u64::try_from(found.len())? {
            bail!("entry {n} is not mark {}", found.len());
        }
        found.push(n);
    }
    Ok(found)
}
