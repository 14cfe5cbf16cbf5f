//! Makes a query and a history that differ smaller, as long as they still differ.

use super::query::Query;
use super::tried;
use crate::harness::{Difference, StateRun};
use crate::history::History;

/// So many candidates are tried.
const TRIES_MAX: usize = 1500;

/// A query and a history whose two tempos differ.
pub struct Case {
    pub query: Query,
    pub history: History,
    pub state: StateRun,
    pub difference: Difference,
    tries: usize,
}

impl Case {
    /// A case that was found.
    pub fn new(query: Query, history: History, state: StateRun, difference: Difference) -> Self {
        Self { query, history, state, difference, tries: 0 }
    }

    /// The smallest case that was come upon.
    pub fn shrunk(mut self) -> Self {
        loop {
            let before = self.tries;
            let smaller = self.shrink_query() | self.shrink_history();
            if !smaller || self.tries >= TRIES_MAX || self.tries == before {
                return self;
            }
        }
    }

    /// Takes the candidate when it differs too, and is not merely refused.
    fn take(&mut self, query: &Query, history: &History) -> bool {
        self.tries += 1;
        if self.tries > TRIES_MAX {
            return false;
        }
        match tried(query, history, self.state) {
            Ok(()) | Err(Difference::Refused(_)) => false,
            Err(difference) => {
                let same = std::mem::discriminant(&difference) == std::mem::discriminant(&self.difference);
                if same {
                    (self.query, self.history, self.difference) = (query.clone(), history.clone(), difference);
                }
                same
            }
        }
    }

    fn shrink_query(&mut self) -> bool {
        let mut any = false;
        'again: loop {
            for candidate in smaller(&self.query) {
                let history = self.history.clone();
                if self.take(&candidate, &history) {
                    any = true;
                    continue 'again;
                }
            }
            return any;
        }
    }

    fn shrink_history(&mut self) -> bool {
        let mut any = false;
        let query = self.query.clone();
        let mut size = self.history.lives.len() / 2;
        while size > 0 {
            let mut start = 0;
            while start < self.history.lives.len() {
                let mut history = self.history.clone();
                let end = (start + size).min(history.lives.len());
                history.lives.drain(start..end);
                if self.take(&query, &history) {
                    any = true;
                } else {
                    start += size;
                }
            }
            size /= 2;
        }
        let mut epoch = 0;
        while epoch < self.history.epochs.len() {
            let mut history = self.history.clone();
            history.epochs.remove(epoch);
            if self.take(&query, &history) {
                any = true;
            } else {
                epoch += 1;
            }
        }
        any
    }
}

/// Queries that leave something out.
fn smaller(query: &Query) -> Vec<Query> {
    let mut all = Vec::new();
    all.extend(query.inputs());
    let mut without = |make: &dyn Fn(&mut Query, usize) -> bool| {
        for index in 0.. {
            let mut candidate = query.clone();
            if !make(&mut candidate, index) {
                break;
            }
            all.push(candidate);
        }
    };
    without(&|query, index| match query {
        Query::Filter { conditions: parts, .. }
        | Query::Join { on: parts, .. }
        | Query::AsOf { on: parts, .. }
        | Query::Semi { conditions: parts, .. }
        | Query::Limit { order: parts, .. } => index < parts.len() && !parts.remove(index).is_empty(),
        _ => false,
    });
    without(&|query, index| match query {
        Query::Project { columns: parts, .. }
        | Query::Aggregate { calls: parts, .. }
        | Query::Window { calls: parts, .. } => {
            let fits = index < parts.len() && parts.len() > 1;
            if fits {
                parts.remove(index);
            }
            fits
        }
        Query::Table { columns, .. } => {
            let fits = index < columns.len() && columns.len() > 1;
            if fits {
                columns.remove(index);
            }
            fits
        }
        _ => false,
    });
    without(&|query, index| match query {
        Query::Aggregate { groups, .. } => {
            let fits = index < groups.len();
            if fits {
                groups.remove(index);
            }
            fits
        }
        _ => false,
    });
    // What keeps the columns can stand in place of a part.
    for (index, part) in query.inputs().iter().enumerate() {
        let mut parts = smaller(part);
        if let Query::Filter { input, .. }
        | Query::Distinct(input)
        | Query::Limit { input, .. }
        | Query::Semi { input, .. } = part
        {
            parts.insert(0, input.as_ref().clone());
        }
        for smaller in parts {
            let mut candidate = query.clone();
            if let Some(place) = candidate.inputs_mut().into_iter().nth(index) {
                *place = smaller;
            }
            all.push(candidate);
        }
    }
    all
}
