use keywheel_api::{RollBack, Rotation};

use super::key::segment;
use crate::args;
use crate::failure::Failure;
use crate::http::{Api, Repeat};
use crate::output::Output;

pub(crate) async fn run(command: args::Rotation, api: &Api<'_>, output: Output) -> Result<(), Failure> {
    match command {
        args::Rotation::Rollback { rotation, overlap, revoke_new } => {
            let path = format!("/v1/rotations/{}/rollback", segment(&rotation));
            let how = RollBack { overlap_seconds: overlap.map(|overlap| overlap.as_secs()), revoke_new };
            let rotation: Rotation = api.post(&path, &how, Repeat::Safe).await?;
            output.result(&rotation, |rotation| {
                let Rotation { id, key, old_version, .. } = rotation;
                format!(
                    "Rotation {id} is rolled back: version {old_version} is active again.\n\nNext: keywheel key show {key}"
                )
            })
        }
        args::Rotation::Cancel { rotation } => {
            let path = format!("/v1/rotations/{}/cancel", segment(&rotation));
            let rotation: Rotation = api.post(&path, &(), Repeat::Safe).await?;
            output.result(&rotation, |rotation| {
                format!(
                    "Rotation {} is cancelled: version {} is never accepted.",
                    rotation.id, rotation.new_version
                )
            })
        }
    }
}
