//! A folder of files: read once, in a fixed order, with the same records from every cursor.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arrow::array::AsArray;
use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;
use weir_connectors::sources::files::{FilesInput, FilesSettings, SETTLE_DEFAULT};
use weir_environment::Environment;
use weir_pipeline::input::{Cursor, Incident, Input, InputError};
use weir_schemas::{Contract, Decoder, Format, Framer, LineFramer, Records};

/// Lines, with the first one of each file as a header that must be known to go on.
#[derive(Debug)]
struct Lines;

struct HeaderFramer {
    header: Option<Vec<u8>>,
    lines: LineFramer,
}

impl Framer for HeaderFramer {
    fn frame(&mut self, input: &Bytes, last: bool) -> (Records, usize) {
        let (mut records, used) = self.lines.frame(input, last);
        if self.header.is_none() && !records.is_empty() {
            self.header = Some(records.get(0).to_vec());
            records.ranges.remove(0);
        }
        (records, used)
    }

    fn resume_token(&self) -> Vec<u8> {
        self.header.clone().unwrap_or_default()
    }
}

impl Format for Lines {
    fn name(&self) -> &'static str {
        "lines"
    }

    fn framer(&self, resume: Option<&[u8]>) -> Box<dyn Framer> {
        let header = resume.filter(|token| !token.is_empty()).map(<[u8]>::to_vec);
        Box::new(HeaderFramer { header, lines: LineFramer::new(None) })
    }

    fn decoder(&self, _contract: &Contract) -> Arc<dyn Decoder> {
        unreachable!("an input does not decode")
    }
}

struct Landing {
    folder: TempDir,
    settle: Duration,
    pattern: &'static str,
}

impl Landing {
    fn new(pattern: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        Self { folder, settle: SETTLE_DEFAULT, pattern }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join("in").join(name)
    }

    /// Writes a file that has been left alone for a long time.
    fn put(&self, name: &str, content: &[u8]) {
        self.put_aged(name, content, 3600);
    }

    fn put_aged(&self, name: &str, content: &[u8], age_s: u64) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        age(&path, age_s);
    }

    fn open(&self) -> FilesInput {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<FilesInput, InputError> {
        FilesInput::open(FilesSettings {
            root: self.folder.path().to_path_buf(),
            pattern: self.pattern.into(),
            format: Arc::new(Lines),
            settle: self.settle,
            catalogue: self.folder.path().join("catalogue"),
            storage: Environment::real().storage,
            clock: Environment::real().clock,
        })
    }
}

fn age(path: &Path, age_s: u64) {
    let then = SystemTime::now() - Duration::from_secs(age_s);
    File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
}

/// A record as a reader of chunks sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Read {
    offset: u64,
    file: String,
    text: String,
}

#[derive(Debug, Default)]
struct All {
    read: Vec<Read>,
    incidents: Vec<Incident>,
    bytes: u64,
    cursors: Vec<Cursor>,
}

impl All {
    fn texts(&self) -> Vec<&str> {
        self.read.iter().map(|read| read.text.as_str()).collect()
    }

    fn reasons(&self) -> Vec<&str> {
        self.incidents.iter().map(|incident| incident.reason).collect()
    }

    fn end(&self) -> Cursor {
        self.cursors.last().unwrap().clone()
    }
}

async fn read_from(input: &FilesInput, start: &Cursor, bytes_max: usize) -> All {
    try_read_from(input, start, bytes_max).await.unwrap()
}

async fn try_read_from(input: &FilesInput, start: &Cursor, bytes_max: usize) -> Result<All, InputError> {
    let mut all = All { cursors: vec![start.clone()], ..All::default() };
    loop {
        let polled = input.poll(&all.end(), bytes_max).await?;
        for chunk in polled.chunks {
            assert_eq!(chunk.partition, 0);
            assert_eq!(chunk.records.len(), chunk.offsets.len());
            assert_eq!(chunk.records.len(), chunk.arrivals.len());
            let files = chunk.attributes.columns[0].1.as_string::<i32>();
            for index in 0..chunk.records.len() {
                all.read.push(Read {
                    offset: chunk.offsets[index],
                    file: files.value(index).to_owned(),
                    text: String::from_utf8(chunk.records.get(index).to_vec()).unwrap(),
                });
            }
            all.incidents.extend(chunk.incidents);
            all.bytes += chunk.bytes;
        }
        all.cursors.push(polled.cursor);
        if !polled.more {
            let offsets: Vec<u64> = all.read.iter().map(|read| read.offset).collect();
            assert!(offsets.is_sorted_by(|one, other| one < other), "offsets grow: {offsets:?}");
            return Ok(all);
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn files_are_read_in_order_of_name_whatever_their_packing() {
    let landing = Landing::new("in/*");
    landing.put("b.log.gz", &[gzip(b"h\nb1\n"), gzip(b"b2\nb3")].concat());
    landing.put("c.log.zst", &zstd::encode_all(&b"h\nc1\nc2\n"[..], 1).unwrap());
    landing.put("a.log", b"h\na1\r\na2");
    landing.put("empty.log", b"");
    landing.put("_ignored", b"x\nx\n");
    landing.put(".ignored", b"x\nx\n");
    landing.put("ignored.tmp", b"x\nx\n");
    landing.put("ignored.part", b"x\nx\n");
    landing.put("below/ignored", b"x\nx\n");
    let input = landing.open();
    let all = read_from(&input, &Cursor::default(), 1 << 20).await;
    assert_eq!(all.texts(), ["a1", "a2", "b1", "b2", "b3", "c1", "c2"]);
    assert_eq!(all.read[2].file, "b.log.gz");
    assert!(all.incidents.is_empty());
    let stored: u64 =
        ["a.log", "b.log.gz", "c.log.zst"].map(|name| fs::metadata(landing.path(name)).unwrap().len()).iter().sum();
    assert_eq!(all.bytes, stored);
    let none = read_from(&input, &all.end(), 1 << 20).await;
    assert!(none.read.is_empty() && none.end() == all.end());
}

#[tokio::test]
async fn a_pattern_may_go_through_folders() {
    let landing = Landing::new("in/**/*.log");
    landing.put("2024/01/a.log", b"h\n1\n");
    landing.put("2024/02/a.log", b"h\n2\n");
    landing.put("z.log", b"h\n3\n");
    landing.put("_delta/a.log", b"h\nx\n");
    let all = read_from(&landing.open(), &Cursor::default(), 1 << 20).await;
    assert_eq!(all.texts(), ["1", "2", "3"]);
    assert_eq!(all.read[0].file, "2024/01/a.log");
}

#[tokio::test]
async fn a_file_that_comes_later_is_read_later_whatever_its_name() {
    let landing = Landing::new("in/*.log");
    landing.put("b.log", b"h\nb\n");
    let input = landing.open();
    let first = read_from(&input, &Cursor::default(), 1 << 20).await;
    landing.put("a.log", b"h\na\n");
    input.changed().await;
    let second = read_from(&input, &first.end(), 1 << 20).await;
    assert_eq!(second.texts(), ["a"]);
    drop(input);
    let again = read_from(&landing.open(), &Cursor::default(), 1 << 20).await;
    assert_eq!(again.texts(), ["b", "a"], "the order is a fact");
    assert_eq!(again.end(), second.end());
}

#[tokio::test]
async fn a_file_that_is_being_written_is_waited_for() {
    let landing = Landing { settle: Duration::from_millis(300), ..Landing::new("in/*.log") };
    landing.put("a.log", b"h\nold\n");
    landing.put_aged("b.log", b"h\nnew\n", 0);
    let input = landing.open();
    let first = input.poll(&Cursor::default(), 1 << 20).await.unwrap();
    assert_eq!(first.chunks.iter().map(|chunk| chunk.records.len()).sum::<usize>(), 1);
    let rest = read_from(&input, &first.cursor, 1 << 20).await;
    if rest.read.is_empty() {
        input.changed().await;
    }
    let all = read_from(&input, &Cursor::default(), 1 << 20).await;
    assert_eq!(all.texts(), ["old", "new"]);
}

#[tokio::test]
async fn a_gzip_cut_short_passes_its_rows_and_is_reported() {
    let landing = Landing::new("in/*");
    let text: String = (0..100_000).map(|number| format!("row {number}\n")).collect();
    let whole = gzip(text.as_bytes());
    landing.put("a.gz", &whole[..whole.len() / 2]);
    landing.put("b", b"h\nb\n");
    landing.put("c.gz", b"no gzip at all");
    let zst = zstd::encode_all(text.as_bytes(), 1).unwrap();
    landing.put("d.zst", &zst[..zst.len() / 2]);
    let all = read_from(&landing.open(), &Cursor::default(), 1 << 20).await;
    assert_eq!(all.reasons(), ["truncated_gzip", "damaged_gzip", "truncated_zstd"]);
    assert!(all.incidents[0].message.contains("a.gz"));
    let rows = all.read.iter().filter(|read| read.file == "a.gz").count();
    assert!(rows > 1000, "{rows}");
    let expected: Vec<String> = (1..=rows).map(|number| format!("row {number}")).collect();
    let found: Vec<&str> = all.read[..rows].iter().map(|read| read.text.as_str()).collect();
    assert_eq!(found, expected, "no half row is passed as a whole one");
    assert!(all.texts().contains(&"b"));
}

#[tokio::test]
async fn a_file_changed_after_it_was_read_is_reported_once_and_not_read_again() {
    let landing = Landing::new("in/*.log");
    landing.put("a.log", b"h\n1\n");
    landing.put("b.log", b"h\n2\n");
    let first = read_from(&landing.open(), &Cursor::default(), 1 << 20).await;
    landing.put_aged("a.log", b"h\n1\n3\n", 1800);
    landing.put_aged("b.log", b"h\n2\n", 1800);
    let input = landing.open();
    let second = read_from(&input, &first.end(), 1 << 20).await;
    assert_eq!((second.texts().len(), second.reasons()), (0, vec!["file_changed"]), "b.log was only touched");
    assert!(second.incidents[0].message.contains("a.log"));
    let again = read_from(&landing.open(), &first.end(), 1 << 20).await;
    assert_eq!((again.reasons(), again.end()), (vec!["file_changed"], second.end()));
    let third = read_from(&landing.open(), &second.end(), 1 << 20).await;
    assert!(third.incidents.is_empty());
    let error = try_read_from(&landing.open(), &Cursor::default(), 1 << 20).await.unwrap_err();
    assert!(matches!(&error, InputError::Stopped(message) if message.contains("a.log")), "{error}");
}

#[tokio::test]
async fn a_file_that_is_gone_stops_only_those_who_must_read_it_again() {
    let landing = Landing::new("in/*.log");
    landing.put("a.log", b"h\n1\n");
    let first = read_from(&landing.open(), &Cursor::default(), 1 << 20).await;
    fs::remove_file(landing.path("a.log")).unwrap();
    landing.put("b.log", b"h\n2\n");
    let second = read_from(&landing.open(), &first.end(), 1 << 20).await;
    assert_eq!(second.texts(), ["2"]);
    let error = try_read_from(&landing.open(), &Cursor::default(), 1 << 20).await.unwrap_err();
    assert!(matches!(&error, InputError::Stopped(message) if message.contains("a.log")), "{error}");
}

#[tokio::test]
async fn a_file_that_grows_while_it_is_read_keeps_the_rows_of_when_it_was_listed() {
    let landing = Landing::new("in/*.log");
    let text: String = (0..50_000).map(|number| format!("row {number}\n")).collect();
    landing.put("a.log", text.as_bytes());
    let start = landing.open().poll(&Cursor::default(), 200_000).await.unwrap();
    assert!(start.more);
    landing.put_aged("a.log", format!("{text}more\n").as_bytes(), 1800);
    let rest = read_from(&landing.open(), &start.cursor, 200_000).await;
    assert_eq!(rest.texts().last(), Some(&"row 49999"));
    let later = read_from(&landing.open(), &rest.end(), 200_000).await;
    assert_eq!([rest.reasons(), later.reasons()].concat(), ["file_changed"]);
}

#[tokio::test]
async fn a_file_that_is_rewritten_while_it_is_read_is_given_up_and_reported() {
    let landing = Landing::new("in/*.log");
    let text: String = (0..50_000).map(|number| format!("row {number}\n")).collect();
    landing.put("a.log", text.as_bytes());
    let start = landing.open().poll(&Cursor::default(), 200_000).await.unwrap();
    landing.put_aged("a.log", text.replace("row", "new").as_bytes(), 1800);
    landing.put("b.log", b"h\nb\n");
    let rest = read_from(&landing.open(), &start.cursor, 200_000).await;
    assert_eq!((rest.texts(), rest.reasons()), (vec!["b"], vec!["file_changed"]));
    let again = read_from(&landing.open(), &start.cursor, 200_000).await;
    assert_eq!((again.texts(), again.reasons(), again.end()), (vec!["b"], vec!["file_changed"], rest.end()));
}

#[tokio::test]
async fn a_catalogue_that_does_not_belong_to_the_cursor_stops_the_input() {
    let landing = Landing::new("in/*.log");
    landing.put("a.log", b"h\n1\n");
    let first = read_from(&landing.open(), &Cursor::default(), 1 << 20).await;
    fs::remove_file(landing.folder.path().join("catalogue")).unwrap();
    let error = try_read_from(&landing.open(), &first.end(), 1 << 20).await.unwrap_err();
    assert!(matches!(&error, InputError::Stopped(message) if message.contains("catalogue")), "{error}");
    fs::write(landing.folder.path().join("catalogue"), "nonsense\n{}\n").unwrap();
    assert!(matches!(landing.try_open(), Err(InputError::Stopped(_))));
}

#[tokio::test]
async fn a_catalogue_line_cut_short_by_a_crash_is_cut_off() {
    let landing = Landing::new("in/*.log");
    landing.put("a.log", b"h\n1\n");
    let first = read_from(&landing.open(), &Cursor::default(), 1 << 20).await;
    let catalogue = landing.folder.path().join("catalogue");
    let mut bytes = fs::read(&catalogue).unwrap();
    bytes.extend_from_slice(b"{\"entry\":{\"na");
    fs::write(&catalogue, bytes).unwrap();
    landing.put("b.log", b"h\n2\n");
    let second = read_from(&landing.open(), &first.end(), 1 << 20).await;
    assert_eq!(second.texts(), ["2"]);
    let again = read_from(&landing.open(), &first.end(), 1 << 20).await;
    assert_eq!(again.texts(), ["2"]);
}

#[tokio::test]
async fn a_record_longer_than_a_poll_is_read_whole() {
    let landing = Landing::new("in/*.log");
    let long = "x".repeat(300_000);
    landing.put("a.log", format!("h\n{long}\ny\n").as_bytes());
    let all = read_from(&landing.open(), &Cursor::default(), 1000).await;
    assert_eq!(all.texts(), [long.as_str(), "y"]);
}

#[tokio::test]
async fn a_folder_that_is_not_there_yet_is_empty() {
    let landing = Landing::new("nowhere/*.log");
    let input = landing.open();
    assert!(read_from(&input, &Cursor::default(), 1000).await.read.is_empty());
    fs::create_dir(landing.folder.path().join("nowhere")).unwrap();
    fs::write(landing.folder.path().join("nowhere/a.log"), "h\n1\n").unwrap();
    age(&landing.folder.path().join("nowhere/a.log"), 3600);
    input.changed().await;
    assert_eq!(read_from(&input, &Cursor::default(), 1000).await.texts(), ["1"]);
}

#[tokio::test]
async fn a_cursor_stays_small_however_many_files_were_read() {
    let landing = Landing::new("in/*.log");
    for number in 0..2000 {
        landing.put(&format!("{number:06}.log"), format!("h\n{number}\n").as_bytes());
    }
    let all = read_from(&landing.open(), &Cursor::default(), 1 << 20).await;
    assert_eq!(all.read.len(), 2000);
    assert!(all.end().0.len() < 200, "{}", all.end().0);
    assert!(all.cursors.len() < 10, "small files are put together");
}

fn packed(rows: &[u32], packing: u8, member: usize) -> (Vec<u8>, &'static str) {
    let lines: Vec<String> =
        rows.iter().map(|row| format!("{}\n", "r".repeat(*row as usize % 40 + 1) + &row.to_string())).collect();
    let text = format!("header\n{}", lines.concat()).into_bytes();
    match packing {
        0 => (text, ""),
        1 => (text.chunks(member.max(1)).flat_map(gzip).collect(), ".gz"),
        _ => (text.chunks(member.max(1)).flat_map(|part| zstd::encode_all(part, 1).unwrap()).collect(), ".zst"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_cut_from_any_cursor_gives_the_same_records(
        files in prop::collection::vec((prop::collection::vec(any::<u32>(), 0..60), 0_u8..3, 1_usize..900), 1..6),
        bytes_max in prop::collection::vec(1_usize..1500, 2..4),
    ) {
        let landing = Landing::new("in/*");
        let mut expected = Vec::new();
        for (index, (rows, packing, member)) in files.iter().enumerate() {
            let (bytes, suffix) = packed(rows, *packing, *member);
            landing.put(&format!("{index}{suffix}"), &bytes);
            expected.extend(rows.iter().map(|row| "r".repeat(*row as usize % 40 + 1) + &row.to_string()));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let whole = read_from(&landing.open(), &Cursor::default(), 1 << 20).await;
            prop_assert_eq!(whole.texts(), expected.iter().map(String::as_str).collect::<Vec<_>>());
            let input = landing.open();
            let small = read_from(&input, &Cursor::default(), bytes_max[0]).await;
            prop_assert_eq!(&small.read, &whole.read);
            prop_assert_eq!(small.end(), whole.end());
            prop_assert_eq!(small.bytes, whole.bytes);
            let step = (small.cursors.len() / 12).max(1);
            for cursor in small.cursors.iter().step_by(step) {
                for (reopened, bytes_max) in [(false, bytes_max[1]), (true, bytes_max[1])] {
                    let fresh;
                    let input = if reopened { fresh = landing.open(); &fresh } else { &input };
                    let rest = read_from(input, cursor, bytes_max).await;
                    let from = whole.read.len() - rest.read.len();
                    prop_assert_eq!(&rest.read, &whole.read[from..]);
                    prop_assert_eq!(rest.end(), whole.end());
                }
            }
            Ok(())
        })?;
    }
}
