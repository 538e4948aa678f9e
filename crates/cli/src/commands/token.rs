use std::path::Path;

use keywheel_api::{CreateToken, RotateToken, Timestamp, Token, TokenWithSecret};
use keywheel_control::Control;
use keywheel_control::store::PostgresUrl;
use serde_json::json;

use super::key::{from_now, segment};
use crate::args;
use crate::failure::Failure;
use crate::http::Api;
use crate::output::{Output, table};

pub(crate) async fn run(command: args::Token, api: &Api<'_>, output: Output) -> Result<(), Failure> {
    match command {
        args::Token::Create { role, name, rings, expires_in } => {
            let rings = if rings.is_empty() { None } else { Some(rings) };
            let new = CreateToken { role, name, rings, expires_at: expires_in.map(from_now) };
            let token: TokenWithSecret = api.post("/v1/tokens", &new).await?;
            output.result(&token, |token| {
                format!("Token {} of role {} is made.{}", token.about.id, role, once(token))
            })
        }
        args::Token::List => {
            let tokens: Vec<Token> = api.list("/v1/tokens", &[]).await?;
            output.result(&tokens, |tokens| list(tokens))
        }
        args::Token::Show { id } => {
            let token: Token = api.get(&format!("/v1/tokens/{}", segment(&id))).await?;
            output.result(&token, |token| list(std::slice::from_ref(token)))
        }
        args::Token::Revoke { id } => {
            let path = format!("/v1/tokens/{}/revoke", segment(&id));
            let token: Token = api.post(&path, &()).await?;
            output.result(&token, |token| format!("Token {} is revoked.", token.id))
        }
        args::Token::Rotate { id, overlap } => {
            let path = format!("/v1/tokens/{}/rotate", segment(&id));
            let how = RotateToken { overlap_seconds: Some(overlap.as_secs()) };
            let token: TokenWithSecret = api.post(&path, &how).await?;
            output.result(&token, |token| {
                let until = match token.about.old_secret_expires_at {
                    Some(at) => format!("its old text is valid until {}", time(at)),
                    None => "its old text is not valid any more".to_owned(),
                };
                format!("Token {} is rotated; {until}.{}", token.about.id, once(token))
            })
        }
    }
}

/// The way back for whoever lost every admin token.
pub(crate) async fn recover(
    data: &Path,
    database: Option<&PostgresUrl>,
    output: Output,
) -> Result<(), Failure> {
    let token = Control::admin_token(data, database).await?;
    output.result(&json!({ "token": token.expose() }), |_| {
        format!("An admin token is made.\n\n  {}\n\nThis is the only time it is shown.", token.expose())
    })
}

fn once(token: &TokenWithSecret) -> String {
    match &token.token {
        Some(text) => format!("\n\n  {text}\n\nThis is the only time it is shown."),
        // The first answer was lost on its way.
        None => format!(
            " Its text was lost with an answer that did not arrive: get another with `keywheel token rotate {}`.",
            token.about.id
        ),
    }
}

fn list(tokens: &[Token]) -> String {
    let row = |token: &Token| {
        let or_dash = |at: Option<Timestamp>| at.map_or_else(|| "-".into(), time);
        let ends = match token.revoked_at {
            Some(at) => format!("revoked {}", time(at)),
            None => or_dash(token.expires_at),
        };
        let rings = token.rings.as_ref().map_or_else(|| "all".into(), |rings| rings.join(" "));
        [
            token.id.clone(),
            token.role.to_string(),
            rings,
            ends,
            or_dash(token.last_used_at),
            token.name.clone(),
        ]
    };
    table(
        ["TOKEN", "ROLE", "RINGS", "ENDS", "LAST USED", "NAME"],
        &tokens.iter().map(row).collect::<Vec<_>>(),
    )
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}
