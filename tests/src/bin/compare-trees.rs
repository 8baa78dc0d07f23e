//! Compares two directory trees and prints every difference: exit status 0 if
//! there is none, 1 if there are, 2 if they could not be compared.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use dmthin_tests::compare::compare;

/// Compares two directory trees, entry by entry.
#[derive(Debug, Parser)]
#[command(name = "compare-trees")]
struct Args {
    /// The first tree.
    left: PathBuf,
    /// The second tree.
    right: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match compare(&args.left, &args.right) {
        Ok(found) => {
            for difference in &found.differences {
                println!("{difference}");
            }
            let count = found.differences.len();
            println!("{} entries compared, {count} differences", found.nr_entries);
            ExitCode::from(u8::from(count != 0))
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
