use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll, ready};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use keywheel_api::{Problem, ProblemKind};
use tokio::fs::File;
use tokio::io::{AsyncRead as _, ReadBuf};
use tracing::info;

use super::auth::By;
use super::error::ApiError;
use super::uncancelled;
use crate::Control;

const CHUNK: usize = 64 * 1024;

/// The whole database as it was when the copy began, with everything that was answered by then.
pub(crate) async fn take(State(control): State<Arc<Control>>, By(context): By) -> Result<Response, ApiError> {
    let copy = uncancelled(async move {
        let file = control.store.copy(&control.data).await?;
        if file.is_some() {
            // After the copy, so that it does not lack a record that the trail has.
            control.store.note_reading(&context, "backup.take", "database").await?;
            info!(token.id = context.actor, "Token {} took a backup", context.actor);
        }
        Ok::<_, ApiError>(file)
    });
    let Some((file, length)) = copy.await? else {
        let detail = "this control plane runs on PostgreSQL: copy it with pg_dump or a base backup";
        return Err(Problem::new(ProblemKind::NoBackup, detail).into());
    };
    let headers = [
        (header::CONTENT_TYPE, "application/vnd.sqlite3".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    let body = Body::from_stream(Chunks(File::from_std(file)));
    Ok((headers, body).into_response())
}

/// A file, piece by piece.
struct Chunks(File);

impl futures_core::Stream for Chunks {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Option<Self::Item>> {
        let mut piece = vec![0; CHUNK];
        let mut buffer = ReadBuf::new(&mut piece);
        if let Err(error) = ready!(Pin::new(&mut self.0).poll_read(task, &mut buffer)) {
            return Poll::Ready(Some(Err(error)));
        }
        let length = buffer.filled().len();
        piece.truncate(length);
        Poll::Ready((length > 0).then(|| Ok(piece.into())))
    }
}
