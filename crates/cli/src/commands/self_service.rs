//! A key that rotates itself.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use keywheel_api::{NewVersion, RotationState, SelfKey, SelfRotation, SelfVersion, StartSelfRotation};
use keywheel_control::secret::random;
use keywheel_keyring::key_text::{Shape, shape};
use keywheel_keyring::{KeyPrefix, PlainKey, VersionId};
use serde::Serialize;
use zeroize::Zeroizing;

use super::key::{scopes, segment, span, state, when};
use crate::applied::OnChange;
use crate::args::{self, Connection};
use crate::failure::Failure;
use crate::http::{Api, Repeat};
use crate::output::{Output, print, table};

/// A key's text, and what is sent of it.
struct New {
    secret: PlainKey,
    version: NewVersion,
}

/// What is printed of a rotation.
#[derive(Serialize)]
struct Rotated<'a> {
    #[serde(flatten)]
    rotation: &'a SelfRotation,
    /// Unless a file has it.
    secret: Option<&'a str>,
    out: Option<&'a Path>,
}

pub(crate) async fn run(
    command: args::SelfService,
    connection: &Connection,
    applied: &OnChange,
    output: Output,
) -> Result<(), Failure> {
    match command {
        args::SelfService::Show { key } => {
            let api = Api::of_holder(&key, &own_text(&key)?, connection, applied)?;
            let key: SelfKey = api.get("/v1/self").await?;
            output.result(&key, show)
        }
        args::SelfService::Rotation { rotation, key } => {
            let api = Api::of_holder(&key, &own_text(&key)?, connection, applied)?;
            let rotation: SelfRotation =
                api.get(&format!("/v1/self/rotations/{}", segment(&rotation))).await?;
            output.result(&rotation, |rotation| {
                let until = match rotation.ended_at {
                    Some(at) => format!("It ended at {}.", when(at)),
                    None => format!(
                        "Version {} is accepted until {}.",
                        rotation.old_version,
                        when(rotation.overlap_ends_at)
                    ),
                };
                format!("Rotation {} leads to version {}. {until}", rotation.id, rotation.new_version)
            })
        }
        args::SelfService::Rotate { key, out, overlap } => {
            let own = own_text(&key)?;
            let api = Api::of_holder(&key, &own, connection, applied)?;
            let seen: SelfKey = api.get("/v1/self").await?;
            let prefix: KeyPrefix =
                seen.key_prefix.parse().map_err(|_| Failure::KeyPrefix(seen.key_prefix))?;
            let new = match &out {
                None => make(&prefix)?,
                Some(out) => in_file(out, &prefix, &own)?,
            };
            let overlap_seconds = overlap.map(|overlap| overlap.as_secs());
            let request = StartSelfRotation { overlap_seconds, version: Some(new.version.clone()) };
            let answer = api.post_here("/v1/self/rotations", &request, Repeat::Safe).await;
            let rotation: SelfRotation = match answer {
                Ok(rotation) => rotation,
                Err(failure) => return Err(not_rotated(failure, &new, out.as_deref(), output)),
            };
            let secret = out.is_none().then(|| new.secret.expose());
            let rotated = Rotated { rotation: &rotation, secret, out: out.as_deref() };
            output.result(&rotated, |rotated| human(rotated))?;
            // Whoever waits is told what came of it; the answer is from before.
            if rotation.state == RotationState::Distributing && !applied.waits() {
                return Err(Failure::NotYet { at: rotation.begins_at });
            }
            Ok(())
        }
    }
}

/// From the file that is named, or else from the environment.
fn own_text(key: &args::OwnKey) -> Result<PlainKey, Failure> {
    let text = match &key.key_file {
        Some(path) => {
            let read = fs::read_to_string(path);
            Zeroizing::new(read.map_err(|cause| Failure::KeyFile { path: path.clone(), cause })?)
        }
        None => match std::env::var("KEYWHEEL_API_KEY") {
            Ok(text) if !text.is_empty() => Zeroizing::new(text),
            Ok(_) | Err(std::env::VarError::NotPresent) => return Err(Failure::NoKey),
            Err(std::env::VarError::NotUnicode(_)) => return Err(Failure::BadKey),
        },
    };
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::BadKey);
    }
    Ok(PlainKey::from(text.to_owned()))
}

fn make(prefix: &KeyPrefix) -> Result<New, Failure> {
    let id = VersionId::from_random(random()?);
    let secret = PlainKey::generate(prefix, &id, random()?);
    let version = NewVersion { id: id.to_string(), digest: secret.digest() };
    Ok(New { secret, version })
}

/// A new key, on disk before anybody hears of it; or the one that an earlier run left there.
fn in_file(path: &Path, prefix: &KeyPrefix, own: &PlainKey) -> Result<New, Failure> {
    let failed = |cause| Failure::Write { path: path.to_owned(), cause };
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match file {
        Ok(file) => {
            let new = make(prefix)?;
            write(file, path, &new.secret).map_err(failed)?;
            Ok(new)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let taken = || Failure::OutTaken { path: path.to_owned() };
            let text = Zeroizing::new(fs::read_to_string(path).map_err(|_| taken())?);
            let secret = PlainKey::from(text.trim().to_owned());
            let Shape::Ours { id } = shape(prefix.as_str(), secret.expose().as_bytes()) else {
                return Err(taken());
            };
            if secret.digest() == own.digest() {
                return Err(taken());
            }
            let version = NewVersion { id: format!("kv_{id}"), digest: secret.digest() };
            Ok(New { secret, version })
        }
        Err(error) => Err(failed(error)),
    }
}

/// The file, and its name in its directory.
fn write(mut file: File, path: &Path, secret: &PlainKey) -> io::Result<()> {
    file.write_all(secret.expose().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// The new key is kept, or shown, unless it is certain that nothing came of it: it may be the one that is accepted in
/// the end. A 401 is not certain: a request that is repeated may meet an old version that the first one retired.
fn not_rotated(failure: Failure, new: &New, out: Option<&Path>, output: Output) -> Failure {
    let certain = matches!(&failure, Failure::Refused(problem) if (402..500).contains(&problem.status) || problem.status == 400);
    match (out, output) {
        (Some(path), Output::Human) => {
            eprintln!("{} holds the key that was sent. Run this again with it to go on.", path.display());
        }
        (None, Output::Human) if !certain => {
            let _ = print(&format!(
                "Whether the key was rotated is not known. If it was, this is the new one:\n\n  {}\n",
                new.secret.expose(),
            ));
        }
        (None, Output::Json) if !certain => {
            let new = serde_json::json!({ "new_version": new.version.id, "secret": new.secret.expose() });
            let _ = print(&new.to_string());
        }
        _ => {}
    }
    failure
}

fn human(rotated: &Rotated<'_>) -> String {
    let Rotated { rotation, secret, out } = rotated;
    let old = match rotation.ended_at {
        None => format!(
            "The old version, {}, is accepted until {}.",
            rotation.old_version,
            when(rotation.overlap_ends_at)
        ),
        Some(_) => format!("The old version, {}, is not accepted any more.", rotation.old_version),
    };
    let place = match (secret, out) {
        (Some(secret), _) => format!("\n\n  {secret}\n\nThis is the only time it is shown."),
        (None, Some(path)) => format!(" It is in {}.", path.display()),
        (None, None) => String::new(),
    };
    format!("Key {} has a new version, {}.{place}\n{old}", rotation.key, rotation.new_version)
}

fn show(key: &SelfKey) -> String {
    let mut lines = vec![
        format!("Key      {}", key.key),
        format!("Client   {}", key.client),
        format!("Scopes   {}", scopes(&key.scopes)),
        format!("Expires  {}", key.expires_at.map_or_else(|| "never".into(), when)),
    ];
    lines.push(match &key.policy {
        None => "Policy   none: this key may not rotate itself".into(),
        Some(policy) if !policy.self_rotation => {
            format!("Policy   {}: this key may not rotate itself", policy.name)
        }
        Some(policy) => format!(
            "Policy   {}: this key may rotate itself, with an overlap of {} to {}",
            policy.name,
            span(policy.shortest_overlap_seconds),
            span(policy.overlap_seconds),
        ),
    });
    if let Some(at) = key.rotation_due_at {
        lines.push(format!("Due      {}", when(at)));
    }
    if let Some(rotation) = &key.open_rotation {
        lines.push(format!("Rotation {} is open, until {}", rotation.id, when(rotation.overlap_ends_at)));
    }
    let row = |(version, mine): (&SelfVersion, &str)| {
        let ends = version.expires_at.map_or_else(|| "-".into(), when);
        [version.id.clone(), state(version.state).into(), ends, mine.into()]
    };
    let others = key.other_versions.iter().map(|version| (version, ""));
    let rows: Vec<_> = others.chain([(&key.version, "this one")]).map(row).collect();
    format!("{}\n\n{}", lines.join("\n"), table(["VERSION", "STATE", "ENDS", ""], &rows))
}
