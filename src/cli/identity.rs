//! Validates names of namespaces and finds the default name of this replica in leader elections.

use std::ffi::OsString;
use std::path::Path;

/// The file in which Linux shows the machine's host name.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// Returns the pod's name inside a cluster, else the machine's host name. `None` if none of them is usable.
pub fn of_this_machine() -> Option<String> {
    choose(|name| std::env::var_os(name), Path::new(HOST_NAME))
}

/// Whether `name` has 1 to 253 characters and no spaces or control characters, so that a status and a log line can show
/// it.
pub fn is_usable(name: &str) -> bool {
    (1..=253).contains(&name.chars().count()) && !name.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// Parses the name of a namespace by the rules of Kubernetes.
pub fn namespace(text: &str) -> Result<String, String> {
    label(text).ok_or_else(|| "write names of namespaces, such as shop,bank".to_owned())
}

/// Parses the name of a class.
pub fn class(text: &str) -> Result<String, String> {
    label(text).ok_or_else(|| "write 1 to 63 lower-case letters, digits and hyphens, such as edge".to_owned())
}

/// Returns `text` if it is a DNS label.
fn label(text: &str) -> Option<String> {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_name = (1..=63).contains(&text.len())
        && text.chars().all(|c| is_inner(c) || c == '-')
        && text.starts_with(is_inner)
        && text.ends_with(is_inner);
    is_name.then(|| text.to_owned())
}

fn choose(variable: impl Fn(&str) -> Option<OsString>, host_name: &Path) -> Option<String> {
    let variables = ["POD_NAME", "HOSTNAME"]
        .into_iter()
        .filter_map(|name| variable(name)?.into_string().ok());
    let file = || {
        std::fs::read_to_string(host_name)
            .ok()
            .map(|text| text.trim().to_owned())
    };
    variables
        .chain(std::iter::once_with(file).flatten())
        .find(|name| is_usable(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_s_name_comes_before_the_machine_s() {
        let both = |name: &str| Some(OsString::from(format!("value-of-{name}")));
        let nowhere = Path::new("/nowhere");
        assert_eq!(choose(both, nowhere).as_deref(), Some("value-of-POD_NAME"));
        let machine = |name: &str| (name == "HOSTNAME").then(|| OsString::from("machine"));
        assert_eq!(choose(machine, nowhere).as_deref(), Some("machine"));
    }

    #[test]
    fn an_empty_or_unprintable_name_is_passed_over() {
        let names = |name: &str| Some(OsString::from(if name == "POD_NAME" { "" } else { "a b" }));
        assert_eq!(choose(names, Path::new("/nowhere")), None);
        let host_name = std::env::temp_dir().join(format!("leasehold-host-name-{}", std::process::id()));
        std::fs::write(&host_name, "machine\n").unwrap();
        let chosen = choose(names, &host_name);
        std::fs::remove_file(&host_name).unwrap();
        assert_eq!(chosen.as_deref(), Some("machine"));
    }
}
