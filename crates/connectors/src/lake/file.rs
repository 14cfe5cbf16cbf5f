//! Parquet files of the lake: their names, how they are written and read.
//!
//! What the lake needs to know of a file without opening it stands in its name:
//! `e<first epoch>-<last epoch>-r<rows>-n<rows with negative weight>-<unique>.parquet` for files of changes,
//! `b<bucket>-<buckets>-r<rows>-<unique>.parquet` for files of contents. `<unique>` also vouches for the file's bytes
//! ([`super::checked`]). Files that another program put into the table have other names and are taken to hold anything.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{max, max_string, min, min_string, sum};
use arrow::datatypes::{
    DataType, Date32Type, Int8Type, Int16Type, Int32Type, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use arrow_row::{RowConverter, SortField};
use bytes::Bytes;
use deltalake::logstore::object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, path::Path};
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt, TryFutureExt, TryStreamExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter, ParquetRecordBatchStreamBuilder};
use parquet::basic::{Compression, Type, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde_json::{Map, Value, json};

use super::schema::conform;
use super::{LakeError, checked};

const ROW_GROUP_ROWS_MAX: usize = 256 * 1024;

/// Which rows a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Changes of epochs `first..=last`, `negative` of the rows with a weight below zero.
    Changes { first: u64, last: u64, negative: u64 },
    /// Rows of one of `buckets` buckets; of any of them when `buckets` is 0.
    Contents { bucket: u32, buckets: u32 },
    /// Not written by us.
    Foreign,
}

/// One live (or lately removed) data file of a table.
#[derive(Debug)]
pub(crate) struct DataFile {
    /// Relative to the table.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Rows; 0 when unknown.
    pub rows: u64,
    /// What it holds.
    pub part: Part,
    /// Delta's statistics (JSON), where we wrote the file just now.
    pub stats: Option<String>,
    /// When it was written, ms since 1970.
    pub modified_ms: i64,
}

impl DataFile {
    /// A file found in a table's log.
    pub fn listed(path: String, size: u64, rows: Option<u64>, modified_ms: i64) -> Self {
        let (part, named_rows) = parse_name(&path).unwrap_or((Part::Foreign, 0));
        Self { path, size, rows: rows.unwrap_or(named_rows), part, stats: None, modified_ms }
    }

    /// The epochs that the file may hold.
    pub fn epochs(&self) -> (u64, u64) {
        match self.part {
            Part::Changes { first, last, .. } => (first, last),
            _ => (0, u64::MAX),
        }
    }
}

fn file_name(part: Part, rows: u64, unique: &str) -> String {
    match part {
        Part::Changes { first, last, negative } => format!("e{first}-{last}-r{rows}-n{negative}-{unique}.parquet"),
        Part::Contents { bucket, buckets } => {
            format!("b{bucket}-{buckets}-r{rows}-{unique}.parquet")
        }
        Part::Foreign => format!("{unique}.parquet"),
    }
}

/// Whether we write files of such a name (no folder in it).
pub(crate) fn is_ours(name: &str) -> bool {
    parse_name(name).is_some()
}

fn parse_name(path: &str) -> Option<(Part, u64)> {
    let stem = path.strip_suffix(".parquet")?;
    let fields: Vec<&str> = stem.split('-').collect();
    match fields.as_slice() {
        [first, last, rows, negative, _unique] => {
            let first = first.strip_prefix('e')?.parse().ok()?;
            let last = last.parse().ok()?;
            let rows = rows.strip_prefix('r')?.parse().ok()?;
            let negative = negative.strip_prefix('n')?.parse().ok()?;
            Some((Part::Changes { first, last, negative }, rows))
        }
        [bucket, buckets, rows, _unique] => {
            let bucket = bucket.strip_prefix('b')?.parse().ok()?;
            let buckets = buckets.parse().ok()?;
            Some((Part::Contents { bucket, buckets }, rows.strip_prefix('r')?.parse().ok()?))
        }
        _ => None,
    }
}

/// Compression of files that upkeep will soon write anew.
pub(crate) fn landed() -> Compression {
    Compression::SNAPPY
}

/// Compression of files that stay.
pub(crate) fn lasting() -> Compression {
    const LEVEL: i32 = 3;
    Compression::ZSTD(ZstdLevel::try_new(LEVEL).unwrap_or_default())
}

/// Writes rows as files of about `bytes_target` each. Encoding runs on blocking threads.
pub(crate) struct FileWriter {
    store: Arc<dyn ObjectStore>,
    schema: SchemaRef,
    /// Fixed for contents; computed from the rows for changes.
    contents: Option<(u32, u32)>,
    bytes_target: u64,
    compression: Compression,
    open: Option<OpenFile>,
    done: Vec<DataFile>,
}

struct OpenFile {
    writer: ArrowWriter<Vec<u8>>,
    first: u64,
    last: u64,
    negative: u64,
    rows: u64,
}

impl FileWriter {
    /// For rows with a column `_epoch`, and most often `_weight`.
    pub fn changes(
        store: Arc<dyn ObjectStore>,
        schema: SchemaRef,
        bytes_target: u64,
        compression: Compression,
    ) -> Self {
        Self { store, schema, contents: None, bytes_target, compression, open: None, done: Vec::new() }
    }

    /// For rows of one bucket.
    pub fn contents(
        store: Arc<dyn ObjectStore>,
        schema: SchemaRef,
        (bucket, buckets): (u32, u32),
        bytes_target: u64,
    ) -> Self {
        Self {
            store,
            schema,
            contents: Some((bucket, buckets)),
            bytes_target,
            compression: lasting(),
            open: None,
            done: Vec::new(),
        }
    }

    /// Appends rows; starts another file when the present one is full.
    pub async fn write(&mut self, batch: RecordBatch) -> Result<(), LakeError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let open = self.open.take();
        let changes = self.contents.is_none();
        let (schema, compression) = (self.schema.clone(), self.compression);
        let (open, full_bytes) = tokio::task::spawn_blocking(move || {
            let batch = conform(&batch, &schema)?;
            let mut open = match open {
                Some(open) => open,
                None => OpenFile {
                    writer: new_writer(&batch, compression)?,
                    first: u64::MAX,
                    last: 0,
                    negative: 0,
                    rows: 0,
                },
            };
            open.rows += batch.num_rows() as u64;
            if changes {
                if let Some(epochs) = batch.column_by_name("_epoch") {
                    let epochs = epochs.as_primitive::<Int64Type>();
                    open.first = open.first.min(min(epochs).unwrap_or(0) as u64);
                    open.last = open.last.max(max(epochs).unwrap_or(0) as u64);
                }
                if let Some(weights) = batch.column_by_name("_weight") {
                    let weights = weights.as_primitive::<Int64Type>();
                    open.negative += weights.values().iter().filter(|weight| **weight < 0).count() as u64;
                }
            }
            open.writer.write(&batch)?;
            let bytes = open.writer.bytes_written() + open.writer.in_progress_size();
            Ok::<_, LakeError>((open, bytes))
        })
        .await
        .map_err(LakeError::crashed)??;
        self.open = Some(open);
        if full_bytes as u64 >= self.bytes_target {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), LakeError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let schema = self.schema.clone();
        let part = match self.contents {
            Some((bucket, buckets)) => Part::Contents { bucket, buckets },
            None => Part::Changes { first: open.first, last: open.last, negative: open.negative },
        };
        let rows = open.rows;
        let (bytes, unique, stats) = tokio::task::spawn_blocking(move || {
            let mut writer = open.writer;
            let (bytes, unique, metadata) = checked::finish(&mut writer)?;
            let stats = delta_statistics(&schema, &metadata)?;
            Ok::<_, LakeError>((bytes, unique, stats))
        })
        .await
        .map_err(LakeError::crashed)??;
        let path = file_name(part, rows, &unique);
        let size = bytes.len() as u64;
        self.store.put(&Path::from(path.as_str()), bytes.into()).await?;
        let modified_ms = chrono::Utc::now().timestamp_millis();
        self.done.push(DataFile { path, size, rows, part, stats: Some(stats), modified_ms });
        Ok(())
    }

    /// The files written; they are in place, not yet in any table.
    pub async fn finish(mut self) -> Result<Vec<DataFile>, LakeError> {
        self.flush().await?;
        Ok(self.done)
    }
}

/// A writer of rows like these, which are the first.
fn new_writer(rows: &RecordBatch, compression: Compression) -> Result<ArrowWriter<Vec<u8>>, LakeError> {
    let mut properties =
        WriterProperties::builder().set_compression(compression).set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX));
    // Parquet's bounds leave out NaN, which SQL sorts above all numbers: with them a reader would skip rows.
    for column in ArrowSchemaConverter::new().convert(&rows.schema())?.columns() {
        if matches!(column.physical_type(), Type::FLOAT | Type::DOUBLE) {
            properties = properties.set_column_statistics_enabled(column.path().clone(), EnabledStatistics::None);
        }
    }
    for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        if !field.data_type().is_nested() && mostly_different(column)? {
            let path = ColumnPath::new(vec![field.name().clone()]);
            properties = properties.set_column_dictionary_enabled(path.clone(), false);
            if compression == landed() && is_incompressible(column) {
                properties = properties.set_column_compression(path, Compression::UNCOMPRESSED);
            }
        }
    }
    Ok(ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties.build()))?)
}

/// Whether a sample of text gets no shorter, as identifiers and hashes do not: fast compressions find repeats only.
fn is_incompressible(column: &ArrayRef) -> bool {
    const SAMPLE_BYTES: usize = 64 << 10;
    let Some(text) = column.as_string_opt::<i32>() else {
        return false;
    };
    let start = text.value_offsets()[0] as usize;
    let bytes = &text.value_data()[start..];
    let sample = &bytes[..bytes.len().min(SAMPLE_BYTES)];
    !sample.is_empty() && lz4_flex::block::compress(sample).len() > sample.len() / 10 * 9
}

/// Whether a sample's values are different for the most part: a dictionary would cost much and save little.
fn mostly_different(column: &ArrayRef) -> Result<bool, LakeError> {
    const SAMPLE_ROWS: usize = 2048;
    if column.len() < SAMPLE_ROWS {
        return Ok(false);
    }
    let converter = RowConverter::new(vec![SortField::new(column.data_type().clone())])?;
    let rows = converter.convert_columns(&[column.slice(0, SAMPLE_ROWS)])?;
    let different: HashSet<&[u8]> = rows.iter().map(|row| row.data()).collect();
    Ok(different.len() > SAMPLE_ROWS / 2)
}

/// The rows of a file with the columns and types of `schema`.
pub(crate) async fn read_file(
    store: Arc<dyn ObjectStore>,
    file: &DataFile,
    schema: SchemaRef,
) -> Result<impl Stream<Item = Result<RecordBatch, LakeError>> + Send + Unpin + use<>, LakeError> {
    let reader = FileReader { store, path: Path::from(file.path.as_str()), size: file.size };
    let stream = ParquetRecordBatchStreamBuilder::new(reader).await?.with_batch_size(8192).build()?;
    Ok(stream.map_err(LakeError::from).map(move |batch| batch.and_then(|batch| Ok(conform(&batch, &schema)?))))
}

/// Byte ranges of one file.
struct FileReader {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

fn unreadable(error: StoreError) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for FileReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        self.store.get_range(&self.path, range).map_err(unreadable).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(unreadable) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options);
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}

/// Delta's per-file statistics: row count and, for columns where bounds are exact in JSON, least and greatest value.
fn delta_statistics(schema: &SchemaRef, metadata: &ParquetMetaData) -> Result<String, LakeError> {
    let parquet_schema = metadata.file_metadata().schema_descr();
    let (mut least, mut greatest, mut nulls) = (Map::new(), Map::new(), Map::new());
    for field in schema.fields() {
        if field.data_type().is_nested() {
            continue;
        }
        let Ok(converter) = StatisticsConverter::try_new(field.name(), schema, parquet_schema) else {
            continue;
        };
        let groups = || metadata.row_groups().iter();
        if let Ok(counts) = converter.row_group_null_counts(groups())
            && counts.null_count() == 0
        {
            nulls.insert(field.name().clone(), json!(sum(&counts).unwrap_or(0)));
        }
        let (Ok(mins), Ok(maxes)) = (converter.row_group_mins(groups()), converter.row_group_maxes(groups())) else {
            continue;
        };
        if mins.null_count() > 0 || maxes.null_count() > 0 {
            continue;
        }
        if let (Some(low), Some(high)) = (bound(&mins, true), bound(&maxes, false)) {
            least.insert(field.name().clone(), low);
            greatest.insert(field.name().clone(), high);
        }
    }
    let rows = metadata.file_metadata().num_rows();
    let statistics = json!({
        "numRecords": rows, "tightBounds": true, "minValues": least, "maxValues": greatest, "nullCount": nulls,
    });
    Ok(Value::to_string(&statistics))
}

fn bound(values: &ArrayRef, lower: bool) -> Option<Value> {
    macro_rules! extreme {
        ($type:ty) => {{
            let values = values.as_primitive::<$type>();
            if lower { min(values) } else { max(values) }?
        }};
    }
    Some(match values.data_type() {
        DataType::Int8 => json!(extreme!(Int8Type)),
        DataType::Int16 => json!(extreme!(Int16Type)),
        DataType::Int32 => json!(extreme!(Int32Type)),
        DataType::Int64 => json!(extreme!(Int64Type)),
        DataType::Utf8 => {
            let values = values.as_string::<i32>();
            json!(if lower { min_string(values) } else { max_string(values) }?)
        }
        DataType::Date32 => {
            let date = Date32Type::to_naive_date_opt(extreme!(Date32Type))?;
            json!(date.format("%Y-%m-%d").to_string())
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let instant = chrono::DateTime::from_timestamp_micros(extreme!(TimestampMicrosecondType))?;
            let form = if zone.is_some() { "%Y-%m-%dT%H:%M:%S%.6fZ" } else { "%Y-%m-%dT%H:%M:%S%.6f" };
            let text = instant.format(form).to_string();
            // Years before 0 or after 9999 have no agreed form.
            if !text.starts_with(|c: char| c.is_ascii_digit()) {
                return None;
            }
            json!(text)
        }
        _ => return None,
    })
}
