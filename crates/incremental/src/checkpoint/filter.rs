//! A Bloom filter of 64-byte blocks: whether a run may have a key, at the cost of one cache line.
//!
//! Ten bits a key and six probes within one block say yes to about one key in seventy that is not there, and never no to
//! one that is. Stored as its words, little endian.

const BITS_PER_KEY: usize = 10;
const PROBES: u32 = 6;
const BLOCK_WORDS: usize = 8;
const BLOCK_BITS: usize = BLOCK_WORDS * 64;
/// Half a GiB: beyond 400 million keys more of them pass.
const BLOCKS_MAX: usize = 1 << 23;

/// Keys that may be there, by their hashes.
pub(super) struct Filter {
    words: Vec<u64>,
}

impl Filter {
    /// An empty filter for so many keys.
    pub fn for_keys(keys: usize) -> Self {
        let blocks = keys.saturating_mul(BITS_PER_KEY).div_ceil(BLOCK_BITS).clamp(1, BLOCKS_MAX);
        Self { words: vec![0; blocks * BLOCK_WORDS] }
    }

    /// Adds a key.
    pub fn insert(&mut self, hash: u64) {
        let block = self.block(hash);
        for bit in probes(hash) {
            self.words[block + bit / 64] |= 1 << (bit % 64);
        }
    }

    /// False when the key was never added.
    pub fn may_have(&self, hash: u64) -> bool {
        let block = self.block(hash);
        probes(hash).all(|bit| self.words[block + bit / 64] & (1 << (bit % 64)) != 0)
    }

    fn block(&self, hash: u64) -> usize {
        let blocks = (self.words.len() / BLOCK_WORDS) as u64;
        (((hash >> 32) * blocks) >> 32) as usize * BLOCK_WORDS
    }

    /// The filter as bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Reads it back; `None` when these are no whole blocks.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(BLOCK_WORDS * 8) {
            return None;
        }
        let (words, _) = bytes.as_chunks::<8>();
        Some(Self { words: words.iter().map(|word| u64::from_le_bytes(*word)).collect() })
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        self.words.len() * 8
    }
}

/// Places within a block, from the lower half of the hash.
fn probes(hash: u64) -> impl Iterator<Item = usize> {
    let mixed = (hash & 0xffff_ffff).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 10;
    (0..PROBES).map(move |probe| (mixed >> (9 * probe)) as usize % BLOCK_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_64;

    fn hash(number: u64) -> u64 {
        xxh3_64(&number.to_le_bytes())
    }

    #[test]
    fn every_key_that_was_added_is_found_and_few_others() {
        for keys in [0_u64, 1, 60, 5000, 200_000] {
            let mut filter = Filter::for_keys(keys as usize);
            (0..keys).for_each(|key| filter.insert(hash(key)));
            let filter = Filter::decode(&filter.encode()).unwrap();
            assert!((0..keys).all(|key| filter.may_have(hash(key))));
            let wrong = (keys..keys + 100_000).filter(|&key| filter.may_have(hash(key))).count();
            assert!(wrong < 3000, "{wrong} of 100000 with {keys} keys");
        }
        assert!(Filter::decode(&[]).is_none());
        assert!(Filter::decode(&[0; 63]).is_none());
    }
}
