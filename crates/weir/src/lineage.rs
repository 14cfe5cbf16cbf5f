//! Whose epochs a data folder has: two folders may both have an epoch 100, and mean different things by it.
//!
//! A folder gets an identity when it is made, and another one when it is restored from a copy; it then remembers the one
//! before, and the last epoch it shares with it. Destinations and mirrors note whose epochs they hold.

use serde::{Deserialize, Serialize};
use weir_environment::Environment;
use weir_pipeline::EpochNumber;

/// Where a folder's epochs come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The identity that epochs get which are committed from now on.
    pub id: String,
    /// Those before.
    #[serde(default)]
    pub before: Vec<Ancestor>,
}

/// An identity that this folder has epochs of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// The identity.
    pub id: String,
    /// The last epoch of it.
    pub up_to: EpochNumber,
}

impl Lineage {
    /// That of a folder without epochs.
    pub fn new(environment: &Environment) -> Self {
        let id = format!("{:016x}{:016x}", environment.random.next_u64(), environment.random.next_u64());
        Self { id, before: Vec::new() }
    }

    /// That of a folder which has this one's epochs up to `last`, and others from there on.
    pub fn branch(&self, last: EpochNumber, environment: &Environment) -> Self {
        let before = self.before.iter().map(|a| Ancestor { id: a.id.clone(), up_to: a.up_to.min(last) });
        let own = Ancestor { id: self.id.clone(), up_to: last };
        Self { before: before.chain([own]).collect(), ..Self::new(environment) }
    }

    /// Whether it is this identity, or has epochs of it.
    pub fn descends_from(&self, id: &str) -> bool {
        self.id == id || self.before.iter().any(|ancestor| ancestor.id == id)
    }

    /// A version for destinations, and those under which they may hold this folder's epochs, each up to which.
    pub fn versions(&self, version: &str) -> (String, Vec<(String, EpochNumber)>) {
        let of = |id: &str| if id.is_empty() { version.to_owned() } else { format!("{version}@{id}") };
        (of(&self.id), self.before.iter().map(|ancestor| (of(&ancestor.id), ancestor.up_to)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_shares_no_epoch_that_an_older_copy_did_not_have() {
        let (environment, _) = Environment::simulated(1);
        let first = Lineage::new(&environment);
        let second = first.branch(100, &environment);
        let third = second.branch(80, &environment);
        assert!(third.descends_from(&first.id) && third.descends_from(&second.id) && !first.descends_from(&third.id));
        let (version, earlier) = third.versions("v");
        assert_eq!(version, format!("v@{}", third.id));
        assert_eq!(earlier, [(format!("v@{}", first.id), 80), (format!("v@{}", second.id), 80)]);
    }
}
