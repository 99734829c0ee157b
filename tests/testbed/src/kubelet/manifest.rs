//! What a pod's manifest makes of a program: its words, its environment, its user.

use std::{ffi::OsString, path::Path};

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, PodSpec};
use kube::ResourceExt;

use super::{Context, root};
use crate::{
    error::{Error, Result},
    process::Spec,
};

/// The container of a pod that can be played.
pub(super) fn container(spec: &PodSpec) -> Result<&Container> {
    let container = match spec.containers.as_slice() {
        [container] if spec.init_containers.as_ref().is_none_or(Vec::is_empty) => container,
        _ => return Err(Error::Invalid("the bed plays pods of one container".to_owned())),
    };
    if let Some(hooks) = &container.lifecycle
        && (hooks.post_start.is_some() || hooks.pre_stop.as_ref().is_some_and(|hook| hook.sleep.is_none()))
    {
        return Err(Error::Invalid("of the hooks the bed knows preStop.sleep".to_owned()));
    }
    Ok(container)
}

/// How many seconds the hook `preStop.sleep` takes, if there is one.
pub(super) fn pre_stop_sleep(spec: &PodSpec) -> Option<i64> {
    let hooks = spec.containers.first()?.lifecycle.as_ref()?;
    Some(hooks.pre_stop.as_ref()?.sleep.as_ref()?.seconds)
}

/// The process of a pod with this root and address.
pub(super) async fn process(context: &Context, pod: &Pod, address: &str, root: &Path) -> Result<Spec> {
    let spec = pod.spec.clone().unwrap_or_default();
    let container = container(&spec)?;
    let mut words = container
        .command
        .clone()
        .unwrap_or_else(|| context.image.entrypoint.clone());
    words.extend(container.args.clone().unwrap_or_else(|| context.image.command.clone()));
    let words = words
        .iter()
        .map(|word| word.replace("0.0.0.0", address).replace("[::]", address));

    let mut spec_of_process = Spec::new(pod.name_any(), "env", &context.logs).args(["-i"]);
    for (name, value) in environment(context, pod, container, address).await? {
        spec_of_process = spec_of_process.args([format!("{name}={value}")]);
    }
    let (user, group) = identity(&spec, container);
    // Where we are root, the program becomes who the manifest says. Elsewhere it takes a world of its own to change the
    // root in, in which it is called so.
    if rustix::process::geteuid().is_root() {
        spec_of_process = spec_of_process.args([&tool("chroot")?, &format!("--userspec={user}:{group}"), "--groups="]);
        spec_of_process = spec_of_process.args([root]);
    } else {
        spec_of_process = spec_of_process.args([
            &tool("unshare")?,
            "--user",
            &format!("--map-user={user}"),
            &format!("--map-group={group}"),
        ]);
        let mut flag = OsString::from("--root=");
        flag.push(root);
        spec_of_process = spec_of_process.args([flag]);
    }
    Ok(spec_of_process.args(words))
}

/// The path of a program of this machine: the environment that it is given is that of the pod.
fn tool(name: &'static str) -> Result<String> {
    let places = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let found = places
        .iter()
        .map(|place| format!("{place}/{name}"))
        .find(|path| Path::new(path).is_file());
    found.ok_or_else(|| Error::MissingTool {
        tool: name,
        purpose: "run a pod in a root of its own".to_owned(),
        install: "`sudo apt-get install coreutils util-linux`",
    })
}

/// The user and the group that the program runs as; root's when nothing is said.
fn identity(spec: &PodSpec, container: &Container) -> (i64, i64) {
    let (pod, own) = (spec.security_context.as_ref(), container.security_context.as_ref());
    let user = own
        .and_then(|own| own.run_as_user)
        .or(pod.and_then(|pod| pod.run_as_user));
    let group = own
        .and_then(|own| own.run_as_group)
        .or(pod.and_then(|pod| pod.run_as_group));
    (user.unwrap_or(0), group.unwrap_or(0))
}

/// The image's variables, those by which Kubernetes is found, and the manifest's. Later ones replace earlier ones.
async fn environment(
    context: &Context,
    pod: &Pod,
    container: &Container,
    address: &str,
) -> Result<Vec<(String, String)>> {
    let mut all = context.image.env.clone();
    let (host, port) = &context.apiserver;
    for (name, value) in [
        ("HOSTNAME", pod.name_any()),
        ("KUBERNETES_SERVICE_HOST", host.clone()),
        ("KUBERNETES_SERVICE_PORT", port.clone()),
    ] {
        all.push((name.to_owned(), value));
    }
    for source in container.env_from.as_deref().unwrap_or_default() {
        let data = if let Some(of) = &source.config_map_ref {
            root::config_map(context, &of.name, of.optional == Some(true)).await?
        } else if let Some(of) = &source.secret_ref {
            root::secret(context, &of.name, of.optional == Some(true)).await?
        } else {
            continue;
        };
        let prefix = source.prefix.as_deref().unwrap_or_default();
        all.extend(
            data.into_iter()
                .map(|(name, value)| (format!("{prefix}{name}"), text(&value))),
        );
    }
    for variable in container.env.as_deref().unwrap_or_default() {
        if let Some(value) = value(context, pod, variable, address).await? {
            all.push((variable.name.clone(), value));
        }
    }
    Ok(all)
}

/// A variable's value; none when it comes from where there is nothing, and that is well.
async fn value(context: &Context, pod: &Pod, variable: &EnvVar, address: &str) -> Result<Option<String>> {
    let Some(source) = &variable.value_from else {
        return Ok(Some(variable.value.clone().unwrap_or_default()));
    };
    let unknown = |what: &str| Error::Invalid(format!("{}: the bed does not know {what}", variable.name));
    if let Some(field) = &source.field_ref {
        let spec = pod.spec.clone().unwrap_or_default();
        return Ok(Some(match field.field_path.as_str() {
            "metadata.name" => pod.name_any(),
            "metadata.namespace" => context.namespace.clone(),
            "metadata.uid" => pod.uid().unwrap_or_default(),
            "spec.nodeName" => spec.node_name.unwrap_or_default(),
            "spec.serviceAccountName" => spec.service_account_name.unwrap_or_default(),
            "status.podIP" => address.to_owned(),
            other => return Err(unknown(&format!("the field {other}"))),
        }));
    }
    let (name, key, optional, data) = if let Some(of) = &source.secret_key_ref {
        let optional = of.optional == Some(true);
        (
            &of.name,
            &of.key,
            optional,
            root::secret(context, &of.name, optional).await?,
        )
    } else if let Some(of) = &source.config_map_key_ref {
        let optional = of.optional == Some(true);
        (
            &of.name,
            &of.key,
            optional,
            root::config_map(context, &of.name, optional).await?,
        )
    } else {
        return Err(unknown("where its value comes from"));
    };
    match data.get(key) {
        Some(value) => Ok(Some(text(value))),
        None if optional => Ok(None),
        None => Err(Error::Invalid(format!("{}: {name} has no key {key}", variable.name))),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
