use keywheel_api::policy::Window;
use keywheel_api::{BrownoutPlan, CreatePolicy, Policy, Retire, Terms};

use super::key::{segment, span};
use crate::args::{self, TermsArgs, Unset};
use crate::failure::Failure;
use crate::http::{Api, Tagged};
use crate::output::{Output, table};

pub(crate) async fn run(command: args::Policy, api: &Api<'_>, output: Output) -> Result<(), Failure> {
    match command {
        args::Policy::Create { name, terms } => {
            let mut new = CreatePolicy { name, terms: Terms::default() };
            change(&mut new.terms, terms);
            let policy: Policy = api.post("/v1/policies", &new).await?;
            output.result(&policy, |policy| {
                let name = &policy.name;
                format!(
                    "Policy {name}:\n\n{}\n\nNext: keywheel ring set-policy production {name}, client update NAME --policy {name}, or key set-policy KEY {name}",
                    show(policy)
                )
            })
        }
        args::Policy::List => {
            let policies: Vec<Policy> = api.list("/v1/policies", &[]).await?;
            output.result(&policies, |policies| list(policies))
        }
        args::Policy::Show { name } => {
            let policy: Tagged<Policy> = api.get_tagged(&format!("/v1/policies/{}", segment(&name))).await?;
            output.result(&policy, |policy| policy.human(show))
        }
        args::Policy::Update { name, terms, unset } => {
            let path = format!("/v1/policies/{}", segment(&name));
            let policy: Tagged<Policy> = api.get_tagged(&path).await?;
            let mut new = policy.shown.terms;
            unset.into_iter().for_each(|field| take_away(&mut new, field));
            change(&mut new, terms);
            let policy: Policy = api.put(&path, policy.etag.as_deref(), &new).await?;
            output.result(&policy, show)
        }
        args::Policy::Delete { name } => {
            let policy: Policy = api.delete(&format!("/v1/policies/{}", segment(&name))).await?;
            output.result(&policy, |policy| format!("Policy {} is deleted.", policy.name))
        }
    }
}

/// What the command line names; the rest stays.
fn change(terms: &mut Terms, args: TermsArgs) {
    let TermsArgs {
        rotate_every,
        jitter,
        window,
        overlap,
        retire,
        quiet_period,
        longest_age,
        self_rotation,
        notices,
        max_versions,
        brownout_share,
        brownout_before,
    } = args;
    terms.rotate_every_seconds = rotate_every.map(|at| at.as_secs()).or(terms.rotate_every_seconds);
    terms.jitter_seconds = jitter.map_or(terms.jitter_seconds, |at| at.as_secs());
    terms.window = window.or_else(|| terms.window.take());
    terms.overlap_seconds = overlap.map_or(terms.overlap_seconds, |at| at.as_secs());
    if let Some(retire) = retire {
        terms.retire = match retire {
            args::Retire::Deadline => Retire::Deadline,
            args::Retire::WhenUnused => Retire::WhenUnused,
        };
    }
    terms.quiet_period_seconds = quiet_period.map(|at| at.as_secs()).or(terms.quiet_period_seconds);
    terms.longest_age_seconds = longest_age.map(|at| at.as_secs()).or(terms.longest_age_seconds);
    terms.self_rotation = self_rotation.unwrap_or(terms.self_rotation);
    if !notices.is_empty() {
        terms.notices_seconds = notices.into_iter().map(|at| at.as_secs()).collect();
    }
    terms.max_versions = max_versions.or(terms.max_versions);
    if let (Some(share), Some(before)) = (brownout_share, brownout_before) {
        terms.brownout = Some(BrownoutPlan { share, before_seconds: before.as_secs() });
    }
}

fn take_away(terms: &mut Terms, field: Unset) {
    match field {
        Unset::RotateEvery => terms.rotate_every_seconds = None,
        Unset::Jitter => terms.jitter_seconds = 0,
        Unset::Window => terms.window = None,
        Unset::QuietPeriod => {
            terms.quiet_period_seconds = None;
            terms.retire = Retire::Deadline;
        }
        Unset::LongestAge => terms.longest_age_seconds = None,
        Unset::Notices => terms.notices_seconds.clear(),
        Unset::MaxVersions => terms.max_versions = None,
        Unset::Brownout => terms.brownout = None,
    }
}

fn list(policies: &[Policy]) -> String {
    if policies.is_empty() {
        return "No policies yet.\n\nNext: keywheel policy create NAME --rotate-every 90d".into();
    }
    let row = |policy: &Policy| {
        let terms = &policy.terms;
        let every = terms.rotate_every_seconds.map_or_else(|| "-".into(), span);
        [policy.name.clone(), every, span(terms.overlap_seconds), retire(terms)]
    };
    table(["POLICY", "ROTATE EVERY", "OVERLAP", "RETIRE"], &policies.iter().map(row).collect::<Vec<_>>())
}

fn show(policy: &Policy) -> String {
    let terms = &policy.terms;
    let or_never = |seconds: Option<u64>| seconds.map_or_else(|| "never".into(), span);
    let notices: Vec<_> = terms.notices_seconds.iter().copied().map(span).collect();
    let brownout = terms.brownout.map_or_else(
        || "none".into(),
        |plan| {
            format!(
                "{} % of the requests, {} before the deadline",
                plan.share * 100.0,
                span(plan.before_seconds)
            )
        },
    );
    [
        format!("Policy         {}", policy.name),
        format!("Rotate every   {}", or_never(terms.rotate_every_seconds)),
        format!("Jitter         {}", span(terms.jitter_seconds)),
        format!("Window         {}", terms.window.as_ref().map_or_else(|| "always".into(), window)),
        format!("Overlap        {}", span(terms.overlap_seconds)),
        format!("Retire         {}", retire(terms)),
        format!("Longest age    {}", or_never(terms.longest_age_seconds)),
        format!("Self-rotation  {}", if terms.self_rotation { "allowed" } else { "not allowed" }),
        format!(
            "Notices        {}",
            if notices.is_empty() { "none".into() } else { notices.join(", ") + " before" }
        ),
        format!("Max versions   {}", terms.max_versions.map_or_else(|| "-".into(), |most| most.to_string())),
        format!("Brown-out      {brownout}"),
    ]
    .join("\n")
}

fn retire(terms: &Terms) -> String {
    match (terms.retire, terms.quiet_period_seconds) {
        (Retire::WhenUnused, Some(quiet)) => format!("when unused for {}", span(quiet)),
        _ => "at the deadline".into(),
    }
}

fn window(window: &Window) -> String {
    let day = |day: &keywheel_api::policy::Day| format!("{day:?}").to_lowercase();
    let days: Vec<_> = window.days.iter().map(day).collect();
    format!("{} {}-{} UTC", days.join(","), window.from, window.to)
}
