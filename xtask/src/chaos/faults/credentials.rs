//! New credentials of the operators for etcd.

use std::time::Duration;

use testbed::{Operator, until};
use tokio::time::sleep;

use super::Effect;
use crate::{
    chaos::{
        checker::{Kind, Violation},
        manifests::REGISTRIES,
        plan::PlannedFault,
        scene::Scene,
    },
    error::Result,
};

/// How long the operators may take to adopt new credentials: another fault may have stopped all of them.
const ADOPTED: Duration = Duration::from_mins(1);
/// What an operator logs when it has.
const ADOPTION: &str = "switched to the new endpoints and credentials";

/// Replaces the password of the operators' user, in etcd and in the Secret in either order, or their client certificate, and
/// waits until an operator of each Registry has adopted it.
pub(super) async fn rotate(scene: &Scene, planned: &PlannedFault) -> Result<(String, Effect)> {
    let Some(access) = &scene.access else {
        return Ok(("skipped, etcd requires none".to_owned(), Effect::on_all(false)));
    };
    let etcd = scene.bed.registry();
    let before = adoptions(scene);
    let what = match planned.pick % 3 {
        0 => {
            access.choose_password();
            access.write_login().await?;
            sleep(planned.lasts).await;
            access.set_password(etcd).await?;
            "password, first in the Secret"
        }
        1 => {
            access.choose_password();
            access.set_password(etcd).await?;
            sleep(planned.lasts).await;
            access.write_login().await?;
            "password, first in etcd"
        }
        _ => {
            access.renew_certificate().await?;
            "client certificate"
        }
    };
    let adopted = until(
        "an operator of each Registry to adopt the new credentials",
        ADOPTED,
        || async {
            let now = adoptions(scene);
            let is_adopted = |registry| scene.operators_of(registry).any(|i| now[i] != before[i]);
            (0..REGISTRIES.len()).all(is_adopted).then_some(()).ok_or("none did")
        },
    );
    if let Err(error) = adopted.await {
        scene.found(Violation {
            kind: Kind::Unconverged,
            key: None,
            at: scene.now(),
            why: error.to_string(),
        });
    }
    // Between the two steps no operator can log in.
    let halts = planned.pick % 3 != 2;
    Ok((what.to_owned(), Effect::on_all(halts)))
}

/// For each operator its process, and how often it has adopted new credentials.
fn adoptions(scene: &Scene) -> Vec<(u32, usize)> {
    let of_operator = |operator: &Operator| {
        let log = std::fs::read_to_string(operator.process().log()).unwrap_or_default();
        let times = log.lines().filter(|line| line.contains(ADOPTION)).count();
        (operator.pid(), times)
    };
    scene.operators.iter().map(of_operator).collect()
}
