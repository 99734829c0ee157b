//! The flood: two pods of a namespace with a thousand registrations, of which one comes or goes as soon as the apiserver
//! has taken that the other one did. On a thread of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::control::client;

/// Pods that flap until this value is dropped.
pub struct Storm {
    end: Arc<AtomicBool>,
    flaps: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl Storm {
    /// Lets these pods flap.
    pub fn start(kubeconfig: PathBuf, namespace: String, pods: &'static [&'static str]) -> Self {
        let (end, flaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (asked, counted) = (end.clone(), flaps.clone());
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let flap = async {
                let api = Api::<Pod>::namespaced(client(&kubeconfig).await, &namespace);
                let mut ready = vec![true; pods.len()];
                while !asked.load(Ordering::Relaxed) {
                    for (pod, ready) in pods.iter().zip(&mut ready) {
                        *ready = !*ready;
                        let status = if *ready { "True" } else { "False" };
                        let change = json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
                        let (params, change) = (PatchParams::default(), Patch::Strategic(change));
                        api.patch_status(pod, &params, &change)
                            .await
                            .expect("the apiserver takes it");
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            };
            runtime.expect("a runtime starts").block_on(flap);
        };
        let thread = std::thread::Builder::new().name("storm".to_owned()).spawn(run);
        Self {
            end,
            flaps,
            thread: Some(thread.expect("a thread starts")),
        }
    }

    /// How often a pod came or went so far.
    pub fn flaps(&self) -> u32 {
        self.flaps.load(Ordering::Relaxed)
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
