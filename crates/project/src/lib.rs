//! The user's folder: read, resolved, validated; its graph and its versions. This crate runs nothing.
