use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use keywheel_api::{
    AddVersion, Client, CreateKey, Deposit, Key, KeyUsage, KeyWithSecret, LabelChanges, Labels, NewVersion,
    Reporting, Revoke, Ring, Rotation, RotationState, RotationWithSecret, Schedule, ScheduleState,
    StartRotation, State, Timestamp, UpdateKey, WaitsFor,
};
use keywheel_control::secret::random;
use keywheel_keyring::{KeyPrefix, PlainKey, VersionId};

use super::canary;
use crate::args;
use crate::failure::Failure;
use crate::http::{Api, Tagged};
use crate::output::{Output, table};

pub(crate) async fn run(command: args::Key, api: &Api<'_>, output: Output) -> Result<(), Failure> {
    match command {
        args::Key::Create { client, scopes, begins_in, expires_in, ring, labels, policy } => {
            let belongs_to: Ring = api.get(&format!("/v1/rings/{}", segment(&ring))).await?;
            let (secret, version) = make(&belongs_to)?;
            let id = version.id.clone();
            let expires_at = expires_in.map(from_now);
            let not_before = begins_in.map(from_now);
            let (ring, version) = (Some(ring), Some(version));
            let labels = labels.into_iter().collect();
            let new = CreateKey { client, ring, scopes, not_before, expires_at, version, labels, policy };
            let mut made: KeyWithSecret = api.post("/v1/keys", &new).await?;
            made.secret = Some(secret.expose().to_owned());
            let waits = waits_until(&made.key, &id);
            let waits = canary::waits(&belongs_to, waits.filter(|_| !api.is_enforced()));
            output.result(&made, |made| created(made, waits.as_deref()))
        }
        args::Key::Import(import) => super::import::run(import, api, output).await,
        args::Key::Export(export) => super::import::export(export, api, output).await,
        args::Key::List { client, labels, schedule } => {
            let (labels, schedule) =
                (filters(&labels), schedule.map(|state| format!("{state:?}").to_lowercase()));
            let query = [("client", &client), ("labels", &labels), ("schedule", &schedule)];
            let query: Vec<_> =
                query.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect();
            let mut keys: Vec<Key> = api.list("/v1/keys", &query).await?;
            if let (true, Some(client)) = (keys.is_empty(), &client) {
                exists(api, client).await?;
            }
            keys.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
            output.result(&keys, |keys| list(keys))
        }
        args::Key::Show { key } => {
            let key: Tagged<Key> = api.get_tagged(&format!("/v1/keys/{}", segment(&key))).await?;
            output.result(&key, |key| key.human(show))
        }
        args::Key::Update { key, scopes, no_scopes, expires_in, labels, unlabels } => {
            let update = UpdateKey {
                labels: label_changes(labels, unlabels),
                policy: None,
                scopes: (no_scopes || !scopes.is_empty()).then_some(Some(scopes)),
                expires_at: expires_in.map(|end| match end {
                    args::End::Never => None,
                    args::End::In(duration) => Some(from_now(duration)),
                }),
            };
            let key: Key = api.patch(&format!("/v1/keys/{}", segment(&key)), &update).await?;
            output.result(&key, show)
        }
        args::Key::SetPolicy { key, policy } => {
            let update = UpdateKey { policy: Some(or_none(policy)), ..UpdateKey::default() };
            let key: Key = api.patch(&format!("/v1/keys/{}", segment(&key)), &update).await?;
            output.result(&key, show)
        }
        args::Key::Deposit { key } => {
            let path = format!("/v1/keys/{}", segment(&key));
            let (secret, version) = make(&ring_of(api, &path).await?)?;
            let key: Key = api.post(&format!("{path}/next"), &Deposit { version }).await?;
            let made = KeyWithSecret { key, secret: Some(secret.expose().to_owned()) };
            output.result(&made, deposited)
        }
        args::Key::Withdraw { key } => {
            let key: Key = api.delete(&format!("/v1/keys/{}/next", segment(&key))).await?;
            output.result(&key, |key| format!("Key {} has no deposited version.", key.id))
        }
        args::Key::AddVersion { key } => {
            let path = format!("/v1/keys/{}", segment(&key));
            let ring = ring_of(api, &path).await?;
            let (secret, version) = make(&ring)?;
            let id = version.id.clone();
            let new = AddVersion { not_before: None, version: Some(version) };
            let mut made: KeyWithSecret = api.post(&format!("{path}/versions"), &new).await?;
            made.secret = Some(secret.expose().to_owned());
            let waits = waits_until(&made.key, &id);
            let waits = canary::waits(&ring, waits.filter(|_| !api.is_enforced()));
            let waits = waits.map(|waits| format!("{waits}\n")).unwrap_or_default();
            output.result(&made, |made| {
                let secret = made.secret.as_deref().unwrap_or_default();
                let shown = show(&made.key);
                format!(
                    "Another version:\n\n  {secret}\n\nThis is the only time it is shown.\n{waits}\n{shown}"
                )
            })
        }
        args::Key::Usage { key, last } => {
            let now = SystemTime::now();
            let from = now.checked_sub(last).and_then(|at| Timestamp::try_from(at).ok()).unwrap_or_default();
            let to = Timestamp::try_from(now).unwrap_or_default();
            let path = format!("/v1/keys/{}/usage?from={from}&to={to}", segment(&key));
            let usage: KeyUsage = api.get(&path).await?;
            output.result(&usage, used)
        }
        args::Key::Rotate { key, overlap, begins_in, supersede, replaces } => {
            let path = format!("/v1/keys/{}", segment(&key));
            let (secret, version) = make(&ring_of(api, &path).await?)?;
            let not_before = begins_in.map(from_now);
            let overlap_seconds = overlap.map(|overlap| overlap.as_secs());
            let new =
                StartRotation { overlap_seconds, not_before, supersede, replaces, version: Some(version) };
            let mut made: RotationWithSecret = api.post(&format!("{path}/rotations"), &new).await?;
            made.secret = Some(secret.expose().to_owned());
            output.result(&made, |made| rotated(made, api.is_enforced()))
        }
        args::Key::Revoke { key, version, compromised } => {
            let path = match &version {
                Some(version) => format!("/v1/keys/{}/versions/{}/revoke", segment(&key), segment(version)),
                None => format!("/v1/keys/{}/revoke", segment(&key)),
            };
            let key: Key = api.post(&path, &Revoke { compromised }).await?;
            output.result(&key, |key| match version {
                Some(version) => format!("Version {version} is revoked.\n\n{}", show(key)),
                None => format!("Key {} is revoked: none of its versions is accepted any more.", key.id),
            })
        }
        args::Key::Reinstate { key, version } => {
            let path = match &version {
                Some(version) => {
                    format!("/v1/keys/{}/versions/{}/reinstate", segment(&key), segment(version))
                }
                None => format!("/v1/keys/{}/reinstate", segment(&key)),
            };
            let key: Key = api.post(&path, &()).await?;
            output.result(&key, |key| {
                let what = version.map_or_else(|| format!("Key {}", key.id), |id| format!("Version {id}"));
                format!("{what} is reinstated.\n\n{}", show(key))
            })
        }
    }
}

/// A list of nobody's is empty, as is that of a client who has nothing: says which of the two.
///
/// # Errors
///
/// [`Failure::Refused`]: there is no such client.
pub(super) async fn exists(api: &Api<'_>, client: &str) -> Result<(), Failure> {
    api.get::<Client>(&format!("/v1/clients/{}", segment(client))).await.map(drop)
}

/// The ring of the key at this path.
async fn ring_of(api: &Api<'_>, key: &str) -> Result<Ring, Failure> {
    let key: Key = api.get(key).await?;
    api.get(&format!("/v1/rings/{}", segment(&key.ring))).await
}

/// Makes a key's text here, so that a request whose answer got lost can be repeated.
fn make(ring: &Ring) -> Result<(PlainKey, NewVersion), Failure> {
    let prefix: Result<KeyPrefix, _> = ring.key_prefix.parse();
    let prefix = prefix.map_err(|_| Failure::KeyPrefix(ring.key_prefix.clone()))?;
    let id = VersionId::from_random(random()?);
    let secret = PlainKey::generate(&prefix, &id, random()?);
    let version = NewVersion { id: id.to_string(), digest: secret.digest() };
    Ok((secret, version))
}

/// What filters a list, or nothing.
pub(super) fn filters(labels: &[String]) -> Option<String> {
    (!labels.is_empty()).then(|| labels.join(","))
}

pub(super) fn label_changes(set: Vec<(String, String)>, unset: Vec<String>) -> LabelChanges {
    let set = set.into_iter().map(|(name, value)| (name, Some(value)));
    unset.into_iter().map(|name| (name, None)).chain(set).collect()
}

/// A policy's name; `none` takes it away.
pub(super) fn or_none(policy: String) -> Option<String> {
    Some(policy).filter(|policy| policy != "none")
}

pub(super) fn labelled(labels: &Labels) -> String {
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if labels.is_empty() { "-".into() } else { labels.join(" ") }
}

/// Seconds as they are written on the command line.
pub(super) fn span(seconds: u64) -> String {
    let mut text = String::new();
    let mut rest = seconds;
    for (unit, length) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
        if rest >= length {
            text.push_str(&format!("{}{unit}", rest / length));
            rest %= length;
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

/// A word from the command line as one segment of a path.
pub(crate) fn segment(text: &str) -> String {
    let mut segment = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~' | b'@' | b':') {
            segment.push(char::from(byte));
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
    }
    segment
}

pub(super) fn from_now(duration: Duration) -> Timestamp {
    let at = SystemTime::now().checked_add(duration).and_then(|at| Timestamp::try_from(at).ok());
    at.unwrap_or(Timestamp::MAX)
}

/// Until when a version waits in a canary, if it does.
fn waits_until(key: &Key, version: &str) -> Option<Timestamp> {
    key.versions.iter().find(|of_key| of_key.id == version)?.waits_until
}

fn created(made: &KeyWithSecret, waits: Option<&str>) -> String {
    let key = &made.key;
    let expiry = key.expires_at.map(|at| format!("It expires at {}.\n", when(at))).unwrap_or_default();
    let first = key.versions.first().filter(|version| version.state == State::Pending);
    let begin = first.and_then(|version| version.not_before);
    let begin = match (begin, waits) {
        (Some(at), _) => format!("accepted from {} on", when(at)),
        (None, Some(_)) => "made, and not active everywhere yet".into(),
        (None, None) => "active".into(),
    };
    let waits = waits.map(|waits| format!("{waits}\n")).unwrap_or_default();
    format!(
        "Key {} for {} is {begin}.\n\n  {}\n\nThis is the only time it is shown.\n{waits}{expiry}\nNext: keywheel key rotate {} --overlap 30m",
        key.id,
        key.client,
        made.secret.as_deref().unwrap_or_default(),
        key.id,
    )
}

/// `enforced` says that nothing of it waits any more, though it did when it was made.
fn rotated(made: &RotationWithSecret, enforced: bool) -> String {
    let rotation = &made.rotation;
    let until = match rotation.ended_at {
        None if rotation.state == RotationState::Distributing => begins(rotation, enforced),
        None => format!(
            "The old version, {}, is accepted until {}.",
            rotation.old_version,
            when(rotation.overlap_ends_at)
        ),
        Some(_) => format!("The old version, {}, is not accepted any more.", rotation.old_version),
    };
    format!(
        "Key {} has a new version, {}.\n\n  {}\n\nThis is the only time it is shown.\n{until}\n\nNext: keywheel key show {}",
        rotation.key,
        rotation.new_version,
        made.secret.as_deref().unwrap_or_default(),
        rotation.key,
    )
}

fn begins(rotation: &Rotation, enforced: bool) -> String {
    let Rotation { id, old_version, begins_at, overlap_ends_at, .. } = rotation;
    let canary = rotation.waits_for.iter().find_map(|reason| match reason {
        WaitsFor::Canary { ring, until, promote } => Some((ring, *until, *promote)),
        _ => None,
    });
    let at_its_time = format!(
        "It is accepted from {} on, and the old version, {old_version}, until {}.\nUntil it begins: keywheel rotation cancel {id}",
        when(*begins_at),
        when(*overlap_ends_at),
    );
    let Some((canary, until, promote)) = canary else { return at_its_time };
    let overlap = overlap_ends_at.duration_since(*begins_at).as_secs();
    let overlap = span(u64::try_from(overlap).unwrap_or_default());
    let (begins_then, comes) = (until >= *begins_at, canary::comes(Some(promote), until));
    match (enforced, begins_then) {
        (true, true) => format!("The old version, {old_version}, is accepted for {overlap} from now on."),
        (true, false) => at_its_time,
        (false, _) => format!(
            "It waits in canary {canary}: the other proxies get it {comes}.\n\
             Until then they refuse it as unknown_key, so hand it to nobody who reaches them.\n\
             The old version, {old_version}, is accepted as before; the overlap of {overlap} begins {}.\n\
             Without waiting: keywheel rotation promote {id}\n\
             To take it back: keywheel rotation cancel {id}",
            if begins_then { "then".into() } else { format!("at {}", when(*begins_at)) },
        ),
    }
}

fn deposited(made: &KeyWithSecret) -> String {
    let due = match &made.key.schedule {
        Some(schedule) => {
            schedule.due_at.map_or_else(|| "once the open rotation is over and the next is due".into(), when)
        }
        None => "in a wave of its campaign".into(),
    };
    format!(
        "Key {} rotates by itself: {due}.\n\n  {}\n\nThis is the only time it is shown, and it is not accepted before.",
        made.key.id,
        made.secret.as_deref().unwrap_or_default(),
    )
}

fn schedule(schedule: &Schedule) -> String {
    let state = match schedule.state {
        ScheduleState::Scheduled => "scheduled",
        ScheduleState::Due => "due",
        ScheduleState::Overdue => "overdue",
    };
    match schedule.due_at {
        Some(at) => format!("{state}, {}", when(at)),
        None => state.into(),
    }
}

fn list(keys: &[Key]) -> String {
    if keys.is_empty() {
        return "No keys.\n\nNext: keywheel key create --client NAME".into();
    }
    let row = |key: &Key| {
        let states: Vec<_> = key.versions.iter().map(|version| state(version.state)).collect();
        let expires = key.expires_at.map_or_else(|| "never".into(), when);
        let rotation = key.schedule.as_ref().map_or_else(|| "-".into(), schedule);
        [key.id.clone(), key.client.clone(), states.join(","), expires, rotation, scopes(&key.scopes)]
    };
    let head = ["KEY", "CLIENT", "VERSIONS", "EXPIRES", "NEXT ROTATION", "SCOPES"];
    table(head, &keys.iter().map(row).collect::<Vec<_>>())
}

fn show(key: &Key) -> String {
    let row = |version: &keywheel_api::Version| {
        let ends = match (version.ended_at, version.expires_at) {
            (Some(at), _) => format!("ended {}", when(at)),
            (None, Some(at)) => format!("until {}", when(at)),
            (None, None) => "-".into(),
        };
        let used = version.last_used_at.map_or_else(|| "never".into(), when);
        let revision = match version.waits_until {
            Some(at) => format!("in the canary, until {} at the latest", when(at)),
            None => version.revision.to_string(),
        };
        [version.id.clone(), state(version.state).into(), ends, used, revision]
    };
    let versions: Vec<_> = key.versions.iter().map(row).collect();
    let mut lines = vec![
        format!("Key      {}", key.id),
        format!("Client   {}", key.client),
        format!("Ring     {}", key.ring),
        format!("Scopes   {}", scopes(&key.scopes)),
        format!("Expires  {}", key.expires_at.map_or_else(|| "never".into(), when)),
    ];
    if !key.labels.is_empty() {
        lines.push(format!("Labels   {}", labelled(&key.labels)));
    }
    if let Some(by) = &key.schedule {
        lines.push(format!("Policy   {}, next rotation {}", by.policy, schedule(by)));
        if let Some(version) = &by.next_version {
            lines.push(format!("Next     {version} is deposited"));
        }
    }
    if let Some(at) = key.revoked_at {
        lines.push(format!("Revoked  {}", when(at)));
    }
    if let Some(rotation) = &key.open_rotation {
        lines.push(format!("Rotation {rotation} is open"));
    }
    format!(
        "{}\n\n{}",
        lines.join("\n"),
        table(["VERSION", "STATE", "ENDS", "LAST USED", "REVISION"], &versions)
    )
}

fn used(usage: &KeyUsage) -> String {
    let mut sums: BTreeMap<(&str, &str), (u64, Timestamp)> = BTreeMap::new();
    for hour in &usage.hours {
        let (count, last) = sums.entry((&hour.version, &hour.outcome)).or_default();
        *count = count.saturating_add(hour.count);
        *last = hour.last_minute.max(*last);
    }
    let row = |((version, outcome), (count, last)): (&(&str, &str), &(u64, Timestamp))| {
        [(*version).into(), (*outcome).into(), count.to_string(), when(*last)]
    };
    let counts = if sums.is_empty() {
        "No proxy has reported a use.".into()
    } else {
        table(["VERSION", "OUTCOME", "COUNT", "LAST"], &sums.iter().map(row).collect::<Vec<_>>())
    };
    let row = |vm: &Reporting| {
        let (from, to) = (when(vm.covered_from), when(vm.covered_to));
        [vm.node.clone(), vm.instance.clone(), vm.vm.clone(), from, to, vm.missing.to_string()]
    };
    let head = ["PROXY", "INSTANCE", "VM", "COVERED FROM", "COVERED TO", "MISSING"];
    let proxies = if usage.reporting.is_empty() {
        "No proxy has reported in the last 30 days: nothing is known of its use.".into()
    } else {
        table(head, &usage.reporting.iter().map(row).collect::<Vec<_>>())
    };
    let shown = usage.reporting.len() as u64;
    let more = if usage.vms > shown { format!("\n{shown} of {} VMs", usage.vms) } else { String::new() };
    let (from, to) = (when(usage.from), when(usage.to));
    format!("Key   {}\nFrom  {from}\nTo    {to}\n\n{counts}\n\n{proxies}{more}", usage.key)
}

pub(super) fn scopes(scopes: &[String]) -> String {
    if scopes.is_empty() { "-".into() } else { scopes.join(" ") }
}

pub(crate) fn when(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

pub(super) const fn state(state: State) -> &'static str {
    match state {
        State::Active => "active",
        State::Retiring => "retiring",
        State::Pending => "pending",
        State::Retired => "retired",
        State::Revoked => "revoked",
        State::Compromised | State::Unreadable => "compromised",
    }
}
