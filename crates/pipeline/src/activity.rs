//! What operators do in a run: looked at now and then, so that whoever asks need not wait for an epoch to end.

use std::collections::HashMap;
use std::time::Duration;

use weir_incremental::dataflow::OperatorDescription;

/// Time between two looks.
const PACE: Duration = Duration::from_secs(1);
/// Shortest time over which rates are told.
const RATES_OVER_MIN: Duration = Duration::from_secs(1);

/// All operators at one instant.
#[derive(Debug, Clone, Default)]
struct Look {
    at: Duration,
    operators: Vec<OperatorDescription>,
}

/// Operators now, and at the instant from which rates are told: the start of the run, or when somebody asked last.
#[derive(Debug, Clone, Default)]
pub struct Activity {
    since: Look,
    asked: Look,
    now: Look,
    observed: bool,
}

/// One operator and its pace.
#[derive(Debug, Clone, PartialEq)]
pub struct OperatorActivity {
    /// The operator, with sums since the start.
    pub operator: OperatorDescription,
    /// None where nothing ran for long enough.
    pub rates: Option<OperatorRates>,
}

/// What an operator does in a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OperatorRates {
    /// Rows taken in a second.
    pub rows_in: f64,
    /// Rows emitted a second.
    pub rows_out: f64,
    /// Seconds of work a second.
    pub busy: f64,
    /// Rows that its state grows by a second; negative when it shrinks.
    pub state_rows: f64,
    /// Bytes that its state grows by a second.
    pub state_bytes: f64,
}

impl Activity {
    /// Operators of a pipeline that takes nothing in.
    pub fn at_rest(operators: Vec<OperatorDescription>) -> Self {
        let mut activity = Self::default();
        activity.observe(Duration::ZERO, operators);
        activity
    }

    /// Whether it is time for another look; `now` is on the clock of [`Activity::observe`].
    pub fn is_due(&self, now: Duration) -> bool {
        !self.observed || now.saturating_sub(self.now.at) >= PACE
    }

    /// Takes a look: everything as it is at `now`.
    pub fn observe(&mut self, now: Duration, operators: Vec<OperatorDescription>) {
        self.now = Look { at: now, operators };
        if !std::mem::replace(&mut self.observed, true) {
            self.since = self.now.clone();
            self.asked = self.now.clone();
        }
    }

    /// Tells every operator, inputs before those that read them, and the seconds over which rates are told: since the
    /// last question before this one, or the one before that where it came only now.
    pub fn ask(&mut self) -> (Vec<OperatorActivity>, f64) {
        if self.now.at.saturating_sub(self.asked.at) >= RATES_OVER_MIN {
            self.since = std::mem::replace(&mut self.asked, self.now.clone());
        }
        let over = self.now.at.saturating_sub(self.since.at);
        let seconds = over.as_secs_f64();
        let before: HashMap<&str, &OperatorDescription> =
            self.since.operators.iter().map(|operator| (operator.id.as_str(), operator)).collect();
        let told = self.now.operators.iter().map(|now| {
            let rates = match before.get(now.id.as_str()) {
                Some(then) if over >= RATES_OVER_MIN => Some(rates(then, now, seconds)),
                _ => None,
            };
            OperatorActivity { operator: now.clone(), rates }
        });
        (told.collect(), seconds)
    }
}

fn rates(then: &OperatorDescription, now: &OperatorDescription, seconds: f64) -> OperatorRates {
    let count = |then: u64, now: u64| now.saturating_sub(then) as f64 / seconds;
    let growth = |then: usize, now: usize| (now as f64 - then as f64) / seconds;
    OperatorRates {
        rows_in: count(then.rows_in, now.rows_in),
        rows_out: count(then.rows_out, now.rows_out),
        busy: now.elapsed.saturating_sub(then.elapsed).as_secs_f64() / seconds,
        state_rows: growth(then.state_rows, now.state_rows),
        state_bytes: growth(then.state_bytes, now.state_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(rows_in: u64, state_bytes: usize) -> OperatorDescription {
        OperatorDescription {
            id: "a".into(),
            operator: "distinct",
            detail: String::new(),
            inputs: Vec::new(),
            models: Vec::new(),
            keeps_state: true,
            state_rows: 0,
            state_bytes,
            rows_in,
            rows_out: 0,
            elapsed: Duration::from_millis(rows_in),
        }
    }

    #[test]
    fn rates_are_over_the_run_then_since_the_last_question() {
        let mut activity = Activity::default();
        assert!(activity.is_due(Duration::from_secs(5)));
        activity.observe(Duration::from_secs(5), vec![operator(0, 1000)]);
        assert_eq!(activity.ask().0[0].rates, None, "no time has passed");
        assert!(!activity.is_due(Duration::from_millis(5500)));
        activity.observe(Duration::from_secs(15), vec![operator(100, 3000)]);
        let (told, seconds) = activity.ask();
        let rates = told[0].rates.expect("ten seconds have passed");
        assert_eq!((seconds, rates.rows_in, rates.state_bytes), (10.0, 10.0, 200.0));
        assert!((rates.busy - 0.01).abs() < 1e-9);
        activity.observe(Duration::from_secs(17), vec![operator(102, 2000)]);
        let (told, seconds) = activity.ask();
        let rates = told[0].rates.expect("two seconds have passed");
        assert_eq!((seconds, rates.rows_in, rates.state_bytes), (2.0, 1.0, -500.0));
    }

    #[test]
    fn two_who_ask_at_once_are_told_the_same() {
        let mut activity = Activity::default();
        activity.observe(Duration::ZERO, vec![operator(0, 0)]);
        activity.observe(Duration::from_millis(500), vec![operator(50, 0)]);
        assert_eq!(activity.ask().0[0].rates, None);
        activity.observe(Duration::from_millis(1500), vec![operator(150, 0)]);
        let first = activity.ask();
        assert_eq!(first.0[0].rates.map(|rates| rates.rows_in), Some(100.0));
        assert_eq!(activity.ask(), first);
    }
}
