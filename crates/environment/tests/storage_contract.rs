//! What every storage promises, asked of the real one and of the simulated one alike.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use weir_environment::{Entry, Environment};

fn for_both(test: impl Fn(&Environment, &Path)) {
    let folder = tempfile::tempdir().expect("a folder for the test");
    test(&Environment::real(), folder.path());
    let (environment, _) = Environment::simulated(1);
    let folder = PathBuf::from("/test");
    environment.storage.create_dir_all(&folder).expect("created");
    test(&environment, &folder);
}

fn write(environment: &Environment, path: &Path, bytes: &[u8]) {
    environment.storage.open_append(path).expect("opened").append(bytes).expect("written");
}

#[test]
fn a_file_grows_at_its_end_and_is_cut_there() {
    for_both(|environment, folder| {
        let path = folder.join("file");
        let mut file = environment.storage.open_append(&path).expect("created");
        assert!(file.is_empty());
        file.append(b"one ").expect("written");
        file.append(b"two ").expect("written");
        file.sync().expect("synced");
        drop(file);
        let mut file = environment.storage.open_append(&path).expect("opened");
        assert_eq!(file.len(), 8);
        file.truncate(4).expect("cut");
        file.append(b"three").expect("written");
        assert_eq!(file.len(), 9);
        assert_eq!(environment.storage.read(&path).expect("read"), b"one three");
        let reader = environment.storage.open_read(&path).expect("opened");
        let mut buffer = [0; 100];
        assert_eq!(reader.read_at(4, &mut buffer).expect("read"), 5);
        assert_eq!(&buffer[..5], b"three");
        assert_eq!(reader.read_at(9, &mut buffer).expect("read"), 0);
        assert_eq!(reader.len().expect("known"), 9);
    });
}

#[test]
fn names_are_listed_renamed_and_removed() {
    for_both(|environment, folder| {
        let storage = &environment.storage;
        storage.create_dir_all(&folder.join("a/b/c")).expect("created");
        storage.create_dir_all(&folder.join("a/b/c")).expect("there already");
        write(environment, &folder.join("a/2"), b"22");
        write(environment, &folder.join("a/1"), b"1");
        let entry = |name: &str, len, is_dir| Entry { name: name.into(), len, is_dir };
        let listed = storage.list(&folder.join("a")).expect("listed");
        assert_eq!(listed, [entry("1", 1, false), entry("2", 2, false), entry("b", 0, true)]);
        storage.rename(&folder.join("a/1"), &folder.join("a/2")).expect("renamed");
        assert_eq!(storage.read(&folder.join("a/2")).expect("read"), b"1");
        assert!(!storage.exists(&folder.join("a/1")));
        storage.remove_file(&folder.join("a/2")).expect("removed");
        storage.sync_dir(&folder.join("a")).expect("synced");
        assert_eq!(storage.list(&folder.join("a")).expect("listed"), [entry("b", 0, true)]);
        storage.remove_dir_all(&folder.join("a")).expect("removed");
        assert!(!storage.exists(&folder.join("a/b/c")));
    });
}

#[test]
fn what_is_missing_is_not_found() {
    for_both(|environment, folder| {
        let storage = &environment.storage;
        let missing = folder.join("missing");
        let kinds = [
            storage.open_read(&missing).err(),
            storage.list(&missing).err(),
            storage.remove_file(&missing).err(),
            storage.rename(&missing, &folder.join("there")).err(),
            storage.open_append(&missing.join("file")).err(),
        ];
        for error in kinds {
            assert_eq!(error.map(|e| e.kind()), Some(ErrorKind::NotFound));
        }
    });
}

#[test]
fn an_atomic_write_replaces_the_file() {
    for_both(|environment, folder| {
        let path = folder.join("file");
        environment.storage.write_atomic(&path, b"old").expect("written");
        environment.storage.write_atomic(&path, b"new").expect("written");
        assert_eq!(environment.storage.read(&path).expect("read"), b"new");
        assert_eq!(environment.storage.list(folder).expect("listed").len(), 1);
    });
}

#[test]
fn a_lock_is_held_until_it_is_dropped() {
    for_both(|environment, folder| {
        let path = folder.join("lock");
        let lock = environment.storage.lock(&path).expect("free");
        assert_eq!(environment.storage.lock(&path).err().map(|e| e.kind()), Some(ErrorKind::WouldBlock));
        drop(lock);
        environment.storage.lock(&path).expect("free again");
        assert!(environment.storage.available_bytes(folder).expect("known") > 0);
    });
}

#[test]
fn work_runs_on_a_thread_that_can_be_joined() {
    for_both(|environment, _| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = environment.spawn.spawn("work", Box::new(move || sender.send(7).expect("waited for")));
        assert!(thread.join());
        assert_eq!(receiver.recv(), Ok(7));
        assert!(!environment.spawn.spawn("panics", Box::new(|| panic!("on purpose"))).join());
    });
}
