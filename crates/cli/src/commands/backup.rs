use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use keywheel_control::restore::{self, FoundMasterKey, Report, RestoreOptions};
use serde_json::json;

use crate::args;
use crate::failure::Failure;
use crate::http::Api;
use crate::output::{Output, counted};

/// The file has its name only when all of it is on the disk.
pub(crate) async fn take(out: &Path, api: &Api<'_>, output: Output) -> Result<(), Failure> {
    let failed = |cause| Failure::Backup { path: out.to_owned(), cause };
    if out.exists() {
        return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "it exists; choose another name")));
    }
    let part = PathBuf::from(format!("{}.part", out.display()));
    let written = write(api, &part).await;
    let length = match written {
        Ok(length) => length,
        Err(failure) => {
            let _ = fs::remove_file(&part);
            return Err(failure.unwrap_or_else(failed));
        }
    };
    fs::rename(&part, out).map_err(failed)?;
    let directory = out.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all()).map_err(failed)?;
    output.result(&json!({ "file": out, "bytes": length }), |_| {
        format!(
            "The backup is in {}: {length} bytes. It does not hold the master key: keep a copy of that elsewhere.",
            out.display()
        )
    })
}

/// Either what the control plane said, or what the disk did.
enum Broken {
    Failure(Failure),
    Disk(io::Error),
}

impl Broken {
    fn unwrap_or_else(self, disk: impl FnOnce(io::Error) -> Failure) -> Failure {
        match self {
            Self::Failure(failure) => failure,
            Self::Disk(error) => disk(error),
        }
    }
}

async fn write(api: &Api<'_>, part: &Path) -> Result<u64, Broken> {
    let mut answer = api.download("/v1/backup").await.map_err(Broken::Failure)?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(part);
    let file =
        file.as_mut().map_err(|error| Broken::Disk(io::Error::new(error.kind(), error.to_string())))?;
    let mut length: u64 = 0;
    while let Some(piece) = answer.chunk().await.map_err(|error| Broken::Failure(api.lost(&error)))? {
        file.write_all(&piece).map_err(Broken::Disk)?;
        length = length.saturating_add(piece.len() as u64);
    }
    file.sync_all().map_err(Broken::Disk)?;
    Ok(length)
}

pub(crate) async fn restore(args: args::Restore, output: Output) -> Result<(), Failure> {
    let options = RestoreOptions {
        data: args.data,
        database: args.database,
        master_key_file: args.master_key_file,
        from: args.from,
        journals: args.journal,
        checkpoints: args.checkpoint,
        documents: args.document,
        trust: args.trust,
        at_least: args.at_least,
        accept_loss: args.accept_loss,
    };
    let report = restore::restore(&options).await?;
    output.result(&report, human)?;
    if report.held { Err(Failure::HeldBack) } else { Ok(()) }
}

fn human(report: &Report) -> String {
    let mut text =
        format!("Restored up to audit record {}. The epoch is {} now.\n", report.copy_record, report.epoch);
    if let Some(record) = report.journal_record {
        text += &format!(
            "\nMerged the trail up to record {record}; a checkpoint covers it up to record {}. What was dropped after that \
             would not show.\n",
            report.covered
        );
    }
    let listed = |ids: &[String]| ids.iter().map(|id| format!("  {id}\n")).collect::<String>();
    if !report.denied.is_empty() {
        text += &format!("\nDenied again:\n{}", listed(&report.denied));
    }
    if !report.lost.is_empty() {
        text += &format!(
            "\nLost with the time since, and refused: their holders need new keys.\n{}",
            listed(&report.lost)
        );
    }
    if report.unnamed > 0 {
        text += &format!(
            "\n{} reported that the trail does not name: report what leaked again with `keywheel revoke`.\n",
            counted(report.unnamed, "leaked secret was", "leaked secrets were")
        );
    }
    match report.master_key {
        FoundMasterKey::Right => {}
        FoundMasterKey::Missing => {
            text += "\nPut the master key that belongs to the copy back before you start it.\n"
        }
        FoundMasterKey::Wrong => {
            text += "\nThe master key that is there is not the copy's: put the right one back before you start it.\n";
        }
    }
    text += if report.held {
        "\nThe ring is held back: what was revoked since the copy is not known. Run this again with --in-place and \
         --journal or --document, or with --accept-loss."
    } else {
        "\n`keywheel serve` publishes it. Look at `keywheel ring show`: every proxy should come to this epoch."
    };
    text
}
