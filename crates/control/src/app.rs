//! The two applications: a call without a socket goes through the same routes.

use std::sync::Arc;

use axum::Router;
use keywheel_api::{
    AuditRecord, Checkpoint, Checkpoints, Client, Compromised, CreateClient, CreateKey, CreateToken, Key,
    KeyUsage, KeyWithSecret, List, ProblemKind, ReportCompromised, Revoke, RevokedClient, Ring, RollBack,
    RotateToken, Rotation, RotationWithSecret, StartRotation, Token, TokenWithSecret,
};
use keywheel_keyring::usage::{MAX_BATCHES, MAX_REPORT};
use serde_json::{Value, json};

use crate::Control;
use crate::api::auth::{ADMINISTER, AUDIT, CHANGE, CHANGE_ALL, OPEN, READ, READ_RING, REPORT};
use crate::api::openapi::{Document, Operation};
use crate::api::routes::Routes;
use crate::api::{After, audit, clients, health, keys, rings, rotations, tokens, usage};

/// The most that the body of an admin request may hold, in bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// What operators and the command line talk to.
pub fn admin(control: Arc<Control>) -> Router {
    use ProblemKind as P;
    let op = Operation::new;
    let document =
        Document::new("keywheel, admin listener", "Clients, keys, rotations, tokens and the audit trail.");
    let routes = Routes::new(control, document)
        .get("/v1/audit", AUDIT, audit::list,
            op("listAudit", "Lists audit records, oldest first")
                .query::<audit::Page>().answers::<List<AuditRecord>>("A page of the trail"))
        .get("/v1/audit/checkpoints", AUDIT, audit::checkpoints,
            op("listCheckpoints", "Lists the signed checkpoints of the audit trail")
                .query::<audit::Page>().answers::<Checkpoints>("A page of checkpoints, and who may have signed them"))
        .post("/v1/audit/checkpoints", AUDIT, audit::sign,
            op("signCheckpoint", "Signs how far the audit trail goes now").answers::<Checkpoint>("The checkpoint"))
        .get("/v1/clients", READ, clients::list,
            op("listClients", "Lists clients by name")
                .says("Clients belong to no ring, so every reader sees all of them.")
                .query::<After>().answers::<List<Client>>("A page of clients"))
        .post("/v1/clients", CHANGE, clients::create,
            op("createClient", "Registers a client")
                .takes::<CreateClient>(&json!({ "name": "acme", "owner": "payments team" }))
                .creates::<Client>("The client").problems(&[P::ClientExists]).link("revokeClient", "client", "name"))
        .post("/v1/clients/{client}/revoke", CHANGE_ALL, clients::revoke,
            op("revokeClient", "Ends every key of a client now, in all rings")
                .may_take::<Revoke>(&json!({})).answers::<RevokedClient>("How many keys ended"))
        .post("/v1/compromised", CHANGE_ALL, keys::compromise,
            op("reportCompromised", "Ends the versions that have a leaked secret for ever, in all rings")
                .takes::<ReportCompromised>(&json!({ "digests": [EXAMPLE_DIGEST] }))
                .answers::<Compromised>("What became of each digest"))
        .get("/v1/keys", READ, keys::list,
            op("listKeys", "Lists keys by id")
                .says("A token that is limited to rings sees theirs alone: a page may hold fewer than others, and `next` \
                       says whether one follows.")
                .query::<keys::Filter>().answers::<List<Key>>("A page of keys"))
        .post("/v1/keys", CHANGE, keys::create,
            op("createKey", "Makes a key with its first version")
                .takes::<CreateKey>(&json!({ "client": "acme", "scopes": ["market:read"] }))
                .creates::<KeyWithSecret>("The key, and its text if the server made it")
                .problems(&[P::NotFound, P::VersionConflict, P::Compromised])
                .link("showKey", "key", "id").link("revokeKey", "key", "id").link("startRotation", "key", "id")
                .link("showKeyUsage", "key", "id").link("reinstateKey", "key", "id"))
        .get("/v1/keys/{key}", READ, keys::show, op("showKey", "Shows a key and its versions").answers::<Key>("The key"))
        .post("/v1/keys/{key}/reinstate", CHANGE, keys::reinstate,
            op("reinstateKey", "Takes a key's revocation back").answers::<Key>("The key")
                .problems(&[P::NotEnded, P::VersionRemoved, P::Compromised, P::KeyRevoked, P::KeyExpired]))
        .post("/v1/keys/{key}/revoke", CHANGE, keys::revoke,
            op("revokeKey", "Ends every version of a key now").may_take::<Revoke>(&json!({})).answers::<Key>("The key"))
        .post("/v1/keys/{key}/rotations", CHANGE, rotations::start,
            op("startRotation", "Makes a new version; the old one is accepted until the overlap ends")
                .takes::<StartRotation>(&json!({ "overlap_seconds": 1800 }))
                .creates::<RotationWithSecret>("The rotation, and the new version's text if the server made it")
                .problems(&[P::RotationOpen, P::VersionConflict, P::Compromised, P::KeyPending, P::KeyRevoked, P::KeyExpired])
                .link("showRotation", "rotation", "id").link("rollBackRotation", "rotation", "id")
                .link("cancelRotation", "rotation", "id"))
        .get("/v1/keys/{key}/usage", READ, usage::show,
            op("showKeyUsage", "Shows how often a key's versions were used, and which proxies say so")
                .query::<usage::Span>().answers::<KeyUsage>("What was counted"))
        .post("/v1/keys/{key}/versions/{version}/reinstate", CHANGE, keys::reinstate_version,
            op("reinstateVersion", "Accepts an ended version again").answers::<Key>("The key")
                .problems(&[P::NotEnded, P::VersionRemoved, P::Compromised, P::KeyExpired]))
        .post("/v1/keys/{key}/versions/{version}/revoke", CHANGE, keys::revoke_version,
            op("revokeVersion", "Ends one version of a key now")
                .may_take::<Revoke>(&json!({})).answers::<Key>("The key").problems(&[P::VersionEnded]))
        .get("/v1/rotations/{rotation}", READ, rotations::show,
            op("showRotation", "Shows a rotation").answers::<Rotation>("The rotation"))
        .post("/v1/rotations/{rotation}/cancel", CHANGE, rotations::cancel,
            op("cancelRotation", "Takes a rotation back that has not begun").answers::<Rotation>("The rotation")
                .problems(&[P::RotationBegun, P::RotationEnded]))
        .post("/v1/rotations/{rotation}/rollback", CHANGE, rotations::roll_back,
            op("rollBackRotation", "Makes the old version active again")
                .may_take::<RollBack>(&json!({ "overlap_seconds": 600 })).answers::<Rotation>("The rotation")
                .problems(&[P::RotationBegun, P::RotationEnded, P::KeyRevoked, P::KeyExpired, P::KeyPending]))
        .get("/v1/rings/{ring}", READ, rings::show,
            op("showRing", "Shows a ring and what each proxy enforces").answers::<Ring>("The ring"))
        .get("/v1/tokens", AUDIT, tokens::list,
            op("listTokens", "Lists tokens by id, without their secrets")
                .query::<After>().answers::<List<Token>>("A page of tokens, ended ones included"))
        .post("/v1/tokens", ADMINISTER, tokens::create,
            op("createToken", "Makes a token")
                .takes::<CreateToken>(&json!({ "role": "proxy", "name": "edge proxies", "rings": ["production"] }))
                .makes::<TokenWithSecret>("The token, with its text this once").problems(&[P::NotFound])
                .link("showToken", "token", "id").link("revokeToken", "token", "id").link("rotateToken", "token", "id"))
        .get("/v1/tokens/{token}", AUDIT, tokens::show,
            op("showToken", "Shows a token, without its secret").answers::<Token>("The token"))
        .post("/v1/tokens/{token}/revoke", ADMINISTER, tokens::revoke,
            op("revokeToken", "Ends a token at once").answers::<Token>("The token").problems(&[P::LastAdmin]))
        .post("/v1/tokens/{token}/rotate", ADMINISTER, tokens::rotate,
            op("rotateToken", "Gives a token a new secret; the old one is valid until the overlap ends")
                .may_take::<RotateToken>(&json!({ "overlap_seconds": 3600 }))
                .answers::<TokenWithSecret>("The token, with its new text this once").problems(&[P::TokenEnded]));
    health(routes).finish(MAX_BODY)
}

/// What proxies and relays talk to.
pub fn ring(control: Arc<Control>) -> Router {
    let op = Operation::new;
    let document =
        Document::new("keywheel, ring listener", "Signed documents of rings, and what proxies counted.");
    let gone = [ProblemKind::RevisionGone];
    let signed = || json!({ "type": "object", "description": "docs/ring-protocol.md has it field by field" });
    let routes = Routes::new(control, document)
        .get(
            "/v1/rings/{ring}/snapshot",
            READ_RING,
            rings::snapshot,
            op("snapshot", "The next page of a ring, in the order of digests")
                .query::<rings::SnapshotQuery>()
                .answers_json("A signed document", signed())
                .problems(&gone),
        )
        .get(
            "/v1/rings/{ring}/changes",
            READ_RING,
            rings::changes,
            op("changes", "What changed after a revision")
                .query::<rings::ChangesQuery>()
                .answers_json("A signed document", signed())
                .problems(&gone),
        )
        .post(
            "/v1/rings/{ring}/usage",
            REPORT,
            usage::record,
            op("reportUsage", "Takes what proxies counted")
                .says("A batch that breaks a rule is left out, and the others are counted.")
                .takes_json(report(), &json!({ "batches": [] }))
                .answers_nothing("It is on disk"),
        );
    health(routes).finish(MAX_REPORT)
}

const EXAMPLE_DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn health(routes: Routes) -> Routes {
    let op = Operation::new;
    routes
        .get(
            "/healthz",
            OPEN,
            health::live,
            op("live", "Whether the process answers").answers_text("It does"),
        )
        .get(
            "/readyz",
            OPEN,
            health::ready,
            op("ready", "Whether the database answers too")
                .answers_text("It does")
                .problems(&[ProblemKind::Unavailable, ProblemKind::Internal]),
        )
}

fn report() -> Value {
    let batches = json!({ "type": "array", "maxItems": MAX_BATCHES, "items": {} });
    json!({ "type": "object", "required": ["batches"], "properties": { "batches": batches } })
}
