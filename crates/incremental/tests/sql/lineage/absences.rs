//! Rows that are not there.
