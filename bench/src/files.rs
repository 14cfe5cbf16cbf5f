//! JSON files into one filter and one aggregate, beside arrow-json decoding the same file.

use std::io::BufReader;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::bids;
use crate::live::Project;
use crate::report::{Bound, Report};

const ROWS: u64 = 2_000_000;
/// Each side is run so often; the best counts.
const RUNS: usize = 3;

const MODEL: &str = "\
-- weir: key = [\"channel\"]
SELECT channel, count(*) AS bids, sum(price) AS price FROM bids WHERE price > 1000000 GROUP BY channel
";

/// Measures both sides.
pub fn run(report: &mut Report) -> Result<()> {
    let project = Project::new("", "")?;
    let file = project.path().join("bids.json");
    let bytes = bids::write(&file, ROWS, 7)?;

    let mut alone = Duration::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        let reader = BufReader::with_capacity(1 << 20, std::fs::File::open(&file)?);
        let mut rows = 0;
        for batch in arrow_json::ReaderBuilder::new(bids::schema()).with_batch_size(8192).build(reader)? {
            rows += batch?.num_rows() as u64;
        }
        ensure!(rows == ROWS, "arrow-json decoded {rows} rows");
        alone = alone.min(start.elapsed());
    }

    let mut whole = Duration::MAX;
    for _ in 0..RUNS {
        let project = Project::new("", "")?;
        let columns = bids::COLUMNS;
        let source = format!(
            "kind = \"files\"\npath = \"{}\"\nsettle = \"0 seconds\"\ntime = \"at\"\n{columns}",
            file.display()
        );
        project.write("sources/bids.toml", &source)?;
        project.write("models/by_channel.sql", MODEL)?;
        let start = Instant::now();
        project.weir(&["run", "--once"])?;
        whole = whole.min(start.elapsed());
        let answer = project.weir(&["query", "--format", "json", "SELECT count(*) AS n FROM bids"])?;
        ensure!(answer.contains(&ROWS.to_string()), "rows: {answer}");
    }

    let rate = |time: Duration| bytes as f64 / 1e6 / time.as_secs_f64();
    report.figure("files: arrow-json alone", rate(alone), "MB/s", Bound::None);
    report.figure("files: weir, start to end", rate(whole), "MB/s", Bound::None);
    report.figure("files: weir beside arrow-json", alone.as_secs_f64() / whole.as_secs_f64(), "", Bound::AtLeast(0.5));
    Ok(())
}
