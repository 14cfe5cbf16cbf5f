//! The state of an aggregate: by group in memory as much as was of use, the rest on disk.
//!
//! On disk everything goes by the key of its group, in memory by the group's number, which is another each time the group
//! comes into memory. A group comes with its own values and with those of `min` and `max`; of DISTINCT, value by value.

use super::super::{EngineError, State, StateKey};
use super::by_group::{Elsewhere, decode_weight, encode_weight};
use super::call::Call;
use super::groups::{Groups, Keys};
use crate::arrangement::hash_of;
use crate::checkpoint::Disk;
use crate::delta::Delta;

const GROUPS: u8 = 0;
const VALUES: u8 = 1;

pub(super) struct Kept {
    pub groups: Groups,
    pub calls: Vec<Call>,
    disk: Option<Disk>,
    /// Whether the disk may have groups or values that memory does not.
    partial: bool,
}

fn corrupt(reason: &str) -> EngineError {
    EngineError::StateCorrupt { state: "aggregate".into(), reason: reason.to_owned() }
}

/// What the keys of a part's values begin with.
fn tag(call: usize, kind: usize) -> [u8; 4] {
    let [low, high] = (call as u16).to_le_bytes();
    [VALUES, low, high, kind as u8]
}

impl Kept {
    pub fn new(groups: Groups, calls: Vec<Call>) -> Self {
        Self { groups, calls, disk: None, partial: false }
    }

    /// Brings groups into memory. Groups must be fetched before they are found.
    pub fn fetch(&mut self, keys: &Keys) -> Result<(), EngineError> {
        let Some(disk) = self.disk.clone().filter(|_| self.partial) else { return Ok(()) };
        let mut keys = self.groups.missing(keys);
        if keys.is_empty() {
            return Ok(());
        }
        keys.sort_unstable();
        keys.dedup();
        disk.part(&[GROUPS]).lookup(keys.clone(), &mut |key, _, value| self.load_group(key, value))?;
        let Self { groups, calls, .. } = self;
        keys.retain(|key| groups.number(hash_of(key), key).is_some());
        for (number, call) in calls.iter_mut().enumerate() {
            for (kind, part) in call.parts().into_iter().enumerate().filter(|(_, part)| part.comes_with_group()) {
                disk.part(&tag(number, kind)).lookup(keys.clone(), &mut |key, rest, value| {
                    let group = groups.number(hash_of(key), key).ok_or_else(|| corrupt("a value of no group"))?;
                    part.load(group, rest, decode_weight(value).ok_or_else(|| corrupt("a value is malformed"))?.0)
                })?;
            }
        }
        Ok(())
    }

    /// Adds a delta, whose rows are `of_row`'s groups'.
    pub fn update(&mut self, input: &Delta, of_row: &[u32]) -> Result<(), EngineError> {
        let Self { groups, calls, disk, partial } = self;
        for (&group, &weight) in of_row.iter().zip(input.weights.values()) {
            groups.add(group, weight);
        }
        let disk = disk.as_ref().filter(|_| *partial);
        for (number, call) in calls.iter_mut().enumerate() {
            let elsewhere = disk.map(|disk| Elsewhere { disk: disk.part(&tag(number, 0)), groups });
            call.update(input, of_row, elsewhere.as_ref())?;
        }
        Ok(())
    }

    fn load_group(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        let malformed = || corrupt("a group is malformed");
        let (weight, mut rest) = value.split_first_chunk::<8>().ok_or_else(malformed)?;
        let group = self.groups.load(key, i64::from_le_bytes(*weight))?;
        for call in &mut self.calls {
            call.accumulator.grow(self.groups.len());
            call.accumulator.decode(group, &mut rest).ok_or_else(malformed)?;
        }
        if rest.is_empty() { Ok(()) } else { Err(malformed()) }
    }

    /// Bytes of what leaves memory with its group.
    fn bytes_with_groups(&mut self) -> usize {
        let groups = self.groups.bytes() - self.groups.unused_bytes();
        let calls = self.calls.iter_mut().map(|call| {
            let parts = call.parts().into_iter().map(|part| (part.comes_with_group(), part.live_bytes()));
            let with: usize = parts.filter(|(with, _)| *with).map(|(_, bytes)| bytes).sum();
            with + call.dense_bytes()
        });
        groups + calls.sum::<usize>()
    }
}

/// Key: 0 and the group's key, for what is kept by group; 1 + the number of the call and a key of the call's own.
impl State for Kept {
    fn changes(&mut self, emit: &mut dyn FnMut(StateKey<'_>, Option<&[u8]>)) {
        let Self { groups, calls, .. } = self;
        let (mut tagged, mut value) = (Vec::new(), Vec::new());
        // Values first: emitting the groups may free the numbers of those that are gone.
        for (number, call) in calls.iter_mut().enumerate() {
            for (kind, part) in call.parts().into_iter().enumerate() {
                let with_group = part.comes_with_group();
                part.changes(&mut |group, value, weight| {
                    let key = groups.key(group);
                    tagged.clear();
                    tagged.extend_from_slice(&tag(number, kind));
                    tagged.extend_from_slice(key);
                    let of_group = tagged.len();
                    tagged.extend_from_slice(value);
                    let prefix = if with_group { of_group } else { tagged.len() };
                    let weight = weight.map(|weight| encode_weight(weight, key.len()));
                    emit(StateKey { bytes: &tagged, prefix }, weight.as_ref().map(|weight| weight.as_slice()));
                });
            }
        }
        groups.changes(&mut |key, group| {
            tagged.clear();
            tagged.push(GROUPS);
            tagged.extend_from_slice(key);
            let key = StateKey { bytes: &tagged, prefix: tagged.len() };
            let Some((group, weight)) = group else { return emit(key, None) };
            value.clear();
            value.extend_from_slice(&weight.to_le_bytes());
            for call in calls.iter() {
                call.accumulator.encode(group, &mut value);
            }
            emit(key, Some(&value));
        });
    }

    fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        match key {
            [GROUPS, key @ ..] => self.load_group(key, value),
            [VALUES, low, high, kind, key @ ..] => {
                let (weight, group_len) = decode_weight(value).ok_or_else(|| corrupt("a value is malformed"))?;
                let (group, value) = key.split_at_checked(group_len).ok_or_else(|| corrupt("a key is malformed"))?;
                let group = self.groups.number(hash_of(group), group).ok_or_else(|| corrupt("a value of no group"))?;
                let number = usize::from(u16::from_le_bytes([*low, *high]));
                let call = self.calls.get_mut(number).ok_or_else(|| corrupt("there is no such aggregate"))?;
                let part = call.parts().into_iter().nth(usize::from(*kind));
                part.ok_or_else(|| corrupt("there is no such part of an aggregate"))?.load(group, value, weight)
            }
            _ => Err(corrupt("a key is malformed")),
        }
    }

    fn attach(&mut self, disk: &Disk, resident: bool) -> Result<(), EngineError> {
        self.groups.track();
        self.calls.iter_mut().flat_map(Call::parts).for_each(|part| part.track());
        self.partial = !resident && !disk.is_empty();
        self.disk = Some(disk.clone());
        Ok(())
    }

    fn durable(&mut self) {
        self.groups.durable();
        self.calls.iter_mut().flat_map(Call::parts).for_each(|part| part.durable());
    }

    fn evict(&mut self, bytes: usize) -> usize {
        if self.disk.is_none() {
            return 0;
        }
        let (with_groups, groups) = (self.bytes_with_groups(), self.groups.rows().max(1));
        let singly = self.calls.iter_mut().flat_map(Call::parts).filter(|part| !part.comes_with_group());
        let all = with_groups + singly.map(|part| part.live_bytes()).sum::<usize>();
        let share = |held: usize| (bytes as u128 * held as u128).div_ceil(all.max(1) as u128) as usize;
        let mut freed = 0;
        for part in self.calls.iter_mut().flat_map(Call::parts) {
            freed += part.evict(share(part.live_bytes()));
        }
        let each = with_groups.div_ceil(groups).max(1);
        let evicted = self.groups.evict(share(with_groups).div_ceil(each));
        if !evicted.is_empty() {
            let mut leaves = vec![false; evicted.iter().map(|&group| group as usize + 1).max().unwrap_or(0)];
            evicted.iter().for_each(|&group| leaves[group as usize] = true);
            leaves.resize(leaves.len().max(self.groups.len()), false);
            for call in &mut self.calls {
                call.parts().into_iter().for_each(|part| part.forget_groups(&leaves));
                evicted.iter().for_each(|&group| call.accumulator.forget(group));
            }
            freed += evicted.len() * each;
        }
        self.partial |= freed > 0;
        freed
    }

    fn rows(&self) -> usize {
        let parts = self.calls.iter().map(|call| call.sizes().0);
        self.groups.rows() + parts.sum::<usize>()
    }

    fn bytes(&self) -> usize {
        self.groups.bytes() + self.calls.iter().map(|call| call.sizes().1).sum::<usize>()
    }

    fn unused_bytes(&self) -> usize {
        let dense: usize = self.calls.iter().map(Call::dense_bytes).sum();
        let parts: usize = self.calls.iter().map(Call::unused_bytes).sum();
        self.groups.unused_bytes() + parts + (dense as f64 * self.groups.free_share()) as usize
    }
}
