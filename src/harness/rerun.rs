//! Failed tests that are run again, to tell those that always fail from those that do so now and then.

use std::sync::Arc;

use super::outcome::{Fault, Outcome};
use super::{Case, Suite, pass};

/// Which failed tests are run again, and how often. They are when all tests have been run: then it is known how many
/// have failed, and the machine is less busy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rerun {
    /// How often at most each test is run again; 0: none is.
    pub times: u32,
    /// How many times tests are run again at most, in percent of the number of tests; one is always allowed. Where more
    /// have failed, something else is wrong than a test, and to run all of them again costs more than it tells.
    pub percent: u32,
    /// The kinds of failures after which a test is run again.
    pub causes: Vec<Fault>,
}

impl Default for Rerun {
    /// None is run again.
    fn default() -> Self {
        Self { times: 0, percent: 15, causes: Fault::REPEATABLE.to_vec() }
    }
}

impl Rerun {
    /// How many times tests may be run again, of so many.
    fn budget(&self, tests: usize) -> usize {
        let share = tests.saturating_mul(usize::try_from(self.percent).unwrap_or(usize::MAX)) / 100;
        share.max(1)
    }
}

/// Runs the failed ones of these cases again.
pub async fn run(suite: &Arc<Suite>, cases: &[Case], how: &Rerun) {
    let mut left = how.budget(cases.len());
    for attempt in 1..=how.times {
        let mut failed: Vec<(Fault, &Case)> = Vec::new();
        for case in cases {
            let last = suite.recorder.last(&case.name);
            let again = last.filter(|(outcome, fault)| {
                matches!(outcome, Outcome::Fail | Outcome::Infra) && how.causes.contains(fault)
            });
            failed.extend(again.map(|(_, fault)| (fault, case)));
        }
        // What was not the test's fault is most likely to go away.
        failed.sort_by_key(|(fault, _)| std::cmp::Reverse(*fault));
        let beyond = failed.split_off(left.min(failed.len()));
        suite.recorder.not_rerun(beyond.into_iter().map(|(_, case)| case.name.clone()).collect());
        if failed.is_empty() || suite.cancel.is_cancelled() {
            return;
        }
        left -= failed.len();
        for (_, case) in &failed {
            suite.names().forget_below(&case.name);
        }
        pass(suite, failed.into_iter().map(|(_, case)| case.clone()).collect(), attempt).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_a_share_of_the_tests() {
        let budget = |tests| Rerun::default().budget(tests);
        assert_eq!([budget(0), budget(1), budget(7), budget(20), budget(100)], [1, 1, 1, 3, 15]);
    }
}
