//! `diode-sender`: everything is in the library, so that its parsers can be fuzzed and its parts run in a test.

fn main() -> std::process::ExitCode {
    diode_sender::main()
}
