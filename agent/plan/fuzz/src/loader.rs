//! The loader of Compose files under libFuzzer: see `promise` for what an input is and what has to hold.

#![no_main]

#[path = "../../tests/load/promise.rs"]
mod promise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    let (inputs, disk) = promise::project(&text);
    let _ = promise::hold(&inputs, &disk);
});
