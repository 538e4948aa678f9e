//! Waiting for something to become true.

use std::time::{Duration, Instant};

use anyhow::bail;

/// Generous, since a loaded machine is slow and a test that passes does not wait for it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Asks again and again, until the answer is there.
///
/// # Errors
///
/// It still is not after [`DEADLINE`]; the error says `what` was waited for.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        if start.elapsed() > DEADLINE {
            bail!("waited {} s in vain until {what}", DEADLINE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
