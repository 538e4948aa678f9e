//! The three applications: a call without a socket goes through the same routes.

use std::sync::Arc;

use axum::Router;
use keywheel_api::{
    ActivateSigningKey, AddVersion, AuditRecord, Campaign, CampaignKey, CampaignPreview, CampaignProgress,
    Checkpoint, Checkpoints, Client, Compromised, CreateCampaign, CreateClient, CreateKey, CreatePolicy,
    CreateRing, CreateToken, Deposit, ExportedVersion, ForgetProxies, ForgottenProxies, Import, Imported,
    Key, KeyUsage, KeyWithSecret, Notice, Policy, ProblemKind, Promoted, ProxyReports, ReportCompromised,
    Revoke, RevokedClient, Ring, RingProxies, RingSigningKey, RingSummary, RollBack, RotateToken, Rotation,
    RotationProgress, RotationWithSecret, SelfKey, SelfRotation, SelfRotationWithSecret, SetPolicy,
    StartBrownout, StartRotation, StartSelfRotation, Terms, Token, TokenWithSecret, UpdateClient, UpdateKey,
    UpdateRing,
};
use keywheel_keyring::usage::MAX_BATCHES;
use serde_json::{Value, json};

use crate::Control;
use crate::api::auth::{
    ADMINISTER, AUDIT, CHANGE, CHANGE_ALL, OPEN, OWN_KEY, READ, READ_RING, REPORT, SCRAPE,
};
use crate::api::openapi::{Document, Operation};
use crate::api::routes::Routes;
use crate::api::{
    After, audit, backup, campaigns, clients, figures, health, import, keys, notices, policies, rings,
    rotations, self_service, signing_keys, tokens, usage,
};
use crate::metrics::Listener;

/// The most that the body of an admin request may hold, in bytes; an import's may be longer.
pub const MAX_BODY: usize = 64 * 1024;

const EXAMPLE_DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const EXAMPLE_PROXY: &str = "node=edge-1&instance=5f0c1b&filter=0.1.0&vms=3&epoch=&stored=0&enforced=0&age=0";
const EXAMPLE_VERSION: &str = "kv_5HbNq0ZtWc3Rk8Lm";

/// What operators and the command line talk to.
pub fn admin(control: Arc<Control>) -> Router {
    let document = Document::new(
        "keywheel, admin listener",
        "Clients, keys, rotations, campaigns, policies, rings, tokens and the audit trail.",
    );
    let routes = Routes::new(control, Listener::Admin, document);
    let routes = server(waves(rotations(keys(clients(trail(routes))))));
    health(tokens(rings(policies(routes)))).finish()
}

/// What proxies and relays talk to.
pub fn ring(control: Arc<Control>) -> Router {
    let op = Operation::new;
    let document =
        Document::new("keywheel, ring listener", "Signed documents of rings, and what proxies counted.");
    let refused = [ProblemKind::RevisionGone, ProblemKind::RingHeld];
    let signed = || json!({ "type": "object", "description": "docs/ring-protocol.md has it field by field" });
    let routes = Routes::new(control, Listener::Ring, document)
        .get(
            "/v1/rings/{ring}/snapshot",
            READ_RING,
            rings::snapshot,
            op("snapshot", "The next page of a ring, in the order of digests")
                .query::<rings::SnapshotQuery>()
                .answers_json("A signed document", signed())
                .problems(&refused),
        )
        .get(
            "/v1/rings/{ring}/changes",
            READ_RING,
            rings::changes,
            op("changes", "What changed after a revision")
                .query::<rings::ChangesQuery>()
                .answers_json("A signed document", signed())
                .problems(&refused),
        )
        .post(
            "/v1/rings/{ring}/usage",
            REPORT,
            usage::record,
            op("reportUsage", "Takes what proxies counted")
                .says("A batch that breaks a rule is left out, and the others are counted.")
                .takes_json(report(), &json!({ "batches": [] }))
                .answers_nothing("It is on disk")
                .problems(&[ProblemKind::RingHeld]),
        )
        .post(
            "/v1/rings/{ring}/proxies",
            REPORT,
            rings::report_proxies,
            op("reportProxies", "Takes what a relay heard of the proxies behind it")
                .says("What of it cannot be read is left out.")
                .takes::<ProxyReports>(&json!({ "proxies": [{ "proxy": EXAMPLE_PROXY, "ago_ms": 120 }] }))
                .answers_nothing("Proxies that were not known before are on disk"),
        );
    health(routes).finish()
}

/// What the holders of keys talk to, each for its own key.
pub fn consumer(control: Arc<Control>) -> Router {
    use ProblemKind as P;
    let op = Operation::new;
    let document = Document::new("keywheel, consumer listener", "What a key sees and does of itself.");
    let version = json!({ "id": EXAMPLE_VERSION, "digest": EXAMPLE_DIGEST });
    let routes = Routes::new(control, Listener::Consumer, document)
        .get(
            "/v1/self",
            OWN_KEY,
            self_service::show,
            op("showSelf", "Shows the key that the request bears, and what its policy allows it")
                .answers::<SelfKey>("The key"),
        )
        .post(
            "/v1/self/rotations",
            OWN_KEY,
            self_service::rotate,
            op("rotateSelf", "Makes a new version of the key; the old one is accepted until the overlap ends")
                .says(
                    "Only the newest active version may, where the key's policy says `self_rotation`. Send a version \
                     that you made: then the request can be repeated when its answer is lost.",
                )
                .may_take::<StartSelfRotation>(&json!({ "version": version }))
                .creates::<SelfRotationWithSecret>("The rotation, and the new version's text if the server made it")
                .problems(&[
                    P::NotByPolicy,
                    P::VersionSuperseded,
                    P::RotationOpen,
                    P::TooManyRotations,
                    P::VersionConflict,
                    P::Compromised,
                    P::KeyPending,
                    P::KeyRevoked,
                    P::KeyExpired,
                ])
                .link("showSelfRotation", "rotation", "id"),
        )
        .get(
            "/v1/self/rotations/{rotation}",
            OWN_KEY,
            self_service::rotation,
            op("showSelfRotation", "Shows a rotation of the key").answers::<SelfRotation>("The rotation"),
        );
    health(routes).finish()
}

fn trail(routes: Routes) -> Routes {
    let op = Operation::new;
    routes
        .get(
            "/v1/audit",
            AUDIT,
            audit::list,
            op("listAudit", "Lists audit records, oldest first")
                .says("With a filter one request looks at 20,000 records at most: follow `next` to its end.")
                .query::<audit::Filter>()
                .lists::<AuditRecord>("A page of the trail"),
        )
        .get(
            "/v1/audit/checkpoints",
            AUDIT,
            audit::checkpoints,
            op("listCheckpoints", "Lists the signed checkpoints of the audit trail")
                .query::<audit::Page>()
                .answers::<Checkpoints>("A page of checkpoints, and who may have signed them"),
        )
        .post(
            "/v1/audit/checkpoints",
            AUDIT,
            audit::sign,
            op("signCheckpoint", "Signs how far the audit trail goes now")
                .answers::<Checkpoint>("The checkpoint"),
        )
}

fn clients(routes: Routes) -> Routes {
    use ProblemKind as P;
    let op = Operation::new;
    routes
        .get(
            "/v1/clients",
            READ,
            clients::list,
            op("listClients", "Lists clients by name")
                .says("Clients belong to no ring, so every reader sees all of them.")
                .query::<clients::Filter>()
                .lists::<Client>("A page of clients"),
        )
        .post(
            "/v1/clients",
            CHANGE,
            clients::create,
            op("createClient", "Registers a client")
                .takes::<CreateClient>(&json!({ "name": "acme", "owner": "payments team" }))
                .creates::<Client>("The client")
                .problems(&[P::ClientExists, P::NotFound])
                .link("showClient", "client", "name")
                .link("updateClient", "client", "name")
                .link("revokeClient", "client", "name"),
        )
        .get(
            "/v1/clients/{client}",
            READ,
            clients::show,
            op("showClient", "Shows a client").answers::<Client>("The client"),
        )
        .patch(
            "/v1/clients/{client}",
            CHANGE_ALL,
            clients::update,
            op("updateClient", "Changes a client's labels, policy, owner and contact")
                .says("What is absent stays as it is, and `null` takes away.")
                .takes::<UpdateClient>(&json!({ "labels": { "tier": "gold" } }))
                .answers::<Client>("The client"),
        )
        .post(
            "/v1/clients/{client}/revoke",
            CHANGE_ALL,
            clients::revoke,
            op("revokeClient", "Ends every key of a client now, in all rings")
                .may_take::<Revoke>(&json!({}))
                .answers::<RevokedClient>("How many keys ended"),
        )
        .post(
            "/v1/compromised",
            CHANGE_ALL,
            keys::compromise,
            op("reportCompromised", "Ends the versions that have a leaked secret for ever, in all rings")
                .takes::<ReportCompromised>(&json!({ "digests": [EXAMPLE_DIGEST] }))
                .answers::<Compromised>("What became of each digest"),
        )
}

fn keys(routes: Routes) -> Routes {
    use ProblemKind as P;
    let op = Operation::new;
    let version = json!({ "id": EXAMPLE_VERSION, "digest": EXAMPLE_DIGEST });
    routes
        .get("/v1/keys", READ, keys::list,
            op("listKeys", "Lists keys by id")
                .says("A token that is limited to rings sees theirs alone: a page may hold fewer than others, and `next` \
                       says whether one follows.")
                .query::<keys::Filter>().lists::<Key>("A page of keys"))
        .post("/v1/keys", CHANGE, keys::create,
            op("createKey", "Makes a key with its first version")
                .takes::<CreateKey>(&json!({ "client": "acme", "scopes": ["market:read"] }))
                .creates::<KeyWithSecret>("The key, and its text if the server made it")
                .problems(&[P::NotFound, P::VersionConflict, P::Compromised, P::CanaryRing])
                .link("showKey", "key", "id").link("revokeKey", "key", "id").link("startRotation", "key", "id")
                .link("showKeyUsage", "key", "id").link("reinstateKey", "key", "id").link("updateKey", "key", "id"))
        .get("/v1/keys/{key}", READ, keys::show, op("showKey", "Shows a key and its versions").answers::<Key>("The key"))
        .patch("/v1/keys/{key}", CHANGE, keys::update,
            op("updateKey", "Changes a key's scopes, end, labels and policy")
                .says("What is absent stays as it is, and `null` takes away.")
                .takes::<UpdateKey>(&json!({ "labels": { "team": "payments" } })).answers::<Key>("The key")
                .problems(&[P::KeyRevoked, P::KeyExpired]))
        .post("/v1/keys/{key}/next", CHANGE, keys::deposit,
            op("depositVersion", "Deposits the version to which the key's schedule rotates it")
                .says("It takes the place of one that was deposited before.")
                .takes::<Deposit>(&json!({ "version": version })).answers::<Key>("The key")
                .problems(&[P::NotByPolicy, P::VersionConflict, P::Compromised, P::KeyRevoked, P::KeyExpired]))
        .delete("/v1/keys/{key}/next", CHANGE, keys::withdraw,
            op("withdrawVersion", "Takes a deposited version back").answers::<Key>("The key"))
        .post("/v1/keys/{key}/reinstate", CHANGE, keys::reinstate,
            op("reinstateKey", "Takes a key's revocation back").answers::<Key>("The key")
                .problems(&[P::NotEnded, P::VersionRemoved, P::Compromised, P::KeyRevoked, P::KeyExpired]))
        .post("/v1/keys/{key}/revoke", CHANGE, keys::revoke,
            op("revokeKey", "Ends every version of a key now").may_take::<Revoke>(&json!({})).answers::<Key>("The key"))
        .post("/v1/keys/{key}/rotations", CHANGE, rotations::start,
            op("startRotation", "Makes a new version; the old one is accepted until the overlap ends")
                .takes::<StartRotation>(&json!({ "overlap_seconds": 1800 }))
                .creates::<RotationWithSecret>("The rotation, and the new version's text if the server made it")
                .problems(&[P::RotationOpen, P::VersionConflict, P::VersionEnded, P::Compromised, P::KeyPending,
                            P::KeyRevoked, P::KeyExpired, P::NotByPolicy])
                .link("showRotation", "rotation", "id").link("rollBackRotation", "rotation", "id")
                .link("cancelRotation", "rotation", "id").link("startBrownout", "rotation", "id"))
        .get("/v1/keys/{key}/usage", READ, usage::show,
            op("showKeyUsage", "Shows how often a key's versions were used, and which proxies say so")
                .query::<usage::Span>().answers::<KeyUsage>("What was counted"))
        .post("/v1/keys/{key}/versions", CHANGE, keys::add_version,
            op("addVersion", "Adds a version beside those that are accepted, which stay as they are")
                .may_take::<AddVersion>(&json!({}))
                .creates::<KeyWithSecret>("The key, and the version's text if the server made it")
                .problems(&[P::NotByPolicy, P::VersionConflict, P::Compromised, P::KeyRevoked, P::KeyExpired]))
        .post("/v1/keys/{key}/versions/{version}/reinstate", CHANGE, keys::reinstate_version,
            op("reinstateVersion", "Accepts an ended version again").answers::<Key>("The key")
                .problems(&[P::NotEnded, P::VersionRemoved, P::Compromised, P::KeyExpired]))
        .post("/v1/keys/{key}/versions/{version}/revoke", CHANGE, keys::revoke_version,
            op("revokeVersion", "Ends one version of a key now")
                .may_take::<Revoke>(&json!({})).answers::<Key>("The key").problems(&[P::VersionEnded]))
}

fn rotations(routes: Routes) -> Routes {
    use ProblemKind as P;
    let op = Operation::new;
    routes
        .get(
            "/v1/rotations",
            READ,
            rotations::list,
            op("listRotations", "Lists rotations by id")
                .says("A token that is limited to rings sees theirs alone.")
                .query::<rotations::Filter>()
                .lists::<Rotation>("A page of rotations"),
        )
        .get(
            "/v1/rotations/{rotation}",
            READ,
            rotations::show,
            op("showRotation", "Shows a rotation").answers::<Rotation>("The rotation"),
        )
        .post(
            "/v1/rotations/{rotation}/brownout",
            CHANGE,
            rotations::brown_out,
            op("startBrownout", "Refuses a share of the requests with the old version for some time")
                .says("A second one takes the place of the first, and a share of 0 ends it.")
                .takes::<StartBrownout>(&json!({ "share": 0.1, "seconds": 600 }))
                .answers::<Rotation>("The rotation")
                .problems(&[P::RotationNotBegun, P::RotationEnded]),
        )
        .post(
            "/v1/rotations/{rotation}/cancel",
            CHANGE,
            rotations::cancel,
            op("cancelRotation", "Takes a rotation back that has not begun")
                .answers::<Rotation>("The rotation")
                .problems(&[P::RotationBegun, P::RotationEnded]),
        )
        .get(
            "/v1/rotations/{rotation}/progress",
            READ,
            rotations::progress,
            op("showRotationProgress", "Shows how far a rotation is")
                .says("How much each version is used, which proxies enforce the newest step, and what comes next.")
                .answers::<RotationProgress>("How far it is"),
        )
        .post(
            "/v1/rotations/{rotation}/promote",
            CHANGE,
            rotations::promote,
            op("promoteRotation", "Has the new version wait for no canary, so that the overlap begins")
                .answers::<Rotation>("The rotation")
                .problems(&[P::RotationEnded]),
        )
        .post(
            "/v1/rotations/{rotation}/rollback",
            CHANGE,
            rotations::roll_back,
            op("rollBackRotation", "Makes the old version active again")
                .may_take::<RollBack>(&json!({ "overlap_seconds": 600 }))
                .answers::<Rotation>("The rotation")
                .problems(&[P::RotationBegun, P::RotationEnded, P::KeyRevoked, P::KeyExpired, P::KeyPending]),
        )
}

fn waves(routes: Routes) -> Routes {
    use ProblemKind as P;
    let op = Operation::new;
    let new = json!({ "name": "q4-2026", "select": { "older_than_seconds": 7_776_000 }, "wave": { "percent": 10 } });
    routes
        .get("/v1/campaigns", READ, campaigns::list,
            op("listCampaigns", "Lists campaigns by name")
                .says("A token that is limited to rings sees theirs alone: a page may hold fewer than others, and `next` \
                       says whether one follows.")
                .query::<After>().lists::<Campaign>("A page of campaigns"))
        .post("/v1/campaigns", CHANGE, campaigns::create,
            op("createCampaign", "Rotates a selection of keys in waves")
                .says("The keys are chosen now and stay. Each rotates in a wave once its next version was deposited.")
                .takes::<CreateCampaign>(&new).creates::<Campaign>("The campaign")
                .problems(&[P::NotFound, P::CampaignExists])
                .link("showCampaign", "campaign", "name").link("listCampaignKeys", "campaign", "name")
                .link("pauseCampaign", "campaign", "name").link("resumeCampaign", "campaign", "name")
                .link("cancelCampaign", "campaign", "name").link("rollBackCampaign", "campaign", "name"))
        .post("/v1/campaigns/preview", CHANGE, campaigns::preview,
            op("previewCampaign", "Says what a campaign would come to, and makes none")
                .takes::<CreateCampaign>(&new).answers::<CampaignPreview>("How many keys, and how they stand")
                .problems(&[P::NotFound]))
        .get("/v1/campaigns/{campaign}", READ, campaigns::show,
            op("showCampaign", "Shows a campaign and how far it is").answers::<CampaignProgress>("How far it is"))
        .get("/v1/campaigns/{campaign}/keys", READ, campaigns::keys,
            op("listCampaignKeys", "Lists the keys of a campaign by id, and how each stands")
                .query::<campaigns::KeyFilter>().lists::<CampaignKey>("A page of keys"))
        .post("/v1/campaigns/{campaign}/pause", CHANGE, campaigns::pause,
            op("pauseCampaign", "Starts no wave until the campaign is resumed")
                .answers::<Campaign>("The campaign").problems(&[P::CampaignState]))
        .post("/v1/campaigns/{campaign}/resume", CHANGE, campaigns::resume,
            op("resumeCampaign", "Lets a paused or halted campaign go on")
                .says("What was rolled back and refused until now is not held against it any more.")
                .answers::<Campaign>("The campaign").problems(&[P::CampaignState]))
        .post("/v1/campaigns/{campaign}/cancel", CHANGE, campaigns::cancel,
            op("cancelCampaign", "Starts no wave any more; rotations that are open go on")
                .answers::<Campaign>("The campaign").problems(&[P::CampaignState]))
        .post("/v1/campaigns/{campaign}/rollback", CHANGE, campaigns::roll_back,
            op("rollBackCampaign", "Rolls back every open rotation of a campaign's waves, and starts no wave any more")
                .says("It goes on after the answer: `state` is `rolled_back` when it is done.")
                .answers::<Campaign>("The campaign").problems(&[P::CampaignState]))
}

fn policies(routes: Routes) -> Routes {
    use ProblemKind as P;
    let op = Operation::new;
    let terms = json!({ "rotate_every_seconds": 7_776_000, "overlap_seconds": 604_800 });
    routes
        .get("/v1/notices", READ, notices::list,
            op("listNotices", "Lists what was announced, oldest first")
                .says("A token that is limited to rings sees the notices of their keys alone: a page may hold fewer than \
                       others, and `next` says whether one follows.")
                .query::<audit::Page>().lists::<Notice>("A page of notices"))
        .get("/v1/policies", READ, policies::list,
            op("listPolicies", "Lists policies by name")
                .says("Policies belong to no ring, so every reader sees all of them.")
                .query::<After>().lists::<Policy>("A page of policies"))
        .post("/v1/policies", CHANGE_ALL, policies::create,
            op("createPolicy", "Makes a policy: rules by which keys rotate")
                .takes::<CreatePolicy>(&json!({ "name": "quarterly", "terms": terms }))
                .creates::<Policy>("The policy").problems(&[P::PolicyExists])
                .link("showPolicy", "policy", "name").link("replacePolicy", "policy", "name")
                .link("deletePolicy", "policy", "name"))
        .get("/v1/policies/{policy}", READ, policies::show,
            op("showPolicy", "Shows a policy").answers::<Policy>("The policy"))
        .put("/v1/policies/{policy}", CHANGE_ALL, policies::update,
            op("replacePolicy", "Replaces all terms of a policy: what is absent has its default")
                .takes::<Terms>(&terms).answers::<Policy>("The policy"))
        .delete("/v1/policies/{policy}", CHANGE_ALL, policies::delete,
            op("deletePolicy", "Deletes a policy that nothing follows")
                .answers::<Policy>("What it was").problems(&[P::PolicyInUse]))
        .put("/v1/rings/{ring}/policy", CHANGE, policies::set_for_ring,
            op("setRingPolicy", "Says what keys of a ring follow that have no policy of their own or of their client")
                .takes::<SetPolicy>(&json!({ "policy": "quarterly" })).answers::<Ring>("The ring")
                .problems(&[P::CanaryRing]))
}

fn rings(routes: Routes) -> Routes {
    use ProblemKind as P;
    let op = Operation::new;
    let item = json!({ "digest": EXAMPLE_DIGEST, "client": "acme", "scopes": ["market:read"] });
    routes
        .get(
            "/v1/rings",
            READ,
            rings::list,
            op("listRings", "Lists rings by name")
                .query::<After>()
                .lists::<RingSummary>("All that the token reaches"),
        )
        .post(
            "/v1/rings",
            ADMINISTER,
            rings::create,
            op("createRing", "Makes an empty ring, with a key that signs it")
                .says("There are at most 64. A ring is never deleted.")
                .takes::<CreateRing>(&json!({ "name": "staging", "key_prefix": "kw_test_" }))
                .creates::<RingSummary>("The ring")
                .problems(&[P::NotFound, P::RingExists, P::TooManyRings, P::CanaryRing])
                .link("showRing", "ring", "name"),
        )
        .get(
            "/v1/rings/{ring}",
            READ,
            rings::show,
            op("showRing", "Shows a ring and what each proxy enforces").answers::<Ring>("The ring"),
        )
        .patch(
            "/v1/rings/{ring}",
            ADMINISTER,
            rings::update,
            op("updateRing", "Changes when what is new in a canary goes to its main ring")
                .says("What is absent stays as it is. What waits already keeps its time.")
                .takes::<UpdateRing>(&json!({ "pause_seconds": 3600 }))
                .answers::<Ring>("The ring")
                .problems(&[P::CanaryRing]),
        )
        .get(
            "/v1/rings/{ring}/export",
            READ,
            import::export,
            op("exportRing", "Lists every version that a ring has and that may be accepted again, by digest")
                .query::<import::After>()
                .lists::<ExportedVersion>("A page of versions, without their texts"),
        )
        .post(
            "/v1/rings/{ring}/import",
            CHANGE,
            import::import,
            op("importKeys", "Brings keys in from elsewhere, by their digests")
                .says("A bad item does not hold up the others: the answer says what became of it.")
                .takes::<Import>(&json!({ "items": [item], "create_clients": true }))
                .answers::<Imported>("What became of the items")
                .problems(&[P::CanaryRing]),
        )
        .post(
            "/v1/rings/{ring}/promote",
            CHANGE,
            rings::promote,
            op("promoteRing", "Brings everything to a ring that waits in its canary")
                .answers::<Promoted>("What it got")
                .problems(&[P::CanaryRing]),
        )
        .get(
            "/v1/rings/{ring}/proxies",
            READ,
            rings::proxies,
            op("listProxies", "Shows which proxies enforce a revision of a ring")
                .query::<rings::Revision>()
                .answers::<RingProxies>("The proxies, and what they prove"),
        )
        .post(
            "/v1/rings/{ring}/proxies/forget",
            CHANGE,
            rings::forget_proxies,
            op("forgetProxies", "Forgets proxies that are gone for good")
                .takes::<ForgetProxies>(&json!({ "silent_for_seconds": 86_400 }))
                .answers::<ForgottenProxies>("Which were forgotten"),
        )
        .get(
            "/v1/rings/{ring}/signing-keys",
            READ,
            signing_keys::list,
            op("listSigningKeys", "Lists the signing keys of a ring, without their private halves")
                .query::<After>()
                .lists::<RingSigningKey>("All of them"),
        )
        .post(
            "/v1/rings/{ring}/signing-keys",
            ADMINISTER,
            signing_keys::create,
            op("createSigningKey", "Makes a signing key that signs nothing yet")
                .makes::<RingSigningKey>("The signing key"),
        )
        .post(
            "/v1/rings/{ring}/signing-keys/{key}/activate",
            ADMINISTER,
            signing_keys::activate,
            op("activateSigningKey", "Lets a published signing key sign, in the place of the present one")
                .may_take::<ActivateSigningKey>(&json!({}))
                .answers::<RingSigningKey>("The signing key")
                .problems(&[P::SigningKeyState, P::ProxiesStranded]),
        )
        .post(
            "/v1/rings/{ring}/signing-keys/{key}/publish",
            ADMINISTER,
            signing_keys::publish,
            op(
                "publishSigningKey",
                "Tells proxies' operators to trust a signing key, which does not sign yet",
            )
            .answers::<RingSigningKey>("The signing key")
            .problems(&[P::SigningKeyState]),
        )
        .post(
            "/v1/rings/{ring}/signing-keys/{key}/retire",
            ADMINISTER,
            signing_keys::retire,
            op("retireSigningKey", "Ends the trust in a signing key that does not sign")
                .answers::<RingSigningKey>("The signing key")
                .problems(&[P::SigningKeyState]),
        )
}

fn tokens(routes: Routes) -> Routes {
    use ProblemKind as P;
    let op = Operation::new;
    routes
        .get(
            "/v1/tokens",
            AUDIT,
            tokens::list,
            op("listTokens", "Lists tokens by id, without their secrets")
                .query::<After>()
                .lists::<Token>("A page of tokens, ended ones included"),
        )
        .post(
            "/v1/tokens",
            ADMINISTER,
            tokens::create,
            op("createToken", "Makes a token")
                .takes::<CreateToken>(
                    &json!({ "role": "proxy", "name": "edge proxies", "rings": ["production"] }),
                )
                .makes::<TokenWithSecret>("The token, with its text this once")
                .problems(&[P::NotFound])
                .link("showToken", "token", "id")
                .link("revokeToken", "token", "id")
                .link("rotateToken", "token", "id"),
        )
        .get(
            "/v1/tokens/{token}",
            AUDIT,
            tokens::show,
            op("showToken", "Shows a token, without its secret").answers::<Token>("The token"),
        )
        .post(
            "/v1/tokens/{token}/revoke",
            ADMINISTER,
            tokens::revoke,
            op("revokeToken", "Ends a token at once").answers::<Token>("The token").problems(&[P::LastAdmin]),
        )
        .post(
            "/v1/tokens/{token}/rotate",
            ADMINISTER,
            tokens::rotate,
            op("rotateToken", "Gives a token a new secret; the old one is valid until the overlap ends")
                .may_take::<RotateToken>(&json!({ "overlap_seconds": 3600 }))
                .answers::<TokenWithSecret>("The token, with its new text this once")
                .problems(&[P::TokenEnded]),
        )
}

/// What is about the control plane itself.
fn server(routes: Routes) -> Routes {
    let op = Operation::new;
    routes
        .get(
            "/metrics",
            SCRAPE,
            figures::metrics,
            op("metrics", "What is counted, for Prometheus")
                .says("While the database does not answer, the token that asked last is still known for 15 minutes.")
                .answers_as("application/openmetrics-text", &json!({ "type": "string" }), "The text of OpenMetrics"),
        )
        .get(
            "/v1/backup",
            ADMINISTER,
            backup::take,
            op("takeBackup", "Copies the whole database as it is now")
                .answers_as("application/vnd.sqlite3", &json!({}), "An SQLite database")
                .problems(&[ProblemKind::NoBackup]),
        )
}

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
            op("ready", "Whether the control plane can do its work")
                .answers::<health::Readiness>("It can")
                .answers_with::<health::Readiness>(503, "It cannot"),
        )
}

fn report() -> Value {
    let batches = json!({ "type": "array", "maxItems": MAX_BATCHES, "items": {} });
    json!({ "type": "object", "required": ["batches"], "properties": { "batches": batches } })
}
