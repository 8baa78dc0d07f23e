//! The fuzzers' way in to the decoding of replies, which is private otherwise.

use crate::ioctl::buffer::View;
use crate::ioctl::reply;

/// Decodes a reply as each of the commands would.
pub fn decode(bytes: &[u8]) {
    let view = View::new(bytes.to_vec());
    let _ = reply::version(&view);
    let _ = reply::device_info(&view);
    let _ = reply::device_list(&view);
    let _ = reply::target_versions(&view);
    let _ = reply::deps(&view);
    let _ = reply::target_lines(&view);
    let _ = reply::message_answer(&view);
}
