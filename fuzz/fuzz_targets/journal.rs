#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| regimed::decoders::named("journal").expect("a decoder")(bytes));
