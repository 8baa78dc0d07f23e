//! Requests to the dm control node and its replies, as two types.
//!
//! A [`Request`] is built field by field; [`call`] copies it into an aligned buffer, grows that
//! while the kernel says `DM_BUFFER_FULL`, and gives back a [`Reply`] of which only the bytes the
//! kernel claims and we own can be seen. Lengths, offsets and counts in a reply are claims: every
//! read is checked, and every walk over records goes strictly forward, so it ends.

use std::mem::{offset_of, size_of};
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::ids::{DevNo, DmName, DmUuid};
use crate::ioctl::abi::{self, Command, DmIoctl};
use crate::ioctl::error::{IoctlError, ReplyError};
use crate::ioctl::raw;

/// The buffer a command with a variable reply gets first, as libdm's.
const FIRST_BUFFER: usize = 16 << 10;
/// The largest buffer a reply gets: some 400 000 devices.
const MAX_BUFFER: usize = 64 << 20;
/// How often a command interrupted by a signal is sent again.
const EINTR_TRIES: u32 = 32;

/// How a command names its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DevId<'a> {
    /// By name.
    Name(&'a DmName),
    /// By uuid.
    Uuid(&'a DmUuid),
    /// By number.
    Dev(DevNo),
}

impl std::fmt::Display for DevId<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Uuid(uuid) => uuid.fmt(f),
            Self::Dev(dev) => dev.fmt(f),
        }
    }
}

/// A command with its arguments.
#[derive(Debug)]
pub(super) struct Request {
    command: Command,
    device: String,
    header: [u8; size_of::<DmIoctl>()],
    payload: Vec<u8>,
}

/// Rounds up to where the next record may begin.
pub(super) fn align(at: usize) -> usize {
    at.checked_next_multiple_of(abi::DM_ALIGN)
        .unwrap_or(usize::MAX)
}

impl Request {
    /// A command that concerns no device.
    pub(super) fn new(command: Command) -> Self {
        let mut request = Self {
            command,
            device: "the device mapper".to_owned(),
            header: [0; size_of::<DmIoctl>()],
            payload: Vec::new(),
        };
        // Minor 0 is understood by every kernel of this major (`dm-ioctl.c:check_version`).
        request.put(
            offset_of!(DmIoctl, version),
            &abi::DM_VERSION_MAJOR.to_ne_bytes(),
        );
        let start = u32::try_from(size_of::<DmIoctl>()).expect("312 fits in 32 bits");
        request.put(offset_of!(DmIoctl, data_start), &start.to_ne_bytes());
        request
    }

    /// A command for a device. One of name, uuid and number, never two: the kernel refuses that
    /// (`dm-ioctl.c:__find_device_hash_cell`).
    pub(super) fn on(command: Command, id: DevId<'_>) -> Self {
        let mut request = Self::new(command);
        request.device = id.to_string();
        match id {
            DevId::Name(name) => request.put(offset_of!(DmIoctl, name), name.as_str().as_bytes()),
            DevId::Uuid(uuid) => request.put(offset_of!(DmIoctl, uuid), uuid.as_str().as_bytes()),
            DevId::Dev(dev) => {
                request.put(offset_of!(DmIoctl, dev), &dev.to_dev_t().to_ne_bytes());
            }
        }
        request
    }

    /// Adds a uuid beside the name, which only a creation may have.
    pub(super) fn uuid(mut self, uuid: Option<&DmUuid>) -> Self {
        if let Some(uuid) = uuid {
            self.put(offset_of!(DmIoctl, uuid), uuid.as_str().as_bytes());
        }
        self
    }

    /// Sets the flags.
    pub(super) fn flags(mut self, flags: u32) -> Self {
        self.put(offset_of!(DmIoctl, flags), &flags.to_ne_bytes());
        self
    }

    /// Sets the event number, which in some commands is a udev cookie.
    pub(super) fn event_nr(mut self, event_nr: u32) -> Self {
        self.put(offset_of!(DmIoctl, event_nr), &event_nr.to_ne_bytes());
        self
    }

    /// Sets the number of target records in the payload.
    pub(super) fn target_count(mut self, count: u32) -> Self {
        self.put(offset_of!(DmIoctl, target_count), &count.to_ne_bytes());
        self
    }

    /// Sets what follows the header.
    pub(super) fn payload(mut self, payload: Vec<u8>) -> Self {
        self.payload = payload;
        self
    }

    /// The error that one of this request's texts cannot be sent.
    pub(super) fn unsendable(
        &self,
        what: &'static str,
        text: &str,
        rule: &'static str,
    ) -> IoctlError {
        IoctlError::Unsendable {
            command: self.command.name(),
            device: self.device.clone(),
            what,
            text: text.to_owned(),
            rule,
        }
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.header.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    /// Puts header and payload into a buffer of zeroes.
    fn fill(&self, words: &mut [u64]) {
        let mut bytes = self.header.iter().chain(&self.payload).copied();
        for word in words.iter_mut().take(self.len().div_ceil(size_of::<u64>())) {
            let mut eight = [0; 8];
            for (to, from) in eight.iter_mut().zip(bytes.by_ref()) {
                *to = from;
            }
            *word = u64::from_ne_bytes(eight);
        }
    }

    fn len(&self) -> usize {
        self.header.len().saturating_add(self.payload.len())
    }
}

/// How large a reply a command may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplySize {
    /// The header alone.
    Header,
    /// Any: the buffer grows, and the command is sent again for it, so it must only read.
    Growing,
    /// Any up to the first buffer: sending it twice would do it twice.
    Once,
}

/// Sends a request.
pub(super) fn call(
    control: BorrowedFd<'_>,
    request: &Request,
    reply_size: ReplySize,
) -> Result<Reply, IoctlError> {
    let error = |errno| IoctlError::Dm {
        command: request.command.name(),
        device: request.device.clone(),
        errno,
    };
    let mut size = align(request.len());
    if reply_size != ReplySize::Header {
        size = size.max(FIRST_BUFFER);
    }
    let mut interrupted = 0_u32;
    loop {
        let mut words = vec![0; size.div_ceil(size_of::<u64>())];
        request.fill(&mut words);
        let result = match raw::dm(control, request.command, &mut words) {
            Ok(result) => result,
            Err(Errno::INTR) if interrupted < EINTR_TRIES => {
                interrupted = interrupted.saturating_add(1);
                continue;
            }
            Err(errno) => return Err(error(errno)),
        };
        let reply = Reply::new(request, result, &words);
        if reply.flags().map_err(|cause| reply.error(cause))? & abi::DM_BUFFER_FULL_FLAG == 0 {
            return Ok(reply);
        }
        if reply_size != ReplySize::Growing || size >= MAX_BUFFER {
            return Err(IoctlError::ReplyTooLong {
                command: request.command.name(),
                device: request.device.clone(),
                limit: size,
            });
        }
        size = size.saturating_mul(2);
    }
}

/// What the kernel answered.
#[derive(Debug)]
pub(super) struct Reply {
    command: &'static str,
    device: String,
    result: i32,
    view: View,
}

impl Reply {
    fn new(request: &Request, result: i32, words: &[u64]) -> Self {
        let head = View::of_words(words, size_of::<DmIoctl>());
        // A command without payload reports less than the header's size: the header is ours.
        let claimed = head
            .u32("the reply's length", offset_of!(DmIoctl, data_size))
            .map_or(0, to_usize)
            .max(size_of::<DmIoctl>());
        let view = View::of_words(words, claimed);
        Self {
            command: request.command.name(),
            device: request.device.clone(),
            result,
            view,
        }
    }

    /// The call's own result; more than 0 means that the reply was not written.
    pub(super) fn result(&self) -> i32 {
        self.result
    }

    /// Gives an error in this reply its context.
    pub(super) fn error(&self, cause: ReplyError) -> IoctlError {
        IoctlError::Reply {
            command: self.command,
            device: self.device.clone(),
            cause,
        }
    }

    /// The checked view on its bytes.
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    fn flags(&self) -> Result<u32, ReplyError> {
        self.view.flags()
    }
}

/// Sizes of the interface are 32 bits, which every machine with a device mapper can index.
pub(super) fn to_usize(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Bytes from the kernel, read only within bounds. Offsets count from the reply's first byte.
#[derive(Debug)]
pub(super) struct View(Vec<u8>);

impl View {
    /// A view on given bytes.
    #[cfg(any(test, fuzzing, feature = "test-util"))]
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// A view on the first bytes of a buffer.
    pub(super) fn of_words(words: &[u64], len: usize) -> Self {
        let words = words.iter().take(len.div_ceil(size_of::<u64>()));
        let mut bytes: Vec<u8> = words.flat_map(|word| word.to_ne_bytes()).collect();
        bytes.truncate(len);
        Self(bytes)
    }

    fn array<const N: usize>(&self, what: &'static str, at: usize) -> Result<[u8; N], ReplyError> {
        self.0
            .get(at..)
            .and_then(|rest| rest.first_chunk::<N>())
            .copied()
            .ok_or(ReplyError::Truncated {
                what,
                at,
                len: self.0.len(),
            })
    }

    /// The number at a place.
    pub(super) fn u32(&self, what: &'static str, at: usize) -> Result<u32, ReplyError> {
        self.array(what, at).map(u32::from_ne_bytes)
    }

    /// The number at a place.
    pub(super) fn u64(&self, what: &'static str, at: usize) -> Result<u64, ReplyError> {
        self.array(what, at).map(u64::from_ne_bytes)
    }

    /// The device number at a place.
    pub(super) fn dev(&self, what: &'static str, at: usize) -> Result<DevNo, ReplyError> {
        self.u64(what, at).map(DevNo::from_dev_t)
    }

    /// The bytes of the text at a place, without its NUL, which must be within `limit` bytes.
    pub(super) fn c_bytes(
        &self,
        what: &'static str,
        at: usize,
        limit: usize,
    ) -> Result<&[u8], ReplyError> {
        let rest =
            self.0
                .get(at..)
                .filter(|rest| !rest.is_empty())
                .ok_or(ReplyError::Truncated {
                    what,
                    at,
                    len: self.0.len(),
                })?;
        let field = rest.get(..limit).unwrap_or(rest);
        let end = field.iter().position(|byte| *byte == 0);
        end.and_then(|end| field.get(..end))
            .ok_or(ReplyError::Unterminated { what, at })
    }

    /// The text at a place.
    pub(super) fn text(
        &self,
        what: &'static str,
        at: usize,
        limit: usize,
    ) -> Result<&str, ReplyError> {
        std::str::from_utf8(self.c_bytes(what, at, limit)?)
            .map_err(|_| ReplyError::NotText { what, at })
    }

    /// Where the payload begins: behind the header or nowhere.
    pub(super) fn data_start(&self) -> Result<usize, ReplyError> {
        let at = to_usize(self.u32("the payload's offset", offset_of!(DmIoctl, data_start))?);
        if at < offset_of!(DmIoctl, data) || at > self.0.len() {
            return Err(ReplyError::Truncated {
                what: "the payload",
                at,
                len: self.0.len(),
            });
        }
        Ok(at)
    }

    /// The bytes from a place on.
    #[cfg(feature = "test-util")]
    pub(super) fn bytes_from(&self, at: usize) -> &[u8] {
        self.0.get(at..).unwrap_or_default()
    }

    /// How many bytes there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The header's flags.
    pub(super) fn flags(&self) -> Result<u32, ReplyError> {
        self.u32("the flags", offset_of!(DmIoctl, flags))
    }

    /// Where the next record begins, given where this one does, how long it is at least, and
    /// where it says the next one is: strictly behind it, or nothing can be trusted.
    pub(super) fn next_record(
        &self,
        what: &'static str,
        at: usize,
        end: usize,
        next: usize,
    ) -> Result<usize, ReplyError> {
        if next < end || next <= at || next > self.0.len() {
            return Err(ReplyError::BadNext { what, at, next });
        }
        Ok(next)
    }
}
