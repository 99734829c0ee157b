//! Known bugs of etcd releases that affect leases, fencing or permissions, from etcd's changelogs and issues. The
//! numbers are those of etcd's issues and pull requests.

use super::finding::{Finding, Grade};

type Release = (u32, u32, u32);

/// A bug, and the releases that fixed it.
struct Fault {
    what: &'static str,
    /// The first fixed release of each minor version. Minor versions after the last one listed are fixed too.
    fixed_in: &'static [Release],
    grade: Grade,
}

const FAULTS: [Fault; 5] = [
    Fault {
        what: "a former etcd leader that hung may revoke leases that were renewed (#12528, #15247)",
        fixed_in: &[(3, 5, 13), (3, 6, 0)],
        grade: Grade::Problem,
    },
    Fault {
        what: "leases may never expire after a restart with simple tokens (#13205)",
        fixed_in: &[(3, 5, 5), (3, 6, 0)],
        grade: Grade::Problem,
    },
    Fault {
        what: "each lease renewal puts far too much load on the etcd leader (#18069)",
        fixed_in: &[(3, 5, 16), (3, 6, 0)],
        grade: Grade::Warning,
    },
    Fault {
        what: "any client may renew and revoke leases, whatever its permissions (CVE-2026-33413)",
        fixed_in: &[(3, 5, 28), (3, 6, 9), (3, 7, 0)],
        grade: Grade::Warning,
    },
    Fault {
        what: "puts within transactions may attach keys to leases of other users (CVE-2026-44283)",
        fixed_in: &[(3, 5, 30), (3, 6, 11), (3, 7, 0)],
        grade: Grade::Warning,
    },
];

/// Returns the findings for a member that runs this release.
pub fn findings(endpoint: &str, version: &str) -> Vec<Finding> {
    let Some(release) = parse(version) else {
        let what = format!("{endpoint} reports the version {version:?}, which is not a known release of etcd");
        return vec![Finding::warning(what, "use a release of etcd 3.5, 3.6 or 3.7")];
    };
    if (release.0, release.1) < (3, 5) {
        let what = format!("{endpoint} runs etcd {version}, which gets no more fixes");
        return vec![Finding::problem(what, "upgrade to etcd 3.6 or 3.7")];
    }
    let concerned = FAULTS.iter().filter(|fault| !is_fixed(release, fault.fixed_in));
    let mut findings: Vec<Finding> = concerned
        .map(|fault| Finding {
            grade: fault.grade,
            what: format!("{endpoint} runs etcd {version}: {}", fault.what),
            fix: Some("upgrade to the newest patch release; 3.5.30, 3.6.11 and 3.7.0 have the fix".to_owned()),
        })
        .collect();
    if findings.is_empty() {
        findings.push(Finding::well(format!("{endpoint} runs etcd {version}")));
    }
    findings
}

fn is_fixed(release: Release, fixed_in: &[Release]) -> bool {
    let line = (release.0, release.1);
    match fixed_in.iter().find(|good| (good.0, good.1) == line) {
        Some(good) => release >= *good,
        None => fixed_in.last().is_none_or(|last| release > *last),
    }
}

fn parse(version: &str) -> Option<Release> {
    // Pre-releases and custom builds have a suffix, as in 3.6.0-rc.1.
    let mut parts = version.split(['-', '+']).next()?.split('.').map(str::parse);
    let mut next = || parts.next()?.ok();
    Some((next()?, next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grades(version: &str) -> Vec<Grade> {
        let found = findings("http://e:2379", version);
        found.into_iter().map(|finding| finding.grade).collect()
    }

    #[test]
    fn etcd_release_is_graded_by_the_bugs_fixed_after_it() {
        use Grade::{Problem, Warning, Well};
        assert_eq!(grades("3.7.0"), [Well]);
        assert_eq!(grades("3.8.1"), [Well]);
        assert_eq!(grades("3.6.11"), [Well]);
        assert_eq!(grades("3.6.10"), [Warning]);
        assert_eq!(grades("3.6.0-rc.1"), [Warning, Warning]);
        assert_eq!(grades("3.5.30"), [Well]);
        assert_eq!(grades("3.5.13"), [Warning, Warning, Warning]);
        assert_eq!(grades("3.5.1"), [Problem, Problem, Warning, Warning, Warning]);
        assert_eq!(grades("3.4.45"), [Problem]);
        assert_eq!(grades("somebody's"), [Warning]);
    }
}
