//! What the host and the agent in the guest say to each other.
//!
//! One virtio-serial port carries frames both ways, so that standard output
//! and standard error stay apart and in order:
//!
//! ```text
//! +------+-------------+----------------+
//! | kind | length (LE) | payload        |
//! | 1    | 4           | length bytes   |
//! +------+-------------+----------------+
//! ```
//! Inside a payload, texts and byte strings are a length (4 bytes, LE) and the
//! bytes; lists are a count and their items.

use std::io::{self, Read, Write};

/// The name of the virtio-serial port.
pub const PORT: &str = "dmthin.agent";

/// A frame larger than this is a broken stream, not a message.
const LARGEST: u32 = 16 << 20;

/// A command to run in the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Variables set on top of the agent's own.
    pub env: Vec<(String, String)>,
    /// Working directory; `/` if empty.
    pub directory: String,
}

/// What the host asks of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToGuest {
    /// Run a command; answered by output and one `Exit`, or by `Failed`.
    Run(Run),
    /// Write (or append to) a file; answered by `Done` or `Failed`.
    Put {
        /// Absolute path in the guest; its directories are made.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Whether the data goes to the end of what is there.
        append: bool,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Kill the running command, after printing blocked tasks on the console.
    Kill,
    /// End every process, unmount and stop the machine; not answered.
    Off,
}

/// What the agent tells the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToHost {
    /// The guest is up; the kernel's release.
    Hello(String),
    /// Bytes of the command's standard output.
    Stdout(Vec<u8>),
    /// Bytes of the command's standard error.
    Stderr(Vec<u8>),
    /// The command ended with this exit code.
    Exited(i32),
    /// The command was ended by this signal.
    Signalled(i32),
    /// The request is done.
    Done,
    /// The request could not be carried out, and why.
    Failed(String),
}

impl ToGuest {
    /// Writes the message as one frame.
    pub fn send(&self, out: &mut impl Write) -> io::Result<()> {
        let mut body = Vec::new();
        let kind = match self {
            Self::Run(run) => {
                put_count(&mut body, run.argv.len())?;
                for word in &run.argv {
                    put_bytes(&mut body, word.as_bytes())?;
                }
                put_count(&mut body, run.env.len())?;
                for (name, value) in &run.env {
                    put_bytes(&mut body, name.as_bytes())?;
                    put_bytes(&mut body, value.as_bytes())?;
                }
                put_bytes(&mut body, run.directory.as_bytes())?;
                b'r'
            }
            Self::Put {
                path,
                mode,
                append,
                data,
            } => {
                put_bytes(&mut body, path.as_bytes())?;
                body.extend(mode.to_le_bytes());
                body.push(u8::from(*append));
                put_bytes(&mut body, data)?;
                b'p'
            }
            Self::Kill => b'k',
            Self::Off => b'o',
        };
        send(out, kind, &body)
    }

    /// Reads the next message; `None` at the end of the stream.
    pub fn receive(input: &mut impl Read) -> io::Result<Option<Self>> {
        let Some((kind, body)) = receive(input)? else {
            return Ok(None);
        };
        let mut body = Body(&body);
        let message = match kind {
            b'r' => {
                let mut run = Run::default();
                for _ in 0..body.number()? {
                    run.argv.push(body.text()?);
                }
                for _ in 0..body.number()? {
                    run.env.push((body.text()?, body.text()?));
                }
                run.directory = body.text()?;
                Self::Run(run)
            }
            b'p' => Self::Put {
                path: body.text()?,
                mode: body.number()?,
                append: body.take(1)? == [1],
                data: body.bytes()?.to_vec(),
            },
            b'k' => Self::Kill,
            b'o' => Self::Off,
            other => return Err(broken(&format!("unknown kind {other}"))),
        };
        body.end()?;
        Ok(Some(message))
    }
}

impl ToHost {
    /// Writes the message as one frame.
    pub fn send(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Hello(release) => send(out, b'h', release.as_bytes()),
            Self::Stdout(bytes) => send(out, b'1', bytes),
            Self::Stderr(bytes) => send(out, b'2', bytes),
            Self::Exited(code) => send(out, b'x', &code.to_le_bytes()),
            Self::Signalled(signal) => send(out, b's', &signal.to_le_bytes()),
            Self::Done => send(out, b'd', &[]),
            Self::Failed(why) => send(out, b'f', why.as_bytes()),
        }
    }

    /// Reads the next message; `None` at the end of the stream.
    pub fn receive(input: &mut impl Read) -> io::Result<Option<Self>> {
        let Some((kind, body)) = receive(input)? else {
            return Ok(None);
        };
        let text = |body: Vec<u8>| String::from_utf8_lossy(&body).into_owned();
        let number = |body: &[u8]| {
            let bytes = body
                .try_into()
                .map_err(|_| broken("a status is not 4 bytes"))?;
            Ok::<_, io::Error>(i32::from_le_bytes(bytes))
        };
        Ok(Some(match kind {
            b'h' => Self::Hello(text(body)),
            b'1' => Self::Stdout(body),
            b'2' => Self::Stderr(body),
            b'x' => Self::Exited(number(&body)?),
            b's' => Self::Signalled(number(&body)?),
            b'd' => Self::Done,
            b'f' => Self::Failed(text(body)),
            other => return Err(broken(&format!("unknown kind {other}"))),
        }))
    }
}

struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (head, tail) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| broken("a field is cut short"))?;
        self.0 = tail;
        Ok(head)
    }

    fn number(&mut self) -> io::Result<u32> {
        let bytes = self.take(4)?.try_into().map_err(io::Error::other)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn bytes(&mut self) -> io::Result<&'a [u8]> {
        let count = usize::try_from(self.number()?).map_err(io::Error::other)?;
        self.take(count)
    }

    fn text(&mut self) -> io::Result<String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| broken("a text is not UTF-8"))
    }

    fn end(&self) -> io::Result<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(broken("bytes left over"))
        }
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("broken frame: {what}"))
}

fn put_count(body: &mut Vec<u8>, count: usize) -> io::Result<()> {
    body.extend(
        u32::try_from(count)
            .map_err(io::Error::other)?
            .to_le_bytes(),
    );
    Ok(())
}

fn put_bytes(body: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    put_count(body, bytes.len())?;
    body.extend(bytes);
    Ok(())
}

fn send(out: &mut impl Write, kind: u8, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    if length > LARGEST {
        return Err(broken("too large"));
    }
    let mut frame = Vec::with_capacity(body.len().saturating_add(5));
    frame.push(kind);
    frame.extend(length.to_le_bytes());
    frame.extend(body);
    out.write_all(&frame)?;
    out.flush()
}

fn receive(input: &mut impl Read) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut kind = [0];
    if input.read(&mut kind)? == 0 {
        return Ok(None);
    }
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > LARGEST {
        return Err(broken("too large"));
    }
    let mut body = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    input.read_exact(&mut body)?;
    Ok(Some((kind[0], body)))
}

#[cfg(test)]
mod tests {
    use super::{Run, ToGuest, ToHost};
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    fn there_and_back(message: &ToGuest) -> ToGuest {
        let mut bytes = Vec::new();
        message.send(&mut bytes).unwrap();
        ToGuest::receive(&mut bytes.as_slice()).unwrap().unwrap()
    }

    proptest! {
        #[test]
        fn requests_survive_the_wire(
            argv in prop::collection::vec(".*", 0..5), name in ".*", value in ".*",
            data in prop::collection::vec(any::<u8>(), 0..300), append in any::<bool>(),
        ) {
            let run = Run { argv, env: vec![(name.clone(), value)], directory: name.clone() };
            let run = ToGuest::Run(run);
            prop_assert_eq!(there_and_back(&run), run);
            let put = ToGuest::Put { path: name, mode: 0o644, append, data };
            prop_assert_eq!(there_and_back(&put), put);
        }

        #[test]
        fn noise_is_an_error_not_a_panic(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(ToGuest::receive(&mut noise.as_slice()));
            drop(ToHost::receive(&mut noise.as_slice()));
        }
    }

    #[test]
    fn replies_survive_the_wire() {
        let replies = [
            ToHost::Hello("6.1.0".to_owned()),
            ToHost::Stdout(vec![0, 255]),
            ToHost::Stderr(Vec::new()),
            ToHost::Exited(-1),
            ToHost::Signalled(9),
            ToHost::Done,
            ToHost::Failed("no such file".to_owned()),
        ];
        let mut bytes = Vec::new();
        for reply in &replies {
            reply.send(&mut bytes).unwrap();
        }
        let mut input = bytes.as_slice();
        for reply in replies {
            assert_eq!(ToHost::receive(&mut input).unwrap(), Some(reply));
        }
        assert_eq!(ToHost::receive(&mut input).unwrap(), None);
    }

    #[test]
    fn a_huge_length_is_refused_before_it_is_believed() {
        let bytes = [b'r', 255, 255, 255, 255];
        let error = ToGuest::receive(&mut bytes.as_slice()).unwrap_err();
        assert_eq!(error.to_string(), "broken frame: too large");
    }
}
