//! Files of settings.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| pool_cli::read_settings(text));
