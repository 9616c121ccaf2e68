fn main() -> std::process::ExitCode {
    pixels::run()
}
