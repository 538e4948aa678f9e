//! Routes, and the document that describes them: both are made of one table, so neither says what the other does not.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::http::{HeaderValue, header};
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, delete, get, patch, post, put};
use bytes::Bytes;

use super::auth::{Access, Guard, OPEN, guard};
use super::error::{no_such_method, no_such_path};
use super::matching::Tagging;
use super::openapi::{Document, Operation};
use super::{applied, holder, matching, once, parameters, request};
use crate::Control;
use crate::metrics::Listener;

/// The routes of one listener.
pub(crate) struct Routes {
    control: Arc<Control>,
    listener: Listener,
    router: Router<Arc<Control>>,
    document: Document,
}

impl Routes {
    pub(crate) fn new(control: Arc<Control>, listener: Listener, document: Document) -> Self {
        Self { control, listener, router: Router::new(), document }
    }

    pub(crate) fn get<H, T>(self, path: &str, access: Access, handler: H, operation: Operation) -> Self
    where
        H: Handler<T, Arc<Control>>,
        T: 'static,
    {
        self.add("get", path, access, get(handler), operation)
    }

    pub(crate) fn post<H, T>(self, path: &str, access: Access, handler: H, operation: Operation) -> Self
    where
        H: Handler<T, Arc<Control>>,
        T: 'static,
    {
        self.add("post", path, access, post(handler), operation)
    }

    pub(crate) fn put<H, T>(self, path: &str, access: Access, handler: H, operation: Operation) -> Self
    where
        H: Handler<T, Arc<Control>>,
        T: 'static,
    {
        self.add("put", path, access, put(handler), operation)
    }

    pub(crate) fn patch<H, T>(self, path: &str, access: Access, handler: H, operation: Operation) -> Self
    where
        H: Handler<T, Arc<Control>>,
        T: 'static,
    {
        self.add("patch", path, access, patch(handler), operation)
    }

    pub(crate) fn delete<H, T>(self, path: &str, access: Access, handler: H, operation: Operation) -> Self
    where
        H: Handler<T, Arc<Control>>,
        T: 'static,
    {
        self.add("delete", path, access, delete(handler), operation)
    }

    /// The only place that knows how a route is guarded.
    fn add(
        mut self,
        method: &'static str,
        path: &str,
        access: Access,
        mut route: MethodRouter<Arc<Control>>,
        mut operation: Operation,
    ) -> Self {
        if self.listener == Listener::Admin {
            let tagging = Tagging::of(method, path);
            route = route.route_layer(from_fn_with_state(tagging, matching::tag));
            operation = operation.tagged(tagging);
        }
        if self.listener != Listener::Ring && method == "post" {
            let state = (self.control.clone(), self.listener);
            route = route.route_layer(from_fn_with_state(state, once::once));
            operation = operation.repeats();
        }
        if self.listener != Listener::Ring && method != "get" {
            // Around what is carried out once, so that a repeat may wait, too.
            // Behind the guard: who may not change anything waits for nothing.
            route = route.route_layer(from_fn_with_state(self.control.clone(), applied::wait));
            operation = operation.waits();
        }
        // Proxies may be newer than the server, and whoever scrapes may add what is not for it.
        if access.is_guarded() && !access.ring_listener && !access.in_outages {
            operation = operation.knows_its_parameters();
            let known = operation.parameters();
            route = route.route_layer(from_fn_with_state(known, parameters::known));
        }
        let state = Guard { control: self.control.clone(), access };
        route = if access.own_key {
            route.route_layer(from_fn_with_state(state, holder::guard))
        } else {
            route.route_layer(from_fn_with_state(state, guard))
        };
        self.router = self.router.route(path, route);
        self.document.add(method, path, access, operation);
        self
    }

    /// The application, which also serves its document.
    pub(crate) fn finish(mut self) -> Router {
        let operation = Operation::new("describe", "Describes what this listener serves: this document")
            .answers_json("An OpenAPI 3.1 document", serde_json::json!({ "type": "object" }));
        self.document.add("get", "/openapi.json", OPEN, operation);
        let document = Bytes::from(self.document.write());
        let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        self.router
            .route("/openapi.json", get(async move || (json, document)))
            .fallback(no_such_path)
            .method_not_allowed_fallback(no_such_method)
            .layer(from_fn_with_state((self.control.clone(), self.listener), request::identify))
            .with_state(self.control)
    }
}
