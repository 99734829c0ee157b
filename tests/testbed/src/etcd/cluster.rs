//! An etcd cluster on this machine.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use etcd_client::{Client, ConnectOptions};

use super::peers::Peers;
use super::security::{Entrance, Security};
use crate::{
    error::{Doing, Error, Result},
    network::Network,
    process::{Folder, Port, Process, Spec, http},
    tools::EtcdVersion,
    wait::until,
};

/// How long members may take to serve after their start.
pub(super) const START: Duration = Duration::from_mins(1);

/// What an etcd cluster is to be.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// Its release.
    pub version: EtcdVersion,
    /// How many members, one to seven.
    pub members: usize,
    /// Whether writes wait for the disk. Off: a killed process loses nothing, only a crashed machine would.
    pub fsync: bool,
    /// Further flags for every member.
    pub args: Vec<String>,
    /// What members send each other goes over this network, to be spoiled by [`EtcdCluster::isolate`] and
    /// [`EtcdCluster::slow_peers`]; else directly. Only on Linux.
    pub network: Option<Network>,
    /// Members speak https with their clients; http if none.
    pub security: Option<Security>,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            version: EtcdVersion::default(),
            members: 1,
            fsync: false,
            args: Vec::new(),
            network: None,
            security: None,
        }
    }
}

/// A cluster whose members live as long as this value.
#[derive(Debug)]
pub struct EtcdCluster {
    pub(super) members: Vec<Member>,
    /// What tells it from other clusters.
    pub(super) token: String,
    pub(super) peers: Option<Peers>,
    pub(super) entrance: Entrance,
    // After the members, so that it is removed once they are gone.
    _folder: Option<Folder>,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) process: Process,
    pub(super) data: PathBuf,
    client: Port,
    /// Where it tells its health, if not where it serves clients.
    health: Option<Port>,
    pub(super) peer: Port,
    membership: Mutex<Membership>,
}

/// What a process is to its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Membership {
    /// It votes and serves.
    Voter,
    /// It receives all data and serves no requests.
    Learner,
    /// It was removed.
    Removed,
}

impl Member {
    pub(super) fn membership(&self) -> Membership {
        *self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_membership(&self, membership: Membership) {
        *self.membership.lock().unwrap_or_else(PoisonError::into_inner) = membership;
    }

    /// Where clients find it.
    fn url(&self) -> String {
        let url = self.client.http();
        match self.health {
            Some(_) => url.replacen("http", "https", 1),
            None => url,
        }
    }

    /// A client of this member alone.
    pub(super) async fn connect(&self, entrance: &Entrance) -> Result<Client> {
        self.connect_with(entrance.options()).await
    }

    pub(super) async fn connect_with(&self, options: ConnectOptions) -> Result<Client> {
        let options = options.with_timeout(Duration::from_secs(2));
        Client::connect([self.url()], Some(options))
            .await
            .doing(|| "connect to a member of etcd")
    }

    /// Its id and that of the leader that it knows; 0 for none.
    async fn ids(&self, entrance: &Entrance) -> Result<(u64, u64)> {
        let mut client = self.connect(entrance).await?;
        let status = client.status().await.doing(|| "ask for the status")?;
        let own = status.header().map_or(0, etcd_client::ResponseHeader::member_id);
        Ok((own, status.leader()))
    }
}

impl EtcdCluster {
    /// Starts a cluster with its data and logs in `folder`, and waits until every member serves.
    pub async fn start(version: EtcdVersion, members: usize, folder: &Path) -> Result<Self> {
        let config = EtcdConfig {
            version,
            members,
            ..EtcdConfig::default()
        };
        Self::start_with(config, "etcd", folder, folder).await
    }

    /// Like [`EtcdCluster::start`], in a temporary folder of its own.
    pub async fn temporary(version: EtcdVersion, members: usize) -> Result<Self> {
        let config = EtcdConfig {
            version,
            members,
            ..EtcdConfig::default()
        };
        Self::temporary_with(config).await
    }

    /// Like [`EtcdCluster::temporary`] with all choices.
    pub async fn temporary_with(config: EtcdConfig) -> Result<Self> {
        let folder = Folder::new("etcd")?;
        let cluster = Self::start_with(config, "etcd", folder.path(), folder.path()).await?;
        Ok(Self {
            _folder: Some(folder),
            ..cluster
        })
    }

    /// Like [`EtcdCluster::start`] with all choices; members are named `NAME-0`, `NAME-1`, ... and log to a folder of
    /// their own choice.
    pub async fn start_with(config: EtcdConfig, name: &str, folder: &Path, logs: &Path) -> Result<Self> {
        if !(1..=7).contains(&config.members) {
            return Err(Error::Invalid(format!(
                "an etcd cluster of {} members: use 1 to 7",
                config.members
            )));
        }
        let version = config.version;
        let program = tokio::task::spawn_blocking(move || version.binary())
            .await
            .expect("fetching does not panic")?;
        let mut ports = Vec::new();
        for _ in 0..config.members {
            ports.push((Port::reserve()?, Port::reserve()?));
        }
        let addresses: Vec<_> = ports.iter().map(|(_, peer)| peer.address()).collect();
        let peers = match &config.network {
            Some(network) => Some(Peers::open(network, &addresses).await?),
            None => None,
        };
        let url = |i: usize| match &peers {
            Some(peers) => peers.url(i),
            None => format!("http://{}", addresses[i]),
        };
        let all: Vec<_> = (0..addresses.len()).map(|i| format!("{name}-{i}={}", url(i))).collect();
        let all = all.join(",");
        let entrance = Entrance::new(config.security, folder.join(format!("{name}.tls")))?;
        let mut members = Vec::new();
        for (i, (client, peer)) in ports.into_iter().enumerate() {
            let data = folder.join(format!("{name}-{i}.data"));
            let health = if entrance.is_secure() {
                Some(Port::reserve()?)
            } else {
                None
            };
            let reported_at = health.as_ref().map(Port::http).unwrap_or_default();
            let client_url = match &health {
                Some(_) => client.http().replacen("http", "https", 1),
                None => client.http(),
            };
            let mut spec = Spec::new(format!("{name}-{i}"), &program, logs)
                .args(["--name", &format!("{name}-{i}"), "--data-dir"])
                .args([&data])
                .args([
                    "--listen-client-urls",
                    &client_url,
                    "--advertise-client-urls",
                    &client_url,
                ])
                .args([
                    "--listen-peer-urls",
                    &peer.http(),
                    "--initial-advertise-peer-urls",
                    &url(i),
                ])
                .args([
                    "--initial-cluster",
                    &all,
                    "--initial-cluster-state",
                    "new",
                    "--initial-cluster-token",
                    name,
                ])
                .args(entrance.args(&reported_at))
                .args(&config.args);
            if !config.fsync {
                spec = spec.args(["--unsafe-no-fsync"]);
            }
            members.push(Member {
                process: Process::start(spec)?,
                data,
                client,
                health,
                peer,
                membership: Mutex::new(Membership::Voter),
            });
        }
        let cluster = Self {
            members,
            token: name.to_owned(),
            peers,
            entrance,
            _folder: None,
        };
        cluster.introduce();
        for i in 0..cluster.members.len() {
            cluster.wait_serving(i, START).await?;
        }
        Ok(cluster)
    }

    /// The members' client URLs.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::url).collect()
    }

    /// Where a member, counted from 0, is reached by clients.
    pub fn client_address(&self, i: usize) -> SocketAddr {
        self.members[i].client.address()
    }

    /// The members' process ids.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().map(|member| member.process.pid()).collect()
    }

    /// A client of the members that run, living on the caller's runtime. A call fails after 10 seconds without an answer.
    pub async fn client(&self) -> Result<Client> {
        let options = self.entrance.options().with_timeout(Duration::from_secs(10));
        Client::connect(self.running(), Some(options)).await.doing(|| "connect")
    }

    /// A client for streams: no call of it ever times out. Not of members that are stopped: they would never answer.
    pub(super) async fn patient_client(&self) -> Result<Client> {
        let options = self.entrance.options();
        let urls = self.endpoints_of(|process| !process.is_stopped());
        Client::connect(urls, Some(options)).await.doing(|| "connect")
    }

    /// Tells the ways between the members which processes they are.
    pub(super) fn introduce(&self) {
        for (i, member) in self.members.iter().enumerate() {
            if let Some(peers) = &self.peers {
                peers.introduce(i, member.process.pid());
            }
        }
    }

    /// The client URLs of the members that run. The client crate picks an endpoint at random, and a call on one that is
    /// dead or stopped fails.
    fn running(&self) -> Vec<String> {
        self.endpoints_of(|process| process.alive().is_ok() && !process.is_stopped())
    }

    /// The client URLs of the voting members that are not cut off and whose process is as wanted; of all when none is.
    fn endpoints_of(&self, wanted: impl Fn(&Process) -> bool) -> Vec<String> {
        let cut_off = |i: usize| self.peers.as_ref().is_some_and(|peers| peers.is_isolated(i));
        let members = self.members.iter().enumerate();
        let members = members.filter(|(_, member)| member.membership() == Membership::Voter);
        let members = members.filter(|(i, member)| wanted(&member.process) && !cut_off(*i));
        let urls: Vec<_> = members.map(|(_, member)| member.url()).collect();
        if urls.is_empty() { self.endpoints() } else { urls }
    }

    /// The member that leads, counted from 0, by the word of those that run.
    pub async fn leader(&self) -> Result<usize> {
        let mut reported = "no member runs".to_owned();
        for (i, member) in self.members.iter().enumerate() {
            let votes = member.membership() == Membership::Voter;
            if !votes || member.process.alive().is_err() || member.process.is_stopped() {
                continue;
            }
            let (own, leader) = member.ids(&self.entrance).await?;
            if own != 0 && own == leader {
                return Ok(i);
            }
            reported = format!("the leader is {leader:x}");
        }
        Err(Error::Invalid(format!(
            "no running member of the etcd leads: {reported}"
        )))
    }

    /// Hands the lead to a member, counted from 0.
    pub async fn make_leader(&self, i: usize) -> Result<()> {
        let (target, leader) = self.members[i].ids(&self.entrance).await?;
        if target != leader {
            let mut client = self.members[self.leader().await?].connect(&self.entrance).await?;
            client.move_leader(target).await.doing(|| "move etcd's leader")?;
        }
        until("the member to lead", Duration::from_secs(10), || async {
            match self.members[i].ids(&self.entrance).await {
                Ok((own, leader)) if own == leader => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// The process of a member, counted from 0.
    pub fn member(&self, i: usize) -> &Process {
        &self.members[i].process
    }

    /// All members' processes.
    pub fn members(&self) -> impl Iterator<Item = &Process> {
        self.members.iter().map(|member| &member.process)
    }

    /// Kills a member if it lives, starts it on its data and waits until it serves.
    pub async fn restart(&self, i: usize) -> Result<()> {
        self.members[i].process.restart().await?;
        self.introduce();
        self.wait_serving(i, START).await
    }

    /// Waits until a member serves linearizable reads, which takes a leader.
    pub async fn wait_serving(&self, i: usize, deadline: Duration) -> Result<()> {
        let Member {
            process,
            client,
            health,
            ..
        } = &self.members[i];
        let client = health.as_ref().unwrap_or(client);
        let what = format!("{} to serve", process.name());
        let healthy = until(&what, deadline, || async {
            match http::get(client.address(), "/health").await {
                Ok((200, body)) if body.contains("\"true\"") => Ok(()),
                Ok((_, body)) => Err(body),
                Err(error) => Err(error.to_string()),
            }
        });
        process.while_alive(healthy).await
    }
}
