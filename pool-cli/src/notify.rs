//! Telling systemd how a service does (`sd_notify(3)`): one datagram to the socket it names.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to systemd, where it listens.
#[derive(Debug)]
pub(crate) struct Notify {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// As the environment says.
    pub(crate) fn from_env() -> io::Result<Self> {
        let watchdog = |pid: Option<OsString>, usec: Option<OsString>| {
            // The limit may be meant for another process than this one.
            let ours = pid.is_none_or(|pid| pid.to_str() == Some(&std::process::id().to_string()));
            let usec = usec?.to_str()?.parse().ok()?;
            ours.then(|| Duration::from_micros(usec))
        };
        Ok(Self {
            socket: env::var_os("NOTIFY_SOCKET").map(connect).transpose()?,
            watchdog: watchdog(env::var_os("WATCHDOG_PID"), env::var_os("WATCHDOG_USEC")),
        })
    }

    /// The time within which systemd wants a sign of life.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Tells it; where that fails nobody is there to be told.
    pub(crate) fn tell(&self, state: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(state.as_bytes())
        {
            tracing::debug!(%error, state, "systemd cannot be told");
        }
    }
}

fn connect(name: OsString) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_reaches_a_socket_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let abstract_name = format!("dmthin-test-{}", std::process::id());
        let listeners = [
            (path.into_os_string(), None),
            (format!("@{abstract_name}").into(), Some(abstract_name)),
        ];
        for (name, abstract_name) in listeners {
            let listener = match abstract_name {
                Some(name) => {
                    let address = SocketAddr::from_abstract_name(name).unwrap();
                    UnixDatagram::bind_addr(&address).unwrap()
                }
                None => UnixDatagram::bind(&name).unwrap(),
            };
            let notify = Notify {
                socket: Some(connect(name).unwrap()),
                watchdog: None,
            };
            notify.tell("READY=1");
            let mut buffer = [0; 64];
            let len = listener.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], b"READY=1");
        }
    }
}
