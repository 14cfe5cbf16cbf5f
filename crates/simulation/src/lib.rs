//! Whole-pipeline runs under a seed, with faults, for tests; storage that fails is in `weir_environment` already.
