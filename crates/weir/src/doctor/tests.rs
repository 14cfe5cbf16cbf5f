//! Damage of every kind, at random places of every store.
