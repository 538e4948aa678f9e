//! The two applications: a call without a socket goes through the same routes.

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, patch, post, put};

use crate::Control;
use crate::api::{
    applied, audit, auth, backup, clients, error, figures, health, import, keys, notices, policies, request,
    rings, rotations, signing_keys, tokens, usage,
};
use crate::metrics::Listener;

/// The most that the body of an admin request may hold, in bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// What operators and the command line talk to.
pub fn admin(control: Arc<Control>) -> Router {
    Router::new()
        .route("/v1/audit", get(audit::list))
        .route("/v1/audit/checkpoints", get(audit::checkpoints).post(audit::sign))
        .route("/v1/backup", get(backup::take))
        .route("/v1/clients", get(clients::list).post(clients::create))
        .route("/v1/clients/{client}", patch(clients::update))
        .route("/v1/clients/{client}/revoke", post(clients::revoke))
        .route("/v1/compromised", post(keys::compromise))
        .route("/v1/keys", get(keys::list).post(keys::create))
        .route("/v1/keys/{key}", get(keys::show).patch(keys::update))
        .route("/v1/keys/{key}/next", post(keys::deposit).delete(keys::withdraw))
        .route("/v1/keys/{key}/reinstate", post(keys::reinstate))
        .route("/v1/keys/{key}/revoke", post(keys::revoke))
        .route("/v1/keys/{key}/rotations", post(rotations::start))
        .route("/v1/keys/{key}/usage", get(usage::show))
        .route("/v1/keys/{key}/versions", post(keys::add_version))
        .route("/v1/keys/{key}/versions/{version}/reinstate", post(keys::reinstate_version))
        .route("/v1/keys/{key}/versions/{version}/revoke", post(keys::revoke_version))
        .route("/v1/notices", get(notices::list))
        .route("/v1/policies", get(policies::list).post(policies::create))
        .route("/v1/policies/{policy}", get(policies::show).put(policies::update).delete(policies::delete))
        .route("/v1/rotations/{rotation}", get(rotations::show))
        .route("/v1/rotations/{rotation}/brownout", post(rotations::brown_out))
        .route("/v1/rotations/{rotation}/cancel", post(rotations::cancel))
        .route("/v1/rotations/{rotation}/progress", get(rotations::progress))
        .route("/v1/rotations/{rotation}/rollback", post(rotations::roll_back))
        .route("/v1/rings/{ring}", get(rings::show))
        .route("/v1/rings/{ring}/export", get(import::export))
        .route("/v1/rings/{ring}/import", post(import::import))
        .route("/v1/rings/{ring}/proxies", get(rings::proxies))
        .route("/v1/rings/{ring}/proxies/forget", post(rings::forget_proxies))
        .route("/v1/rings/{ring}/policy", put(policies::set_for_ring))
        .route("/v1/rings/{ring}/signing-keys", get(signing_keys::list).post(signing_keys::create))
        .route("/v1/rings/{ring}/signing-keys/{key}/activate", post(signing_keys::activate))
        .route("/v1/rings/{ring}/signing-keys/{key}/publish", post(signing_keys::publish))
        .route("/v1/rings/{ring}/signing-keys/{key}/retire", post(signing_keys::retire))
        .route("/v1/tokens", post(tokens::create))
        .route_layer(from_fn_with_state(control.clone(), applied::wait))
        .route_layer(from_fn_with_state(control.clone(), auth::admin))
        .merge(
            Router::new()
                .route("/metrics", get(figures::metrics))
                .route_layer(from_fn_with_state(control.clone(), auth::scraper)),
        )
        .merge(health())
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_method)
        .layer(from_fn_with_state((control.clone(), Listener::Admin), request::identify))
        .with_state(control)
}

/// What proxies and relays talk to.
pub fn ring(control: Arc<Control>) -> Router {
    Router::new()
        .route("/v1/rings/{ring}/snapshot", get(rings::snapshot))
        .route("/v1/rings/{ring}/changes", get(rings::changes))
        .route("/v1/rings/{ring}/usage", post(usage::record))
        .route_layer(from_fn_with_state(control.clone(), auth::proxy))
        .merge(health())
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_method)
        .layer(from_fn_with_state((control.clone(), Listener::Ring), request::identify))
        .with_state(control)
}

fn health() -> Router<Arc<Control>> {
    Router::new().route("/healthz", get(health::live)).route("/readyz", get(health::ready))
}
