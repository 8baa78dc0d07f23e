//! Fio as a load that knows what it wrote: in each block stand the pass, the job and the block's own place.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::guest::harness::{run, text};

/// What is done in a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Blocks of a file in each directory are written in random order, flushed now and then and at the end.
    Write,
    /// That, and then all is read and compared.
    WriteAndVerify,
    /// What the pass of this number wrote is read and compared.
    Verify,
}

/// The file of a pass; two passes after each other have each one of its own.
pub(crate) fn file_name(number: u64) -> String {
    format!("fio-{}", number % 2)
}

/// Runs a pass in these directories, in all of them at a time.
pub(crate) fn fio(dirs: &[impl AsRef<Path>], number: u64, what: Pass) -> Result<()> {
    let log = "/tmp/fio.txt";
    let own = [
        format!("--output={log}"),
        format!("--randseed={}", number.saturating_add(1)),
        match what {
            Pass::Write => "--do_verify=0",
            Pass::WriteAndVerify => "--do_verify=1",
            Pass::Verify => "--verify_only",
        }
        .to_owned(),
    ];
    let jobs: Vec<String> = (0..)
        .zip(dirs)
        .flat_map(|(nr, dir): (u32, _)| {
            let (dir, file, pass) = (
                text(dir.as_ref()),
                file_name(number),
                number.saturating_add(1),
            );
            [
                format!("--name=job{nr}"),
                format!("--directory={dir}"),
                // Behind the directory, and for each job: before it the file is one for all, in no directory.
                format!("--filename={file}"),
                // What an older pass left, or another job or place has, is not this.
                format!("--verify_pattern=0x{pass:08x}{nr:08x}%o"),
            ]
        })
        .collect();
    let mut args = vec![
        "--ioengine=psync",
        "--thread",
        "--rw=randwrite",
        "--bs=4k",
        "--size=512k",
        "--fallocate=none",
        "--fsync=16",
        "--end_fsync=1",
        "--verify=pattern",
        "--verify_fatal=1",
    ];
    args.extend(own.iter().chain(&jobs).map(String::as_str));
    let ended = run("fio", &args)?;
    ensure!(
        ended.code == 0,
        "fio pass {number} ({what:?}) ended with {}: {}{}",
        ended.code,
        ended.stderr,
        fs::read_to_string(log).unwrap_or_default()
    );
    Ok(())
}
