//! The `edgegate` command.

use agent::memory;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: memory::MiMalloc = memory::MiMalloc;

fn main() -> ExitCode {
    memory::give_back_soon();
    agent::cli::main()
}
