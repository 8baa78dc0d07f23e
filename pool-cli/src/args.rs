//! The command line: what every command takes, and the tree of commands.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{
    ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
};
use dmthin::graph::{Host, Pool};
use dmthin::ids::PoolName;
use dmthin::units::{BlockSize, Bytes, NewSize};
use tracing::level_filters::LevelFilter;

use crate::commands::base::BaseCommand;
use crate::commands::check::{CHECK_HELP, CheckArgs, GC_HELP, GcArgs};
use crate::commands::completions::CompletionsArgs;
use crate::commands::config::ConfigCommand;
use crate::commands::container::{ContainerArgs, ContainerCommand};
use crate::commands::device::DeviceCommand;
use crate::commands::df::{DF_HELP, DfArgs};
use crate::commands::explain::ExplainArgs;
use crate::commands::image::ImageCommand;
use crate::commands::layer::LayerCommand;
use crate::commands::man::ManArgs;
use crate::commands::monitor::{MONITOR_HELP, MonitorArgs};
use crate::commands::pool::PoolCommand;
use crate::commands::queue::QueueCommand;
use crate::commands::trim::{TRIM_HELP, TrimArgs};
use crate::commands::volume::VolumeCommand;
use crate::commands::who::WHO_HELP;
use crate::config::{self, ConfigError, Given, Origin, Settings};
use crate::output::Output;

const ROOT_VARIABLE: &str = "DMTHIN_ROOT";
const POOL_VARIABLE: &str = "DMTHIN_POOL";

/// Thin-provisioned block storage for containers and microVMs
#[derive(Debug, Parser)]
#[command(
    name = "pool-cli",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "\
A pool is a device-mapper thin-pool on two sparse files or two block devices. Images are imported
into it layer by layer; a container is a snapshot of an image, with a block device of its own.

Examples:
  pool-cli doctor
  pool-cli pool create tank --size 100G
  docker save debian:12 | pool-cli image import -
  pool-cli container create debian:12 --name web
  pool-cli container mount web /mnt

Sizes are bytes, or a number with K, M, G or T (powers of 1024): 65536, 64K, 1.5G.
Results go to stdout; progress, logs and errors go to stderr, an error last.
DMTHIN_ROOT, DMTHIN_POOL and DMTHIN_CONFIG stand in for --root, --pool and --config; NO_COLOR turns
colours off. What neither says, /etc/dmthin/config.toml can: see `pool-cli config show --origin`.
Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 exists, 5 busy, 6 no data space,
7 no metadata space, 8 needs check, 9 permission, 10 unsupported, 11 bad image, 75 retry later.
`pool-cli explain CODE` says what to do about one."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// Directory that holds the state of all pools [default: /var/lib/dmthin]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = ROOT_VARIABLE,
        hide_env_values = true
    )]
    root: Option<PathBuf>,
    /// Pool to work on [default: the only one there is]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = POOL_VARIABLE,
        hide_env_values = true
    )]
    pool: Option<PoolName>,
    /// Settings, and conf.d/*.toml beside them [default: /etc/dmthin/config.toml]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "DMTHIN_CONFIG",
        hide_env_values = true
    )]
    config: Option<PathBuf>,
    /// Print results as JSON on stdout, errors as JSON on stderr
    #[arg(long, global = true)]
    json: bool,
    /// Print no progress and no result of a change; lists print names only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Colours: always, never, or auto: on a terminal unless NO_COLOR is set
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        value_enum,
        hide_possible_values = true,
        hide_default_value = true,
        default_value = "auto"
    )]
    color: When,
    /// Log to stderr: -v what is done, -vv in detail, -vvv everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    #[arg(skip)]
    from_environment: FromEnvironment,
}

/// When colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum When {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Whatever stdout is.
    Always,
    /// Not at all.
    Never,
}

/// Which of the options a variable gave.
#[derive(Debug, Clone, Copy, Default)]
struct FromEnvironment {
    root: bool,
    pool: bool,
}

/// Reads the command line.
pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let matches = Cli::command().try_get_matches_from(words)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    let by_variable =
        |matches: &ArgMatches, id| matches.value_source(id) == Some(ValueSource::EnvVariable);
    cli.globals.from_environment = FromEnvironment {
        root: by_variable(&matches, "root"),
        pool: by_variable(&matches, "pool"),
    };
    Ok(cli)
}

impl Globals {
    /// The settings of the files, and over them the options.
    pub(crate) fn settings(&self) -> Result<Settings, ConfigError> {
        let mut settings = config::load(self.config.as_deref())?;
        let origin = |environment, variable, flag| match environment {
            true => Origin::Environment(variable),
            false => Origin::Flag(flag),
        };
        if let Some(root) = &self.root {
            settings.top.root = Some(Given {
                value: root.clone(),
                origin: origin(self.from_environment.root, ROOT_VARIABLE, "--root"),
            });
        }
        if let Some(pool) = &self.pool {
            settings.top.pool = Some(Given {
                value: Some(pool.clone()),
                origin: origin(self.from_environment.pool, POOL_VARIABLE, "--pool"),
            });
        }
        Ok(settings)
    }

    /// What a command needs to run.
    pub(crate) fn context(self, settings: Settings) -> Context {
        let terminal = std::io::stdout().is_terminal();
        let colour = colours(self.color, terminal, std::env::var_os("NO_COLOR"));
        let top = settings.top();
        Context {
            host: Host::new(top.root),
            pool: top.pool,
            settings,
            config: self.config,
            out: Output::new(self.json, self.quiet, colour),
        }
    }
}

/// Whether there are colours. Any value of `NO_COLOR` but an empty one takes them; an option is the last
/// word (<https://no-color.org>).
fn colours(when: When, terminal: bool, no_color: Option<OsString>) -> bool {
    match when {
        When::Always => true,
        When::Never => false,
        When::Auto => terminal && no_color.is_none_or(|value| value.is_empty()),
    }
}

/// What a command runs with.
#[derive(Debug)]
pub(crate) struct Context {
    /// The machine, by its state directory.
    pub(crate) host: Host,
    /// The pool that was named for all commands.
    pub(crate) pool: Option<PoolName>,
    /// What files, environment and options say.
    pub(crate) settings: Settings,
    /// The file that was named for the settings.
    pub(crate) config: Option<PathBuf>,
    /// Where results go.
    pub(crate) out: Output,
}

impl Context {
    /// The pool to work on: `name`, else the one named by `--pool`, else the only one.
    pub(crate) fn pool(&self, name: Option<&PoolName>) -> anyhow::Result<Pool> {
        let name = self.host.pick_pool(name.or(self.pool.as_ref()))?;
        Ok(self.host.pool(&name)?)
    }
}

/// What there is to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make, open, close and look at pools
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Grow the base volume that images stand on
    #[command(subcommand)]
    Base(BaseCommand),
    /// Import, list and remove images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Look at the layers that images are made of
    #[command(subcommand)]
    Layer(LayerCommand),
    /// Make, mount and remove containers
    #[command(subcommand)]
    Container(ContainerCommand),
    /// Make, mount and remove data volumes, which live apart from containers
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Look at the device-mapper devices of all pools
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Look at removals that are not done yet, work them off, take them back
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Show who holds a container open or mounted
    #[command(after_help = WHO_HELP)]
    Who(ContainerArgs),
    /// Give back what the file systems of containers do not use
    #[command(after_help = TRIM_HELP)]
    Trim(TrimArgs),
    /// Look after pools: grow them, run removals, act before they are full
    #[command(after_help = MONITOR_HELP)]
    Monitor(MonitorArgs),
    /// Show and check the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show how much room the open pools have, and who takes it
    #[command(after_help = DF_HELP)]
    Df(DfArgs),
    /// Find what does not belong: orphans in the kernel, in the pools and in the catalogues
    #[command(after_help = CHECK_HELP)]
    Check(CheckArgs),
    /// Take away what does not belong
    #[command(after_help = GC_HELP)]
    Gc(GcArgs),
    /// Check whether this machine can do the work
    #[command(after_help = DOCTOR_HELP)]
    Doctor,
    /// Tell what an exit code means and what to do
    Explain(ExplainArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Write the manual pages of all commands
    Man(ManArgs),
}

impl Command {
    /// Whether it needs the settings; what does not, works with a broken file too.
    pub(crate) const fn reads_settings(&self) -> bool {
        !matches!(
            self,
            Self::Completions(_)
                | Self::Man(_)
                | Self::Explain(_)
                | Self::Config(ConfigCommand::Check(_))
        )
    }
}

const DOCTOR_HELP: &str = "\
Looks at kernel modules and target versions, udevd and its device-mapper rules, loop devices, the
way of a discard, the tools that are run, and room on the host's file system. Changes nothing.
Ends with exit code 1 if a check failed. With -q only what is not in order is printed.

Examples:
  pool-cli doctor
  pool-cli doctor --json | jq '.checks[] | select(.verdict != \"ok\")'";

/// Whether the words of a command line ask for JSON, whatever else is wrong with them.
pub(crate) fn asks_for_json(words: impl Iterator<Item = OsString>) -> bool {
    words
        .take_while(|word| word != "--")
        .any(|word| word == "--json")
}

/// Sends what the library logs to stderr.
pub(crate) fn log_to_stderr(verbose: u8, quiet: bool) {
    let level = match (verbose, quiet) {
        (0, true) => LevelFilter::ERROR,
        (0, false) => LevelFilter::WARN,
        (1, _) => LevelFilter::INFO,
        (2, _) => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    // A caller that has set one up keeps its own.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(verbose > 1)
        .try_init();
}

/// Reads a size that cannot be zero.
pub(crate) fn size(text: &str) -> Result<Bytes, String> {
    match text.parse::<Bytes>() {
        Ok(Bytes::ZERO) => Err("a size is more than 0".to_owned()),
        Ok(size) => Ok(size),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads a size, or with a + in front how much is to be added.
pub(crate) fn new_size(text: &str) -> Result<NewSize, String> {
    size(text.strip_prefix('+').unwrap_or(text))?;
    text.parse::<NewSize>().map_err(|error| error.to_string())
}

/// Reads the block size of a pool.
pub(crate) fn block_size(text: &str) -> Result<BlockSize, String> {
    BlockSize::from_bytes(size(text)?).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_of_commands_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn json_is_seen_before_the_end_of_options_only() {
        let words = |text: &str| {
            text.split(' ')
                .map(OsString::from)
                .collect::<Vec<_>>()
                .into_iter()
        };
        assert!(asks_for_json(words("pool-cli pool list --json")));
        assert!(!asks_for_json(words("pool-cli image rm -- --json")));
        assert!(!asks_for_json(words("pool-cli pool list --jsonx")));
    }

    #[test]
    fn no_color_takes_the_colours() {
        let auto = |no_color: Option<&str>| colours(When::Auto, true, no_color.map(Into::into));
        assert!(auto(None));
        assert!(auto(Some("")));
        assert!(!auto(Some("1")));
        assert!(!auto(Some("0")));
        assert!(!colours(When::Auto, false, None));
        assert!(colours(When::Always, false, Some("1".into())));
        assert!(!colours(When::Never, true, None));
    }

    #[test]
    fn sizes_are_more_than_nothing() {
        assert_eq!(size("1.5G"), Ok(Bytes::new(1_610_612_736)));
        assert_eq!(new_size("+1K"), Ok(NewSize::By(Bytes::new(1024))));
        assert_eq!(new_size("1K"), Ok(NewSize::To(Bytes::new(1024))));
        for text in ["+0", "++1", "+"] {
            assert!(new_size(text).is_err(), "{text}");
        }
        assert_eq!(size("0"), Err("a size is more than 0".to_owned()));
        assert_eq!(block_size("64K"), Ok(BlockSize::DEFAULT));
        assert_eq!(
            block_size("65K"),
            Err(
                "65 KiB is not a block size of a thin pool: it is a multiple of 64 KiB, at most \
                 1 GiB"
                    .to_owned()
            )
        );
    }
}
