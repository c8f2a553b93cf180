//! The kernel program on single frames: every branch both ways.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use tests::kernel::Kernel;

/// What the verifier may have to look at. The limit of the kernel is a million; an older or newer one may count
/// differently, and there is more to come.
const INSTRUCTIONS: u32 = 20_000;

#[test]
fn the_verifier_has_little_to_do() {
    let Some(kernel) = Kernel::load() else { return };
    let info = kernel.program().info().expect("its description");
    let Some(count) = info.verified_instruction_count() else {
        println!("this kernel does not say");
        return;
    };
    println!("verified instructions: {count}");
    assert!(count <= INSTRUCTIONS, "{count} > {INSTRUCTIONS}");
}
