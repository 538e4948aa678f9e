use keywheel_api::{Client, CreateClient, Revoke, RevokedClient};

use super::key::segment;
use crate::args;
use crate::failure::Failure;
use crate::http::{Api, Repeat};
use crate::output::{Output, table};

pub(crate) async fn run(command: args::Client, api: &Api<'_>, output: Output) -> Result<(), Failure> {
    match command {
        args::Client::Create { name, owner, contact } => {
            let new = CreateClient { name, owner, contact };
            let client: Client = api.post("/v1/clients", &new, Repeat::Safe).await?;
            output.result(&client, |client| {
                let name = &client.name;
                format!("Client {name} is registered.\n\nNext: keywheel key create --client {name}")
            })
        }
        args::Client::List => {
            let clients: Vec<Client> = api.list("/v1/clients", &[]).await?;
            output.result(&clients, |clients| list(clients))
        }
        args::Client::Revoke { name, compromised } => {
            let path = format!("/v1/clients/{}/revoke", segment(&name));
            let revoked: RevokedClient = api.post(&path, &Revoke { compromised }, Repeat::Safe).await?;
            output.result(&revoked, |revoked| {
                format!("{} keys of client {} are revoked.", revoked.keys, revoked.client)
            })
        }
    }
}

fn list(clients: &[Client]) -> String {
    if clients.is_empty() {
        return "No clients yet.\n\nNext: keywheel client create NAME".into();
    }
    let row = |client: &Client| {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        [client.name.clone(), or_dash(&client.owner), or_dash(&client.contact)]
    };
    table(["CLIENT", "OWNER", "CONTACT"], &clients.iter().map(row).collect::<Vec<_>>())
}
