use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::sync::Arc;

use keywheel_control::serve::tls::{Tls, TlsFiles, WithoutCertificate};
use keywheel_control::{Control, Endpoint, Options, RingAuth};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;
use tracing_subscriber::EnvFilter;

use crate::args::{self, LogFormat};
use crate::failure::Failure;
use crate::output::Output;

/// On Linux and the BSDs alike.
const SIGXFSZ: i32 = 25;

/// What is printed on stdout when the listeners answer.
#[derive(Serialize)]
struct Ready {
    event: &'static str,
    admin_url: String,
    ring_url: String,
    /// Where it is served.
    consumer_url: Option<String>,
    /// At the first start only, unless a file took it.
    admin_token: Option<String>,
    ring: String,
    epoch: Option<String>,
    trust: Vec<String>,
}

pub(crate) async fn run(args: args::Serve, output: Output) -> Result<(), Failure> {
    start_log(args.log_format);
    let (admin_tls, ring_tls, consumer_tls) =
        (admin_tls(&args.tls)?, ring_tls(&args.tls.ring)?, consumer_tls(&args.tls)?);
    // The addresses first: where one is taken, a first start has not happened yet.
    let (admin, admin_address) = listen(&args.admin_listen, "--admin-listen").await?;
    let (ring, ring_address) = listen(&args.ring_listen, "--ring-listen").await?;
    let consumer = match &args.consumer_listen {
        Some(address) => Some(listen(address, "--consumer-listen").await?),
        None => None,
    };

    let options = Options {
        database: args.database,
        master_key_file: args.master_key_file,
        admin_token_file: args.admin_token_file.clone(),
        ring_name: args.ring_name,
        ring_auth: ring_auth(args.ring_auth, ring_address, args.tls.ring.ring_client_ca.is_some()),
        ..Options::new(args.data, args.key_prefix)
    };
    // From here on a signal ends the server in order.
    let shutdown = shutdown()?;
    reload_on_hangup([&admin_tls, &ring_tls, &consumer_tls].into_iter().flatten().cloned().collect())?;
    // A file that may not grow further is then an error of that write, as a full disk is, and not the end.
    let _too_large = signal(SignalKind::from_raw(SIGXFSZ))?;
    let (control, token) = Control::open(&options).await?;

    let name = control.default_ring().to_owned();
    let publisher = control.ring(&name);
    let trust = match &publisher {
        Some(ring) => control.trust(ring).await.map_err(keywheel_control::StartError::Store)?,
        None => Vec::new(),
    };
    let ready = Ready {
        event: "ready",
        admin_url: url(admin_tls.as_ref(), admin_address),
        ring_url: url(ring_tls.as_ref(), ring_address),
        consumer_url: consumer.as_ref().map(|(_, address)| url(consumer_tls.as_ref(), *address)),
        admin_token: token.as_ref().map(|token| token.expose().to_owned()),
        epoch: publisher.map(|ring| ring.record.epoch.to_string()),
        trust: trust.iter().map(ToString::to_string).collect(),
        ring: name,
    };
    output.result(&ready, human)?;
    drop((ready, token));
    let admin = Endpoint { listener: admin, tls: admin_tls };
    let ring = Endpoint { listener: ring, tls: ring_tls };
    let consumer = consumer.map(|(listener, _)| Endpoint { listener, tls: consumer_tls });
    Ok(Arc::new(control).serve(admin, ring, consumer, shutdown).await?)
}

fn admin_tls(args: &args::ServeTls) -> Result<Option<Arc<Tls>>, Failure> {
    let (Some(cert), Some(key)) = (args.admin_tls_cert.clone(), args.admin_tls_key.clone()) else {
        return Ok(None);
    };
    let files = TlsFiles { cert, key, client_ca: args.admin_client_ca.clone() };
    Ok(Some(Arc::new(Tls::open("admin", files, WithoutCertificate::Refused)?)))
}

pub(super) fn ring_tls(args: &args::RingTls) -> Result<Option<Arc<Tls>>, Failure> {
    let (Some(cert), Some(key)) = (args.ring_tls_cert.clone(), args.ring_tls_key.clone()) else {
        return Ok(None);
    };
    let files = TlsFiles { cert, key, client_ca: args.ring_client_ca.clone() };
    Ok(Some(Arc::new(Tls::open("ring", files, WithoutCertificate::NeedsToken)?)))
}

fn consumer_tls(args: &args::ServeTls) -> Result<Option<Arc<Tls>>, Failure> {
    let (Some(cert), Some(key)) = (args.consumer_tls_cert.clone(), args.consumer_tls_key.clone()) else {
        return Ok(None);
    };
    let files = TlsFiles { cert, key, client_ca: args.consumer_client_ca.clone() };
    Ok(Some(Arc::new(Tls::open("consumer", files, WithoutCertificate::Refused)?)))
}

pub(super) fn url(tls: Option<&Arc<Tls>>, address: SocketAddr) -> String {
    format!("{}://{address}", if tls.is_some() { "https" } else { "http" })
}

/// Without TLS too: a signal that asks to read files again should not end the process.
pub(super) fn reload_on_hangup(certificates: Vec<Arc<Tls>>) -> Result<(), Failure> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let certificates = certificates.clone();
            let read = move || certificates.iter().for_each(|tls| tls.reload());
            let _ = tokio::task::spawn_blocking(read).await;
        }
    });
    Ok(())
}

fn human(ready: &Ready) -> String {
    let mut text = format!(
        "keywheel is ready.\n\n  admin  {}\n  ring   {}/v1/rings/{}\n  trust  {}\n",
        ready.admin_url,
        ready.ring_url,
        ready.ring,
        ready.trust.join(" "),
    );
    if let Some(url) = &ready.consumer_url {
        text += &format!("  self   {url}/v1/self\n");
    }
    if let Some(token) = &ready.admin_token {
        text += &format!(
            "\nThe admin token is shown this once:\n\n  {token}\n\nNext, in another terminal:\n\n  export KEYWHEEL_URL={} KEYWHEEL_TOKEN={token}\n  keywheel client create acme\n",
            ready.admin_url,
        );
    }
    text
}

fn ring_auth(chosen: Option<args::RingAuth>, address: SocketAddr, client_ca: bool) -> RingAuth {
    let loopback = address.ip().is_loopback();
    match chosen {
        Some(args::RingAuth::Token) => RingAuth::Token,
        None if !loopback || client_ca => RingAuth::Token,
        Some(args::RingAuth::Open) if !loopback => {
            warn!(%address, "Everyone who reaches {address} may read the ring: its digests, clients and scopes");
            RingAuth::Open
        }
        _ => RingAuth::Open,
    }
}

pub(super) async fn listen(
    address: &str,
    option: &'static str,
) -> Result<(TcpListener, SocketAddr), Failure> {
    let failed = |cause| Failure::Listen { address: address.to_owned(), option, cause };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// A signal to end in order.
pub(super) fn shutdown() -> Result<impl Future<Output = ()>, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// To stderr, so that stdout is for scripts. `KEYWHEEL_LOG`, or else `RUST_LOG`, chooses what.
pub(super) fn start_log(format: LogFormat) {
    let filter = std::env::var("KEYWHEEL_LOG").or_else(|_| std::env::var("RUST_LOG"));
    let filter = EnvFilter::try_new(filter.unwrap_or_else(|_| "info".into()));
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A line that cannot be written, as when its disk is full, is lost: to complain of it on stderr would panic.
    let log = log.log_internal_errors(false);
    match format {
        LogFormat::Text => log.with_ansi(colour).init(),
        LogFormat::Json => log.json().init(),
    }
}
