//! JSON files into one filter and one aggregate, beside arrow-json decoding the same file.

use std::io::BufReader;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::events::{self, Kind};
use crate::live::Project;
use crate::report::{Bound, Report};

const EVENTS: u64 = 2_000_000;
/// Each side is run so often; the best counts.
const RUNS: usize = 3;

const MODEL: &str = "\
-- weir: key = [\"channel\"]
SELECT channel, count(*) AS bids, sum(price) AS price FROM bid WHERE price > 1000000 GROUP BY channel
";

/// Measures both sides.
pub fn run(report: &mut Report) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("weir-bench-events-").tempdir()?;
    events::write(folder.path(), EVENTS)?;
    let file = Kind::Bid.file(folder.path());
    let bytes = std::fs::metadata(&file)?.len();
    let mut rows = 0;

    let mut alone = Duration::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        let reader = BufReader::with_capacity(1 << 20, std::fs::File::open(&file)?);
        rows = 0;
        for batch in arrow_json::ReaderBuilder::new(Kind::Bid.schema()).with_batch_size(8192).build(reader)? {
            rows += batch?.num_rows() as u64;
        }
        alone = alone.min(start.elapsed());
    }

    let mut whole = Duration::MAX;
    for _ in 0..RUNS {
        let project = Project::new("", "")?;
        project.write("sources/bid.toml", &Kind::Bid.source(folder.path()))?;
        project.write("models/by_channel.sql", MODEL)?;
        let start = Instant::now();
        project.weir(&["run", "--once"])?;
        whole = whole.min(start.elapsed());
        let answer = project.weir(&["query", "--format", "json", "SELECT count(*) AS n FROM bid"])?;
        ensure!(answer.contains(&rows.to_string()), "{rows} rows: {answer}");
    }

    let rate = |time: Duration| bytes as f64 / 1e6 / time.as_secs_f64();
    report.figure("files: arrow-json alone", rate(alone), "MB/s", Bound::None);
    report.figure("files: weir, start to end", rate(whole), "MB/s", Bound::None);
    report.figure("files: weir beside arrow-json", alone.as_secs_f64() / whole.as_secs_f64(), "", Bound::AtLeast(0.5));
    Ok(())
}
