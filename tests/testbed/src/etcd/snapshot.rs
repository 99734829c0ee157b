//! A cluster's past, kept and brought back.

use std::{path::Path, process::Stdio};

use tokio::process::Command;

use super::EtcdCluster;
use crate::{
    error::{Doing, Error, Result},
    tools::Tool,
};

impl EtcdCluster {
    /// Saves what the first member holds to the file `to`, while it runs.
    pub async fn save(&self, to: &Path) -> Result<()> {
        let mut command = Command::new(built(Tool::Etcdctl).await?);
        command.args(["--endpoints", &self.endpoints()[0], "snapshot", "save"]);
        run(command.arg(to), "save a snapshot").await
    }

    /// Kills all members and starts them with what the file `from` holds: an earlier state, so that the revision goes
    /// backwards. It counts as the same cluster.
    pub async fn restore(&self, from: &Path) -> Result<()> {
        self.restore_as(&self.token, from).await
    }

    /// Like [`EtcdCluster::restore`], as another cluster: its id is made of this token, too.
    pub async fn restore_as(&self, token: &str, from: &Path) -> Result<()> {
        let etcdutl = built(Tool::Etcdutl).await?;
        let url = |i: usize| match &self.peers {
            Some(peers) => peers.url(i),
            None => self.members[i].peer.http(),
        };
        let named = |i: usize| format!("{}={}", self.members[i].process.name(), url(i));
        let peers: Vec<_> = (0..self.members.len()).map(named).collect();
        for (i, member) in self.members.iter().enumerate() {
            member.process.kill().await?;
            std::fs::remove_dir_all(&member.data).doing(|| format!("remove {}", member.data.display()))?;
            let mut command = Command::new(&etcdutl);
            command
                .args(["snapshot", "restore"])
                .arg(from)
                .arg("--data-dir")
                .arg(&member.data)
                .args(["--name", member.process.name(), "--initial-cluster", &peers.join(",")])
                .args(["--initial-cluster-token", token])
                .args(["--initial-advertise-peer-urls", &url(i)]);
            run(&mut command, "restore a snapshot").await?;
        }
        self.restart_all().await
    }

    /// Kills all members, starts them again and waits until they serve.
    pub async fn restart_all(&self) -> Result<()> {
        for member in &self.members {
            member.process.kill().await?;
        }
        for member in &self.members {
            member.process.restart().await?;
        }
        self.introduce();
        for i in 0..self.members.len() {
            self.wait_serving(i, super::cluster::START).await?;
        }
        Ok(())
    }
}

async fn built(tool: Tool) -> Result<std::path::PathBuf> {
    let building = tokio::task::spawn_blocking(move || tool.binary());
    building.await.expect("building does not panic")
}

async fn run(command: &mut Command, doing: &str) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().await.doing(|| doing)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Invalid(format!("cannot {doing}: {} ({said})", output.status)))
}
