//! The root of a pod's file system: the image's files, its volumes at their places, and the token of its account.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{ConfigMap, Container, KeyToPath, PodSpec, Secret, Volume};
use kube::Api;
use serde_json::{Value, json};

use super::Context;
use crate::error::{Doing, Error, Result};

/// Where a program finds the token of its account.
const ACCOUNT: &str = "var/run/secrets/kubernetes.io/serviceaccount";

/// Prepares the root of a pod and returns its path.
pub(super) async fn prepare(
    context: &Context,
    pod: (&str, &str),
    spec: &PodSpec,
    container: &Container,
) -> Result<PathBuf> {
    let root = context.place.join(pod.0);
    context.image.place(&root)?;
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    for mount in container.volume_mounts.as_deref().unwrap_or_default() {
        let volume = volumes.iter().find(|volume| volume.name == mount.name);
        let volume = volume.ok_or_else(|| Error::Invalid(format!("there is no volume {}", mount.name)))?;
        if mount.sub_path.is_some() || mount.sub_path_expr.is_some() {
            return Err(Error::Invalid(format!(
                "{}: the bed mounts whole volumes only",
                mount.name
            )));
        }
        fill(context, volume, &inside(&root, &mount.mount_path)).await?;
    }
    if spec.automount_service_account_token != Some(false) {
        let place = root.join(ACCOUNT);
        write(&place, "token", token(context, pod, spec).await?.as_bytes())?;
        write(&place, "ca.crt", context.authority.as_bytes())?;
        write(&place, "namespace", context.namespace.as_bytes())?;
    }
    Ok(root)
}

fn inside(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

async fn fill(context: &Context, volume: &Volume, place: &Path) -> Result<()> {
    fs::create_dir_all(place).doing(|| format!("create the folder {}", place.display()))?;
    if volume.empty_dir.is_some() {
        // Open to every user that the program may run as, like the kubelet's.
        return fs::set_permissions(place, fs::Permissions::from_mode(0o777)).doing(|| "open a folder to all");
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let found = secret(context, name, source.optional == Some(true)).await?;
        return files(place, &found, source.items.as_deref());
    }
    if let Some(source) = &volume.config_map {
        let found = config_map(context, &source.name, source.optional == Some(true)).await?;
        return files(place, &found, source.items.as_deref());
    }
    Err(Error::Invalid(format!(
        "the volume {}: the bed knows emptyDir, secret and configMap",
        volume.name
    )))
}

fn files(place: &Path, data: &BTreeMap<String, Vec<u8>>, items: Option<&[KeyToPath]>) -> Result<()> {
    match items {
        None => data.iter().try_for_each(|(name, bytes)| write(place, name, bytes)),
        Some(items) => items.iter().try_for_each(|item| {
            let bytes = data.get(&item.key);
            let bytes = bytes.ok_or_else(|| Error::Invalid(format!("a volume has no key {}", item.key)))?;
            write(place, &item.path, bytes)
        }),
    }
}

fn write(place: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = place.join(name);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).doing(|| format!("create the folder {}", folder.display()))?;
    }
    fs::write(&path, bytes).doing(|| format!("write {}", path.display()))
}

/// What a Secret holds; nothing when it is not there and need not be.
pub(super) async fn secret(context: &Context, name: &str, optional: bool) -> Result<BTreeMap<String, Vec<u8>>> {
    let api = Api::<Secret>::namespaced(context.client.clone(), &context.namespace);
    match api.get_opt(name).await.doing(|| format!("read the Secret {name}"))? {
        Some(secret) => {
            let data = secret.data.unwrap_or_default();
            Ok(data.into_iter().map(|(key, bytes)| (key, bytes.0)).collect())
        }
        None if optional => Ok(BTreeMap::new()),
        None => Err(Error::Invalid(format!("there is no Secret {name}"))),
    }
}

/// What a ConfigMap holds; nothing when it is not there and need not be.
pub(super) async fn config_map(context: &Context, name: &str, optional: bool) -> Result<BTreeMap<String, Vec<u8>>> {
    let api = Api::<ConfigMap>::namespaced(context.client.clone(), &context.namespace);
    match api.get_opt(name).await.doing(|| format!("read the ConfigMap {name}"))? {
        Some(map) => {
            let data = map.data.unwrap_or_default();
            Ok(data.into_iter().map(|(key, text)| (key, text.into_bytes())).collect())
        }
        None if optional => Ok(BTreeMap::new()),
        None => Err(Error::Invalid(format!("there is no ConfigMap {name}"))),
    }
}

/// A token of the pod's account, bound to the pod: it is worth nothing once the pod has gone.
async fn token(context: &Context, (name, uid): (&str, &str), spec: &PodSpec) -> Result<String> {
    let account = spec.service_account_name.as_deref().unwrap_or("default");
    let path = format!(
        "/api/v1/namespaces/{}/serviceaccounts/{account}/token",
        context.namespace
    );
    let wanted = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "expirationSeconds": 3600,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid},
        },
    });
    let request = http::Request::post(path).header(http::header::CONTENT_TYPE, "application/json");
    let request = request.body(wanted.to_string().into_bytes()).expect("a valid request");
    let answer: Value = context
        .client
        .request(request)
        .await
        .doing(|| format!("ask for a token of {account}"))?;
    Ok(answer["status"]["token"].as_str().unwrap_or_default().to_owned())
}
