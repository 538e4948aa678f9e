use keywheel_api::{Client, CreateClient, Revoke, RevokedClient, UpdateClient};

use super::key::{filters, label_changes, labelled, or_none, segment};
use crate::args;
use crate::failure::Failure;
use crate::http::{Api, Tagged};
use crate::output::{Output, counted, table};

pub(crate) async fn run(command: args::Client, api: &Api<'_>, output: Output) -> Result<(), Failure> {
    match command {
        args::Client::Create { name, owner, contact, labels, policy } => {
            let labels = labels.into_iter().collect();
            let new = CreateClient { name, owner, contact, labels, policy };
            let client: Client = api.post("/v1/clients", &new).await?;
            output.result(&client, |client| {
                let name = &client.name;
                format!("Client {name} is registered.\n\nNext: keywheel key create --client {name}")
            })
        }
        args::Client::List { labels } => {
            let labels = filters(&labels);
            let query: Vec<_> = labels.iter().map(|labels| ("labels", labels.as_str())).collect();
            let clients: Vec<Client> = api.list("/v1/clients", &query).await?;
            output.result(&clients, |clients| list(clients))
        }
        args::Client::Show { name } => {
            let client: Tagged<Client> = api.get_tagged(&format!("/v1/clients/{}", segment(&name))).await?;
            output.result(&client, |client| client.human(|client| list(std::slice::from_ref(client))))
        }
        args::Client::Update { name, owner, contact, labels, unlabels, policy } => {
            let update = UpdateClient {
                owner: owner.map(Some),
                contact: contact.map(Some),
                labels: label_changes(labels, unlabels),
                policy: policy.map(or_none),
            };
            let client: Client = api.patch(&format!("/v1/clients/{}", segment(&name)), &update).await?;
            output.result(&client, |client| list(std::slice::from_ref(client)))
        }
        args::Client::Revoke { name, compromised } => {
            let path = format!("/v1/clients/{}/revoke", segment(&name));
            let revoked: RevokedClient = api.post(&path, &Revoke { compromised }).await?;
            output.result(&revoked, |revoked| {
                let RevokedClient { client, keys } = revoked;
                format!("Of client {client} {} revoked.", counted(*keys, "key is", "keys are"))
            })
        }
    }
}

fn list(clients: &[Client]) -> String {
    if clients.is_empty() {
        return "No clients.\n\nNext: keywheel client create NAME".into();
    }
    let row = |client: &Client| {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        [
            client.name.clone(),
            or_dash(&client.owner),
            or_dash(&client.contact),
            or_dash(&client.policy),
            labelled(&client.labels),
        ]
    };
    table(["CLIENT", "OWNER", "CONTACT", "POLICY", "LABELS"], &clients.iter().map(row).collect::<Vec<_>>())
}
