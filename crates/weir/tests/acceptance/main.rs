//! Acceptance tests: the `weir` binary driven through its front door, its answers compared with other programs'.

mod access_log;
mod bad_input;
mod checks;
mod damage;
mod disk_full;
mod disk_loss;
mod explain;
mod folder;
mod kill;
mod lake;
mod ledger;
mod notify;
mod online_retail;
mod payments;
mod refresh;
mod sql;
mod support;
mod tutorial;
mod why;
