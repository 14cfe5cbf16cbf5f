//! Looking into a folder: which files match, which of them are settled, which have changed.
//!
//! A look costs one `stat` for each folder and each file that is not settled; folders are listed again when their
//! own time has changed. Files seen before are compared in a wider look, now and then.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use glob::{MatchOptions, Pattern};

use super::catalogue::Stamp;

/// How coarse the times of folders may be: one changed this recently is listed again.
const TICK_MAX: Duration = Duration::from_secs(2);
/// A file that is older than this is settled at first sight.
const OLD: Duration = Duration::from_secs(60);
const LOOK_GAP: Duration = Duration::from_millis(100);
const DEPTH_MAX: usize = 32;

/// A folder and the pattern for names below it.
pub(super) struct Folder {
    base: PathBuf,
    pattern: Pattern,
    depth_max: usize,
    settle: Duration,
    listed: HashMap<PathBuf, Listed>,
    waiting: BTreeMap<String, Waiting>,
    /// Names that are not text, told once.
    unnameable: Vec<PathBuf>,
}

struct Listed {
    modified: Option<SystemTime>,
    fresh: bool,
    folders: Vec<PathBuf>,
}

struct Waiting {
    stamp: Option<Stamp>,
    first_look: Duration,
    unchanged_since: Duration,
}

/// What a look found.
#[derive(Default)]
pub(super) struct Looked {
    /// New settled files in order of name.
    pub settled: Vec<(String, Stamp)>,
    /// Whether some file is there that is not settled and was first seen a short while ago.
    pub settling: bool,
    /// Folders and files that could not be looked at, and why.
    pub unreadable: Vec<(String, String)>,
}

/// A file's stamp; fails as `stat` does.
pub(super) fn stamp_of(path: &Path) -> io::Result<Stamp> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
    }
    let modified = match metadata.modified()?.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
    };
    Ok(Stamp { length: metadata.len(), modified })
}

impl Folder {
    /// Parses `pattern`, a path with wildcards (`*`, `?`, `[..]`, `**`), relative to `root`.
    pub fn new(root: &Path, pattern: &str, settle: Duration) -> Result<Self, glob::PatternError> {
        let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let plain = parts.iter().take_while(|part| !part.contains(['*', '?', '['])).count();
        let plain = plain.min(parts.len().saturating_sub(1));
        let mut base = if pattern.starts_with('/') { PathBuf::from("/") } else { root.to_path_buf() };
        base.extend(&parts[..plain]);
        let below = &parts[plain..];
        Ok(Self {
            base,
            pattern: Pattern::new(&below.join("/"))?,
            depth_max: if below.contains(&"**") { DEPTH_MAX } else { below.len().saturating_sub(1) },
            settle,
            listed: HashMap::new(),
            waiting: BTreeMap::new(),
            unnameable: Vec::new(),
        })
    }

    /// Where the file `name` is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    /// Looks once. `now` is the wall clock in µs since 1970, `elapsed` a clock that only goes forward; `known` says
    /// whether a name was seen settled before.
    pub fn look(&mut self, now: i64, elapsed: Duration, known: &dyn Fn(&str) -> bool) -> Looked {
        let mut looked = Looked::default();
        let base = self.base.clone();
        self.list(&base, 0, now, elapsed, known, &mut looked);
        let settle = self.settle;
        let mut gone = Vec::new();
        for (name, waiting) in &mut self.waiting {
            let stamp = match stamp_of(&self.base.join(name)) {
                Ok(stamp) => stamp,
                Err(error) => {
                    if error.kind() != io::ErrorKind::NotFound && error.kind() != io::ErrorKind::InvalidInput {
                        looked.unreadable.push((name.clone(), error.to_string()));
                    } else {
                        gone.push(name.clone());
                    }
                    continue;
                }
            };
            if waiting.stamp != Some(stamp) {
                waiting.stamp = Some(stamp);
                waiting.unchanged_since = elapsed;
            }
            let unchanged = elapsed.saturating_sub(waiting.unchanged_since);
            let age = u64::try_from(now.saturating_sub(stamp.modified)).ok().map(Duration::from_micros);
            let aged = age.is_some_and(|age| age >= OLD || (age >= settle && unchanged >= LOOK_GAP.min(settle)));
            if aged || unchanged >= settle {
                looked.settled.push((name.clone(), stamp));
            } else if elapsed.saturating_sub(waiting.first_look) <= settle * 2 + Duration::from_secs(1) {
                looked.settling = true;
            }
        }
        for name in gone.iter().chain(looked.settled.iter().map(|(name, _)| name)) {
            self.waiting.remove(name);
        }
        looked
    }

    /// Puts a settled file back, to be looked at again.
    pub fn wait_for(&mut self, name: &str, elapsed: Duration) {
        self.waiting.entry(name.to_owned()).or_insert(Waiting {
            stamp: None,
            first_look: elapsed,
            unchanged_since: elapsed,
        });
    }

    fn list(
        &mut self,
        folder: &Path,
        depth: usize,
        now: i64,
        elapsed: Duration,
        known: &dyn Fn(&str) -> bool,
        looked: &mut Looked,
    ) {
        let modified = std::fs::metadata(folder).and_then(|metadata| metadata.modified()).ok();
        if let Some(listed) = self.listed.get(folder)
            && listed.modified == modified
            && !listed.fresh
        {
            for below in listed.folders.clone() {
                self.list(&below, depth + 1, now, elapsed, known, looked);
            }
            return;
        }
        let fresh = modified.is_none_or(|modified| {
            let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64;
            now.saturating_sub(since) < TICK_MAX.as_micros() as i64
        });
        let mut folders = Vec::new();
        match std::fs::read_dir(folder) {
            Ok(entries) => {
                for entry in entries.flatten() {
                    let file_name = entry.file_name();
                    let hidden = file_name.as_encoded_bytes().first().is_some_and(|first| b"._".contains(first));
                    let Ok(kind) = entry.file_type() else { continue };
                    if hidden {
                        continue;
                    }
                    if kind.is_dir() {
                        if depth < self.depth_max {
                            folders.push(entry.path());
                        }
                        continue;
                    }
                    self.meet(&entry.path(), elapsed, known, looked);
                }
            }
            // A folder that is not there yet is an empty one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let name = folder.strip_prefix(&self.base).unwrap_or(folder).to_string_lossy().into_owned();
                looked.unreadable.push((if name.is_empty() { ".".into() } else { name }, error.to_string()));
            }
        }
        self.listed.insert(folder.to_path_buf(), Listed { modified, fresh, folders: folders.clone() });
        for below in folders {
            self.list(&below, depth + 1, now, elapsed, known, looked);
        }
    }

    fn meet(&mut self, path: &Path, elapsed: Duration, known: &dyn Fn(&str) -> bool, looked: &mut Looked) {
        let Ok(below) = path.strip_prefix(&self.base) else { return };
        let Some(name) = below.to_str() else {
            if !self.unnameable.iter().any(|told| told == below) {
                self.unnameable.push(below.to_path_buf());
                looked.unreadable.push((below.to_string_lossy().into_owned(), "its name is not UTF-8 text".into()));
            }
            return;
        };
        let options =
            MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };
        let unfinished = name.ends_with(".tmp") || name.ends_with(".part");
        if !unfinished && self.pattern.matches_with(name, options) && !known(name) {
            self.wait_for(name, elapsed);
        }
    }
}
