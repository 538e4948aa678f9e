//! What an image's health check runs: it has no shell, and no curl.

use std::time::Duration;

use crate::args::{Connection, Healthcheck};
use crate::failure::Failure;
use crate::http::{client, innermost, is_url};

/// What does not answer in this time serves nobody.
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) async fn run(args: &Healthcheck, connection: &Connection) -> Result<(), Failure> {
    let url = &args.target;
    if !is_url(url) {
        return Err(Failure::HealthUrl(url.clone()));
    }
    let unwell = |cause: String| Failure::Unhealthy { url: url.clone(), cause };
    let http = client(connection, url)?.timeout(PATIENCE);
    let http = http.build().map_err(|error| unwell(innermost(&error)))?;
    let answer = http.get(url).send().await.map_err(|error| unwell(innermost(&error)))?;
    let status = answer.status().as_u16();
    if status == args.status {
        return Ok(());
    }
    // What `/readyz` says of its checks; of anything else the beginning.
    let said: String = answer.text().await.unwrap_or_default().chars().take(500).collect();
    Err(unwell(format!("it answers {status}, not {}: {said}", args.status)))
}
