use keywheel_control::rekey::{self, RekeyOptions};
use serde_json::json;

use crate::args;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) async fn run(command: args::MasterKey, output: Output) -> Result<(), Failure> {
    let args::MasterKey::Rotate { data, database, master_key_file } = command;
    let done = rekey::rotate(&RekeyOptions { data, database, master_key_file }).await?;
    let value = json!({ "signing_keys": done.signing_keys, "master_key": done.master_key, "old": done.old });
    output.result(&value, |_| {
        format!(
            "{} signing keys are encrypted under the new master key in {}.\n\
             The old one is in {}: backups made before now need it. Keep it with them, not here. On PostgreSQL, give each \
             replica a copy of the new one.",
            done.signing_keys,
            done.master_key.display(),
            done.old.display(),
        )
    })
}
