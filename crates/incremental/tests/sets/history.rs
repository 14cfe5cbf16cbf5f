//! Random histories over given tables: rows come in any order, change, go and come back, and epochs are cut anywhere.

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{cast, concat_batches, take};
use arrow::datatypes::{DataType, Int64Type};
use std::collections::HashMap;
use weir_incremental::{Delta, Relation};

/// A small random number generator with a fixed sequence for each seed.
pub struct Chance(u64);

impl Chance {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut chance = Self((seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d) | 1);
        // Seeds that are near each other begin alike.
        (0..4).for_each(|_| {
            chance.below(2);
        });
        chance
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// A relation and the rows it is about.
#[derive(Clone)]
pub struct Table {
    /// Its name.
    pub name: Relation,
    /// Its rows.
    pub rows: RecordBatch,
    /// A column whose equal values come and go together, in all tables that name one: an order and its lines.
    pub together: Option<&'static str>,
}

impl Table {
    /// A table whose rows come and go each by itself.
    pub fn new(name: &str, rows: RecordBatch) -> Self {
        Self { name: name.into(), rows, together: None }
    }

    /// The same, with rows of equal `column` tied to each other.
    pub fn together(mut self, column: &'static str) -> Self {
        self.together = Some(column);
        self
    }
}

/// How a history goes.
#[derive(Debug, Clone, Copy)]
pub struct Course {
    /// What is drawn.
    pub seed: u64,
    /// How many epochs.
    pub epochs: usize,
    /// Whether all rows are there at the end, as given; otherwise some stay away.
    pub whole: bool,
}

/// What happens to all tables, epoch by epoch.
pub struct History {
    /// The delta of each table, for each epoch.
    pub deltas: Vec<HashMap<Relation, Delta>>,
    /// What each table holds after each epoch.
    pub contents: Vec<HashMap<Relation, RecordBatch>>,
}

/// The changes of one table.
struct Changes {
    /// The rows, and behind them an older version of each.
    pool: RecordBatch,
    /// For each epoch: places in the pool, and weights.
    epochs: Vec<(Vec<u32>, Vec<i64>)>,
}

impl History {
    /// Draws a history.
    pub fn draw(tables: &[Table], course: Course) -> Self {
        let mut chance = Chance::new(course.seed);
        // Epochs of very different sizes.
        let sizes: Vec<u64> = (0..course.epochs).map(|_| [1, 8, 40][chance.below(3) as usize]).collect();
        let mut history =
            Self { deltas: vec![HashMap::new(); course.epochs], contents: vec![HashMap::new(); course.epochs] };
        for table in tables {
            let changes = Changes::draw(table, &sizes, course, &mut chance);
            let mut weights = vec![0_i64; changes.pool.num_rows()];
            for (epoch, (places, changed)) in changes.epochs.iter().enumerate() {
                let delta = Delta::new(pick(&changes.pool, places), Int64Array::from(changed.clone()));
                history.deltas[epoch].insert(table.name.clone(), delta);
                places.iter().zip(changed).for_each(|(place, weight)| weights[*place as usize] += weight);
                let there = (0..).zip(&weights).flat_map(|(place, w)| std::iter::repeat_n(place, *w as usize));
                let rows = pick(&changes.pool, &there.collect::<Vec<u32>>());
                history.contents[epoch].insert(table.name.clone(), rows);
            }
        }
        history
    }
}

impl Changes {
    fn draw(table: &Table, sizes: &[u64], course: Course, chance: &mut Chance) -> Self {
        let rows = table.rows.num_rows();
        let keys = table.together.map(|column| {
            let column = table.rows.column_by_name(column).expect("a column of the table");
            let keys = cast(column, &DataType::Int64).expect("an integer key");
            keys.as_primitive::<Int64Type>().values().to_vec()
        });
        let mut epochs = vec![(Vec::new(), Vec::new()); sizes.len()];
        for row in 0..rows {
            let own = match &keys {
                Some(keys) => course.seed.wrapping_add(keys[row] as u64).wrapping_mul(31),
                None => chance.below(u64::MAX >> 12),
            };
            for (epoch, old, weight) in fate(sizes, course, &mut Chance::new(own)) {
                let (places, weights): &mut (Vec<u32>, Vec<i64>) = &mut epochs[epoch];
                places.push(if old { rows + row } else { row } as u32);
                weights.push(weight);
            }
        }
        let older = older_versions(&table.rows, chance);
        let pool = concat_batches(&table.rows.schema(), [&table.rows, &older]).expect("batches of one schema");
        Self { pool, epochs }
    }
}

/// What happens to one row: epoch, whether it is about the older version, weight.
fn fate(sizes: &[u64], course: Course, chance: &mut Chance) -> Vec<(usize, bool, i64)> {
    let later = |from: usize, chance: &mut Chance| {
        let all: u64 = sizes[from..].iter().sum();
        let mut drawn = chance.below(all);
        let mut epoch = from;
        while drawn >= sizes[epoch] {
            drawn -= sizes[epoch];
            epoch += 1;
        }
        epoch
    };
    let come = later(0, chance);
    let mut fate = Vec::new();
    match chance.below(12) {
        // An update: the older version is there first.
        0 | 1 => {
            let changed = later(come, chance);
            fate.extend([(come, true, 1), (changed, true, -1), (changed, false, 1)]);
        }
        // A delete that is taken back.
        2 => {
            let (gone, back) = (later(come, chance), sizes.len() - 1);
            fate.extend([(come, false, 1), (gone, false, -1), (back, false, 1)]);
        }
        // For a while it is there twice.
        3 => {
            let again = later(come, chance);
            fate.extend([(come, false, 1), (again, false, 1), (later(again, chance), false, -1)]);
        }
        // A delete.
        4 if !course.whole => fate.extend([(come, false, 1), (later(come, chance), false, -1)]),
        _ => fate.push((come, false, 1)),
    }
    fate
}

/// For each row one in which half of the columns have a value of some other row.
fn older_versions(rows: &RecordBatch, chance: &mut Chance) -> RecordBatch {
    let count = rows.num_rows() as u64;
    let columns: Vec<ArrayRef> = rows
        .columns()
        .iter()
        .map(|column| {
            let from = (0..count).map(|row| if chance.once_in(2) { chance.below(count) } else { row } as u32);
            take(column, &UInt32Array::from_iter_values(from), None).expect("places in the column")
        })
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(rows.schema(), columns, &options).expect("columns of the schema")
}

/// The rows at `places`.
pub fn pick(rows: &RecordBatch, places: &[u32]) -> RecordBatch {
    let places = UInt32Array::from(places.to_vec());
    let columns = rows.columns().iter().map(|column| take(column, &places, None).expect("places in the column"));
    let options = RecordBatchOptions::new().with_row_count(Some(places.len()));
    RecordBatch::try_new_with_options(rows.schema(), columns.collect(), &options).expect("columns of the schema")
}

#[test]
fn a_whole_history_ends_with_the_tables_as_given() {
    let rows: ArrayRef = std::sync::Arc::new(Int64Array::from_iter_values(0..500));
    let rows = RecordBatch::try_from_iter([("n", rows)]).expect("one column");
    let history = History::draw(&[Table::new("t", rows.clone())], Course { seed: 7, epochs: 5, whole: true });
    let contents = &history.contents[4][&Relation::from("t")];
    assert_eq!(contents.column(0).as_primitive::<Int64Type>(), rows.column(0).as_primitive::<Int64Type>());
    let changes: usize = history.deltas.iter().map(|deltas| deltas[&Relation::from("t")].len()).sum();
    assert!(changes > 600, "{changes}");
    let open = History::draw(&[Table::new("t", rows)], Course { seed: 7, epochs: 5, whole: false });
    assert!(open.contents[4][&Relation::from("t")].num_rows() < 500);
}
