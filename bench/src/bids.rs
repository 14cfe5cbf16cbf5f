//! Bids of an auction as JSON lines of about 260 bytes, the same for the same seed.

use std::io::{BufWriter, Result, Write};
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

/// The columns of a bid as `[columns]` of a source.
pub const COLUMNS: &str = "\
[columns]
auction = \"BIGINT\"
bidder  = \"BIGINT\"
price   = \"BIGINT\"
channel = \"TEXT\"
url     = \"TEXT\"
at      = \"TIMESTAMP\"
extra   = \"TEXT\"
";

/// The same for arrow-json.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("auction", DataType::Int64, true),
        Field::new("bidder", DataType::Int64, true),
        Field::new("price", DataType::Int64, true),
        Field::new("channel", DataType::Utf8, true),
        Field::new("url", DataType::Utf8, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("extra", DataType::Utf8, true),
    ]))
}

/// Numbers from a seed (splitmix64).
pub struct Seeded(pub u64);

impl Seeded {
    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Writes `count` bids to a file; how many bytes.
pub fn write(path: &Path, count: u64, seed: u64) -> Result<u64> {
    const CHANNELS: [&str; 4] = ["Apple", "Google", "Facebook", "Baidu"];
    let mut random = Seeded(seed);
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    for index in 0..count {
        let seconds = index / 1000;
        writeln!(
            file,
            "{{\"auction\":{},\"bidder\":{},\"price\":{},\"channel\":\"{}\",\"url\":\"https://www.nexmark.com/{:016x}/item.htm?query=1&channel_id={}\",\
             \"at\":\"2026-01-{:02}T{:02}:{:02}:{:02}.{:03}\",\"extra\":\"{:016x}{:016x}{:016x}\"}}",
            1000 + random.below(10_000),
            1000 + random.below(100_000),
            100 + random.below(10_000_000),
            CHANNELS[random.below(4) as usize],
            random.below(u64::MAX),
            random.below(1000),
            1 + seconds / 86_400 % 28,
            seconds / 3600 % 24,
            seconds / 60 % 60,
            seconds % 60,
            index % 1000,
            random.below(u64::MAX),
            random.below(u64::MAX),
            random.below(u64::MAX),
        )?;
    }
    file.flush()?;
    drop(file);
    Ok(std::fs::metadata(path)?.len())
}
