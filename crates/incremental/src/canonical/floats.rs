//! Canonical floats: one zero, one NaN, so that equality of values is equality of bits.
//!
//! Every float that crosses an edge of the graph is canonical: scans and computed columns are wrapped, and what is
//! only passed on stays as it is. Inside an expression floats are as IEEE 754 has them.

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait, StructArray,
};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::common::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::{Arc, LazyLock};

/// Whether values of the type hold floats.
pub(crate) fn holds_floats(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => true,
        DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) | DataType::Map(f, _) => {
            holds_floats(f.data_type())
        }
        DataType::Struct(fields) => fields.iter().any(|f| holds_floats(f.data_type())),
        _ => false,
    }
}

/// The expression with its floats made canonical.
pub(crate) fn canonical_floats(expression: Expr) -> Expr {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| Arc::new(CanonicalFloats::new().into()));
    FUNCTION.call(vec![expression])
}

/// The values with -0.0 as 0.0 and every NaN as the one quiet NaN, at any depth.
pub fn canonicalise(array: &ArrayRef) -> Result<ArrayRef> {
    if !holds_floats(array.data_type()) {
        return Ok(array.clone());
    }
    Ok(match array.data_type() {
        DataType::Float64 => {
            let values = array.as_primitive::<Float64Type>();
            if values.values().iter().all(|v| v.to_bits() == one_bits(*v).to_bits()) {
                return Ok(array.clone());
            }
            Arc::new(values.unary::<_, Float64Type>(one_bits))
        }
        DataType::Float32 => Arc::new(
            array
                .as_primitive::<Float32Type>()
                .unary::<_, Float32Type>(|v| if v.is_nan() { f32::NAN } else { v + 0.0 }),
        ),
        DataType::List(_) => list::<i32>(array)?,
        DataType::LargeList(_) => list::<i64>(array)?,
        DataType::FixedSizeList(field, size) => {
            let lists = array.as_fixed_size_list();
            let values = canonicalise(lists.values())?;
            Arc::new(FixedSizeListArray::try_new(field.clone(), *size, values, lists.nulls().cloned())?)
        }
        DataType::Struct(fields) => {
            let values = array.as_struct();
            let columns = values.columns().iter().map(canonicalise).collect::<Result<Vec<_>>>()?;
            if fields.is_empty() {
                return Ok(array.clone());
            }
            Arc::new(StructArray::try_new(fields.clone(), columns, values.nulls().cloned())?)
        }
        DataType::Map(field, ordered) => {
            let maps = array.as_map();
            let entries: ArrayRef = Arc::new(maps.entries().clone());
            let entries = canonicalise(&entries)?.as_struct().clone();
            let nulls = maps.nulls().cloned();
            Arc::new(MapArray::try_new(field.clone(), maps.offsets().clone(), entries, nulls, *ordered)?)
        }
        _ => array.clone(),
    })
}

fn list<O: OffsetSizeTrait>(array: &ArrayRef) -> Result<ArrayRef> {
    let lists = array.as_list::<O>();
    let (DataType::List(field) | DataType::LargeList(field)) = array.data_type() else {
        return Ok(array.clone());
    };
    let values = canonicalise(lists.values())?;
    Ok(Arc::new(GenericListArray::<O>::try_new(
        field.clone(),
        lists.offsets().clone(),
        values,
        lists.nulls().cloned(),
    )?))
}

/// Adding zero turns -0.0 into 0.0.
fn one_bits(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value + 0.0 }
}

/// The function as plans name it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CanonicalFloats {
    signature: Signature,
}

impl CanonicalFloats {
    fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for CanonicalFloats {
    fn name(&self) -> &str {
        "canonical"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[0].clone())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        match &arguments.args[0] {
            ColumnarValue::Array(array) => Ok(ColumnarValue::Array(canonicalise(array)?)),
            scalar => Ok(ColumnarValue::Array(canonicalise(&scalar.to_array(rows)?)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::canonicalise;
    use arrow::array::{ArrayRef, AsArray, Float64Array, ListArray};
    use arrow::datatypes::Float64Type;
    use std::sync::Arc;

    #[test]
    fn zeros_and_nans_become_one_each_at_any_depth() {
        let odd_nan = f64::from_bits(0xfff8_0000_0000_0001);
        let flat: ArrayRef = Arc::new(Float64Array::from(vec![Some(-0.0), Some(odd_nan), None, Some(-1.5)]));
        let nested: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>([
            Some(vec![Some(-0.0), Some(odd_nan), None, Some(-1.5)]),
            None,
        ]));
        let flat = canonicalise(&flat).unwrap();
        let nested = canonicalise(&nested).unwrap();
        let inner = nested.as_list::<i32>().value(0);
        for values in [flat.as_primitive::<Float64Type>(), inner.as_primitive::<Float64Type>()] {
            let bits: Vec<_> = values.iter().map(|v| v.map(f64::to_bits)).collect();
            assert_eq!(bits, [Some(0), Some(f64::NAN.to_bits()), None, Some((-1.5f64).to_bits())]);
        }
    }
}
