//! `pool-cli image export`, and where archives go.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, ValueEnum};
use dmthin::graph::{ExportReport, ExportTo};
use dmthin::image::ArchiveForm;
use serde::Serialize;

use crate::args::{Cli, Context};
use crate::output::{list, short};

pub(super) const EXPORT_HELP: &str = "\
Configuration and layers have the digests that they have here: an image that was imported is the
same image where the archive is loaded. Layers are not compressed, so that the same image is always
the same bytes; compress the whole, as below. A file is there when it is whole, and replaces one of
its name.

Prints nothing but the archive, where it goes to stdout.

Examples:
  pool-cli image export web:2 -o web.tar && docker load -i web.tar
  pool-cli image export web:2 | zstd > web.tar.zst
  pool-cli image export web:2 --format oci -o w.oci && skopeo copy oci-archive:w.oci docker://...";

/// Options of `image export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Name of the image, its id, or the first digits of its id
    #[arg(value_name = "REF")]
    image: String,
    /// Form of the archive
    #[arg(long, value_enum, default_value_t = Form::DockerArchive)]
    format: Form,
    /// Where it goes; - is stdout
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// What docker load takes
    DockerArchive,
    /// An OCI image layout in a tar
    Oci,
}

#[derive(Debug, Serialize)]
struct Exported<'a> {
    exported: &'a ExportReport,
}

pub(super) fn run(context: &Context, args: &ExportArgs) -> anyhow::Result<()> {
    let form = match args.format {
        Form::DockerArchive => ArchiveForm::Docker,
        Form::Oci => ArchiveForm::Oci,
    };
    let pool = context.pool(None)?;
    let mut stdout = None;
    let to = out_to(&args.output, &mut stdout)?;
    let is_file = matches!(to, ExportTo::File(_));
    let report = pool.export_image(&args.image, form, to)?;
    let told = format!(
        "image {} ({}): {}",
        short(report.id),
        list(&report.names),
        report.bytes
    );
    context.out.note(&told);
    match is_file {
        true => context
            .out
            .done(&Exported { exported: &report }, String::new),
        // The archive is the result.
        false => Ok(()),
    }
}

/// A file, or stdout where nobody would have to read it.
pub(crate) fn out_to<'a>(
    path: &'a std::path::Path,
    stdout: &'a mut Option<io::Stdout>,
) -> Result<ExportTo<'a>, clap::Error> {
    if path.as_os_str() != "-" {
        return Ok(ExportTo::File(path));
    }
    let stdout = stdout.insert(io::stdout());
    if stdout.is_terminal() {
        let message = "stdout is a terminal: give a file with -o, or pipe the archive on";
        return Err(Cli::command().error(ErrorKind::InvalidValue, message));
    }
    let stream: &mut dyn Write = stdout;
    Ok(ExportTo::Stream(stream))
}
