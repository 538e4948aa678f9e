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
    let process = field("{{.State.Pid}}")?;
    let status = format!("/proc/{}/status", process.trim());
    // One that has ended, or on another machine, has no such file.
    if process.trim() != "0"
        && let Ok(status) = std::fs::read_to_string(status)
    {
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let uids = line("Uid:").context("the kernel names no user")?;
        ensure!(uids.split_whitespace().all(|uid| uid != "0"), "{service} runs as root: {uids}");
        let rights = line("CapEff:").context("the kernel names no capabilities")?;
        ensure!(rights.bytes().all(|digit| digit == b'0'), "{service} has capabilities: {rights}");
    }
    println!("{service}: user {user}, root file system read-only, no capabilities");
    Ok(())
}
