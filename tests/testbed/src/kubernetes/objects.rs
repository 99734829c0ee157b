//! Any object of any kind, as JSON: what `kubectl apply`, `get` and `delete` do.

use std::time::Duration;

use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
    discovery::{Scope, pinned_kind},
};
use serde_json::Value;

use crate::{
    error::{Doing, Error, Result},
    wait::until,
};

/// The field manager of everything that tests apply.
const MANAGER: &str = "testbed";
/// How long a kind that was just defined may take to be served.
const SERVED: Duration = Duration::from_secs(30);

/// Objects of a cluster, in one namespace where their kind is namespaced.
#[derive(Clone)]
pub struct Objects {
    client: Client,
    namespace: String,
}

impl Objects {
    /// Objects of a namespace, and those that are in none.
    pub fn new(client: Client, namespace: impl Into<String>) -> Self {
        Self {
            client,
            namespace: namespace.into(),
        }
    }

    /// Server-side apply, taking over fields that others own. Returns the object as it is now.
    pub async fn apply(&self, object: Value) -> Result<Value> {
        let (kind, name) = (kind_of(&object)?, name_of(&object)?);
        let api = self.api(&kind).await?;
        let patch = PatchParams::apply(MANAGER).force();
        let applied = api.patch(&name, &patch, &Patch::Apply(object)).await;
        applied
            .doing(|| format!("apply {} {name}", kind.kind))
            .and_then(to_value)
    }

    /// Merges a change (RFC 7386) into an object's subresource `status`.
    pub async fn merge_status(&self, object: Value) -> Result<Value> {
        let (kind, name) = (kind_of(&object)?, name_of(&object)?);
        let api = self.api(&kind).await?;
        let merged = api
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(object))
            .await;
        merged
            .doing(|| format!("change the status of {} {name}", kind.kind))
            .and_then(to_value)
    }

    /// An object, if it is there.
    pub async fn get(&self, api_version: &str, kind: &str, name: &str) -> Result<Option<Value>> {
        let api = self.api(&parse_kind(api_version, kind)?).await?;
        let found = api.get_opt(name).await.doing(|| format!("get {kind} {name}"))?;
        found.map(to_value).transpose()
    }

    /// All objects of a kind.
    pub async fn list(&self, api_version: &str, kind: &str) -> Result<Vec<Value>> {
        let api = self.api(&parse_kind(api_version, kind)?).await?;
        let found = api
            .list(&kube::api::ListParams::default())
            .await
            .doing(|| format!("list {kind}"))?;
        found.items.into_iter().map(to_value).collect()
    }

    /// Deletes an object; nothing to do when it is not there. It may stay a while, or longer by its finalizers.
    pub async fn delete(&self, api_version: &str, kind: &str, name: &str) -> Result<()> {
        let api = self.api(&parse_kind(api_version, kind)?).await?;
        match api.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            deleted => deleted.map(drop).doing(|| format!("delete {kind} {name}")),
        }
    }

    /// Waits until an object is there and satisfies `enough`; returns it.
    pub async fn wait(
        &self,
        (api_version, kind, name): (&str, &str, &str),
        enough: impl Fn(&Value) -> bool,
        deadline: Duration,
    ) -> Result<Value> {
        let api = self.api(&parse_kind(api_version, kind)?).await?;
        until(&format!("{kind} {name} to be as wanted"), deadline, || async {
            let object = api.get(name).await.map_err(|error| error.to_string())?;
            let object = to_value(object).map_err(|error| error.to_string())?;
            if enough(&object) {
                Ok(object)
            } else {
                Err(format!("{object:#}"))
            }
        })
        .await
    }

    async fn api(&self, kind: &GroupVersionKind) -> Result<Api<DynamicObject>> {
        // A definition is Established a moment before its kind is served.
        let what = format!("the kind {} {} to be served", kind.api_version(), kind.kind);
        let (resource, capabilities): (ApiResource, _) =
            until(&what, SERVED, || pinned_kind(&self.client, kind)).await?;
        Ok(match capabilities.scope {
            Scope::Namespaced => Api::namespaced_with(self.client.clone(), &self.namespace, &resource),
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
        })
    }
}

fn kind_of(object: &Value) -> Result<GroupVersionKind> {
    match (object["apiVersion"].as_str(), object["kind"].as_str()) {
        (Some(api_version), Some(kind)) => parse_kind(api_version, kind),
        _ => Err(Error::Invalid(format!("an object needs apiVersion and kind: {object}"))),
    }
}

fn parse_kind(api_version: &str, kind: &str) -> Result<GroupVersionKind> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    if version.is_empty() || kind.is_empty() {
        return Err(Error::Invalid(format!(
            "no kind: {api_version:?} {kind:?}; write for example \"apps/v1\" \"Deployment\""
        )));
    }
    Ok(GroupVersionKind::gvk(group, version, kind))
}

fn name_of(object: &Value) -> Result<String> {
    let name = object["metadata"]["name"].as_str().map(str::to_owned);
    name.ok_or_else(|| Error::Invalid(format!("an object needs metadata.name: {object}")))
}

fn to_value(object: DynamicObject) -> Result<Value> {
    serde_json::to_value(object).map_err(|error| Error::Invalid(format!("an object that is no JSON: {error}")))
}
