//! One operator on several cores: its keys are dealt to instances of it that step side by side.
//!
//! A key belongs to one of 256 virtual partitions, told by the hash of its encoded bytes, and each instance has a range of
//! these. What an operator emits for a key follows from the rows of that key alone, and what it keeps is looked up by that
//! key, so that the instances together emit and keep what one would. Checkpoints do not show how many there were: a graph
//! on two cores goes on with what one on eight has left.
//!
//! There is no lock: an instance is touched by one thread at a time. A key with many rows occupies one of them, while the
//! others share the rest.

use super::{EngineError, Operator, RowError, State, StateKey, StepContext};
use crate::arrangement::{RowEncoding, hash_of};
use crate::checkpoint::Disk;
use crate::delta::Delta;
use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use weir_environment::Workers;

/// Steps of fewer rows are not worth waking other threads.
const SHARED_ROWS_MIN: usize = 4096;
/// Rows whose partitions are found at a time.
const CHUNK_ROWS: usize = 8192;

/// Instances of an operator, each with its own keys.
pub struct Partitioned {
    schema: SchemaRef,
    keys: Vec<Key>,
    instances: Instances,
    shared: Workers,
    alone: Workers,
}

/// The columns of an input by which rows are dealt.
struct Key {
    columns: Vec<usize>,
    encoding: RowEncoding,
}

struct Instances {
    operators: Vec<Box<dyn Operator>>,
    rows: usize,
    bytes: usize,
    unused_bytes: usize,
}

impl Partitioned {
    /// As many instances as there are workers. `keys` are columns of each input: the first columns that state is looked up
    /// by, in their order, so that rows which meet have equal keys.
    pub fn new(
        workers: &Workers,
        keys: Vec<(SchemaRef, Vec<usize>)>,
        make: impl Fn() -> Result<Box<dyn Operator>, EngineError>,
    ) -> Result<Self, EngineError> {
        let operators = (0..workers.threads().min(256)).map(|_| make()).collect::<Result<Vec<_>, _>>()?;
        let encode = |(schema, columns): (SchemaRef, Vec<usize>)| {
            let types = columns.iter().map(|column| schema.field(*column).data_type().clone()).collect();
            Ok::<_, EngineError>(Key { encoding: RowEncoding::new(types)?, columns })
        };
        Ok(Self {
            schema: operators[0].schema(),
            keys: keys.into_iter().map(encode).collect::<Result<Vec<_>, _>>()?,
            instances: Instances { operators, rows: 0, bytes: 0, unused_bytes: 0 },
            shared: workers.clone(),
            alone: Workers::new(1),
        })
    }
}

impl Key {
    /// The instance of each row.
    fn owners(&self, delta: &Delta, instances: usize, workers: &Workers) -> Result<Vec<u8>, EngineError> {
        let columns: Vec<ArrayRef> = self.columns.iter().map(|column| delta.rows.column(*column).clone()).collect();
        let chunks = (0..delta.len()).step_by(CHUNK_ROWS).collect();
        let owners = workers.each(chunks, |from| {
            let rows = CHUNK_ROWS.min(delta.len() - from);
            let columns: Vec<ArrayRef> = columns.iter().map(|column| column.slice(from, rows)).collect();
            let encoded = self.encoding.encode(&columns, rows)?;
            Ok((0..rows).map(|row| owner(encoded.get(row), instances)).collect::<Vec<u8>>())
        });
        Ok(owners.into_iter().collect::<Result<Vec<_>, EngineError>>()?.concat())
    }
}

/// The instance that has a key.
fn owner(key: &[u8], instances: usize) -> u8 {
    // Bits that the indices of states make no use of.
    let partition = (hash_of(key) >> 32) as u8;
    (usize::from(partition) * instances / 256) as u8
}

/// The rows of one instance.
fn part(delta: &Delta, owners: &[u8], instance: usize) -> Result<Delta, EngineError> {
    let rows = || (0..owners.len() as u32).filter(|row| usize::from(owners[*row as usize]) == instance);
    match rows().count() {
        0 => Ok(Delta::empty(delta.schema())),
        all if all == owners.len() => Ok(delta.clone()),
        some => {
            let mut indices = Vec::with_capacity(some);
            indices.extend(rows());
            let weights = indices.iter().map(|row| delta.weights.value(*row as usize)).collect();
            Ok(delta.pick(indices, weights)?)
        }
    }
}

impl Operator for Partitioned {
    fn name(&self) -> &'static str {
        self.instances.operators[0].name()
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn step(&mut self, inputs: &[&Delta], context: &mut StepContext<'_>) -> Result<Delta, EngineError> {
        let rows: usize = inputs.iter().map(|delta| delta.len()).sum();
        let workers = if rows < SHARED_ROWS_MIN { &self.alone } else { &self.shared };
        let (count, now) = (self.instances.operators.len(), context.now);
        let owners = inputs.iter().zip(&self.keys).map(|(delta, key)| key.owners(delta, count, workers));
        let owners = owners.collect::<Result<Vec<_>, _>>()?;
        let instances = self.instances.operators.iter_mut().enumerate().collect();
        let stepped = workers.each(instances, |(instance, operator)| {
            let own = inputs.iter().zip(&owners).map(|(delta, owners)| part(delta, owners, instance));
            let own = own.collect::<Result<Vec<_>, _>>()?;
            let mut errors = Vec::new();
            if own.iter().all(Delta::is_empty) {
                return Ok((None, errors));
            }
            let output =
                operator.step(&own.iter().collect::<Vec<_>>(), &mut StepContext { now, errors: &mut errors })?;
            Ok::<(Option<Delta>, Vec<RowError>), EngineError>((Some(output), errors))
        });
        let mut outputs = Vec::with_capacity(count);
        for stepped in stepped {
            let (output, errors) = stepped?;
            outputs.extend(output.filter(|delta| !delta.is_empty()));
            context.errors.extend(errors);
        }
        self.instances.measure();
        Ok(Delta::concat(&self.schema, &outputs)?)
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(&mut self.instances)
    }
}

impl Instances {
    fn states(&mut self) -> impl Iterator<Item = &mut dyn State> {
        self.operators.iter_mut().filter_map(|operator| operator.state())
    }

    fn measure(&mut self) {
        let (mut rows, mut bytes, mut unused_bytes) = (0, 0, 0);
        for state in self.states() {
            rows += state.rows();
            bytes += state.bytes();
            unused_bytes += state.unused_bytes();
        }
        (self.rows, self.bytes, self.unused_bytes) = (rows, bytes, unused_bytes);
    }
}

impl State for Instances {
    fn changes(&mut self, emit: &mut dyn FnMut(StateKey<'_>, Option<&[u8]>)) {
        self.states().for_each(|state| state.changes(emit));
        self.measure();
    }

    fn restore(&mut self, _key: &[u8], _value: &[u8]) -> Result<(), EngineError> {
        Err(EngineError::Internal("a partitioned operator looks its state up in the checkpoint".into()))
    }

    fn attach(&mut self, disk: &Disk, resident: bool) -> Result<(), EngineError> {
        self.states().try_for_each(|state| state.attach(disk, resident))?;
        self.measure();
        Ok(())
    }

    fn durable(&mut self) {
        self.states().for_each(State::durable);
        self.measure();
    }

    fn evict(&mut self, bytes: usize) -> usize {
        let live: usize = self.bytes - self.unused_bytes;
        let mut freed = 0;
        for state in self.states() {
            let own = state.bytes() - state.unused_bytes();
            freed += state.evict((bytes as u128 * own as u128).div_ceil(live.max(1) as u128) as usize);
        }
        self.measure();
        freed
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn unused_bytes(&self) -> usize {
        self.unused_bytes
    }
}
