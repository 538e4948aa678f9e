use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use keywheel_control::Endpoint;
use keywheel_keyring::PublicKey;
use keywheel_relay::{Access, Bounds, Caller, Options, Relay, Tokens, UpstreamToken};
use serde::Serialize;
use tracing::warn;
use zeroize::Zeroizing;

use super::serve::{listen, reload_on_hangup, ring_tls, shutdown, start_log, url};
use crate::args::{self, Connection, RingAuth};
use crate::failure::Failure;
use crate::http::{client, is_url, lost, optional_token, token_path};
use crate::output::Output;

/// What is printed on stdout when the listener answers.
#[derive(Serialize)]
struct Ready {
    event: &'static str,
    ring_url: String,
    rings: Vec<Held>,
}

#[derive(Serialize)]
struct Held {
    ring: String,
    /// What is on disk already; `None` where the upstream has to be asked first.
    revision: Option<u64>,
}

pub(crate) async fn run(args: args::Relay, connection: &Connection, output: Output) -> Result<(), Failure> {
    start_log(args.log_format);
    if let Some(bad) = args.upstream.iter().find(|url| !is_url(url)) {
        return Err(Failure::UpstreamUrl(bad.clone()));
    }
    let mut trust = args.trust.clone();
    if let Some(path) = &args.trust_file {
        trust.extend(trusted(path)?);
    }
    let tls = ring_tls(&args.tls)?;
    let (listener, address) = listen(&args.listen, "--listen").await?;
    let access = access(&args, address)?;
    let token = match token_path(connection) {
        Some(path) => UpstreamToken::File(path),
        None => optional_token(connection)?
            .map_or(UpstreamToken::None, |text| UpstreamToken::Text(Zeroizing::new(text))),
    };
    // One that speaks plain HTTP needs no certificates, and one of several may not.
    let secure = args.upstream.iter().find(|url| url.starts_with("https://"));
    let first = secure.or_else(|| args.upstream.first()).cloned().unwrap_or_default();
    let files = [&connection.ca, &connection.client_cert, &connection.client_key];
    let files = files.into_iter().flatten().cloned().collect();
    let connection = Connection { token: None, ..connection.clone() };
    let caller = Caller::open(files, move || {
        let client = client(&connection, &first)?.build();
        client.map_err(|error| Failure::RingUnreachable { cause: lost(&first, &error), url: first.clone() })
    })?;
    let options = Options {
        data: args.data,
        rings: args.ring.clone(),
        trust,
        upstreams: args.upstream,
        token,
        caller,
        node: args.node.unwrap_or_else(|| format!("relay@{address}")),
        access,
        limits: Bounds::default(),
    };
    // From here on a signal ends the relay in order.
    let shutdown = shutdown()?;
    reload_on_hangup(tls.iter().cloned().collect())?;
    let relay = tokio::task::spawn_blocking(move || Relay::open(options)).await;
    let relay = Arc::new(relay.map_err(|panicked| Failure::Io(std::io::Error::other(panicked)))??);
    let held = |ring: String| {
        let revision = relay.ring(&ring).and_then(|ring| ring.position()).map(|(_, revision, _)| revision);
        Held { ring, revision }
    };
    let rings = args.ring.into_iter().map(held).collect();
    let ready = Ready { event: "ready", ring_url: url(tls.as_ref(), address), rings };
    output.result(&ready, human)?;
    relay.serve(Endpoint { listener, tls }, shutdown).await;
    Ok(())
}

/// The keys of a list, of which none is no list.
fn trusted(path: &Path) -> Result<Vec<PublicKey>, Failure> {
    let bad = |cause: String| Failure::TrustFile { path: path.to_owned(), cause };
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    let keys: Vec<String> = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    if keys.is_empty() {
        return Err(bad("it names no key".to_owned()));
    }
    keys.iter().map(|key| key.parse().map_err(|_| bad(format!("`{key}` is no public key")))).collect()
}

fn access(args: &args::Relay, address: SocketAddr) -> Result<Access, Failure> {
    let tokens = args.proxy_token_file.as_deref().map(Tokens::open).transpose()?;
    let asks = tokens.is_some() || args.tls.ring_client_ca.is_some();
    match args.ring_auth {
        Some(RingAuth::Open) => {
            if !address.ip().is_loopback() {
                warn!(%address, "Everyone who reaches {address} may read the ring: its digests, clients and scopes");
            }
            Ok(Access::Open)
        }
        None if !asks && address.ip().is_loopback() => Ok(Access::Open),
        _ if asks => Ok(Access::Credentials(tokens)),
        _ => Err(Failure::NoCredentials { address }),
    }
}

fn human(ready: &Ready) -> String {
    let state = match ready.rings.iter().all(|held| held.revision.is_some()) {
        true => "is ready",
        false => "listens, and is ready once it has every ring",
    };
    let mut text = format!("keywheel relay {state}.\n\n  ring   {}\n", ready.ring_url);
    for Held { ring, revision } in &ready.rings {
        let held = revision.map_or_else(
            || "is fetched from the upstream".to_owned(),
            |revision| format!("on disk up to revision {revision}"),
        );
        text += &format!("  {ring}  {held}\n");
    }
    text
}
