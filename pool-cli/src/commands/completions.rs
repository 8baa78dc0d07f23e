//! `pool-cli completions`: a script that completes our commands in a shell.

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::aot::{Bash, Fish, Zsh, generate};

use crate::args::{Cli, Context};

/// Options of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pool-cli completions bash > /usr/share/bash-completion/completions/pool-cli
  pool-cli completions zsh > /usr/local/share/zsh/site-functions/_pool-cli
  pool-cli completions fish > /etc/fish/completions/pool-cli.fish")]
pub(crate) struct CompletionsArgs {
    /// Shell to print it for
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints it.
pub(crate) fn run(context: &Context, args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    // The generators panic where they cannot write: to memory they can.
    let mut script = Vec::new();
    match args.shell {
        Shell::Bash => generate(Bash, &mut command, name, &mut script),
        Shell::Zsh => generate(Zsh, &mut command, name, &mut script),
        Shell::Fish => generate(Fish, &mut command, name, &mut script),
    }
    context.out.write(&script)
}
