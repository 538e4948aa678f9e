//! The ring over a network that is not trusted: a certificate on each side, or a token that Envoy has from SDS. No
//! secret is in the proxy's configuration.

use std::fs;
use std::path::Path;

use keywheel_api::Role;
use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::{Admin, ControlPlane, Envoy, EnvoyConfig, Upstream, http, until};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::pki::Authority;
use crate::scene::{config, paths, settle};

const OPTIONS: &str = "/static_resources/clusters/0/typed_extension_protocol_options/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const CLUSTER: &str = "/static_resources/clusters/0";

/// Certificates of a control plane and of a proxy, on disk.
struct Pki {
    dir: TempDir,
}

impl Pki {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let stranger = Authority::new();
        fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
        for (name, pair) in
            [("server", authority.server()), ("proxy", authority.client()), ("stranger", stranger.client())]
        {
            fs::create_dir(dir.path().join(name)).unwrap();
            pair.save(&dir.path().join(name));
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// For `keywheel serve`.
    fn server(&self) -> Vec<std::ffi::OsString> {
        let args = [
            ("--ring-tls-cert", self.path("server/cert.pem")),
            ("--ring-tls-key", self.path("server/key.pem")),
            ("--ring-client-ca", self.path("ca.pem")),
        ];
        args.into_iter().flat_map(|(name, path)| [name.into(), path.into()]).collect()
    }

    /// The cluster's transport socket, with a certificate of this name, if any.
    fn socket(&self, name: Option<&str>) -> Value {
        let mut common = json!({"validation_context": {
            "trusted_ca": {"filename": self.path("ca.pem")},
            "match_typed_subject_alt_names": [{"san_type": "IP_ADDRESS", "matcher": {"exact": "127.0.0.1"}}],
        }});
        if let Some(name) = name {
            common["tls_certificates"] = json!([{
                "certificate_chain": {"filename": self.path(&format!("{name}/cert.pem"))},
                "private_key": {"filename": self.path(&format!("{name}/key.pem"))},
            }]);
        }
        json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": common,
            },
        })
    }
}

/// The cluster adds what a secret from a file holds, which `docs/serving.md` shows.
fn with_token(config: EnvoyConfig, secret: &Path) -> EnvoyConfig {
    let filters = json!([
        {
            "name": "envoy.filters.http.credential_injector",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
                "overwrite": true,
                "credential": {
                    "name": "envoy.http.injected_credentials.generic",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic",
                        "credential": {
                            "name": "keywheel-ring-token",
                            "sds_config": {"path_config_source": {"path": secret.display().to_string()}},
                        },
                    },
                },
            },
        },
        {
            "name": "envoy.filters.http.upstream_codec",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
            },
        },
    ]);
    config.with_field(OPTIONS, "http_filters", filters)
}

/// Puts a secret in its place in one move, which is what Envoy watches for.
fn write_secret(file: &Path, token: &str) {
    let secret = json!({"resources": [{
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": "keywheel-ring-token",
        "generic_secret": {"secret": {"inline_string": format!("Bearer {token}")}},
    }]});
    let new = file.with_extension("new");
    fs::write(&new, secret.to_string()).unwrap();
    fs::rename(new, file).unwrap();
}

async fn status(envoy: &Envoy, key: &str) -> u16 {
    http::get(envoy.listener(), "/", &[("x-api-key", key)]).await.unwrap().status
}

/// What the control plane's ring listener refused so far, by reason.
async fn refused(admin: &Admin, reason: &str) -> f64 {
    let name = "keywheel_control_refused_logins_total";
    admin.metric_of(name, &[("listener", "ring"), ("reason", reason)]).await.unwrap_or_default()
}

#[tokio::test]
async fn a_certificate_on_each_side_lets_the_ring_through_and_nothing_else_does() {
    let (paths, pki) = (paths(), Pki::new());
    let control = ControlPlane::start_guarded(&paths, pki.server()).await.unwrap();
    let upstream = Upstream::start().await.unwrap();
    let admin = control.admin().unwrap();
    admin.create_client("acme").await.unwrap();
    let key = admin.create_key("acme", &[]).await.unwrap();
    let with = |name| config(&control, &upstream).with_field(CLUSTER, "transport_socket", pki.socket(name));

    let envoy = Envoy::start(&paths, with(Some("proxy")), 2).await.unwrap();
    settle(&admin, RING).await;
    assert_eq!(status(&envoy, &key.secret).await, 200);
    admin.revoke(&key.key).await.unwrap();
    settle(&admin, RING).await;
    assert_eq!(status(&envoy, &key.secret).await, 401);
    drop(envoy);

    // Without a certificate, and without a token, the listener says no; with one of another authority it does not
    // even shake hands. Either way there is no ring, and so no answer but 503.
    let nobody = Envoy::start(&paths, with(None), 1).await.unwrap();
    until("a proxy without a certificate was refused", async || {
        (refused(&admin, "missing").await > 0.0).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(status(&nobody, &key.secret).await, 503);
    drop(nobody);
    let stranger = Envoy::start(&paths, with(Some("stranger")), 1).await.unwrap();
    until("a handshake failed", async || {
        let name = "keywheel_control_tls_handshakes_total";
        let failed = admin.metric_of(name, &[("listener", "ring"), ("result", "failed")]).await.ok()?;
        (failed > 0.0).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(status(&stranger, &key.secret).await, 503);
}

#[tokio::test]
async fn a_token_comes_from_sds_is_replaced_without_a_restart_and_is_in_no_dump() {
    let paths = paths();
    let control = ControlPlane::start_guarded(&paths, Vec::new()).await.unwrap();
    let upstream = Upstream::start().await.unwrap();
    let admin = control.admin().unwrap();
    admin.create_client("acme").await.unwrap();
    let key = admin.create_key("acme", &[]).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("token.json");
    // One that this control plane never made.
    let wrong = format!("kwt_{}", "0".repeat(64));
    write_secret(&secret, &wrong);
    let envoy = Envoy::start(&paths, with_token(config(&control, &upstream), &secret), 2).await.unwrap();
    until("a wrong token was refused", async || (refused(&admin, "unknown").await > 0.0).then_some(()))
        .await
        .unwrap();
    assert_eq!(status(&envoy, &key.secret).await, 503);

    let token = admin.create_token(Role::Proxy).await.unwrap();
    write_secret(&secret, &token);
    settle(&admin, RING).await;
    assert_eq!(status(&envoy, &key.secret).await, 200);

    for path in ["/config_dump?include_eds", "/stats", "/clusters", "/certs"] {
        let body = http::get(envoy.admin(), path, &[]).await.unwrap().body;
        let text = String::from_utf8_lossy(&body);
        for token in [&token, &wrong] {
            assert!(!text.contains(&token[4..]), "Envoy's {path} holds a token");
        }
    }
    assert!(!envoy.log().contains(&token[4..]), "Envoy's log holds a token");
    assert!(!control.log().contains(&token[4..]), "the control plane's log holds a token");
}
