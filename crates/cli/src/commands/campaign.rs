use clap::ValueEnum as _;
use keywheel_api::{
    Campaign, CampaignKey, CampaignKeyState, CampaignKeys, CampaignPreview, CampaignProgress, CampaignState,
    CampaignWait, CreateCampaign, HaltReason, Selection, SkipReason, Skipped, StopConditions, Wave, WaveSize,
};

use super::key::{from_now, segment, span, when};
use super::watch::watch;
use crate::args;
use crate::failure::Failure;
use crate::http::Api;
use crate::output::{Output, counted, table};

pub(crate) async fn run(command: args::Campaign, api: &Api<'_>, output: Output) -> Result<(), Failure> {
    match command {
        args::Campaign::Create(args) => create(*args, api, output).await,
        args::Campaign::List => {
            let campaigns: Vec<Campaign> = api.list("/v1/campaigns", &[]).await?;
            output.result(&campaigns, |campaigns| list(campaigns))
        }
        args::Campaign::Show { name } => {
            let progress: CampaignProgress = api.get(&path(&name)).await?;
            output.result(&progress, draw)
        }
        args::Campaign::Keys { name, state } => {
            let state = state.and_then(|state| state.to_possible_value());
            let query: Vec<_> = state.iter().map(|state| ("state", state.get_name())).collect();
            let keys: Vec<CampaignKey> = api.list(&format!("{}/keys", path(&name)), &query).await?;
            output.result(&keys, |found| keys_of(found))
        }
        args::Campaign::Watch { name, every } => watch(&path(&name), every, api, output, draw, is_over).await,
        args::Campaign::Pause { name } => {
            turn(&name, "pause", "starts no wave until it is resumed", api, output).await
        }
        args::Campaign::Resume { name } => turn(&name, "resume", "goes on", api, output).await,
        args::Campaign::Cancel { name } => {
            turn(&name, "cancel", "starts no wave any more; rotations that are open go on", api, output).await
        }
        args::Campaign::Rollback { name } => {
            let says = "starts no wave any more, and its open rotations are rolled back";
            turn(&name, "rollback", says, api, output).await
        }
    }
}

async fn create(args: args::CreateCampaign, api: &Api<'_>, output: Output) -> Result<(), Failure> {
    let new = CreateCampaign {
        name: args.name,
        ring: Some(args.ring),
        select: Selection {
            clients: args.clients,
            labels: args.labels.into_iter().collect(),
            older_than_seconds: args.older_than.map(|age| age.as_secs()),
            scope: args.scope,
        },
        wave: args.wave,
        pause_seconds: args.pause.as_secs(),
        not_before: args.begins_in.map(from_now),
        overlap_seconds: args.overlap.map(|overlap| overlap.as_secs()),
        stop: StopConditions {
            max_rolled_back: args.max_rolled_back,
            max_refused_share: args.max_refused_share,
            wait_for_proxies: !args.no_wait_for_proxies,
        },
    };
    if args.dry_run {
        let preview: CampaignPreview = api.post("/v1/campaigns/preview", &new).await?;
        return output.result(&preview, previewed);
    }
    let campaign: Campaign = api.post("/v1/campaigns", &new).await?;
    output.result(&campaign, |campaign| {
        let Campaign { name, selected, keys_per_wave, .. } = campaign;
        if campaign.state.is_over() {
            return format!(
                "Campaign {name} is {}: none of its {} can be rotated.\n\nNext: keywheel campaign keys {name}",
                campaign.state.in_words(),
                counted(*selected, "key", "keys")
            );
        }
        format!(
            "Campaign {name} rotates {}, {keys_per_wave} in a wave. A key's turn comes once its next version is deposited.\n\nNext: keywheel campaign keys {name} --state waiting_for_deposit, key deposit KEY, campaign watch {name}",
            counted(*selected, "key", "keys")
        )
    })
}

async fn turn(name: &str, what: &str, says: &str, api: &Api<'_>, output: Output) -> Result<(), Failure> {
    let campaign: Campaign = api.post(&format!("{}/{what}", path(name)), &()).await?;
    output.result(&campaign, |campaign| {
        format!(
            "Campaign {name} is {}: it {says}.\n\nNext: keywheel campaign show {name}",
            campaign.state.in_words()
        )
    })
}

/// Of a cancelled one rotations may go on.
fn is_over(progress: &CampaignProgress) -> bool {
    let state = progress.campaign.state;
    state.is_over() && state != CampaignState::RollingBack && progress.keys.rotating == 0
}

fn path(name: &str) -> String {
    format!("/v1/campaigns/{}", segment(name))
}

fn draw(progress: &CampaignProgress) -> String {
    /// Waves that fit on a screen.
    const SHOWN: usize = 10;
    let CampaignProgress { campaign, keys, skipped, latest_waves, waits_for } = progress;
    let mut lines = vec![
        format!("Campaign {} of ring {}: {}", campaign.name, campaign.ring, campaign.state.in_words()),
        format!("{}  {}", bar(keys, campaign.selected), counts(keys)),
        format!(
            "Waves    {} of {} so far, {} between them",
            campaign.waves,
            size(campaign),
            span(campaign.pause_seconds)
        ),
    ];
    if !latest_waves.is_empty() {
        let latest = latest_waves.get(latest_waves.len().saturating_sub(SHOWN)..).unwrap_or_default();
        let row = |wave: &Wave| {
            let CampaignKeys { waiting, rotating, done, rolled_back, skipped, .. } = wave.keys;
            let [waiting, rotating, done, rolled_back, skipped] =
                [waiting, rotating, done, rolled_back, skipped].map(|count| count.to_string());
            [wave.number.to_string(), when(wave.started_at), waiting, rotating, done, rolled_back, skipped]
        };
        let head = ["WAVE", "STARTED", "WAITING", "ROTATING", "DONE", "ROLLED BACK", "SKIPPED"];
        lines.push(table(head, &latest.iter().map(row).collect::<Vec<_>>()));
    }
    lines.extend(skipped.iter().map(left_out));
    if let Some(reason) = &campaign.halted_by {
        lines.push(format!(
            "Halted   {}; `keywheel campaign resume {}` lets it go on",
            halted(reason),
            campaign.name
        ));
    }
    if let Some(wait) = waits_for {
        lines.push(format!("Waits    {}", waits(*wait)));
    }
    lines.join("\n")
}

/// `█` is done, `▒` rotates, `x` was rolled back or skipped, `·` is left.
fn bar(keys: &CampaignKeys, selected: u64) -> String {
    const BAR: u64 = 40;
    let mut drawn = String::new();
    let (mut sum, mut cells) = (0_u64, 0_u64);
    for (count, sign) in
        [(keys.done, '█'), (keys.rotating, '▒'), (keys.rolled_back.saturating_add(keys.skipped), 'x')]
    {
        sum = sum.saturating_add(count);
        let to = sum.saturating_mul(BAR).checked_div(selected).unwrap_or_default().min(BAR);
        drawn.extend((cells..to).map(|_| sign));
        cells = to;
    }
    drawn.extend((cells..BAR).map(|_| '·'));
    drawn
}

fn counts(keys: &CampaignKeys) -> String {
    let all = [
        (keys.done, "done"),
        (keys.rotating, "rotating"),
        (keys.waiting, "waiting"),
        (keys.waiting_for_deposit, "waiting for a deposit"),
        (keys.rolled_back, "rolled back"),
        (keys.skipped, "skipped"),
    ];
    let shown = all.into_iter().filter(|(count, _)| *count > 0);
    shown.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

fn size(campaign: &Campaign) -> String {
    match campaign.wave {
        WaveSize::Keys(_) => counted(campaign.keys_per_wave, "key", "keys"),
        WaveSize::Percent(percent) => {
            format!("{} ({percent} %)", counted(campaign.keys_per_wave, "key", "keys"))
        }
    }
}

fn left_out(skipped: &Skipped) -> String {
    format!("Skipped  {}: {}", skipped.keys, why(skipped.why))
}

fn why(reason: SkipReason) -> &'static str {
    match reason {
        SkipReason::NoOverlap => "no policy and no --overlap say how long both versions are accepted",
        SkipReason::KeyRevoked => "revoked",
        SkipReason::KeyExpired => "expired",
        SkipReason::VersionEnded => "the version that was to give way is not active",
        SkipReason::TooManyVersions => "as many versions as the policy allows",
    }
}

fn halted(reason: &HaltReason) -> String {
    match reason {
        HaltReason::RolledBack { rotations, allowed } => {
            let rolled_back = counted(*rotations, "rotation was", "rotations were");
            format!("{rolled_back} rolled back, and {allowed} may be")
        }
        HaltReason::Refused { refused, requests, allowed } => {
            format!("{refused} of {requests} requests were refused, and a share of {allowed} may be")
        }
    }
}

fn waits(wait: CampaignWait) -> String {
    match wait {
        CampaignWait::Pause { until } => format!("for its next wave, at {}", when(until)),
        CampaignWait::Proxies { behind } => {
            let behind = counted(behind, "proxy that does", "proxies that do");
            format!("for {behind} not enforce the last wave")
        }
        CampaignWait::Canary { versions } => {
            format!(
                "for {} in the ring's canary",
                counted(versions, "version that waits", "versions that wait")
            )
        }
        CampaignWait::Deposits => "for deposits: none of the keys that are left could be rotated now".into(),
        CampaignWait::Overlaps => "for its rotations to end".into(),
    }
}

fn previewed(preview: &CampaignPreview) -> String {
    let CampaignPreview { ring, selected, keys, skipped, keys_per_wave, waves } = preview;
    let would = if *waves == 0 {
        let selected = counted(*selected, "key", "keys");
        format!("It would rotate none of the {selected} of ring {ring} that it selects.")
    } else {
        let (selected, waves) = (counted(*selected, "key", "keys"), counted(*waves, "wave", "waves"));
        format!("It would rotate {selected} of ring {ring} in {waves} of {keys_per_wave}.")
    };
    let mut lines = vec![would, format!("Now      {}", counts(keys))];
    lines.extend(skipped.iter().map(left_out));
    lines.join("\n")
}

fn list(campaigns: &[Campaign]) -> String {
    if campaigns.is_empty() {
        return "No campaigns.\n\nNext: keywheel campaign create NAME --older-than 90d --dry-run".into();
    }
    let row = |campaign: &Campaign| {
        [
            campaign.name.clone(),
            campaign.ring.clone(),
            campaign.state.in_words().into(),
            campaign.selected.to_string(),
            campaign.waves.to_string(),
            when(campaign.created_at),
        ]
    };
    let head = ["CAMPAIGN", "RING", "STATE", "KEYS", "WAVES", "CREATED"];
    table(head, &campaigns.iter().map(row).collect::<Vec<_>>())
}

fn keys_of(keys: &[CampaignKey]) -> String {
    if keys.is_empty() {
        return "No such keys.".into();
    }
    let row = |key: &CampaignKey| {
        let state = match (key.state, key.why) {
            (_, Some(reason)) => format!("skipped: {}", why(reason)),
            (CampaignKeyState::WaitingForDeposit, _) => "waiting for a deposit".into(),
            (CampaignKeyState::Waiting, _) => "waiting".into(),
            (CampaignKeyState::Rotating, _) => "rotating".into(),
            (CampaignKeyState::Done, _) => "done".into(),
            (CampaignKeyState::RolledBack, _) => "rolled back".into(),
            (CampaignKeyState::Skipped, None) => "skipped".into(),
        };
        let wave = key.wave.map_or_else(|| "-".into(), |wave| wave.to_string());
        let rotation = key.rotation.clone().unwrap_or_else(|| "-".into());
        [key.key.clone(), key.client.clone(), wave, rotation, state]
    };
    table(["KEY", "CLIENT", "WAVE", "ROTATION", "STATE"], &keys.iter().map(row).collect::<Vec<_>>())
}
