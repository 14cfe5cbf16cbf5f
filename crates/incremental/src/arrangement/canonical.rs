//! One form for equal floats: -0.0 becomes 0.0 and every NaN the same NaN, also inside nested values.

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, RecordBatch, make_array};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float16Type, Float32Type, Float64Type};
use arrow::error::ArrowError;
use std::sync::Arc;

/// Whether values of the type hold floats.
pub fn has_floats(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => true,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => has_floats(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_floats(field.data_type())),
        DataType::Dictionary(_, values) => has_floats(values),
        _ => false,
    }
}

/// The array with canonical floats; the same array where nothing has to change.
pub fn canonical_floats(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match array.data_type() {
        DataType::Float64 => Ok(canonical::<Float64Type>(
            array,
            |v| {
                if v.is_nan() { f64::NAN } else { v + 0.0 }
            },
            |v| v.to_bits(),
        )),
        DataType::Float32 => Ok(canonical::<Float32Type>(
            array,
            |v| {
                if v.is_nan() { f32::NAN } else { v + 0.0 }
            },
            |v| u64::from(v.to_bits()),
        )),
        DataType::Float16 => Ok(canonical::<Float16Type>(
            array,
            |v| {
                let zero = <Float16Type as ArrowPrimitiveType>::Native::ZERO;
                if v.is_nan() {
                    <Float16Type as ArrowPrimitiveType>::Native::NAN
                } else if v == zero {
                    zero
                } else {
                    v
                }
            },
            |v| u64::from(v.to_bits()),
        )),
        data_type if has_floats(data_type) => {
            let data = array.to_data();
            let children = data
                .child_data()
                .iter()
                .map(|child| Ok(canonical_floats(&make_array(child.clone()))?.to_data()))
                .collect::<Result<Vec<_>, ArrowError>>()?;
            Ok(make_array(data.into_builder().child_data(children).build()?))
        }
        _ => Ok(array.clone()),
    }
}

/// The batch with canonical floats.
pub fn canonical_batch(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    if !batch.schema_ref().fields().iter().any(|field| has_floats(field.data_type())) {
        return Ok(batch.clone());
    }
    let columns = batch.columns().iter().map(canonical_floats).collect::<Result<_, _>>()?;
    RecordBatch::try_new(batch.schema(), columns)
}

/// `x + 0.0` is 0.0 for both zeros, and x for all else.
fn canonical<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    normal: impl Fn(T::Native) -> T::Native,
    bits: impl Fn(T::Native) -> u64,
) -> ArrayRef {
    let values: &PrimitiveArray<T> = array.as_primitive();
    if values.values().iter().all(|&v| bits(v) == bits(normal(v))) {
        return array.clone();
    }
    Arc::new(values.unary::<_, T>(normal))
}
