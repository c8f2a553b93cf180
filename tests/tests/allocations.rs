//! A decision allocates nothing: counted over every token case, which cover allow and every reason.

use allocation_counter::measure;
use std::collections::BTreeSet;
use tests::cases::load_all;
use tests::places::Places;
use validator_core::{Reason, Scratch, decide};

#[test]
fn no_decision_allocates() {
    let mut seen: BTreeSet<Option<Reason>> = BTreeSet::new();
    let mut failures = Vec::new();
    for (file, cases) in load_all() {
        let config = file.configuration("[auth]\nlisten = [\"127.0.0.1:0\"]\n");
        for case in &cases {
            let headers = case.header_lines();
            let request = case.request(&headers);
            // Fresh scratch for each case: what one decision left behind must not help the next.
            let mut scratch = Scratch::new();
            scratch.reserve(&config.policy);
            let mut reason = None;
            let counted = measure(|| {
                let decision = decide(&config.policy, &request, &Places, case.now, &mut scratch, &mut ());
                reason = decision.verdict.reason();
            });
            seen.insert(reason);
            if counted.count_total != 0 {
                failures.push(format!("{}: {} allocations", case.id, counted.count_total));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(seen.contains(&None), "no case was allowed");
    let missing: Vec<&str> =
        Reason::ALL.iter().filter(|r| !seen.contains(&Some(**r))).map(|r| r.name()).collect();
    assert!(missing.is_empty(), "no case led to {missing:?}");
}

#[test]
fn the_counter_counts() {
    let counted = measure(|| drop(std::hint::black_box(vec![1_u8; 100])));
    assert_eq!(counted.count_total, 1);
}
