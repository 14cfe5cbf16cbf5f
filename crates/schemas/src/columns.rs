//! Column builders that every decoder appends to: typed, nested, and able to take rows back.
//!
//! A record is appended value by value; when one does not fit, [`ColumnBuilder::truncate`] takes back what the
//! record had appended so far. Arrow's own builders cannot do that.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, ListArray, MapArray, NullBufferBuilder, PrimitiveArray,
    StringArray, StructArray, new_null_array,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, FieldRef, Fields, Float32Type, Float64Type, Int8Type,
    Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};

use crate::keys::Keys;

/// Most bytes that one text or binary column of a batch can hold.
const COLUMN_SIZE_MAX: usize = i32::MAX as usize;

/// Values of one column, to be.
#[derive(Debug)]
pub(crate) struct ColumnBuilder {
    pub data_type: DataType,
    pub nulls: NullBufferBuilder,
    pub values: Values,
}

#[derive(Debug)]
pub(crate) enum Values {
    Boolean(BooleanBufferBuilder),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    /// Days since 1970.
    Date(Vec<i32>),
    /// Microseconds since 1970.
    Timestamp(Vec<i64>),
    Decimal(Vec<i128>),
    /// UTF-8: whoever appends vouches for it.
    Text(VarBytes),
    Binary(VarBytes),
    Struct(StructValues),
    List {
        offsets: Vec<i32>,
        item: Box<ColumnBuilder>,
        item_nullable: bool,
    },
    Map {
        offsets: Vec<i32>,
        keys: VarBytes,
        values: Box<ColumnBuilder>,
        value_nullable: bool,
    },
    /// A type that no decoder makes: only NULL can be appended.
    Unsupported,
}

#[derive(Debug)]
pub(crate) struct StructValues {
    pub keys: Keys,
    pub fields: Fields,
    pub children: Vec<ColumnBuilder>,
}

/// Byte strings behind one another.
#[derive(Debug)]
pub(crate) struct VarBytes {
    offsets: Vec<i32>,
    pub bytes: Vec<u8>,
}

impl VarBytes {
    pub fn new(capacity: usize) -> Self {
        let mut offsets = Vec::with_capacity(capacity + 1);
        offsets.push(0);
        Self { offsets, bytes: Vec::with_capacity(capacity * 16) }
    }

    /// Ends the value whose bytes were put at the end of `bytes`. `false`, and takes the bytes back, where the column
    /// would be too large.
    #[inline]
    #[must_use]
    pub fn close(&mut self) -> bool {
        if self.bytes.len() > COLUMN_SIZE_MAX {
            self.bytes.truncate(self.offsets[self.offsets.len() - 1] as usize);
            return false;
        }
        self.offsets.push(self.bytes.len() as i32);
        true
    }

    #[inline]
    #[must_use]
    pub fn push(&mut self, value: &[u8]) -> bool {
        self.bytes.extend_from_slice(value);
        self.close()
    }

    fn push_empty(&mut self) {
        self.offsets.push(self.offsets[self.offsets.len() - 1]);
    }

    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    fn get(&self, index: usize) -> &[u8] {
        &self.bytes[self.offsets[index] as usize..self.offsets[index + 1] as usize]
    }

    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(self.offsets[len] as usize);
        self.offsets.truncate(len + 1);
    }

    /// If any value from `start` on is there more than once: for each of them, whether it is the last of its kind.
    pub fn last_of_repeats(&self, start: usize) -> Option<Vec<bool>> {
        let count = self.len() - start;
        if count <= 8 && !(start..self.len()).any(|i| (start..i).any(|j| self.get(i) == self.get(j))) {
            return None;
        }
        let mut seen = std::collections::HashSet::with_capacity(count);
        let mut last: Vec<bool> = (start..self.len()).rev().map(|index| seen.insert(self.get(index))).collect();
        last.reverse();
        (seen.len() < count).then_some(last)
    }

    fn into_text(self, nulls: Option<NullBuffer>) -> StringArray {
        // Appended values are UTF-8 and offsets grow, see `Values::Text` and `close`.
        StringArray::try_new(offsets_of(self.offsets), Buffer::from_vec(self.bytes), nulls)
            .expect("text columns hold UTF-8")
    }
}

impl ColumnBuilder {
    /// An empty column; room for about `capacity` values.
    pub fn new(data_type: &DataType, capacity: usize) -> Self {
        let nested = |field: &FieldRef| Box::new(Self::new(field.data_type(), capacity));
        let values = match data_type {
            DataType::Boolean => Values::Boolean(BooleanBufferBuilder::new(capacity)),
            DataType::Int8 => Values::Int8(Vec::with_capacity(capacity)),
            DataType::Int16 => Values::Int16(Vec::with_capacity(capacity)),
            DataType::Int32 => Values::Int32(Vec::with_capacity(capacity)),
            DataType::Int64 => Values::Int64(Vec::with_capacity(capacity)),
            DataType::Float32 => Values::Float32(Vec::with_capacity(capacity)),
            DataType::Float64 => Values::Float64(Vec::with_capacity(capacity)),
            DataType::Date32 => Values::Date(Vec::with_capacity(capacity)),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Values::Timestamp(Vec::with_capacity(capacity)),
            DataType::Decimal128(1..=38, 0..=38) => Values::Decimal(Vec::with_capacity(capacity)),
            DataType::Utf8 => Values::Text(VarBytes::new(capacity)),
            DataType::Binary => Values::Binary(VarBytes::new(capacity)),
            DataType::Struct(fields) => Values::Struct(StructValues {
                keys: Keys::new(fields.iter().map(|field| field.name().as_str())),
                fields: fields.clone(),
                children: fields.iter().map(|field| Self::new(field.data_type(), capacity)).collect(),
            }),
            DataType::List(item) => {
                Values::List { offsets: vec![0], item: nested(item), item_nullable: item.is_nullable() }
            }
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(pair) if pair.len() == 2 && *pair[0].data_type() == DataType::Utf8 => Values::Map {
                    offsets: vec![0],
                    keys: VarBytes::new(capacity),
                    values: nested(&pair[1]),
                    value_nullable: pair[1].is_nullable(),
                },
                _ => Values::Unsupported,
            },
            _ => Values::Unsupported,
        };
        Self { data_type: data_type.clone(), nulls: NullBufferBuilder::new(capacity), values }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Whether value `index` is there and not NULL.
    #[inline]
    pub fn is_valid(&self, index: usize) -> bool {
        self.nulls.is_valid(index)
    }

    pub fn append_null(&mut self) {
        self.nulls.append_null();
        match &mut self.values {
            Values::Boolean(values) => values.append(false),
            Values::Int8(values) => values.push(0),
            Values::Int16(values) => values.push(0),
            Values::Int32(values) | Values::Date(values) => values.push(0),
            Values::Int64(values) | Values::Timestamp(values) => values.push(0),
            Values::Float32(values) => values.push(0.0),
            Values::Float64(values) => values.push(0.0),
            Values::Decimal(values) => values.push(0),
            Values::Text(values) | Values::Binary(values) => values.push_empty(),
            Values::Struct(values) => values.children.iter_mut().for_each(Self::append_null),
            Values::List { offsets, .. } | Values::Map { offsets, .. } => offsets.push(offsets[offsets.len() - 1]),
            Values::Unsupported => {}
        }
    }

    /// Takes back all values from `len` on, and whatever a half-appended value left behind.
    pub fn truncate(&mut self, len: usize) {
        self.nulls.truncate(len);
        match &mut self.values {
            Values::Boolean(values) => values.truncate(len),
            Values::Int8(values) => values.truncate(len),
            Values::Int16(values) => values.truncate(len),
            Values::Int32(values) | Values::Date(values) => values.truncate(len),
            Values::Int64(values) | Values::Timestamp(values) => values.truncate(len),
            Values::Float32(values) => values.truncate(len),
            Values::Float64(values) => values.truncate(len),
            Values::Decimal(values) => values.truncate(len),
            Values::Text(values) | Values::Binary(values) => values.truncate(len),
            Values::Struct(values) => values.children.iter_mut().for_each(|child| child.truncate(len)),
            Values::List { offsets, item, .. } => {
                offsets.truncate(len + 1);
                item.truncate(offsets[len] as usize);
            }
            Values::Map { offsets, keys, values, .. } => {
                offsets.truncate(len + 1);
                keys.truncate(offsets[len] as usize);
                values.truncate(offsets[len] as usize);
            }
            Values::Unsupported => {}
        }
    }

    /// The finished column.
    pub fn finish(mut self) -> ArrayRef {
        let len = self.len();
        let nulls = self.nulls.finish();
        // What is expected below holds by construction: offsets grow, and all parts of a value are appended together.
        match self.values {
            Values::Boolean(values) => Arc::new(BooleanArray::new(values.build(), nulls)),
            Values::Int8(values) => primitive::<Int8Type>(values, nulls, self.data_type),
            Values::Int16(values) => primitive::<Int16Type>(values, nulls, self.data_type),
            Values::Int32(values) => primitive::<Int32Type>(values, nulls, self.data_type),
            Values::Int64(values) => primitive::<Int64Type>(values, nulls, self.data_type),
            Values::Float32(values) => primitive::<Float32Type>(values, nulls, self.data_type),
            Values::Float64(values) => primitive::<Float64Type>(values, nulls, self.data_type),
            Values::Date(values) => primitive::<Date32Type>(values, nulls, self.data_type),
            Values::Timestamp(values) => primitive::<TimestampMicrosecondType>(values, nulls, self.data_type),
            Values::Decimal(values) => primitive::<Decimal128Type>(values, nulls, self.data_type),
            Values::Text(values) => Arc::new(values.into_text(nulls)),
            // Offsets only grow, and every child got one value a row: the arrays below are sound by construction.
            Values::Binary(values) => Arc::new(
                // See above.
                BinaryArray::try_new(offsets_of(values.offsets), Buffer::from_vec(values.bytes), nulls)
                    .expect("offsets grow"),
            ),
            Values::Struct(values) if values.fields.is_empty() => Arc::new(StructArray::new_empty_fields(len, nulls)),
            Values::Struct(values) => {
                let children = values.children.into_iter().map(Self::finish).collect();
                // See above.
                Arc::new(StructArray::try_new(values.fields, children, nulls).expect("children are as long"))
            }
            Values::List { offsets, item, .. } => match self.data_type {
                DataType::List(field) => Arc::new(
                    // See above.
                    ListArray::try_new(field, offsets_of(offsets), item.finish(), nulls).expect("offsets grow"),
                ),
                _ => new_null_array(&self.data_type, len),
            },
            Values::Map { offsets, keys, values, .. } => match self.data_type {
                DataType::Map(field, sorted) => {
                    let DataType::Struct(pair) = field.data_type() else {
                        return new_null_array(&DataType::Map(field, sorted), len);
                    };
                    let columns: Vec<ArrayRef> = vec![Arc::new(keys.into_text(None)), values.finish()];
                    // See above.
                    let entries = StructArray::try_new(pair.clone(), columns, None).expect("as many keys as values");
                    // See above.
                    let offsets = offsets_of(offsets);
                    Arc::new(MapArray::try_new(field, offsets, entries, nulls, sorted).expect("offsets grow"))
                }
                _ => new_null_array(&self.data_type, len),
            },
            Values::Unsupported => new_null_array(&self.data_type, len),
        }
    }
}

fn primitive<T: ArrowPrimitiveType>(
    values: Vec<T::Native>,
    nulls: Option<NullBuffer>,
    data_type: DataType,
) -> ArrayRef {
    let array = PrimitiveArray::<T>::new(ScalarBuffer::from(values), nulls);
    Arc::new(array.with_data_type(data_type))
}

fn offsets_of(offsets: Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(offsets))
}
