//! Only its lock file matters: the pin of etcd 3.7 that the test bed runs.
