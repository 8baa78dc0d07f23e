//! The benchmarks as a program for the guest; see `dmthin_tests::bench`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use dmthin_tests::bench::{self, Only, Settings};

/// Measures on this machine's kernel and prints what it measured as JSON. For a throw-away machine:
/// it empties the page cache, and an error leaves everything as it is.
#[derive(Debug, Parser)]
struct Args {
    /// Rounds of each way to bring a container's device up and down.
    #[arg(long, default_value_t = 200)]
    rounds: u64,
    /// Imports of the image.
    #[arg(long, default_value_t = 3)]
    imports: u64,
    /// Volumes of the pool that is opened; 0 leaves that out.
    #[arg(long, default_value_t = 10_000)]
    volumes: u64,
    /// Sizes of images of empty files of which a diff is measured.
    #[arg(long, value_delimiter = ',', default_value = "5000,500000")]
    sizes: Vec<u64>,
    #[command(flatten)]
    only: Only,
    /// A directory for the pool.
    #[arg(long, default_value = "/srv")]
    work: PathBuf,
    /// A docker-archive.
    #[arg(long, default_value = "/images/docker.tar")]
    image: PathBuf,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    let measured = bench::run(&Settings {
        rounds: args.rounds,
        imports: args.imports,
        volumes: args.volumes,
        sizes: args.sizes,
        only: args.only,
        work: args.work,
        image: args.image,
    })?;
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}
