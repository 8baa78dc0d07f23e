//! Makes a real Debian image as a container engine would save it.

use std::process::ExitCode;

use clap::Parser;
use dmthin_tests::fixture::{Variant, image};

/// Makes a Debian image of three layers from packages, as a docker-archive
/// and as an OCI layout, and prints where they are. Needs no root.
#[derive(Debug, Parser)]
#[command(name = "fixtures/make-image")]
struct Args {
    /// A few megabytes instead of more than 200.
    #[arg(long)]
    small: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match image(if args.small {
        Variant::Small
    } else {
        Variant::Full
    }) {
        Ok(image) => {
            println!("docker-archive {}", image.docker.display());
            println!("oci-layout     {}", image.oci.display());
            println!("oci-tar        {}", image.oci_tar.display());
            println!("disk           {}", image.disk.display());
            for layer in &image.layers {
                println!("layer          {}", layer.display());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
