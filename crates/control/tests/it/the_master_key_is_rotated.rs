use std::fs;
use std::path::Path;
use std::sync::Arc;

use axum::http::StatusCode;
use keywheel_api::RingSigningKey;
use keywheel_control::Control;
use keywheel_control::rekey::{RekeyOptions, rotate};
use keywheel_control::seal::MasterKey;
use keywheel_control::store::{Signer, StoreError};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Plane, context, options, plane};

const KEYS: &str = "/v1/rings/production/signing-keys";

fn rekey(dir: &Path) -> RekeyOptions {
    let options = options(dir);
    RekeyOptions { data: options.data, database: options.database, master_key_file: None }
}

/// Closes a control plane for good.
async fn close(plane: Plane) -> (Arc<TempDir>, String) {
    plane.control.store.close().await;
    (plane.dir, plane.token)
}

async fn reopen((dir, token): (Arc<TempDir>, String)) -> Plane {
    let (control, _) = Control::open(&options(dir.path())).await.unwrap();
    Plane { dir, control: control.into(), token }
}

async fn refusal(dir: &Path) -> String {
    Control::open(&options(dir)).await.unwrap_err().to_string()
}

#[tokio::test]
async fn every_signing_key_is_sealed_anew_and_the_old_master_key_opens_none() {
    let plane = plane().await;
    plane.post(KEYS, json!(null)).await.json::<RingSigningKey>(StatusCode::CREATED);
    let (dir, token) = close(plane).await;
    let path = dir.path().join("data/master.key");
    let old = fs::read(&path).unwrap();
    let done = rotate(&rekey(dir.path())).await.unwrap();
    assert_eq!((done.signing_keys, fs::read(&done.old).unwrap()), (2, old.clone()));
    assert_ne!(fs::read(&path).unwrap(), old);
    assert!(!dir.path().join("data/master.key.new").exists());

    let plane = reopen((dir, token)).await;
    plane.ring("snapshot").await.document(&plane.trust().await);
    plane.post(KEYS, json!(null)).await.json::<RingSigningKey>(StatusCode::CREATED);
    let (dir, _) = close(plane).await;
    fs::write(&path, old).unwrap();
    let says = refusal(dir.path()).await;
    assert!(says.contains("does not open this database's signing key"), "{says}");
    rotate(&rekey(dir.path())).await.unwrap_err();
}

#[tokio::test]
async fn a_rotation_that_was_cut_off_is_finished_by_another() {
    let (dir, token) = close(plane().await).await;
    let data = dir.path().join("data");
    let [key, new, old] = ["master.key", "master.key.new", "master.key.old"].map(|name| data.join(name));
    // Cut off before anything was sealed under the new one.
    MasterKey::create(&new).unwrap();
    let made = fs::read(&new).unwrap();
    let (dir, token) = close(reopen((dir, token)).await).await;
    rotate(&rekey(dir.path())).await.unwrap();
    assert_eq!(fs::read(&key).unwrap(), made);

    // Cut off after everything was.
    fs::rename(&key, &new).unwrap();
    fs::rename(&old, &key).unwrap();
    let says = refusal(dir.path()).await;
    assert!(says.contains("finish it with `keywheel master-key rotate`"), "{says}");
    rotate(&rekey(dir.path())).await.unwrap();
    reopen((dir, token)).await;
}

#[tokio::test]
async fn a_control_plane_under_which_it_was_rotated_seals_nothing_under_the_old_one() {
    let plane = plane().await;
    // As another replica's machine would do it.
    let master = plane.dir.path().join("other.key");
    let other = MasterKey::create(&master).unwrap();
    let seal = |signer: &Signer| Ok::<_, StoreError>(other.seal(&signer.key.public_key, &[7; 32]).unwrap());
    plane.store().reseal(&context(), seal).await.unwrap();
    plane.post(KEYS, json!(null)).await.problem("internal");
    assert_eq!(plane.store().signers().await.unwrap().len(), 1);
}
