//! Only its lock file matters: the pin of etcd 3.5 that the test bed runs.
