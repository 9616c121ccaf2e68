/// The one of musl asks the system for every little piece, and again for each
/// buffer that goes through.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    pixels::run()
}
