use keywheel_api::{Notice, NoticeKind};

use super::key::{span, when};
use crate::args;
use crate::failure::Failure;
use crate::http::Api;
use crate::output::{Output, table};

pub(crate) async fn run(command: args::Notice, api: &Api<'_>, output: Output) -> Result<(), Failure> {
    match command {
        args::Notice::List { after } => {
            let notices: Vec<Notice> = api.list_after("/v1/notices", &[], after.to_string()).await?;
            output.result(&notices, |notices| list(notices))
        }
    }
}

fn list(notices: &[Notice]) -> String {
    if notices.is_empty() {
        return "No notices.".into();
    }
    let row = |notice: &Notice| {
        let what = match notice.kind {
            NoticeKind::Due => "a rotation is due",
            NoticeKind::Overdue => "a version is too old",
            NoticeKind::Retire => "the old version ends",
            NoticeKind::DepositWanted => "a campaign waits for a deposit",
            NoticeKind::DepositRefused => "the deposited version was refused",
        };
        let lead = if notice.lead_seconds == 0 { "-".into() } else { span(notice.lead_seconds) };
        let (id, at) = (notice.id.to_string(), when(notice.at));
        [id, at, notice.client.clone(), notice.key.clone(), what.into(), when(notice.step_at), lead]
    };
    let head = ["NOTICE", "GIVEN", "CLIENT", "KEY", "WHAT", "WHEN", "BEFORE"];
    table(head, &notices.iter().map(row).collect::<Vec<_>>())
}
