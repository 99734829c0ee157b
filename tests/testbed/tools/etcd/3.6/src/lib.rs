//! Only its lock file matters: the pin of etcd 3.6 that the test bed runs.
