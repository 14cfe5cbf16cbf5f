//! WITH RECURSIVE, linear and monotone: what follows from some rows, iteration by iteration.
//!
//! Let `S` be the first input and `Q` the step, which treats each row apart. The iterations are
//!
//! ```text
//! W(0) = S,   W(d + 1) = Q(W(d)),                          the output is their sum        (UNION ALL)
//! W(d) = the rows of S (d = 0) or Q(W(d - 1)) that are in no W(e), e < d                   (UNION)
//! ```
//!
//! The operators of the step exist once: each row of `W` carries its iteration `d` in a last column. A step
//!
//! 1. lets the changed inputs meet all rows of all `W` at once; what comes out of a row of `W(d)` is a change of the
//!    derivations at `d + 1`;
//! 2. then goes through the iterations in ascending order. When it comes to `d`, the derivations at `d` and below are
//!    final; it decides which rows enter or leave `W(d)`, and passes just these through the step.
//!
//! So a row that was reached by a path that is gone does not hold itself up in a cycle: its derivations through the cycle
//! stand at later iterations, and are taken away before it is their turn to decide.
//!
//! Rows that would come from more than [`ITERATIONS_MAX`] iterations, or more than [`COPIES_MAX`] times from one, become
//! row errors.

use super::parts::{Parts, Sizes};
use super::{EngineError, Operator, RowError, State, StateKey, StepContext, tolerant::batch_of};
use crate::arrangement::{EMPTY, RowEncoding, Table, hash_of};
use crate::checkpoint::Disk;
use crate::delta::Delta;
use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// So many iterations follow the first; rows that would need more are errors.
pub const ITERATIONS_MAX: u32 = 1000;

/// How often one iteration of UNION ALL may give the same row.
pub const COPIES_MAX: i64 = 1 << 20;

/// Where an operator of the step reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepSource {
    /// The rows of the last iteration: the columns, and the iteration as a last one.
    Work,
    /// An input of the recursion, counted from 1.
    Input(usize),
    /// An earlier operator of the step.
    Operator(usize),
}

/// The step as operators, each after those it reads from; the last gives the output: the columns, and the iteration
/// that the row came from.
pub struct RecursionStep {
    /// Each operator and its inputs.
    pub operators: Vec<(Box<dyn Operator>, Vec<StepSource>)>,
}

/// The recursion over input 0 and the inputs that its step reads.
///
/// State: how often each row is derived at each iteration, and the state of the step's operators.
pub struct Recursion {
    name: String,
    distinct: bool,
    schema: SchemaRef,
    work: SchemaRef,
    inputs: Vec<SchemaRef>,
    encoding: RowEncoding,
    kept: Kept,
}

struct Kept {
    parts: KeptParts,
    /// What the step's operators hold, which they tell only while they are borrowed for change.
    step_size: Sizes,
}

struct KeptParts {
    /// Row, then iteration: the number of derivations.
    derived: Table,
    step: RecursionStep,
}

/// Rows as bytes with weights, in order, so that a run does the same each time.
type Rows = BTreeMap<Vec<u8>, i64>;

/// At which iteration a row of a UNION is: as it was, and as far as is decided.
struct Place {
    before: Option<u32>,
    now: Option<u32>,
}

/// What one step of the operator has to do and has done.
#[derive(Default)]
struct Progress {
    /// Changes of derivations, and rows to be decided again, by iteration.
    pending: BTreeMap<u32, Rows>,
    places: HashMap<Vec<u8>, Place>,
    /// The change of the output.
    output: Rows,
}

impl Recursion {
    /// A recursion that the query calls `name`. `inputs` are the schemas of all inputs; the first has the columns of
    /// the output.
    pub fn new(
        name: String,
        distinct: bool,
        schema: SchemaRef,
        inputs: Vec<SchemaRef>,
        step: RecursionStep,
    ) -> Result<Self, EngineError> {
        let types = schema.fields().iter().map(|field| field.data_type().clone()).collect();
        let depth = Arc::new(Field::new("__depth", DataType::Int64, true));
        let work = Arc::new(Schema::new(schema.fields().iter().cloned().chain([depth]).collect::<Vec<_>>()));
        let kept = Kept { parts: KeptParts { derived: Table::default(), step }, step_size: Sizes::default() };
        Ok(Self { name, distinct, schema, work, inputs, encoding: RowEncoding::new(types)?, kept })
    }

    /// The iterations at which a row is derived now, and how often.
    fn derivations(&self, row: &[u8]) -> impl Iterator<Item = (u32, i64)> + '_ {
        let head = self.kept.parts.derived.probe(hash_of(row), row);
        let stored = self.kept.parts.derived.stored();
        let records = (head != EMPTY).then(|| stored.records(head)).into_iter().flatten();
        let length = row.len();
        records.map(move |record| {
            let bytes = stored.row(record)[length..].try_into().unwrap_or([0; 4]);
            (u32::from_be_bytes(bytes), stored.row_weight(record))
        })
    }

    fn first(&self, row: &[u8]) -> Option<u32> {
        self.derivations(row).map(|(depth, _)| depth).min()
    }

    /// Adds derivations of a row; gives their number before and after.
    fn derive(&mut self, row: &[u8], depth: u32, change: i64) -> Result<(i64, i64), EngineError> {
        let rest = depth.to_be_bytes();
        let (before, after) = self.kept.parts.derived.add(hash_of(row), row, &rest, change)?;
        if after < 0 {
            return Err(EngineError::NegativeWeight { operator: "recursion" });
        }
        Ok((before, after))
    }

    /// Applies what is pending at an iteration; gives the change of its rows, at this iteration or a later one.
    fn decide(
        &mut self,
        depth: u32,
        changes: Rows,
        progress: &mut Progress,
        errors: &mut Vec<RowError>,
    ) -> Result<Vec<(Vec<u8>, u32, i64)>, EngineError> {
        let mut entered = Vec::new();
        self.kept.parts.derived.fetch(changes.keys().map(|row| (hash_of(row), row.as_slice())))?;
        for (row, change) in changes {
            if self.distinct {
                let first = self.first(&row);
                let place = progress.places.entry(row.clone()).or_insert(Place { before: first, now: first }).now;
                if change != 0 {
                    self.derive(&row, depth, change)?;
                }
                let first = self.first(&row);
                let now = match first {
                    Some(first) if first == depth => {
                        if place != Some(depth) {
                            entered.push((row.clone(), depth, 1));
                            entered.extend(place.map(|later| (row.clone(), later, -1)));
                        }
                        Some(depth)
                    }
                    _ if place == Some(depth) || place.is_none() => {
                        if place.is_some() {
                            entered.push((row.clone(), depth, -1));
                        }
                        // Whether it is derived there will be known when it is the turn of that iteration.
                        if let Some(later) = first.filter(|first| *first > depth) {
                            progress.pending.entry(later).or_default().entry(row.clone()).or_default();
                        }
                        None
                    }
                    _ => place,
                };
                if let Some(place) = progress.places.get_mut(&row) {
                    place.now = now;
                }
            } else if change != 0 {
                let (before, after) = self.derive(&row, depth, change)?;
                let shown = |count: i64| if count > COPIES_MAX { 0 } else { count };
                let change = shown(after) - shown(before);
                if change != 0 {
                    if depth <= ITERATIONS_MAX {
                        *progress.output.entry(row.clone()).or_default() += change;
                    }
                    entered.push((row.clone(), depth, change));
                }
                let many = i64::from(after > COPIES_MAX) - i64::from(before > COPIES_MAX);
                if many != 0 {
                    let message = format!("one iteration gives this row more than {COPIES_MAX} times");
                    errors.push(self.error(&row, message, many)?);
                }
            }
        }
        Ok(entered)
    }

    fn error(&self, row: &[u8], message: String, weight: i64) -> Result<RowError, EngineError> {
        let row = batch_of(self.schema.clone(), self.encoding.decode([row])?, 1)?;
        Ok(RowError { expression: format!("WITH RECURSIVE {}", self.name), message, row, weight })
    }

    /// Adds rows that were derived to what is pending.
    fn await_turn(&self, derived: &Delta, progress: &mut Progress) -> Result<(), EngineError> {
        let (depths, columns) = derived
            .rows
            .columns()
            .split_last()
            .ok_or_else(|| EngineError::Internal("a step of a recursion without columns".into()))?;
        let depths = depths.as_primitive::<Int64Type>();
        let encoded = self.encoding.encode(columns, derived.len())?;
        for (row, &weight) in derived.weights.values().iter().enumerate() {
            let depth = u32::try_from(depths.value(row)).unwrap_or(ITERATIONS_MAX).saturating_add(1);
            add(progress.pending.entry(depth).or_default(), encoded.get(row), weight);
        }
        Ok(())
    }

    /// Rows that entered or left iterations as a delta of the step's rows.
    fn work_of(&self, entered: &[(Vec<u8>, u32, i64)]) -> Result<Delta, EngineError> {
        let mut columns = self.encoding.decode(entered.iter().map(|(row, _, _)| row.as_slice()))?;
        let depths: ArrayRef = Arc::new(entered.iter().map(|(_, depth, _)| i64::from(*depth)).collect::<Int64Array>());
        columns.push(depths);
        let rows = batch_of(self.work.clone(), columns, entered.len())?;
        Ok(Delta::new(rows, entered.iter().map(|(_, _, weight)| *weight).collect::<Vec<_>>().into()))
    }
}

fn add(rows: &mut Rows, row: &[u8], weight: i64) {
    match rows.get_mut(row) {
        Some(sum) => *sum = sum.wrapping_add(weight),
        None => {
            rows.insert(row.to_vec(), weight);
        }
    }
}

impl RecursionStep {
    /// Passes changes through the operators. `inputs` are those of the recursion, or none.
    fn run(
        &mut self,
        work: &Delta,
        inputs: &[&Delta],
        context: &mut StepContext<'_>,
    ) -> Result<Option<Delta>, EngineError> {
        let mut outputs: Vec<Delta> = Vec::with_capacity(self.operators.len());
        for (operator, sources) in &mut self.operators {
            let of = |source: &StepSource| match source {
                StepSource::Work => work,
                StepSource::Input(index) => inputs[*index],
                StepSource::Operator(index) => &outputs[*index],
            };
            let arguments: Vec<&Delta> = sources.iter().map(of).collect();
            let output = if arguments.iter().all(|delta| delta.is_empty()) {
                Delta::empty(operator.schema())
            } else {
                operator.step(&arguments, context)?
            };
            outputs.push(output);
        }
        Ok(outputs.pop().filter(|delta| !delta.is_empty()))
    }
}

impl Operator for Recursion {
    fn name(&self) -> &'static str {
        "recursion"
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn step(&mut self, inputs: &[&Delta], context: &mut StepContext<'_>) -> Result<Delta, EngineError> {
        let mut progress = Progress::default();
        let none = Delta::empty(self.work.clone());
        if let Some(derived) = self.kept.parts.step.run(&none, inputs, context)? {
            self.await_turn(&derived, &mut progress)?;
        }
        let start = inputs[0];
        let encoded = self.encoding.encode(start.rows.columns(), start.len())?;
        for (row, &weight) in start.weights.values().iter().enumerate() {
            add(progress.pending.entry(0).or_default(), encoded.get(row), weight);
        }
        let still: Vec<Delta> = self.inputs.iter().map(|schema| Delta::empty(schema.clone())).collect();
        let still: Vec<&Delta> = still.iter().collect();
        while let Some((depth, changes)) = progress.pending.pop_first() {
            let entered = self.decide(depth, changes, &mut progress, context.errors)?;
            let (entered, beyond): (Vec<_>, Vec<_>) =
                entered.into_iter().partition(|(_, depth, _)| *depth <= ITERATIONS_MAX);
            for (row, _, weight) in beyond {
                let message = format!("this row takes more than {ITERATIONS_MAX} iterations");
                context.errors.push(self.error(&row, message, weight)?);
            }
            if entered.is_empty() {
                continue;
            }
            let work = self.work_of(&entered)?;
            if let Some(derived) = self.kept.parts.step.run(&work, &still, context)? {
                self.await_turn(&derived, &mut progress)?;
            }
        }
        for (row, place) in progress.places {
            let shown = |place: Option<u32>| i64::from(place.is_some_and(|depth| depth <= ITERATIONS_MAX));
            add(&mut progress.output, &row, shown(place.now) - shown(place.before));
        }
        self.kept.parts.derived.compact();
        self.kept.measure();
        progress.output.retain(|_, weight| *weight != 0);
        let columns = self.encoding.decode(progress.output.keys().map(Vec::as_slice))?;
        let rows = batch_of(self.schema.clone(), columns, progress.output.len())?;
        Ok(Delta::new(rows, progress.output.into_values().collect::<Vec<_>>().into()))
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(&mut self.kept)
    }
}

impl Kept {
    fn measure(&mut self) {
        let states = self.parts.step.operators.iter_mut().filter_map(|(operator, _)| operator.state());
        self.step_size = states.fold(Sizes::default(), |sum, state| sum.and(Sizes::of(state)));
    }
}

impl Parts for KeptParts {
    fn parts(&mut self) -> Vec<&mut dyn State> {
        let operators = self.step.operators.iter_mut().filter_map(|(operator, _)| operator.state());
        let derived: &mut dyn State = &mut self.derived;
        std::iter::once(derived).chain(operators).collect()
    }

    fn sizes(&self) -> Vec<Sizes> {
        vec![Sizes::of(&self.derived)]
    }
}

impl State for Kept {
    fn changes(&mut self, emit: &mut dyn FnMut(StateKey<'_>, Option<&[u8]>)) {
        self.parts.changes(emit);
    }

    fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        self.parts.restore(key, value)?;
        self.measure();
        Ok(())
    }

    fn attach(&mut self, disk: &Disk, resident: bool) -> Result<(), EngineError> {
        self.parts.attach(disk, resident)?;
        self.measure();
        Ok(())
    }

    fn durable(&mut self) {
        self.parts.durable();
        self.measure();
    }

    fn evict(&mut self, bytes: usize) -> usize {
        let freed = self.parts.evict(bytes);
        self.measure();
        freed
    }

    fn rows(&self) -> usize {
        self.parts.rows() + self.step_size.rows
    }

    fn bytes(&self) -> usize {
        self.parts.bytes() + self.step_size.bytes
    }

    fn unused_bytes(&self) -> usize {
        self.parts.unused_bytes() + self.step_size.unused_bytes
    }
}
