//! A certificate that expires soon: the operator reports it before etcd refuses the connection.

use serde_json::json;
use testbed::{Authority, Result, Validity, until};

use crate::scene::{Scene, etcd, security};
use crate::support::{API, SOON, message, wait_event};

#[tokio::test]
async fn expiring_certificate_is_reported_until_it_is_replaced() -> Result<()> {
    let scene = Scene::take().await?;
    let authority = Authority::new("ending");
    let etcd = etcd(Some(security(&authority, true)), &[]).await?;
    let be = async |validity| {
        let own = authority.client("leasehold", validity);
        let data = [("tls.crt", own.certificate.as_str()), ("tls.key", own.key.as_str())];
        scene.secret("ending-own", &data).await
    };
    scene.config_map("ending-ca", &[("ca.crt", &authority.pem())]).await?;
    be(Validity::Ending).await?;
    let spec = json!({"etcd": {"tls": {
        "caRef": {"kind": "ConfigMap", "name": "ending-ca"}, "clientCertSecretRef": {"name": "ending-own"},
    }}});
    scene.registry("ending", &etcd.endpoints(), &spec).await?;
    let operator = scene.operator("ending").await?;
    let reported = "The operator's client certificate expires at ";
    let says = async |wanted: bool| {
        let says = |object: &serde_json::Value| {
            let message = message(object, "CredentialsValid");
            message.contains("are in use") && message.contains(reported) == wanted
        };
        scene.bed.objects().wait((API, "Registry", "ending"), says, SOON).await
    };
    says(true).await?;
    wait_event(
        &scene.bed.objects(),
        ("Registry", "ending"),
        "CertificateEnds",
        reported,
    )
    .await?;
    // In seconds since 1970, and from now.
    let shown = async |name: &str, label: &str| -> Result<f64> {
        let metrics = operator.metrics().await?;
        let name = format!("leasehold_{name}_timestamp_seconds{{registry=\"ending\"{label}}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        let shown: f64 = line.expect("it is shown").parse().expect("a number");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Ok(shown - now.expect("after 1970").as_secs_f64())
    };
    let client = r#",certificate="client""#;
    let left = shown("certificate_not_after", client).await?;
    assert!((70.0 * 3600.0..=72.0 * 3600.0).contains(&left), "{left}");
    assert!(shown("certificate_not_after", r#",certificate="authority""#).await? > left);

    be(Validity::Valid).await?;
    says(false).await?;
    assert!(shown("certificate_not_after", client).await? > 1e8);
    scene.tenant("ending").await?;
    until("the end of the leases to be shown", SOON, || async {
        match shown("leases_end", "").await {
            Ok(left) if (1.0..=30.0).contains(&left) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}
