//! A guest whose agent answers: commands, files, reboots, power cuts.

use std::fmt;
use std::io::Write as _;
use std::process::ExitStatus;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::vm::boot::{Guest, Machine};
use crate::vm::builder::Cmd;
use crate::vm::qemu::Accel;
use crate::vm::wire::{Run, ToGuest, ToHost};

/// How long a command that was killed, and a guest told to stop, may take.
const GRACE: Duration = Duration::from_secs(60);

/// Files travel in pieces of this many bytes.
const PIECE: usize = 1 << 20;

/// How a boot went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The number of boots it took, 1 if the first was good.
    pub tries: u32,
    /// From starting QEMU to the agent's first word, in the boot that worked.
    pub took: Duration,
    /// The accelerator used.
    pub accel: Accel,
    /// The kernel's release.
    pub release: String,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// With an exit code.
    Exited(i32),
    /// By a signal.
    Signalled(i32),
}

impl Status {
    /// The exit code as a shell would give it: 128 and the signal's number.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signalled(signal) => signal.saturating_add(128),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signalled(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What a command did.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command, as it is named in errors.
    pub command: String,
    /// How it ended.
    pub status: Status,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// How long it took, as the host saw it.
    pub took: Duration,
}

impl Output {
    /// The standard output of a command that exited with 0; an error that
    /// shows the command and its output otherwise.
    pub fn ok(&self) -> Result<String> {
        if self.status != Status::Exited(0) {
            bail!(
                "{} ended with {}\nstdout: {}\nstderr: {}",
                self.command,
                self.status,
                self.out().trim_end(),
                self.err().trim_end()
            );
        }
        Ok(self.out())
    }

    /// The standard output as text.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The standard error as text.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// A running machine. Dropping it is pulling its plug.
#[derive(Debug)]
pub struct RunningVm {
    machine: Machine,
    guest: Option<Guest>,
    boot: Boot,
}

impl RunningVm {
    pub(super) const fn new(machine: Machine, guest: Guest, boot: Boot) -> Self {
        Self {
            machine,
            guest: Some(guest),
            boot,
        }
    }

    /// How the last boot went.
    #[must_use]
    pub const fn boot(&self) -> &Boot {
        &self.boot
    }

    /// All the guest's kernel printed since the last boot.
    #[must_use]
    pub fn console(&self) -> String {
        self.machine.console()
    }

    /// Runs a script with the guest's bash (`-euo pipefail`).
    pub fn sh(&mut self, script: &str) -> Result<Output> {
        self.run(Cmd::sh(script))
    }

    /// Runs a command to its end. An exit code other than 0 is not an error
    /// here; a command that cannot be started, a time-out, and a guest that
    /// dies are.
    pub fn run(&mut self, command: Cmd) -> Result<Output> {
        let started = Instant::now();
        let timeout = command.timeout.unwrap_or(self.machine.vm.timeout);
        let deadline = started
            .checked_add(timeout)
            .context("the time-out is too long")?;
        let name = name_of(&command.argv);
        let (argv, env, directory) = (command.argv, command.env, command.directory);
        self.send(&ToGuest::Run(Run {
            argv,
            env,
            directory,
        }))?;
        let (mut stdout, mut stderr, mut told) = (Vec::new(), Vec::new(), 0);
        let status = loop {
            match self.receive(deadline, &name) {
                Ok(Some(ToHost::Stdout(bytes))) => {
                    if self.machine.vm.live {
                        drop(std::io::stdout().write_all(&bytes));
                        drop(std::io::stdout().flush());
                    }
                    stdout.extend(bytes);
                    if let Some(name) = &self.machine.vm.told_as {
                        told = tell(name, &stdout, told);
                    }
                }
                Ok(Some(ToHost::Stderr(bytes))) => {
                    if self.machine.vm.live {
                        drop(std::io::stderr().write_all(&bytes));
                    }
                    stderr.extend(bytes);
                }
                Ok(Some(ToHost::Exited(code))) => break Status::Exited(code),
                Ok(Some(ToHost::Signalled(signal))) => break Status::Signalled(signal),
                Ok(Some(ToHost::Failed(why))) => bail!("in the guest: {why}"),
                Ok(Some(other)) => bail!("the agent answered a command with {other:?}"),
                Ok(None) => {
                    let state = self.kill_running();
                    bail!(
                        "{name} took longer than {} s and {state}\nstdout: {}\nstderr: {}\n\
                         the console's last lines:\n{}",
                        timeout.as_secs(),
                        String::from_utf8_lossy(&stdout).trim_end(),
                        String::from_utf8_lossy(&stderr).trim_end(),
                        self.machine.console_tail()
                    );
                }
                Err(error) => return Err(error),
            }
        };
        Ok(Output {
            command: name,
            status,
            stdout,
            stderr,
            took: started.elapsed(),
        })
    }

    /// Runs a command that the machine does not outlive: it goes off by itself, or its plug is pulled when
    /// the time has come that `until` told of what was printed so far. Gives what the command printed.
    ///
    /// # Errors
    /// A command that ends, or cannot be started; a machine that lives on.
    pub fn run_to_death(
        &mut self,
        command: Cmd,
        until: impl Fn(&str) -> Option<Duration>,
    ) -> Result<String> {
        let limit = command.timeout.unwrap_or(self.machine.vm.timeout);
        let in_time = |time| Instant::now().checked_add(time).context("no such time");
        let mut deadline = in_time(limit)?;
        let name = name_of(&command.argv);
        self.send(&ToGuest::Run(Run {
            argv: command.argv,
            env: command.env,
            directory: command.directory,
        }))?;
        let (mut stdout, mut stderr, mut told) = (Vec::new(), Vec::new(), false);
        let printed = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        loop {
            let guest = self.guest.as_ref().context("the machine is off")?;
            let left = deadline.saturating_duration_since(Instant::now());
            match guest.messages.recv_timeout(left) {
                Ok(ToHost::Stdout(bytes)) => {
                    stdout.extend(bytes);
                    if let Some(time) = until(&printed(&stdout)).filter(|_| !told) {
                        (deadline, told) = (in_time(time)?, true);
                    }
                }
                Ok(ToHost::Stderr(bytes)) => stderr.extend(bytes),
                Ok(message) => bail!(
                    "{name} did not outlast the machine: {message:?}\nstdout: {}\nstderr: {}",
                    printed(&stdout).trim_end(),
                    printed(&stderr).trim_end()
                ),
                Err(RecvTimeoutError::Timeout) if told => break,
                Err(RecvTimeoutError::Timeout) => bail!(
                    "the machine lives after {} s of {name}\nstdout: {}\nstderr: {}\n\
                     the console's last lines:\n{}",
                    limit.as_secs(),
                    printed(&stdout).trim_end(),
                    printed(&stderr).trim_end(),
                    self.machine.console_tail()
                ),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.guest = None;
        Ok(printed(&stdout))
    }

    /// Writes a file into the guest, with these permission bits.
    pub fn put(&mut self, content: &[u8], guest: &str, mode: u32) -> Result<()> {
        let mut append = false;
        let mut rest = content;
        loop {
            let (piece, tail) = rest.split_at(rest.len().min(PIECE));
            let (path, data) = (guest.to_owned(), piece.to_vec());
            self.send(&ToGuest::Put {
                path,
                mode,
                append,
                data,
            })?;
            let deadline = Instant::now().checked_add(GRACE).context("no such time")?;
            match self.receive(deadline, "writing a file")? {
                Some(ToHost::Done) => {}
                Some(ToHost::Failed(why)) => bail!("in the guest: {why}"),
                other => bail!("the agent answered a file with {other:?}"),
            }
            append = true;
            rest = tail;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Reads a file of the guest.
    pub fn get(&mut self, guest: &str) -> Result<Vec<u8>> {
        let live = std::mem::replace(&mut self.machine.vm.live, false);
        let output = self.run(Cmd::new(["cat", "--", guest]));
        self.machine.vm.live = live;
        let output = output?;
        output.ok()?;
        Ok(output.stdout)
    }

    /// Stops the guest in order and boots it again with the same disks.
    pub fn reboot(&mut self) -> Result<()> {
        self.stop()?;
        self.power_on()
    }

    /// Pulls the plug: the guest ends here and now, with nothing written
    /// back. What it wrote to its disks before is there.
    pub fn power_cut(&mut self) {
        self.guest = None;
    }

    /// Boots a machine that is off.
    pub fn power_on(&mut self) -> Result<()> {
        self.guest = None;
        let (guest, boot) = self.machine.boot()?;
        (self.guest, self.boot) = (Some(guest), boot);
        Ok(())
    }

    /// Stops the guest in order: processes ended, disks unmounted.
    pub fn shutdown(mut self) -> Result<()> {
        self.stop()
    }

    fn stop(&mut self) -> Result<()> {
        self.send(&ToGuest::Off)?;
        let Some(mut guest) = self.guest.take() else {
            return Ok(());
        };
        let started = Instant::now();
        loop {
            let status: Option<ExitStatus> = guest.child.try_wait()?;
            match status {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("QEMU ended with {status}"),
                None if started.elapsed() > GRACE => bail!(
                    "the guest did not stop within {} s; the console's last lines:\n{}",
                    GRACE.as_secs(),
                    self.machine.console_tail()
                ),
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn send(&mut self, message: &ToGuest) -> Result<()> {
        let guest = self.guest.as_mut().context("the machine is off")?;
        let sent = message.send(&mut guest.stream);
        sent.or_else(|_| bail!("{}", self.death("the next request")))
    }

    /// The agent's next message; `None` when the deadline passed.
    fn receive(&mut self, deadline: Instant, during: &str) -> Result<Option<ToHost>> {
        let guest = self.guest.as_ref().context("the machine is off")?;
        let left = deadline.saturating_duration_since(Instant::now());
        match guest.messages.recv_timeout(left) {
            Ok(message) => Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("{}", self.death(during)),
        }
    }

    /// Kills the running command; says what became of it.
    fn kill_running(&mut self) -> &'static str {
        let deadline = Instant::now().checked_add(GRACE);
        if let (Some(deadline), Ok(())) = (deadline, self.send(&ToGuest::Kill)) {
            while let Ok(Some(message)) = self.receive(deadline, "killing a command") {
                if matches!(message, ToHost::Exited(_) | ToHost::Signalled(_)) {
                    return "was killed";
                }
            }
        }
        self.guest = None;
        "could not be killed: the machine was turned off"
    }

    fn death(&mut self, during: &str) -> String {
        self.guest = None;
        let tail = self.machine.console_tail();
        format!("the guest died during {during}; the console's last lines:\n{tail}")
    }
}

/// A command as errors name it: its words, cut short if they are many.
fn name_of(argv: &[String]) -> String {
    let name = argv.join(" ");
    match name.char_indices().nth(200) {
        Some((end, _)) => format!("{}...", name.get(..end).unwrap_or_default()),
        None => name,
    }
}

/// Prints the whole lines that follow the first `told` bytes, behind a name; gives how many bytes are told then.
fn tell(name: &str, printed: &[u8], told: usize) -> usize {
    let new = printed.get(told..).unwrap_or_default();
    let Some(end) = new.iter().rposition(|byte| *byte == b'\n') else {
        return told;
    };
    let (lines, _) = new.split_at(end);
    let mut out = std::io::stdout().lock();
    for line in String::from_utf8_lossy(lines).lines() {
        // A closed stdout must not end what runs.
        drop(writeln!(out, "{name}: {line}"));
    }
    told.saturating_add(end).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::{Output, Status};
    use std::time::Duration;

    #[test]
    fn a_failed_command_shows_what_it_said() {
        let output = Output {
            command: "dmsetup ls".to_owned(),
            status: Status::Exited(1),
            stdout: b"out\n".to_vec(),
            stderr: b"no such device\n".to_vec(),
            took: Duration::ZERO,
        };
        let error = output.ok().unwrap_err().to_string();
        let expected = "dmsetup ls ended with exit code 1\nstdout: out\nstderr: no such device";
        assert_eq!(error, expected);
    }

    #[test]
    fn signals_become_codes_as_in_a_shell() {
        assert_eq!(Status::Signalled(9).code(), 137);
        assert_eq!(Status::Exited(3).code(), 3);
    }
}
