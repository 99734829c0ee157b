//! The ways between the members of a cluster, when they lead over a network that a test spoils.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::EtcdCluster;
use crate::{
    error::{Error, Result},
    network::{Crossing, Link, Network},
};

/// One way from every member to every other one.
#[derive(Debug)]
pub(super) struct Peers {
    /// Where all others look for a member.
    crossings: Vec<Crossing>,
    ways: Vec<Way>,
    /// The members that are cut off.
    isolated: Mutex<Vec<usize>>,
}

#[derive(Debug)]
struct Way {
    from: usize,
    to: usize,
    link: Link,
}

impl Peers {
    /// Makes the ways to members that listen for peers at `members`.
    pub async fn open(network: &Network, members: &[SocketAddr]) -> Result<Self> {
        let mut crossings = Vec::new();
        let mut ways = Vec::new();
        for (to, address) in members.iter().enumerate() {
            crossings.push(Crossing::open().await?);
            for from in (0..members.len()).filter(|from| *from != to) {
                let link = network.link(*address).await?;
                ways.push(Way { from, to, link });
            }
        }
        Ok(Self {
            crossings,
            ways,
            isolated: Mutex::default(),
        })
    }

    /// Where the others look for a member.
    pub fn url(&self, i: usize) -> String {
        self.crossings[i].http()
    }

    /// The process of a member is this one: what it sends goes its ways.
    pub fn introduce(&self, member: usize, pid: u32) {
        for way in self.ways.iter().filter(|way| way.from == member) {
            self.crossings[way.to].lead(pid, way.link.address());
        }
    }

    /// Whether a member is cut off.
    pub fn is_isolated(&self, member: usize) -> bool {
        let isolated = self.isolated.lock().unwrap_or_else(PoisonError::into_inner);
        isolated.contains(&member)
    }
}

/// Of a cluster whose [`super::EtcdConfig::network`] is given.
impl EtcdCluster {
    /// Cuts a member off from all others, while clients still reach it: whatever they send each other is lost.
    pub async fn isolate(&self, member: usize) -> Result<()> {
        let peers = self.peers()?;
        for way in &peers.ways {
            if way.from == member || way.to == member {
                way.link.dark().await?;
            }
        }
        peers
            .isolated
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(member);
        Ok(())
    }

    /// Whatever one member sends another takes half of this.
    pub async fn slow_peers(&self, round_trip: Duration) -> Result<()> {
        for way in &self.peers()?.ways {
            way.link.slow(round_trip).await?;
        }
        Ok(())
    }

    /// Makes all ways between members good again.
    pub async fn heal_peers(&self) -> Result<()> {
        let peers = self.peers()?;
        for way in &peers.ways {
            way.link.heal().await?;
        }
        peers.isolated.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }

    fn peers(&self) -> Result<&Peers> {
        let missing = || Error::Invalid("the members talk directly: give a network in EtcdConfig".to_owned());
        self.peers.as_ref().ok_or_else(missing)
    }
}
