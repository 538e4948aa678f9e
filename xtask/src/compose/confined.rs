//! What a container may do.

use anyhow::{Context as _, ensure};

use super::project::Project;
use crate::run::read;
use crate::setup::Docker;

/// Nobody's rights, no writing outside volumes: as Docker was told, and as the kernel says of the process.
pub(super) fn check(docker: &Docker, project: &Project<'_>, service: &str) -> anyhow::Result<()> {
    let id = project.container(service)?;
    let field = |format: &str| read(docker.command().args(["inspect", "--format", format, &id]));
    let told = field(
        "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.Privileged}} {{.HostConfig.CapAdd}} \
         {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}}",
    )?;
    let user = told.split_whitespace().next().unwrap_or_default();
    ensure!(
        told.contains(" true false [] [ALL] [no-new-privileges:true]"),
        "{service} is less confined than the compose file says: {told}"
    );
    // An image without a user would leave this empty, and be root.
    ensure!(user != "true" && user != "root" && !user.starts_with('0'), "{service} runs as root: {told}");
    let id = field("{{.Id}}")?;
    let process = field("{{.State.Pid}}")?;
    let about = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", process.trim()));
    // One that has ended has no process, and one in a virtual machine a number that here is another's.
    let here = about("cgroup").is_ok_and(|cgroup| cgroup.contains(id.trim()));
    if here && let Ok(status) = about("status") {
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let uids = line("Uid:").context("the kernel names no user")?;
        ensure!(uids.split_whitespace().all(|uid| uid != "0"), "{service} runs as root: {uids}");
        let rights = line("CapEff:").context("the kernel names no capabilities")?;
        ensure!(rights.bytes().all(|digit| digit == b'0'), "{service} has capabilities: {rights}");
        ensure!(line("NoNewPrivs:") == Some("1"), "{service} could gain rights");
    }
    let seen = if here { ", and so says the kernel" } else { "" };
    println!("{service}: user {user}, root file system read-only, no capabilities{seen}");
    Ok(())
}
