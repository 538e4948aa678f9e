use keywheel_keyring::{Document, PublicKey, signature};
use reqwest::{Client, Version};

use crate::support::Server;

#[tokio::test]
async fn the_ring_listener_speaks_http_1_and_h2c_with_prior_knowledge() {
    let server = Server::start();
    let trust: PublicKey = server.ready["trust"][0].as_str().unwrap().parse().unwrap();
    let url = format!("{}/v1/rings/production/snapshot", server.ready["ring_url"].as_str().unwrap());
    let clients = [
        (Client::builder().http1_only(), Version::HTTP_11),
        (Client::builder().http2_prior_knowledge(), Version::HTTP_2),
    ];
    for (client, version) in clients {
        let answer = client.build().unwrap().get(&url).send().await.unwrap();
        assert_eq!(answer.version(), version);
        let header = |name| answer.headers().get(name).map(|value| value.as_bytes().to_vec());
        let (signer, signature) = (header("keywheel-signer"), header("keywheel-signature"));
        let body = answer.bytes().await.unwrap();
        let trust = std::slice::from_ref(&trust);
        signature::verify(trust, &body, signer.as_deref(), signature.as_deref()).unwrap();
        assert_eq!(Document::parse(&body).unwrap().document.ring, "production");
    }
}
