//! What an aggregate remembers of each group beside the group's own values: weighted values, in memory by the number of
//! the group, on disk by its key.

use super::super::EngineError;
use super::groups::Groups;
use crate::checkpoint::Disk;

/// Bytes of a group's number, with which the rows in memory begin.
pub(super) const NUMBER_BYTES: usize = 4;

/// Weighted values of groups. What is emitted, evicted and loaded is as in [`State`](super::super::State).
pub(super) trait ByGroup {
    /// Emits what changed since the last call: group, value, weight (`None`: removed).
    fn changes(&mut self, emit: &mut dyn FnMut(u32, &[u8], Option<i64>));

    /// Takes back a value that the disk has and that is not in memory.
    fn load(&mut self, group: u32, value: &[u8], weight: i64) -> Result<(), EngineError>;

    /// Whether all values of a group are in memory while the group is.
    fn comes_with_group(&self) -> bool;

    /// From now on remembers what was emitted until it is durable.
    fn track(&mut self);

    /// Everything that was ever emitted is in a durable checkpoint.
    fn durable(&mut self);

    /// Forgets single values that the disk has; returns how many bytes are free.
    fn evict(&mut self, bytes: usize) -> usize;

    /// Forgets all values of groups that leave memory; `leaves` knows them by number.
    fn forget_groups(&mut self, leaves: &[bool]);

    /// Bytes in use.
    fn live_bytes(&self) -> usize;
}

/// The number of the group, and the value.
pub(super) fn split(row: &[u8]) -> (u32, &[u8]) {
    let mut number = [0; NUMBER_BYTES];
    number.copy_from_slice(&row[..NUMBER_BYTES]);
    (u32::from_le_bytes(number), &row[NUMBER_BYTES..])
}

/// What the disk has for a value: its weight, and how long the key of its group is.
pub(super) fn encode_weight(weight: i64, group_len: usize) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&weight.to_le_bytes());
    bytes[8..].copy_from_slice(&(group_len as u32).to_le_bytes());
    bytes
}

/// The opposite of [`encode_weight`]; `None` when it is malformed.
pub(super) fn decode_weight(bytes: &[u8]) -> Option<(i64, usize)> {
    let (weight, group_len) = bytes.split_first_chunk::<8>()?;
    Some((i64::from_le_bytes(*weight), u32::from_le_bytes(group_len.try_into().ok()?) as usize))
}

/// Where a part's values are that memory does not hold.
pub(super) struct Elsewhere<'a> {
    pub disk: Disk,
    pub groups: &'a Groups,
}
