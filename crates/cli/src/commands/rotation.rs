use keywheel_api::rotation::ReportingVm;
use keywheel_api::{
    Key, NextStep, Promote, Requests, Retire, RollBack, Rotation, RotationProgress, RotationState,
    StartBrownout, Step, VersionProgress, WaitsFor,
};

use super::key::{exists, segment, span, when};
use super::watch::watch;
use crate::args;
use crate::failure::Failure;
use crate::http::Api;
use crate::output::{Output, counted, table};

pub(crate) async fn run(command: args::Rotation, api: &Api<'_>, output: Output) -> Result<(), Failure> {
    match command {
        args::Rotation::Rollback { rotation, overlap, revoke_new } => {
            let path = format!("/v1/rotations/{}/rollback", segment(&rotation));
            let how = RollBack { overlap_seconds: overlap.map(|overlap| overlap.as_secs()), revoke_new };
            let rotation: Rotation = api.post(&path, &how).await?;
            output.result(&rotation, |rotation| {
                let Rotation { id, key, old_version, .. } = rotation;
                format!(
                    "Rotation {id} is rolled back: version {old_version} is active again.\n\nNext: keywheel key show {key}"
                )
            })
        }
        args::Rotation::List { key, client, open, ended } => {
            let state = match (open, ended) {
                (true, _) => Some("true"),
                (_, true) => Some("false"),
                _ => None,
            };
            let query = [("key", key.as_deref()), ("client", client.as_deref()), ("open", state)];
            let query: Vec<_> = query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
            let rotations: Vec<Rotation> = api.list("/v1/rotations", &query).await?;
            if rotations.is_empty() {
                if let Some(client) = &client {
                    exists(api, client).await?;
                }
                if let Some(key) = &key {
                    api.get::<Key>(&format!("/v1/keys/{}", segment(key))).await?;
                }
            }
            output.result(&rotations, |rotations| list(rotations))
        }
        args::Rotation::Show { rotation } => {
            let rotation: Rotation = api.get(&format!("/v1/rotations/{}", segment(&rotation))).await?;
            output.result(&rotation, show)
        }
        args::Rotation::Watch { rotation, every } => {
            let path = format!("/v1/rotations/{}/progress", segment(&rotation));
            let is_over = |progress: &RotationProgress| progress.next.is_none();
            watch(&path, every, api, output, draw, is_over).await
        }
        args::Rotation::Brownout { rotation, share, length } => {
            let path = format!("/v1/rotations/{}/brownout", segment(&rotation));
            let how = StartBrownout { share, seconds: length.as_secs() };
            // Sent again it would only end a little later.
            let rotation: Rotation = api.post(&path, &how).await?;
            output.result(&rotation, |rotation| {
                let old = &rotation.old_version;
                if share == 0.0 {
                    return format!("No request with version {old} is refused for a brown-out any more.");
                }
                let percent = share * 100.0;
                format!(
                    "For {} {percent} % of the requests with version {old} are refused.",
                    span(how.seconds)
                )
            })
        }
        args::Rotation::Promote { rotation } => {
            let path = format!("/v1/rotations/{}/promote", segment(&rotation));
            let rotation: Rotation = api.post(&path, &()).await?;
            output.result(&rotation, |rotation| {
                let Rotation { id, new_version, .. } = rotation;
                format!(
                    "Rotation {id} waits for no canary: version {new_version} is in its ring.\n\nNext: keywheel rotation watch {id}"
                )
            })
        }
        args::Rotation::Cancel { rotation } => {
            let path = format!("/v1/rotations/{}/cancel", segment(&rotation));
            let rotation: Rotation = api.post(&path, &()).await?;
            output.result(&rotation, |rotation| {
                format!(
                    "Rotation {} is cancelled: version {} is never accepted.",
                    rotation.id, rotation.new_version
                )
            })
        }
    }
}

fn draw(progress: &RotationProgress) -> String {
    const BAR: usize = 24;
    let rotation = &progress.rotation;
    let mut lines =
        vec![format!("Rotation {} of key {}: {}", rotation.id, rotation.key, state(rotation.state))];
    let row = |version: &VersionProgress| {
        let share = version.share.unwrap_or_default();
        let filled = (share * BAR as f64).round().clamp(0.0, BAR as f64) as usize;
        let bar = format!("{}{}", "█".repeat(filled), "·".repeat(BAR.saturating_sub(filled)));
        let Requests { minute, hour, day } = version.requests;
        [
            version.version.clone(),
            super::key::state(version.state).into(),
            version.share.map_or_else(|| bar.clone(), |share| format!("{bar} {:>3.0} %", share * 100.0)),
            minute.to_string(),
            hour.to_string(),
            day.to_string(),
            version.last_used_at.map_or_else(|| "never".into(), when),
        ]
    };
    let rows: Vec<_> = progress.versions.iter().map(row).collect();
    let head = ["VERSION", "STATE", "SHARE OF THE LAST HOUR", "MINUTE", "HOUR", "DAY", "LAST USED"];
    lines.push(table(head, &rows));
    let proxies = &progress.proxies;
    lines.push(format!("Proxies  {} of {} enforce its newest step", proxies.enforced, proxies.of));
    for (what, names) in [("not yet", &proxies.laggards), ("silent", &proxies.unproven)] {
        if let Some(first) = names.first() {
            lines.push(format!(
                "         {what}: {} ({}), {} in all",
                first.node,
                first.instance,
                names.len()
            ));
        }
    }
    lines.extend(rotation.waits_for.iter().map(|reason| format!("Waits    {}", waits_for(reason))));
    lines.push(match &progress.next {
        Some(NextStep { step: Step::Begin, at }) => {
            format!("Next     the new version is accepted: {}", when(*at))
        }
        Some(NextStep { step: Step::Retire, at }) => format!("Next     the old version ends: {}", when(*at)),
        None => "Next     nothing: it is over".into(),
    });
    lines.join("\n")
}

fn list(rotations: &[Rotation]) -> String {
    if rotations.is_empty() {
        return "No such rotation.\n\nNext: keywheel key rotate KEY".into();
    }
    let row = |rotation: &Rotation| {
        let ends = match rotation.ended_at {
            Some(at) => format!("ended {}", when(at)),
            None => format!("until {}", when(rotation.overlap_ends_at)),
        };
        [
            rotation.id.clone(),
            rotation.key.clone(),
            state(rotation.state).into(),
            when(rotation.begins_at),
            ends,
            rotation.new_version.clone(),
        ]
    };
    let head = ["ROTATION", "KEY", "STATE", "BEGINS", "OVERLAP", "NEW VERSION"];
    table(head, &rotations.iter().map(row).collect::<Vec<_>>())
}

const fn state(state: RotationState) -> &'static str {
    match state {
        RotationState::Distributing => "distributing",
        RotationState::Overlapping => "overlapping",
        RotationState::Draining => "draining",
        RotationState::Completed => "completed",
        RotationState::RolledBack => "rolled back",
    }
}

fn show(rotation: &Rotation) -> String {
    let state = state(rotation.state);
    let mut lines = vec![
        format!("Rotation     {}", rotation.id),
        format!("Key          {}", rotation.key),
        format!("Old version  {}", rotation.old_version),
        format!("New version  {}", rotation.new_version),
        format!("State        {state}"),
        format!("Begins       {}", when(rotation.begins_at)),
        format!("Deadline     {}", when(rotation.deadline)),
    ];
    if rotation.overlap_ends_at != rotation.deadline {
        lines.push(format!("Ends         {}", when(rotation.overlap_ends_at)));
    }
    if let (Retire::WhenUnused, Some(quiet)) = (rotation.retire, rotation.quiet_period_seconds) {
        lines.push(format!("Retires      when unused for {}, or at the deadline", span(quiet)));
    }
    lines.extend(rotation.waits_for.iter().map(|reason| format!("Waits for    {}", waits_for(reason))));
    if rotation.waits_for.iter().any(|reason| matches!(reason, WaitsFor::Canary { .. })) {
        lines.push(format!("\nWithout waiting: keywheel rotation promote {}", rotation.id));
    }
    if let Some(evidence) = &rotation.evidence {
        let (from, to) = (when(evidence.quiet_from), when(evidence.quiet_to));
        lines.push(format!(
            "Unused       from {from} to {to}, by the reports of {}",
            counted(evidence.vms, "VM", "VMs")
        ));
    }
    lines.join("\n")
}

fn waits_for(reason: &WaitsFor) -> String {
    let named = |vm: &ReportingVm| format!("{} {} {}", vm.node, vm.instance, vm.vm);
    match reason {
        WaitsFor::TooEarly { until } => format!("the quiet period, until {}", when(*until)),
        WaitsFor::NoReports => "reports: no proxy says what it counts".into(),
        WaitsFor::Used { last } => format!("its callers: the old version was seen at {}", when(*last)),
        WaitsFor::Silent { vms, first } => {
            let silent = counted(*vms, "silent VM", "silent VMs");
            format!("{silent}, first {}, not heard of since {}", named(first), when(first.at))
        }
        WaitsFor::Canary { ring, until, promote: Promote::WhenEnforced } => {
            format!("the proxies of its canary {ring}, until {} at the latest", when(*until))
        }
        WaitsFor::Canary { ring, until, promote: Promote::AfterPause } => {
            format!("the end of its canary's pause ({ring}), at {}", when(*until))
        }
        WaitsFor::Gap { vms, first } => {
            format!(
                "{} with a gap in its reports, such as {}, until {}",
                counted(*vms, "VM", "VMs"),
                named(first),
                when(first.at)
            )
        }
    }
}
