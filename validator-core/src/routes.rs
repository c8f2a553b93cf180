//! Routes in their order, and which of them a path can concern at all.
//!
//! Most conditions are about where a path starts. So routes are found by their start: of all starts, sorted, the longest one
//! that the path has is found by halving, and the shorter ones that it has as well hang on that. Only the routes of these, and
//! those that name no start, have their conditions looked at, still in order. Two hundred routes that share a start of their
//! starts cost hardly more than one.

use crate::policy::Route;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Deref;

/// Routes; the first whose conditions hold decides. A clone shares them.
#[derive(Debug, Clone)]
pub struct Routes(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    list: Box<[Route]>,
    /// By their text.
    starts: Box<[Start]>,
    /// Indexes of routes that name no start, in order.
    anywhere: Box<[usize]>,
}

/// A start of paths.
#[derive(Debug)]
struct Start {
    text: Box<[u8]>,
    /// Index of the longest other start that this one starts with.
    shorter: Option<usize>,
    /// Indexes of the routes that name it, in order.
    routes: Vec<usize>,
}

impl From<Vec<Route>> for Routes {
    fn from(list: Vec<Route>) -> Self {
        let mut by_text: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
        let mut anywhere = Vec::new();
        for (index, route) in list.iter().enumerate() {
            match route.when.start() {
                Some(start) => by_text.entry(start).or_default().push(index),
                None => anywhere.push(index),
            }
        }
        let mut starts: Vec<Start> = Vec::with_capacity(by_text.len());
        for (text, routes) in by_text {
            // Sorted, every start stands somewhere behind those that it starts with, and only longer ones are between.
            let mut shorter = starts.len().checked_sub(1);
            while let Some(index) = shorter.filter(|index| !text.starts_with(&starts[*index].text)) {
                shorter = starts[index].shorter;
            }
            starts.push(Start { text: text.into(), shorter, routes });
        }
        Self(Arc::new(Compiled { starts: starts.into(), anywhere: anywhere.into(), list: list.into() }))
    }
}

impl Deref for Routes {
    type Target = [Route];

    fn deref(&self) -> &[Route] {
        &self.0.list
    }
}

impl Routes {
    /// The first of all routes that `holds` says of that it holds. It is asked about those that a path can concern, in
    /// order.
    #[inline(always)]
    pub(crate) fn first(&self, path: &[u8], holds: impl Fn(&Route) -> bool) -> Option<usize> {
        let Compiled { list, starts, anywhere } = &*self.0;
        // The longest start that the path has. The last one that is not behind the path is that, or starts with it.
        let mut longest = starts.partition_point(|start| *start.text <= *path).checked_sub(1);
        while let Some(index) = longest.filter(|index| !path.starts_with(&starts[*index].text)) {
            longest = starts[index].shorter;
        }
        let mut from = 0;
        loop {
            let mut next = first_from(anywhere, from);
            let mut start = longest;
            while let Some(index) = start {
                next = next.min(first_from(&starts[index].routes, from));
                start = starts[index].shorter;
            }
            if holds(list.get(next)?) {
                return Some(next);
            }
            from = next + 1;
        }
    }
}

/// The first of sorted indexes that is not below `from`; beyond all routes if there is none.
fn first_from(sorted: &[usize], from: usize) -> usize {
    let found = match sorted.first() {
        Some(first) if *first >= from => Some(first),
        _ => sorted.get(sorted.partition_point(|index| *index < from)),
    };
    found.copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Check, OnDeny, Statuses};
    use crate::rules::{Condition, Operand, When};
    use alloc::string::String;
    use core::cell::RefCell;
    use proptest::prelude::*;

    fn route(operator: &str, value: &str) -> Route {
        let condition = Condition::new("uri", operator, Operand::Text(value)).unwrap();
        let method = Condition::new("method", "is_equal", Operand::Text("GET")).unwrap();
        Route {
            name: "r".into(),
            when: When::new(alloc::vec![alloc::vec![method], alloc::vec![condition]]),
            check: Check::Allow,
            on_deny: OnDeny::Status,
            statuses: Statuses::default(),
        }
    }

    proptest! {
        /// Routes that the path starts with, or whose start is not known, are asked about in order; all others are not.
        #[test]
        fn those_and_only_those_are_asked(
            rules in prop::collection::vec((0..5_usize, "[ab/]{0,5}"), 0..40),
            path in "/[ab/]{0,6}",
            holding in prop::collection::vec(any::<bool>(), 40),
        ) {
            let operators = ["starts_with", "starts_with", "is_equal", "ends_with", "does_not_start_with"];
            let list: Vec<Route> = rules.iter().map(|(operator, value)| route(operators[*operator], value)).collect();
            let concerns = |index: usize| {
                let (operator, value): &(usize, String) = &rules[index];
                match operators[*operator] {
                    "starts_with" | "is_equal" => path.starts_with(&**value),
                    _ => true,
                }
            };
            let expected: Vec<usize> = (0..rules.len()).filter(|index| concerns(*index)).collect();
            let routes = Routes::from(list);
            let place = |route: &Route| routes.iter().position(|other| core::ptr::eq(other, route)).unwrap();
            let asked = RefCell::new(Vec::new());
            let found = routes.first(path.as_bytes(), |route| {
                asked.borrow_mut().push(place(route));
                holding[place(route)]
            });
            let first = expected.iter().copied().find(|index| holding[*index]);
            prop_assert_eq!(found, first);
            let until = first.map_or(expected.len(), |first| expected.iter().position(|i| *i == first).unwrap() + 1);
            prop_assert_eq!(&asked.into_inner()[..], &expected[..until]);
        }
    }
}
