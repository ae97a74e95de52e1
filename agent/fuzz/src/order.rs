//! See `decnet_agent::fuzzing::order` for what has to hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| decnet_agent::fuzzing::order(input));
