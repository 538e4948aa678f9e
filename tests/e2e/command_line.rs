//! The `keywheel` program, as an operator runs it.

use keywheel_testkit::ControlPlane;
use serde_json::Value;
use tokio::process::Command;

use crate::scene::paths;

/// Runs a command against a control plane, and gives its result as JSON.
pub(crate) async fn keywheel(control: &ControlPlane, args: &[&str]) -> Value {
    let output = Command::new(paths().keywheel)
        .args(["--output", "json"])
        .args(args)
        .env("KEYWHEEL_URL", control.url())
        .env("KEYWHEEL_RING_URL", format!("http://{}", control.ring()))
        .env("KEYWHEEL_TOKEN_FILE", control.token_file().unwrap())
        .env("KEYWHEEL_RING_TOKEN_FILE", control.token_file().unwrap())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "keywheel {args:?}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("keywheel {args:?}: {error}"))
}
