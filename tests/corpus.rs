//! Replays what is kept of `cargo xtask fuzz`: each file of `fuzz/corpus/<target>/` is an input that once
//! showed something.
#![cfg(not(target_arch = "wasm32"))] // Which has no files.

use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

fn replay(target: &str) {
    let (_, run) = fuzz::TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = dir.read_dir().expect("a corpus").map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 20, "{} inputs are too few", files.len());
    let failed: Vec<_> = files
        .iter()
        .filter(|file| {
            let data = std::fs::read(file).unwrap();
            std::panic::catch_unwind(|| run(&data)).is_err()
        })
        .collect();
    assert!(failed.is_empty(), "{target} fails on {failed:#?}");
}

macro_rules! replay {
    ($($target:ident)*) => {$(
        #[test]
        fn $target() {
            replay(stringify!($target));
        }
    )*};
}

replay! { config credential document bucket rules refresh }
