/// Replaces musl's allocator, which requests memory from the kernel for many
/// small allocations and for each transfer buffer.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    pixels::run()
}
