//! The replacement of a member as etcd recommends it: remove it, add it as a learner without data, promote it.

use std::{ffi::OsString, fs, io, time::Duration};

use etcd_client::{Client, MemberAddOptions};

use super::EtcdCluster;
use super::cluster::{Membership, START};
use crate::{
    error::{Doing, Error, Result},
    wait::until,
};

/// How long etcd may refuse a change of its membership: for five seconds after a member came, and until a learner has
/// received all data.
const REFUSAL: Duration = Duration::from_secs(40);

impl EtcdCluster {
    /// Takes a member, counted from 0, out of the cluster, whether it runs or not, and ends its process. The URL stays
    /// among [`EtcdCluster::endpoints`]; nothing listens there until [`EtcdCluster::add_learner`].
    pub async fn remove_member(&self, i: usize) -> Result<()> {
        let member = &self.members[i];
        until("etcd to remove a member", REFUSAL, || async {
            let Some(registered) = self.registered(i).await? else {
                return Ok(());
            };
            let mut client = self.client_of_others(i).await?;
            let removed = client.member_remove(registered.id()).await;
            removed.map(drop).doing(|| "remove a member")
        })
        .await?;
        member.set_membership(Membership::Removed);
        member.process.kill().await
    }

    /// Adds a removed member, counted from 0, as a learner with the URLs it had and starts it without data. Returns when
    /// it follows the leader: it refuses requests until [`EtcdCluster::promote`].
    pub async fn add_learner(&self, i: usize) -> Result<()> {
        let member = &self.members[i];
        if member.membership() != Membership::Removed {
            let name = member.process.name();
            return Err(Error::Invalid(format!("{name} is a member: remove it first")));
        }
        until("etcd to add a learner", REFUSAL, || async {
            if self.registered(i).await?.is_some() {
                return Ok(());
            }
            let mut client = self.client_of_others(i).await?;
            let options = MemberAddOptions::new().with_is_learner();
            let added = client.member_add([self.peer_url(i)], Some(options)).await;
            added.map(drop).doing(|| "add a learner")
        })
        .await?;
        member.set_membership(Membership::Learner);
        match fs::remove_dir_all(&member.data) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).doing(|| format!("remove {}", member.data.display()));
            }
            _ => {}
        }
        let named = |i: usize| format!("{}={}", self.members[i].process.name(), self.peer_url(i));
        let is_member = |i: &usize| self.members[*i].membership() != Membership::Removed;
        let all: Vec<_> = (0..self.members.len()).filter(is_member).map(named).collect();
        let args = replaced(member.process.args(), "--initial-cluster", &all.join(","));
        member
            .process
            .set_args(replaced(args, "--initial-cluster-state", "existing"));
        member.process.restart().await?;
        self.introduce();
        let follows = until("the learner to follow the leader", START, || async {
            let mut client = member.connect_with(self.entrance.anonymous_options()).await?;
            let status = match client.status().await {
                // Authentication is on, which it has learnt from the leader.
                Err(error) if error.to_string().contains("user name is empty") => return Ok(()),
                status => status.doing(|| "ask for the status")?,
            };
            match (status.is_learner(), status.leader()) {
                (true, leader) if leader != 0 => Ok(()),
                (is_learner, leader) => Err(Error::Invalid(format!("is a learner: {is_learner}, leader {leader:x}"))),
            }
        });
        member.process.while_alive(follows).await
    }

    /// Makes a learner, counted from 0, a voting member once it has all data, and waits until it serves.
    pub async fn promote(&self, i: usize) -> Result<()> {
        let missing = || Error::Invalid("it was not added as a learner".to_owned());
        until("etcd to promote the learner", REFUSAL, || async {
            let registered = self.registered(i).await?.ok_or_else(missing)?;
            if !registered.is_learner() {
                return Ok(());
            }
            // A follower would ask the leader without the name of the user, which an etcd with authentication refuses.
            let leader = &self.members[self.leader().await?];
            let mut client = leader.connect(&self.entrance).await?;
            let promoted = client.member_promote(registered.id()).await;
            promoted.map(drop).doing(|| "promote a learner")
        })
        .await?;
        self.members[i].set_membership(Membership::Voter);
        self.wait_serving(i, START).await
    }

    /// How a member is registered, if it is: its process need not run.
    async fn registered(&self, i: usize) -> Result<Option<etcd_client::Member>> {
        let mut client = self.client_of_others(i).await?;
        let list = client.member_list().await.doing(|| "list the members")?;
        let url = self.peer_url(i);
        let found = list.members().iter().find(|member| member.peer_urls().contains(&url));
        Ok(found.cloned())
    }

    /// A client of a voting member that runs, other than `i`.
    async fn client_of_others(&self, i: usize) -> Result<Client> {
        let others = self.members.iter().enumerate().filter(|(other, _)| *other != i);
        let serves = others.map(|(_, member)| member).find(|member| {
            let runs = member.process.alive().is_ok() && !member.process.is_stopped();
            member.membership() == Membership::Voter && runs
        });
        let none = || Error::Invalid("no other voting member runs".to_owned());
        serves.ok_or_else(none)?.connect(&self.entrance).await
    }

    fn peer_url(&self, i: usize) -> String {
        match &self.peers {
            Some(peers) => peers.url(i),
            None => self.members[i].peer.http(),
        }
    }
}

/// `args` with another value after `flag`.
fn replaced(mut args: Vec<OsString>, flag: &str, value: &str) -> Vec<OsString> {
    if let Some(place) = args.iter().position(|arg| arg == flag) {
        args[place + 1] = value.into();
    }
    args
}
