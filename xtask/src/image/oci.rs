//! An image of one layer as an OCI archive: <https://github.com/opencontainers/image-spec>.

use std::fmt::Write as _;

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::tar::Tar;

/// Who the program runs as: the one that distroless images call nonroot.
pub const USER: u32 = 65532;
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// What goes into the image.
pub struct Content<'a> {
    /// The static program.
    pub program: &'a [u8],
    /// Its bill of materials.
    pub bill: &'a str,
    /// Its licence's text.
    pub licence: &'a str,
    /// `amd64`, `arm64`.
    pub architecture: &'a str,
    /// Name and tag, such as `leasehold:0.1.0`.
    pub name: &'a str,
    /// Of the program.
    pub version: &'a str,
}

/// The archive: what `podman load`, `docker load`, `skopeo copy oci-archive:` and `ctr images import` read. Of the same
/// content it is the same, byte for byte.
pub fn archive(content: &Content<'_>) -> Vec<u8> {
    let mut archive = Tar::default();
    let mut blob = |kind: &str, bytes: Vec<u8>| {
        let hash = hash(&bytes);
        let described = json!({"mediaType": kind, "digest": format!("sha256:{hash}"), "size": bytes.len()});
        archive.file(&format!("blobs/sha256/{hash}"), bytes);
        described
    };
    let layer = blob("application/vnd.oci.image.layer.v1.tar", layer(content));
    let config = blob(
        "application/vnd.oci.image.config.v1+json",
        config(content, &layer["digest"]).to_string().into_bytes(),
    );
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [layer],
        "annotations": labels(content),
    });
    let mut manifest = blob(
        "application/vnd.oci.image.manifest.v1+json",
        manifest.to_string().into_bytes(),
    );
    manifest["platform"] = json!({"architecture": content.architecture, "os": "linux"});
    let tag = content.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    manifest["annotations"] = json!({
        "org.opencontainers.image.ref.name": tag,
        "io.containerd.image.name": content.name,
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    archive.file("index.json", index.to_string());
    archive.file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    archive.bytes()
}

/// The files: the program, who runs it, where names are looked up, and what it is made of. No shell, no libraries.
fn layer(content: &Content<'_>) -> Vec<u8> {
    let mut files = Tar::default();
    files.program("leasehold", content.program);
    files.file(
        "etc/passwd",
        format!("root:x:0:0:root:/:/nologin\nnonroot:x:{USER}:{USER}:nonroot:/:/nologin\n"),
    );
    files.file("etc/group", format!("root:x:0:\nnonroot:x:{USER}:\n"));
    files.file("etc/nsswitch.conf", "hosts: files dns\n");
    files.file("usr/share/doc/leasehold/LICENSE", content.licence);
    files.file("usr/share/doc/leasehold/sbom.cdx.json", content.bill);
    files.bytes()
}

fn config(content: &Content<'_>, layer: &Value) -> Value {
    json!({
        "architecture": content.architecture,
        "os": "linux",
        "created": EPOCH,
        "config": {
            "User": format!("{USER}:{USER}"),
            "Entrypoint": ["/leasehold"],
            "Cmd": ["run"],
            // The same as in the Dockerfile, which says why.
            "Env": ["PATH=/", "MALLOC_ARENA_MAX=1"],
            "WorkingDir": "/",
            "ExposedPorts": {"8080/tcp": {}},
            "Labels": labels(content),
        },
        // The layer is not compressed, so that it is its own content.
        "rootfs": {"type": "layers", "diff_ids": [layer]},
        "history": [{"created": EPOCH, "created_by": "cargo xtask image"}],
    })
}

fn labels(content: &Content<'_>) -> Value {
    json!({
        "org.opencontainers.image.title": "leasehold",
        "org.opencontainers.image.description": "Kubernetes pods, leased into etcd",
        "org.opencontainers.image.version": content.version,
        "org.opencontainers.image.licenses": "Apache-2.0",
    })
}

fn hash(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in digest(&SHA256, bytes).as_ref() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_that_of_sha256() {
        assert_eq!(
            hash(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
