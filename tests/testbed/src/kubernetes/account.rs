//! A service account, and the way in that it has.

use std::{fs, path::Path};

use kube::{Client, Config};
use serde_json::{Value, json};

use super::control_plane::{client_of, configure};
use crate::error::{Doing, Error, Result};

/// How long a token lasts, in seconds: longer than any bed.
const LIFETIME: u32 = 30 * 24 * 3600;

/// A service account of a cluster, with a token of it.
#[derive(Debug)]
pub struct Account {
    namespace: String,
    token: String,
}

impl Account {
    /// Asks for a token of the account `name`, which has to be there.
    pub async fn of(admin: Client, namespace: &str, name: &str) -> Result<Self> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let wanted = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": LIFETIME},
        });
        let request = http::Request::post(path).header(http::header::CONTENT_TYPE, "application/json");
        let request = request.body(wanted.to_string().into_bytes()).expect("a valid request");
        let answer: Value = admin
            .request(request)
            .await
            .doing(|| format!("ask for a token of {name}"))?;
        let token = answer["status"]["token"].as_str();
        let token = token.ok_or_else(|| Error::Invalid(format!("no token of {name}: {answer}")))?;
        Ok(Self {
            namespace: namespace.to_owned(),
            token: token.to_owned(),
        })
    }

    /// Writes a kubeconfig: that of `admin`, but for who asks, from which namespace, and by which server if one is given.
    pub fn kubeconfig(&self, admin: &Path, server: Option<&str>, to: &Path) -> Result<()> {
        let text = fs::read_to_string(admin).doing(|| "read the kubeconfig")?;
        let mut config: Value = serde_json::from_str(&text)
            .map_err(|error| Error::Invalid(format!("the kubeconfig is no JSON: {error}")))?;
        if let Some(server) = server {
            config["clusters"][0]["cluster"]["server"] = json!(server);
        }
        config["users"][0]["user"] = json!({"token": self.token});
        config["contexts"][0]["context"]["namespace"] = json!(self.namespace);
        fs::write(to, format!("{config:#}\n")).doing(|| format!("write {}", to.display()))
    }
}

/// A client by a kubeconfig.
pub(crate) async fn client_by(kubeconfig: &Path) -> Result<Client> {
    let config: Config = configure(kubeconfig).await?;
    Ok(client_of(&config))
}
