//! Replies of the dm control node, as bytes of any kind.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| dmthin::ioctl::fuzzing::decode(bytes));
