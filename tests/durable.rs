//! A result is on the disk before it has its name.
#![cfg(target_os = "linux")]

mod synced;

use std::fs::{read, read_dir, write};
use std::path::{Path, PathBuf};

use diffuscope::Result;
use diffuscope::picture::write_png;
use diffuscope::tensor_file::write_tensors;
use diffuscope::write_file::{write_file, write_new_file};
use synced::synced;
use tch::{Device, Kind, Tensor};

/// A file with this name that is there already, and one that is not: each is synced once, whole, under another name.
fn is_durable(what: &str, writes: impl Fn(&Path) -> Result<PathBuf>, replaces: bool) {
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old");
    write(&old, "old").unwrap();
    for path in [&old, &folder.path().join("new")] {
        let before: Vec<_> =
            read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        let before: Vec<_> =
            before.into_iter().map(|name| (name.clone(), read(name).unwrap())).collect();
        synced();
        let written = writes(path).unwrap();
        let synced = synced();
        let [one] = &synced[..] else { panic!("{what}: synced {} times", synced.len()) };
        assert_eq!(one.path.parent(), written.parent(), "{what}");
        assert_ne!(one.path, written, "{what}: synced only under its name");
        assert_eq!(one.content, read(&written).unwrap(), "{what}: synced before it was whole");
        assert!(!one.path.exists() && one.content.len() > 3, "{what}");
        let (mut then, mut before) = (one.beside.iter().collect::<Vec<_>>(), before);
        then.sort();
        before.sort();
        assert!(then.into_iter().eq(&before), "{what}: it had its name before it was synced");
        assert_eq!(read(&old).unwrap() == b"old", !replaces, "{what}");
    }
}

#[test]
fn a_result_is_on_the_disk_before_it_has_its_name() {
    let itself = |path: &Path| Ok(path.to_owned());
    let bytes = vec![7; 100_000];
    is_durable("write_file", |path| write_file(path, &bytes).and_then(|()| itself(path)), true);
    let second = |path: &Path| path.with_extension("2");
    let new = |path: &Path| write_new_file([path.to_owned(), second(path)], &bytes);
    is_durable("write_new_file", new, false);
    let tensors = [("a".to_owned(), Tensor::zeros([300, 100], (Kind::Float, Device::Cpu)))];
    is_durable(
        "write_tensors",
        |path| write_tensors(path, &tensors, &[]).and_then(|()| itself(path)),
        true,
    );
    let picture = Tensor::zeros([3, 64, 64], (Kind::Float, Device::Cpu));
    is_durable(
        "write_png",
        |path| write_png(path, &picture, &[]).and_then(|()| itself(path)),
        true,
    );
}
