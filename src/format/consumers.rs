//! Models of the consumers, written from their source code and independent of how this crate writes records. The tests
//! judge keys and values by them. Each function returns the endpoints that the consumer would dial, or the error that
//! the consumer would run into.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::model::Host;

/// An endpoint as a consumer understands it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerView {
    /// The address that the consumer dials.
    pub address: Option<(Host, u16)>,
    /// The protocol that the consumer speaks there.
    pub scheme: Option<String>,
    pub version: Option<String>,
    pub weight: Option<u32>,
    pub facts: BTreeMap<String, String>,
}

type Keys<'a> = [(&'a str, &'a [u8])];
type Read = Result<Vec<ConsumerView>, String>;

fn text(value: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(value).map_err(|error| error.to_string())
}

fn json<'a, T: Deserialize<'a>>(value: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| format!("{error} in {:?}", String::from_utf8_lossy(value)))
}

/// Go's `net.SplitHostPort` and a dial to an address or a host name: an IPv6 host is in brackets.
fn dial(address: &str) -> Result<(Host, u16), String> {
    let (host, port) = address.rsplit_once(':').ok_or(format!("no port in {address:?}"))?;
    let port: u16 = port.parse().map_err(|_| format!("no port in {address:?}"))?;
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .ok_or(format!("missing bracket in {address:?}"))?,
        None if host.contains(':') => return Err(format!("too many colons in {address:?}")),
        None => host,
    };
    Ok((host_of(bare)?, port))
}

fn host_of(text: &str) -> Result<Host, String> {
    let Ok(host) = text.parse();
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    match &host {
        Host::Name(name) if name.is_empty() || !name.chars().all(letter) => Err(format!("no address in {text:?}")),
        _ => Ok(host),
    }
}

/// Go's JSON decoder accepts `null` for a map, and makes an empty one.
fn or_empty(map: Option<BTreeMap<String, String>>) -> BTreeMap<String, String> {
    map.unwrap_or_default()
}

fn below<'a>(keys: &'a Keys<'a>, prefix: &'a str) -> impl Iterator<Item = &'a (&'a str, &'a [u8])> {
    keys.iter().filter(move |(key, _)| key.starts_with(prefix))
}

/// confd's `getvs`, go-kit and scripts: every value is an address.
pub fn plain(keys: &Keys<'_>, prefix: &str) -> Read {
    below(keys, &format!("{prefix}/"))
        .map(|(_, value)| {
            Ok(ConsumerView {
                address: Some(dial(text(value)?)?),
                ..ConsumerView::default()
            })
        })
        .collect()
}

/// `clientv3/naming/resolver`: lists `<target>/`. A value without an address becomes a dead endpoint. Metadata other
/// than null makes older clients panic.
pub fn etcd_grpc(keys: &Keys<'_>, target: &str) -> Read {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Update {
        addr: String,
        metadata: serde_json::Value,
    }
    below(keys, &format!("{target}/"))
        .map(|(_, value)| {
            let update: Update = json(value)?;
            if !update.metadata.is_null() {
                return Err("metadata is not null".to_owned());
            }
            Ok(ConsumerView {
                address: Some(dial(&update.addr)?),
                ..ConsumerView::default()
            })
        })
        .collect()
}

/// `core/discov`: lists `<key>/`. The value is the address, without any check.
pub fn go_zero(keys: &Keys<'_>, key: &str) -> Read {
    plain(keys, key)
}

/// `contrib/registry/etcd`: lists all keys that start with `<namespace>/<name>`. One value that does not decode fails
/// the whole list. Instances of another name are skipped.
pub fn kratos(keys: &Keys<'_>, namespace: &str, name: &str) -> Read {
    #[derive(Deserialize)]
    struct Instance {
        id: String,
        name: String,
        version: String,
        metadata: Option<BTreeMap<String, String>>,
        endpoints: Vec<String>,
    }
    let mut seen = Vec::new();
    for (_, value) in below(keys, &format!("{namespace}/{name}")) {
        let instance: Instance = json(value)?;
        if instance.name != name {
            continue;
        }
        if instance.id.is_empty() {
            return Err("an instance without an id".to_owned());
        }
        for endpoint in &instance.endpoints {
            let (scheme, rest) = endpoint.split_once("://").ok_or(format!("no URL: {endpoint}"))?;
            let host = rest.split_once('?').map_or(rest, |(host, _)| host);
            let mut facts = or_empty(instance.metadata.clone());
            // A weight that is not a number is ignored.
            let weight = facts.remove("weight").and_then(|weight| weight.parse().ok());
            seen.push(ConsumerView {
                address: Some(dial(host)?),
                scheme: Some(scheme.to_owned()),
                version: Some(instance.version.clone()).filter(|version| !version.is_empty()),
                weight,
                facts,
            });
        }
    }
    Ok(seen)
}

/// `registry/etcd`: lists `/micro/registry/<service>/`. A node needs an id, and a protocol for the codec.
pub fn go_micro(keys: &Keys<'_>, name: &str) -> Read {
    #[derive(Deserialize)]
    struct Service {
        name: String,
        version: String,
        nodes: Vec<Node>,
    }
    #[derive(Deserialize)]
    struct Node {
        metadata: BTreeMap<String, String>,
        id: String,
        address: String,
    }
    let prefix = format!("/micro/registry/{name}/");
    let mut seen = Vec::new();
    let mut ids = Vec::new();
    for (key, value) in below(keys, &prefix) {
        let service: Service = json(value)?;
        if service.name != name {
            return Err(format!("{} among {name}", service.name));
        }
        for mut node in service.nodes {
            if key[prefix.len()..] != node.id || ids.contains(&node.id) {
                return Err(format!("the id {:?} under {key:?}", node.id));
            }
            ids.push(node.id);
            let protocol = node.metadata.remove("protocol").ok_or("no protocol")?;
            seen.push(ConsumerView {
                address: Some(dial(&node.address)?),
                scheme: Some(protocol),
                version: Some(service.version.clone()).filter(|version| !version.is_empty()),
                weight: None,
                facts: node.metadata,
            });
        }
    }
    Ok(seen)
}

/// `registry-etcd` of Kitex and Hertz: lists `<prefix>/<service>/`. The consumer skips a value that does not decode, so
/// its endpoint would be missing; this model returns an error. A weight of 0 or less counts as 10.
pub fn kitex(keys: &Keys<'_>, prefix: &str, service: &str) -> Read {
    #[derive(Deserialize)]
    struct Instance {
        network: String,
        address: String,
        weight: i64,
        tags: Option<BTreeMap<String, String>>,
    }
    below(keys, &format!("{prefix}/{service}/"))
        .map(|(_, value)| {
            let instance: Instance = json(value)?;
            if instance.network != "tcp" {
                return Err(format!("cannot dial {}", instance.network));
            }
            let weight = if instance.weight > 0 { instance.weight } else { 10 };
            Ok(ConsumerView {
                address: Some(dial(&instance.address)?),
                weight: u32::try_from(weight).ok(),
                facts: or_empty(instance.tags),
                ..ConsumerView::default()
            })
        })
        .collect()
}

/// `contrib/registry/etcd` of GoFrame: lists all keys that start with the service's prefix. A key is split at slashes
/// and must have six segments. The last segment is split at commas and colons, so an IPv6 address has too many colons.
pub fn go_frame(keys: &Keys<'_>, prefix: &str) -> Read {
    let mut seen = Vec::new();
    for (key, value) in below(keys, prefix) {
        let metadata: BTreeMap<String, serde_json::Value> = json(value)?;
        let segments: Vec<&str> = key.trim_matches('/').split('/').collect();
        let [_, _, _, _, _, endpoints] = segments[..] else {
            return Err(format!("{} segments in {key:?}", segments.len()));
        };
        for endpoint in endpoints.split(',') {
            let [host, port] = endpoint.split(':').collect::<Vec<_>>()[..] else {
                return Err(format!("panic: {endpoint:?}"));
            };
            let other = |name: &String| !["protocol", "insecure", "weight"].contains(&name.as_str());
            let fact = |(name, value): (&String, &serde_json::Value)| Some((name.clone(), value.as_str()?.to_owned()));
            seen.push(ConsumerView {
                address: Some(dial(&format!("{host}:{port}"))?),
                scheme: metadata["protocol"].as_str().map(str::to_owned),
                weight: metadata["weight"].as_u64().and_then(|weight| weight.try_into().ok()),
                facts: metadata
                    .iter()
                    .filter(|(name, _)| other(name))
                    .filter_map(fact)
                    .collect(),
                ..ConsumerView::default()
            });
        }
    }
    Ok(seen)
}

/// CoreDNS's etcd plugin: every key below the path of a name is an answer, and the key of each gives the target's name.
pub fn core_dns(keys: &Keys<'_>, path: &str, domain: &str) -> Read {
    #[derive(Deserialize)]
    struct Service {
        host: String,
        port: u16,
        priority: u16,
        weight: Option<u32>,
        ttl: u32,
    }
    let labels: Vec<&str> = domain.rsplit('.').collect();
    below(keys, &format!("/{path}/{}/", labels.join("/")))
        .map(|(key, value)| {
            let service: Service = json(value)?;
            let mut labels: Vec<&str> = key.split('/').skip(2).collect();
            labels.reverse();
            let name = labels.join(".");
            let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
            let good = |label: &&str| (1..=63).contains(&label.len()) && label.chars().all(letter);
            if !labels.iter().all(good) || name.len() > 253 || !name.ends_with(&format!(".{domain}")) {
                return Err(format!("no target for SRV: {name:?}"));
            }
            if labels[..labels.len() - domain.split('.').count()].contains(&"any") {
                return Err(format!("a wildcard: {name:?}"));
            }
            if service.ttl == 0 || service.priority == 0 || service.weight == Some(0) {
                return Err(format!("taken for its default: {key:?}"));
            }
            // A host name is the target of an alias.
            Ok(ConsumerView {
                address: Some((host_of(&service.host)?, service.port)),
                weight: service.weight,
                ..ConsumerView::default()
            })
        })
        .collect()
}

/// Traefik's etcd provider: decodes everything below the root into its configuration. An unknown field, or a server
/// without an address, fails the whole configuration.
pub fn traefik(keys: &Keys<'_>, root: &str, protocol: &str, service: &str) -> Read {
    let mut servers: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for (key, value) in below(keys, root) {
        let rest = key[root.len()..]
            .strip_prefix('/')
            .ok_or(format!("not below the root: {key:?}"))?;
        let segments: Vec<&str> = rest.split('/').collect();
        let [found, "services", name, "loadbalancer", "servers", server, field] = segments[..] else {
            return Err(format!("field not found: {key:?}"));
        };
        let known: &[&str] = if found == "http" {
            &["url", "weight"]
        } else {
            &["address"]
        };
        if !["http", "tcp", "udp"].contains(&found) || !known.contains(&field) {
            return Err(format!("field not found: {key:?}"));
        }
        if server.is_empty() || !server.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("no element of a list: {key:?}"));
        }
        if found == protocol && name.eq_ignore_ascii_case(service) {
            servers.entry(server).or_default().insert(field, text(value)?);
        }
    }
    let read = |fields: &BTreeMap<&str, &str>| {
        let (scheme, address) = match fields.get("url") {
            Some(url) => url.split_once("://").map(|(scheme, rest)| (Some(scheme), rest)),
            None => fields.get("address").map(|address| (None, *address)),
        }
        .ok_or("a server without an address")?;
        let weight = fields.get("weight").map(|weight| weight.parse());
        Ok(ConsumerView {
            address: Some(dial(address)?),
            scheme: scheme.map(str::to_owned),
            weight: weight
                .transpose()
                .map_err(|error: std::num::ParseIntError| error.to_string())?,
            ..ConsumerView::default()
        })
    };
    servers.values().map(read).collect()
}

#[test]
fn the_judge_condemns_what_makes_consumers_stumble() {
    let bytes = |text: &'static str| text.as_bytes();
    let cases = [
        etcd_grpc(
            &[("a/b", bytes(r#"{"Op":0,"Addr":"10.0.0.7:80","Metadata":{"w":1}}"#))],
            "a",
        ),
        etcd_grpc(&[("a/b", bytes("{}"))], "a"),
        plain(&[("a/b", bytes("2001:db8::7:80"))], "a"),
        kratos(&[("/m/orders/a", bytes("null"))], "/m", "orders"),
        kratos(&[("/m/orders-v2/a", bytes("10.0.0.7:80"))], "/m", "orders"),
        kratos(
            &[(
                "/m/orders/a",
                bytes(r#"{"id":"a","name":"orders","version":"","metadata":{"weight":1},"endpoints":[]}"#),
            )],
            "/m",
            "orders",
        ),
        go_frame(
            &[("/service/d/n/orders/latest/[2001:db8::7]:80", bytes("{}"))],
            "/service/d/n/orders",
        ),
        core_dns(
            &[(
                "/skydns/b/a/Web",
                bytes(r#"{"host":"10.0.0.7","port":80,"priority":1,"ttl":1}"#),
            )],
            "skydns",
            "a.b",
        ),
        core_dns(
            &[(
                "/skydns/b/a/web",
                bytes(r#"{"host":"10.0.0.7","port":80,"priority":1}"#),
            )],
            "skydns",
            "a.b",
        ),
        traefik(
            &[("traefik/http/services/s/loadbalancer/servers/1/weight", bytes("1"))],
            "traefik",
            "http",
            "s",
        ),
        traefik(&[("traefik/http/owner", bytes("me"))], "traefik", "http", "s"),
        kitex(
            &[(
                "k/s/a",
                bytes(r#"{"network":"tcp","address":"10.0.0.7:80","weight":"1","tags":null}"#),
            )],
            "k",
            "s",
        ),
    ];
    for (at, case) in cases.iter().enumerate() {
        assert!(case.is_err(), "case {at}: {case:?}");
    }
}
