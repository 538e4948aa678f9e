//! The OpenAPI document of a listener: <https://spec.openapis.org/oas/v3.1.0>.

use std::collections::BTreeMap;

use keywheel_api::openapi::{ClientName, Digest, DigestCursor, Epoch, LabelFilter};
use keywheel_api::problem::MEDIA_TYPE;
use keywheel_api::{Applied, List, Problem, ProblemKind};
use serde_json::{Map, Value, json};
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, PartialSchema as _, ToSchema};

use super::applied::{DEFAULT_SECONDS, MAX_SECONDS};
use super::auth::Access;
use super::matching::{self, Tagging};
use super::once;
use super::parameters::Known;

const SECURITY: &str = "token";
/// An API key, in either header.
const KEY_SECURITY: [&str; 2] = ["key", "keyHeader"];

/// A document under way.
pub(crate) struct Document {
    info: Value,
    paths: Map<String, Value>,
    schemas: BTreeMap<String, Value>,
    security: BTreeMap<&'static str, Value>,
}

/// One operation, beside what its route says of it.
pub(crate) struct Operation {
    id: &'static str,
    summary: &'static str,
    description: &'static str,
    query: Vec<Parameter>,
    body: Option<Value>,
    answers: BTreeMap<u16, Value>,
    waits: bool,
    repeats: bool,
    strict: bool,
    tagging: Option<Tagging>,
    links: Map<String, Value>,
    problems: Vec<ProblemKind>,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Document {
    pub(crate) fn new(title: &str, description: &str) -> Self {
        let info = json!({
            "title": title,
            "description": description,
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        });
        let mut document =
            Self { info, paths: Map::new(), schemas: BTreeMap::new(), security: BTreeMap::new() };
        document.keep(&schemas_of::<Problem>());
        // What query parameters refer to: deriving those collects no schemas.
        document.keep(&schemas_of::<super::Cursor>());
        document.keep(&schemas_of::<ClientName>());
        document.keep(&schemas_of::<Digest>());
        document.keep(&schemas_of::<DigestCursor>());
        document.keep(&schemas_of::<Epoch>());
        document.keep(&schemas_of::<LabelFilter>());
        document
    }

    pub(crate) fn add(&mut self, method: &'static str, path: &str, access: Access, operation: Operation) {
        self.keep(&operation.schemas);
        self.security.extend(security_schemes(access));
        let item = self.paths.entry(path).or_insert_with(|| json!({}));
        if let Some(item) = item.as_object_mut() {
            item.insert(method.to_owned(), operation.write(path, access));
        }
    }

    fn keep(&mut self, schemas: &[(String, RefOr<Schema>)]) {
        for (name, schema) in schemas {
            let schema = json!(schema);
            let before = self.schemas.insert(name.clone(), schema.clone());
            debug_assert!(before.is_none_or(|before| before == schema), "two schemas are called {name}");
        }
    }

    pub(crate) fn write(self) -> String {
        json!({
            "openapi": "3.1.0",
            "info": self.info,
            "paths": self.paths,
            "components": {
                "schemas": self.schemas,
                "securitySchemes": self.security,
            },
        })
        .to_string()
    }
}

impl Operation {
    pub(crate) fn new(id: &'static str, summary: &'static str) -> Self {
        Self {
            id,
            summary,
            description: "",
            query: Vec::new(),
            body: None,
            answers: BTreeMap::new(),
            waits: false,
            repeats: false,
            strict: false,
            tagging: None,
            links: Map::new(),
            problems: Vec::new(),
            schemas: Vec::new(),
        }
    }

    /// What is not plain from the summary.
    pub(crate) fn says(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    pub(crate) fn query<T: IntoParams>(mut self) -> Self {
        self.query = T::into_params(|| Some(ParameterIn::Query));
        self
    }

    /// A body that must be there.
    pub(crate) fn takes<T: ToSchema>(mut self, example: &Value) -> Self {
        self.schemas.extend(schemas_of::<T>());
        self.takes_json(reference::<T>(), example)
    }

    pub(crate) fn takes_json(mut self, schema: Value, example: &Value) -> Self {
        self.body = Some(json!({
            "required": true,
            "content": { "application/json": { "schema": schema, "example": example } },
        }));
        self
    }

    /// A body that may be left out, or be `null`.
    pub(crate) fn may_take<T: ToSchema>(mut self, example: &Value) -> Self {
        self.schemas.extend(schemas_of::<T>());
        let schema = json!({ "oneOf": [reference::<T>(), { "type": "null" }] });
        self.body = Some(json!({
            "required": false,
            "content": { "application/json": { "schema": schema, "example": example } },
        }));
        self
    }

    pub(crate) fn answers<T: ToSchema>(mut self, description: &str) -> Self {
        self.schemas.extend(schemas_of::<T>());
        self.answer(200, description, Some(("application/json", reference::<T>())))
    }

    /// A page of them. What it is called says what it holds: as a generic type every list has the same name.
    pub(crate) fn lists<T: ToSchema>(mut self, description: &str) -> Self
    where
        List<T>: ToSchema,
    {
        let name = format!("{}List", T::name());
        let schema = json!({ "$ref": format!("#/components/schemas/{name}") });
        self.schemas.extend(schemas_of::<T>());
        self.schemas.push((name, List::<T>::schema()));
        self.answer(200, description, Some(("application/json", schema)))
    }

    /// Instead of a problem.
    pub(crate) fn answers_with<T: ToSchema>(mut self, status: u16, description: &str) -> Self {
        self.schemas.extend(schemas_of::<T>());
        self.answer(status, description, Some(("application/json", reference::<T>())))
    }

    pub(crate) fn answers_as(self, media_type: &str, schema: &Value, description: &str) -> Self {
        self.answer(200, description, Some((media_type, schema.clone())))
    }

    pub(crate) fn answers_json(self, description: &str, schema: Value) -> Self {
        self.answer(200, description, Some(("application/json", schema)))
    }

    pub(crate) fn answers_text(self, description: &str) -> Self {
        self.answer(200, description, Some(("text/plain", json!({ "type": "string" }))))
    }

    pub(crate) fn answers_nothing(self, description: &str) -> Self {
        self.answer(204, description, None)
    }

    /// Something new, or what the same request made before.
    pub(crate) fn creates<T: ToSchema>(self, description: &str) -> Self {
        let schema = || Some(("application/json", reference::<T>()));
        self.answers::<T>("The same request made it before").answer(201, description, schema())
    }

    /// Something new each time.
    pub(crate) fn makes<T: ToSchema>(mut self, description: &str) -> Self {
        self.schemas.extend(schemas_of::<T>());
        self.answer(201, description, Some(("application/json", reference::<T>())))
    }

    fn answer(mut self, status: u16, description: &str, content: Option<(&str, Value)>) -> Self {
        let mut answer = json!({ "description": description, "headers": request_id() });
        if let Some((media_type, schema)) = content {
            put(&mut answer, "content", json!({ media_type: { "schema": schema } }));
        }
        self.answers.insert(status, answer);
        self
    }

    /// It takes `?wait=applied`.
    pub(crate) fn waits(mut self) -> Self {
        self.schemas.extend(schemas_of::<Applied>());
        self.waits = true;
        self
    }

    /// It refuses query parameters that it does not have.
    pub(crate) fn knows_its_parameters(self) -> Self {
        Self { strict: true, ..self }
    }

    /// The names of its query parameters.
    pub(crate) fn parameters(&self) -> Known {
        let own = self.query.iter().map(|parameter| parameter.name.clone());
        let waiting = wait_parameters().into_iter().filter(|_| self.waits);
        let waiting = waiting.filter_map(|parameter| Some(parameter.get("name")?.as_str()?.to_owned()));
        own.chain(waiting).collect()
    }

    /// It takes an `Idempotency-Key`.
    pub(crate) fn repeats(mut self) -> Self {
        self.problems.push(ProblemKind::IdempotencyKeyReused);
        self.repeats = true;
        self
    }

    /// It may be made on condition of an entity tag, or answers with one.
    pub(super) fn tagged(mut self, tagging: Tagging) -> Self {
        if tagging.matches() {
            self.problems.push(ProblemKind::PreconditionFailed);
        }
        Self { tagging: Some(tagging), ..self }
    }

    /// Its answer's member `member` is what another operation calls `parameter`.
    pub(crate) fn link(mut self, operation: &str, parameter: &str, member: &str) -> Self {
        let to = json!({ "operationId": operation, "parameters": { parameter: format!("$response.body#/{member}") } });
        self.links.insert(operation.to_owned(), to);
        self
    }

    /// Problems besides those that every such operation has.
    pub(crate) fn problems(mut self, problems: &[ProblemKind]) -> Self {
        self.problems.extend(problems);
        self
    }

    fn write(mut self, path: &str, access: Access) -> Value {
        let names: Vec<&str> =
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        self.add_common_problems(!names.is_empty(), access);
        let mut parameters: Vec<Value> = names.into_iter().map(path_parameter).collect();
        parameters.extend(self.query.iter().map(|parameter| json!(parameter)));
        if self.waits {
            parameters.extend(wait_parameters());
        }
        if self.repeats {
            parameters.push(key_parameter());
        }
        if self.tagging.is_some_and(Tagging::matches) {
            parameters.push(match_parameter());
        }
        let mut responses = Map::new();
        for (status, mut answer) in self.answers {
            if self.waits {
                add_applied(&mut answer);
            }
            if self.tagging.is_some_and(Tagging::answers) {
                add_tag(&mut answer);
            }
            if !self.links.is_empty() {
                put(&mut answer, "links", Value::Object(self.links.clone()));
            }
            responses.insert(status.to_string(), answer);
        }
        let mut by_status: BTreeMap<u16, Vec<ProblemKind>> = BTreeMap::new();
        for kind in self.problems {
            let kinds = by_status.entry(kind.status()).or_default();
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        for (status, kinds) in by_status {
            responses.insert(status.to_string(), problem(&kinds));
        }
        let roles: Vec<_> = access.roles.iter().map(|role| role.as_str()).collect();
        let mut operation = json!({
            "operationId": self.id,
            "summary": self.summary,
            "description": describe(self.description, access),
            "parameters": parameters,
            "responses": responses,
            "security": security(access),
            "x-keywheel-role": roles,
            "x-keywheel-all-rings": access.all_rings,
        });
        if let Some(body) = self.body {
            put(&mut operation, "requestBody", body);
        }
        operation
    }

    fn add_common_problems(&mut self, named: bool, access: Access) {
        let guarded = access.is_guarded();
        let by_token = guarded && !access.own_key;
        let takes = self.body.is_some();
        let common = [
            (ProblemKind::InvalidRequest, named || takes || self.strict || !self.query.is_empty()),
            (ProblemKind::Unauthorized, by_token),
            (ProblemKind::KeyNotAccepted, access.own_key),
            (ProblemKind::RingHeld, access.own_key),
            (ProblemKind::TooManyFailures, guarded),
            (ProblemKind::Forbidden, by_token),
            (ProblemKind::NotFound, named),
            (ProblemKind::BodyTooLarge, takes),
            (ProblemKind::RequestTimeout, takes),
            (ProblemKind::UnsupportedMediaType, takes),
            (ProblemKind::Internal, guarded),
            (ProblemKind::Unavailable, guarded),
        ];
        self.problems.extend(common.into_iter().filter(|(_, applies)| *applies).map(|(kind, _)| kind));
    }
}

fn describe(description: &str, access: Access) -> String {
    let mut lines = Vec::new();
    if !description.is_empty() {
        lines.push(description.to_owned());
    }
    lines.push(if access.own_key {
        "Needs an API key that proxies accept, and is about that key.".to_owned()
    } else if !access.is_guarded() {
        "Needs no token.".to_owned()
    } else {
        format!("Needs a token of role {}.", access.in_words())
    });
    if access.all_rings {
        lines.push(
            "It reaches over all rings, so a token that is limited to some does not suffice.".to_owned(),
        );
    }
    if access.ring_listener {
        lines.push("With `--ring-auth open` or a client certificate it needs no token.".to_owned());
    }
    lines.join(" ")
}

fn security_schemes(access: Access) -> Vec<(&'static str, Value)> {
    if access.own_key {
        let description = "An API key, in one of the two headers, once.";
        let [bearer, header] = KEY_SECURITY;
        return vec![
            (bearer, json!({ "type": "http", "scheme": "bearer", "description": description })),
            (
                header,
                json!({ "type": "apiKey", "in": "header", "name": "x-api-key", "description": description }),
            ),
        ];
    }
    if !access.is_guarded() {
        return Vec::new();
    }
    let description = "A token of the control plane, `kwt_…`. Each operation says in `x-keywheel-role` which roles \
                       suffice, and in `x-keywheel-all-rings` whether a token that is limited to some rings does not.";
    vec![(SECURITY, json!({ "type": "http", "scheme": "bearer", "description": description }))]
}

/// What of them an operation asks for.
fn security(access: Access) -> Value {
    if access.own_key {
        return json!(KEY_SECURITY.map(|scheme| json!({ scheme: [] })));
    }
    let roles: Vec<_> = access.roles.iter().map(|role| role.as_str()).collect();
    if roles.is_empty() { json!([]) } else { json!([{ SECURITY: roles }]) }
}

fn wait_parameters() -> [Value; 2] {
    let wait =
        "Holds the answer back until every proxy enforces the change; `applied` in it says whether they do.";
    let timeout = "For how many seconds, at most.";
    let seconds =
        json!({ "type": "integer", "minimum": 1, "maximum": MAX_SECONDS, "default": DEFAULT_SECONDS });
    [
        json!({ "name": "wait", "in": "query", "required": false, "description": wait,
                "schema": { "type": "string", "enum": ["applied"] } }),
        json!({ "name": "timeout", "in": "query", "required": false, "description": timeout, "schema": seconds }),
    ]
}

fn key_parameter() -> Value {
    let description = "Names this request: sent again with the same key within 24 hours, it is not carried out again, and gets \
                       the same answer without any secret.";
    json!({ "name": once::HEADER.as_str(), "in": "header", "required": false, "description": description,
            "schema": { "type": "string", "pattern": once::PATTERN } })
}

fn match_parameter() -> Value {
    let description = "Make the change only if this is still the entity tag of what it changes, or one of several, separated by \
                       commas. `*` is any, as long as it is there.";
    json!({ "name": matching::HEADER.as_str(), "in": "header", "required": false, "description": description,
            "schema": { "type": "string", "pattern": matching::PATTERN } })
}

fn add_tag(answer: &mut Value) {
    let description = "How it is now: a strong entity tag";
    if let Some(headers) = answer.get_mut("headers") {
        let tag = json!({ "description": description, "required": true, "schema": { "type": "string" } });
        put(headers, "etag", tag);
    }
}

/// What waiting adds to an answer.
fn add_applied(answer: &mut Value) {
    if let Some(schema) = answer.pointer_mut("/content/application~1json/schema") {
        let applied = json!({ "type": "object", "properties": { "applied": reference::<Applied>() } });
        *schema = json!({ "allOf": [schema.take(), applied] });
    }
}

fn path_parameter(name: &str) -> Value {
    let (description, example) = match name {
        "campaign" => ("A campaign's name", "q4-2026"),
        "client" => ("A client's name", "acme"),
        "key" => ("A key's id", "key_4fTg8Kq1Xw0ZrBn2"),
        "policy" => ("A policy's name", "quarterly"),
        "ring" => ("A ring's name", "production"),
        "rotation" => ("A rotation's id", "rot_2Lx9Vd6MhP1sYw7E"),
        "token" => ("A token's id", "token_7Qm2ZkX0aVbN4cRd"),
        "version" => ("The id of a version of the key", "kv_5HbNq0ZtWc3Rk8Lm"),
        _ => ("A name", "name"),
    };
    // One rule for all of them: what has another form is simply not there.
    let schema = json!({ "type": "string", "minLength": 1, "pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$" });
    json!({ "name": name, "in": "path", "required": true, "description": description, "schema": schema, "example": example })
}

fn problem(kinds: &[ProblemKind]) -> Value {
    let titles: Vec<_> = kinds.iter().map(|kind| kind.title()).collect();
    let pages: Vec<_> = kinds.iter().map(|kind| kind.page()).collect();
    let schema = json!({
        "allOf": [reference::<Problem>(), { "type": "object", "properties": { "type": { "enum": pages } } }],
    });
    let example = |kind: &ProblemKind| {
        let problem = match kind {
            ProblemKind::InvalidRequest => Problem::field("name", "what the rule is"),
            _ => Problem::new(*kind, "what happened this time, and what to do"),
        };
        let problem = Problem { request_id: Some("0199a3b4-0000-7000-8000-000000000002".into()), ..problem };
        (kind.slug().to_owned(), json!({ "value": problem }))
    };
    let examples: Map<String, Value> = kinds.iter().map(example).collect();
    let mut headers = request_id();
    let text = json!({ "type": "string" });
    if kinds.contains(&ProblemKind::Unauthorized) || kinds.contains(&ProblemKind::KeyNotAccepted) {
        put(
            &mut headers,
            "www-authenticate",
            json!({ "description": "Which credential is missing", "schema": text }),
        );
    }
    let later = [
        ProblemKind::Unavailable,
        ProblemKind::RingHeld,
        ProblemKind::TooManyFailures,
        ProblemKind::TooManyRotations,
    ];
    if kinds.iter().any(|kind| later.contains(kind)) {
        put(
            &mut headers,
            "retry-after",
            json!({ "description": "In how many seconds to ask again", "schema": text }),
        );
    }
    json!({
        "description": titles.join("; or: "),
        "headers": headers,
        "content": { MEDIA_TYPE: { "schema": schema, "examples": examples } },
    })
}

fn put(object: &mut Value, member: &str, value: Value) {
    if let Some(members) = object.as_object_mut() {
        members.insert(member.to_owned(), value);
    }
}

fn request_id() -> Value {
    json!({ "x-request-id": {
        "description": "Finds the request in the server's log and audit trail",
        "required": true,
        "schema": { "type": "string" },
    } })
}

fn reference<T: ToSchema>() -> Value {
    json!({ "$ref": format!("#/components/schemas/{}", T::name()) })
}

/// A type's schema and those that it refers to.
fn schemas_of<T: ToSchema>() -> Vec<(String, RefOr<Schema>)> {
    let mut schemas = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut schemas);
    schemas
}
