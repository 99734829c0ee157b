//! `cargo xtask demo --helm`: from nothing to keys, by `helm install` and one `kubectl apply`, as a newcomer does it.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use testbed::{Bed, EtcdVersion, Held, Image, Kubelet, Namespace, Tool};

use super::{
    shop::{NAME, NAMESPACE, PATIENCE, SELECTOR, listed, registration},
    story::Story,
};
use crate::{
    check::workspace,
    error::{Error, Result, doing},
    stage::{build, start_bed},
};

/// Where the release is installed.
const HOME: &str = "leasehold";
const OPERATORS: &str = "app.kubernetes.io/component=operator";
const PREFIX: &str = "/services/shop/orders/";
/// The shortest that the chart takes, in seconds: the last step waits for the leases to expire.
const TTL: u64 = 15;
/// How much later than its TTL a key may lapse.
const SLACK: Duration = Duration::from_secs(2);

pub async fn run() -> Result<()> {
    let program = build(EtcdVersion::default()).await?;
    let begin = Instant::now();
    let bed = start_bed(EtcdVersion::default(), 1, None, 1).await?;
    let (home, shop) = (bed.namespace_named(HOME).await?, bed.namespace_named(NAMESPACE).await?);
    let image = Image::of_program(&program, &bed.folder().path().join("image"))?;
    let _kubelet = Kubelet::start(&bed, HOME, &image)?;
    let mut story = Story::default();
    let scene = Scene { bed, home, shop };
    Box::pin(scene.install(&mut story)).await?;
    Box::pin(scene.register(&mut story)).await?;
    Box::pin(scene.uninstall(&mut story)).await?;
    story.end(begin.elapsed());
    Ok(())
}

struct Scene {
    bed: Bed,
    home: Namespace,
    shop: Namespace,
}

impl Scene {
    async fn install(&self, story: &mut Story) -> Result<()> {
        story.step("A cluster with 3 pods, an etcd, and nothing of leasehold: helm install");
        self.shop
            .create_deployment(NAME, &[("app", NAME)], 3, &[("grpc", 8080)])
            .await?;
        self.shop.wait_ready_pods(SELECTOR, 3).await?;
        let endpoints = format!("registry.endpoints={{{}}}", self.bed.registry().endpoints().join(","));
        let ttl = format!("registry.spec.defaults.leaseTTLSeconds={TTL}");
        let words = [
            "install",
            "leasehold",
            "charts/leasehold",
            "--namespace",
            HOME,
            "--wait",
            "--timeout",
            "3m",
            "--set",
            "registry.create=true",
            "--set",
            &endpoints,
            "--set",
            &ttl,
        ];
        let begin = Instant::now();
        let notes = self.helm(story, &words).await?;
        let took = begin.elapsed().as_secs_f64();
        let next = notes.split_once("Next:").map_or(notes.as_str(), |(_, next)| next);
        story.show(&format!("Next:{next}"));
        let pods = self.home.wait_ready_pods(OPERATORS, 2).await?;
        story.holds(
            pods.len() == 2,
            &format!("2 replicas are ready, each under the chart's own account, {took:.1} s after `helm install`"),
        )?;
        let registry = ("leasehold.dev/v1alpha1", "Registry", "default");
        let led = |object: &serde_json::Value| object["status"]["leader"].is_string();
        let registry = self.bed.objects().wait(registry, led, PATIENCE).await?;
        let leader = registry["status"]["leader"].as_str().unwrap_or_default().to_owned();
        let leads = pods.iter().any(|pod| pod.metadata.name.as_ref() == Some(&leader));
        story.holds(leads, &format!("one of them is the leader: {leader}"))
    }

    async fn register(&self, story: &mut Story) -> Result<()> {
        story.step("One `kubectl apply`");
        let manifest = registration(NAME, "default", &["Plain"]);
        let begin = Instant::now();
        let words = ["apply", "--namespace", NAMESPACE, "--filename", "-"];
        let reported = self.kubectl(story, &words, &manifest.to_string()).await?;
        story.show(&reported);
        let keys = self.wait_keys(3).await?;
        let took = begin.elapsed().as_secs_f64();
        story.show(&listed(&keys));
        story.holds(
            keys.values().all(|held| held.lease != 0),
            &format!("3 keys, all on leases, {took:.2} s after kubectl was started"),
        )?;
        let object = ("leasehold.dev/v1alpha1", "ServiceRegistration", NAME);
        let all = |object: &serde_json::Value| object["status"]["pods"]["registered"] == 3;
        self.shop.objects().wait(object, all, PATIENCE).await?;
        let reported = self
            .kubectl(story, &["get", "svcreg", "--namespace", NAMESPACE, "-o", "wide"], "")
            .await?;
        story.show(&reported);
        Ok(())
    }

    async fn uninstall(&self, story: &mut Story) -> Result<()> {
        story.step("helm uninstall: the keys expire with their leases");
        let words = ["uninstall", "leasehold", "--namespace", HOME, "--wait"];
        let reported = self.helm(story, &words).await?;
        let begin = Instant::now();
        story.show(&reported);
        let left = self.bed.registry().dump(PREFIX).await?.len();
        story.show(&format!("{left} keys are left when the last replica has ended"));
        self.wait_keys(0).await?;
        let took = begin.elapsed();
        story.holds(
            took <= Duration::from_secs(TTL) + SLACK,
            &format!(
                "the last key expired {:.1} s later; the TTL is {TTL} s",
                took.as_secs_f64()
            ),
        )
    }

    async fn wait_keys(&self, count: usize) -> Result<BTreeMap<String, Held>> {
        let what = format!("exactly {count} keys below {PREFIX}");
        let keys = testbed::until(&what, PATIENCE, || async {
            let keys = self
                .bed
                .registry()
                .dump(PREFIX)
                .await
                .map_err(|error| error.to_string())?;
            if keys.len() == count {
                Ok(keys)
            } else {
                Err(format!("{} keys", keys.len()))
            }
        });
        Ok(keys.await?)
    }

    async fn helm(&self, story: &Story, words: &[&str]) -> Result<String> {
        let helm = tokio::task::spawn_blocking(|| Tool::Helm.binary())
            .await
            .expect("building does not panic")?;
        self.say(story, "helm", &helm, words, "").await
    }

    async fn kubectl(&self, story: &Story, words: &[&str], input: &str) -> Result<String> {
        self.say(story, "kubectl", self.bed.kubectl(), words, input).await
    }

    /// Shows a command and runs it; what it prints must be that of a success.
    async fn say(&self, story: &Story, name: &str, program: &Path, words: &[&str], input: &str) -> Result<String> {
        story.show(&format!("$ {name} {}", words.join(" ")));
        if !input.is_empty() {
            story.show(&format!("  < {input}"));
        }
        let folder = testbed::Folder::new("input")?;
        let file = folder.path().join("input");
        std::fs::write(&file, input).map_err(doing("write a command's input"))?;
        let file = std::fs::File::open(&file).map_err(doing("read a command's input"))?;
        let mut command = Command::new(program);
        command
            .args(words)
            .current_dir(workspace())
            .env("KUBECONFIG", self.bed.kubeconfig())
            .stdin(Stdio::from(file));
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("running does not panic")
            .map_err(doing(format!("run {name}")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Error::Broken(format!("{name} succeeds, but it says: {said}")));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
