use keywheel_api::{CreateToken, Token};

use crate::args;
use crate::failure::Failure;
use crate::http::{Api, Repeat};
use crate::output::Output;

pub(crate) async fn run(command: args::Token, api: &Api<'_>, output: Output) -> Result<(), Failure> {
    let args::Token::Create { role } = command;
    let token: Token = api.post("/v1/tokens", &CreateToken { role }, Repeat::Unsafe).await?;
    output.result(&token, |token| {
        format!(
            "Token {} of role {} is made.\n\n  {}\n\nThis is the only time it is shown.",
            token.id, token.role, token.token
        )
    })
}
