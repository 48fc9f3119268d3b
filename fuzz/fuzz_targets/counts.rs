#![no_main]
use libfuzzer_sys::fuzz_target;

#[path = "../decoders/mod.rs"]
mod decoders;

fuzz_target!(|bytes: &[u8]| decoders::named("counts").expect("a decoder")(bytes));
