//! The links of operators to etcd: all operators know a member by the same address, and each of them reaches it over a link of
//! its own.

use testbed::{Crossing, EtcdCluster, Link, Network, Operator};

use crate::error::Result;

/// The links between every operator and every member.
pub struct EtcdLinks {
    /// One for each member: the address that the Registry has for it.
    crossings: Vec<Crossing>,
    /// For each operator, the links to all members, in their order.
    links: Vec<Vec<Link>>,
    scheme: &'static str,
}

impl EtcdLinks {
    /// Links for so many operators to the members of an etcd.
    pub async fn open(network: &Network, etcd: &EtcdCluster, operators: usize) -> Result<Self> {
        let members = etcd.pids().len();
        let mut crossings = Vec::new();
        for _ in 0..members {
            crossings.push(Crossing::open().await?);
        }
        let mut links = Vec::new();
        for _ in 0..operators {
            let mut of_operator = Vec::new();
            for member in 0..members {
                of_operator.push(network.link(etcd.client_address(member)).await?);
            }
            links.push(of_operator);
        }
        let is_secure = etcd.endpoints().iter().all(|url| url.starts_with("https:"));
        let scheme = if is_secure { "https" } else { "http" };
        Ok(Self {
            crossings,
            links,
            scheme,
        })
    }

    /// The URLs of the members for the Registry.
    pub fn endpoints(&self) -> Vec<String> {
        let urls = self.crossings.iter().map(Crossing::http);
        urls.map(|url| url.replacen("http", self.scheme, 1)).collect()
    }

    /// The links of an operator, counted from 0, to all members.
    pub fn links(&self, operator: usize) -> &[Link] {
        &self.links[operator]
    }

    /// Connects the present processes of operators to their links. Until then the crossing closes their connections.
    pub fn introduce(&self, operators: &[Operator]) {
        for (operator, links) in operators.iter().zip(&self.links) {
            for (crossing, link) in self.crossings.iter().zip(links) {
                crossing.lead(operator.pid(), link.address());
            }
        }
    }
}
