//! One running consumer, and the addresses that it has received.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use testbed::process::Spec;
use testbed::{Process, Result, until};

use crate::support::SOON;

/// A program that reads etcd its own way. It ends with this value.
pub struct Consumer {
    process: Process,
}

impl Consumer {
    pub fn start(spec: Spec) -> Result<Self> {
        let process = Process::start(spec)?;
        Ok(Self { process })
    }

    pub fn name(&self) -> &str {
        self.process.name()
    }

    /// Everything it has printed so far that is a line of JSON.
    pub fn reported(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.process.log()).unwrap_or_default();
        // The last line may be half written: only those that have ended count.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Sends it SIGTERM and waits until it has printed its last word and ended.
    pub async fn end(&self) -> Result<()> {
        self.process.terminate()?;
        self.process.wait_exit(SOON).await.map(drop)
    }

    /// Waits until it has printed a line with this field that is true.
    pub async fn wait_true(&self, field: &str) -> Result<()> {
        let what = format!("{} to print that {field}", self.name());
        let printed = until(&what, SOON, || async {
            let found = self.reported().iter().any(|line| line[field] == true);
            found.then_some(()).ok_or_else(|| self.process.log_tail())
        });
        self.process.while_alive(printed).await
    }

    /// Every set of addresses that its client library has reported, in order.
    pub fn views(&self) -> Vec<Vec<String>> {
        let reported = self.reported();
        let views = reported.iter().filter_map(|line| line["addresses"].as_array());
        views.map(|view| strings(view)).collect()
    }

    /// The newest of its lists of this name.
    pub fn newest(&self, name: &str) -> Vec<String> {
        let reported = self.reported();
        let newest = reported.iter().rev().find_map(|line| line[name].as_array());
        newest.map_or_else(Vec::new, |list| strings(list))
    }

    /// Everything that it says went wrong.
    pub fn failures(&self) -> Vec<String> {
        let reported = self.reported();
        let failures = reported.iter().filter_map(|line| line["failed"].as_str());
        failures.map(str::to_owned).collect()
    }

    /// How many calls each server has answered.
    pub fn reached(&self) -> BTreeMap<String, u64> {
        let reported = self.reported();
        let newest = reported.iter().rev().find_map(|line| line["reached"].as_object());
        let counts = newest.into_iter().flatten();
        counts
            .map(|(server, count)| (server.clone(), count.as_u64().unwrap_or_default()))
            .collect()
    }

    /// Waits until its newest view is these addresses, each once.
    pub async fn wait_view(&self, expected: &BTreeSet<String>) -> Result<()> {
        self.wait_view_within(expected, SOON).await
    }

    /// The same with more patience.
    pub async fn wait_view_within(&self, expected: &BTreeSet<String>, patience: Duration) -> Result<()> {
        let what = format!("{} to be told {expected:?}", self.name());
        let seen = until(&what, patience, || async {
            let views = self.views();
            if views.last().is_some_and(|view| view.iter().eq(expected)) {
                Ok(())
            } else {
                Err(format!("{views:?}; the end of its log:\n{}", self.process.log_tail()))
            }
        });
        self.process.while_alive(seen).await
    }
}

fn strings(list: &[Value]) -> Vec<String> {
    list.iter()
        .map(|one| one.as_str().unwrap_or_default().to_owned())
        .collect()
}
