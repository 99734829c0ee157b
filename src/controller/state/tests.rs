//! Every kind of unusable state folder; none of them is fatal.

use std::os::unix::fs::{PermissionsExt, chown, symlink};

use serde_json::json;

use super::*;

/// A folder that need not exist, inside a folder that is removed at the end.
struct Place {
    root: PathBuf,
    folder: StateFolder,
}

impl Place {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("leasehold-state-{name}-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        let folder = StateFolder::new(root.join("state"));
        Self { root, folder }
    }

    /// Returns a folder that contains [`state`].
    fn written(name: &str) -> Self {
        let place = Self::new(name);
        place.folder.write(&state("c1")).unwrap();
        place
    }

    fn file(&self) -> PathBuf {
        self.folder.0.join(FILE)
    }

    fn refusal(&self) -> String {
        assert_eq!(self.folder.load(), None);
        self.folder.read().unwrap_err().to_string()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn state(cluster_id: &str) -> State {
    let spec = json!({"etcd": {"endpoints": ["http://10.0.0.5:2379"], "metaPrefix": "/ours/"}, "defaults": {"leaseTTLSeconds": 15}});
    let stored = StoredRegistry {
        access: None,
        uid: String::new(),
        generation: 3,
        spec: serde_json::from_value(spec).unwrap(),
    };
    State {
        cluster_id: cluster_id.to_owned(),
        registries: BTreeMap::from([("default".to_owned(), stored)]),
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn state_file_holds_the_last_write_and_is_private() {
    let place = Place::written("round");
    assert_eq!(place.folder.load(), Some(state("c1")));
    place.folder.write(&state("c2")).unwrap();
    assert_eq!(place.folder.load(), Some(state("c2")));
    assert_eq!((mode(&place.folder.0), mode(&place.file())), (0o700, 0o600));
    let names: Vec<_> = fs::read_dir(&place.folder.0).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn a_missing_folder_or_file_is_a_first_start() {
    let place = Place::new("missing");
    assert_eq!(place.folder.load(), None);
    place.folder.write(&state("c1")).unwrap();
    fs::remove_file(place.file()).unwrap();
    assert_eq!(place.folder.load(), None);
}

#[test]
fn a_writer_that_died_half_way_leaves_the_old_state_and_is_no_obstacle() {
    let place = Place::written("died");
    fs::write(place.folder.0.join(NEXT), "{\"version\": 1, \"clus").unwrap();
    assert_eq!(place.folder.load(), Some(state("c1")));
    place.folder.write(&state("c2")).unwrap();
    assert_eq!(place.folder.load(), Some(state("c2")));
}

#[test]
fn a_truncated_file_is_ignored_wherever_it_ends() {
    let whole = state("c1").encode();
    for length in 0..whole.len() {
        assert!(State::decode(&whole[..length]).is_err(), "{length}");
    }
    assert_eq!(State::decode(&whole).unwrap(), state("c1"));
}

#[test]
fn content_that_makes_no_sense_is_ignored_with_its_reason() {
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut document: serde_json::Value = serde_json::from_slice(&state("c1").encode()).unwrap();
        change(&mut document);
        document.to_string()
    };
    for (text, reason) in [
        ("not json".to_owned(), "not a state of leasehold"),
        ("[]".to_owned(), "no version"),
        (
            with(&|it| it["version"] = json!(2)),
            "has version 2, but this release reads version 1",
        ),
        (with(&|it| it["version"] = json!("1")), "no version"),
        (with(&|it| it["clusterId"] = json!("")), "is empty or contains a slash"),
        (
            with(&|it| it["clusterId"] = json!("a/../b")),
            "is empty or contains a slash",
        ),
        (with(&|it| it["registries"]["default"]["spec"] = json!({})), "etcd"),
        (with(&|it| it["registries"] = json!([])), "not a state of leasehold"),
    ] {
        let place = Place::written("content");
        fs::write(place.file(), &text).unwrap();
        let refusal = place.refusal();
        assert!(refusal.contains(reason), "{text}: {refusal}");
    }
}

#[test]
fn a_file_or_folder_that_others_may_touch_is_ignored() {
    let place = Place::written("open");
    set_mode(&place.file(), 0o640);
    let refusal = place.refusal();
    assert!(refusal.contains("state.json has mode 0640"), "{refusal}");
    set_mode(&place.file(), 0o600);
    set_mode(&place.folder.0, 0o777);
    let refusal = place.refusal();
    assert!(refusal.contains("state has mode 0777"), "{refusal}");
    assert!(
        place.folder.write(&state("c2")).is_err(),
        "the folder is not written to"
    );
    set_mode(&place.folder.0, 0o700);
    assert_eq!(place.folder.load(), Some(state("c1")));
}

#[test]
fn state_folder_of_another_owner_is_ignored() {
    let place = Place::written("owner");
    // Only root can change the owner. For other users, the root folder belongs to another user.
    let folder = match chown(&place.folder.0, Some(12345), None) {
        Ok(()) => place.folder.clone(),
        Err(_) => StateFolder::new("/".into()),
    };
    assert_eq!(folder.load(), None);
    let refusal = folder.read().unwrap_err().to_string();
    assert!(refusal.contains("belongs to user"), "{refusal}");
}

#[test]
fn what_is_no_file_in_a_folder_is_ignored() {
    let place = Place::written("kind");
    let elsewhere = place.root.join("elsewhere.json");
    fs::rename(place.file(), &elsewhere).unwrap();
    symlink(&elsewhere, place.file()).unwrap();
    let refusal = place.refusal();
    assert!(refusal.contains("is not a file"), "{refusal}");
    let through_a_file = StateFolder::new(elsewhere);
    assert_eq!(through_a_file.load(), None);
    assert!(through_a_file.write(&state("c2")).is_err());
}

#[tokio::test]
async fn the_newest_state_is_kept_and_a_folder_that_cannot_be_used_ends_nothing() {
    let place = Place::new("keep");
    let (states, reported) = watch::channel(None);
    let shutdown = CancellationToken::new();
    let kept = tokio::spawn(keep(place.folder.clone(), reported, shutdown.clone()));
    let hopeless = StateFolder::new("/proc/nowhere/state".into());
    let in_vain = tokio::spawn(keep(hopeless, states.subscribe(), shutdown.clone()));
    for cluster in ["c1", "c2"] {
        states.send_replace(Some(state(cluster)));
        let written = async {
            while place.folder.read().ok() != Some(state(cluster)) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), written).await.unwrap();
    }
    assert!(!in_vain.is_finished());
    shutdown.cancel();
    kept.await.unwrap();
    in_vain.await.unwrap();
}

#[test]
fn stored_credentials_reload_and_registry_without_them_has_no_access() {
    let spec = json!({"etcd": {"endpoints": ["http://10.0.0.5:2379"], "auth": {"secretRef": {"name": "etcd-user"}}}});
    let mut stored = StoredRegistry {
        access: None,
        uid: String::new(),
        generation: 1,
        spec: serde_json::from_value(spec).expect("a spec"),
    };
    assert_eq!(stored.access(), None);
    let hidden = |text: &str| crate::secret::SecretString::from(text.to_owned());
    let access = Access {
        user: Some(crate::backend::User {
            name: hidden("leasehold"),
            password: hidden("swordfish"),
        }),
        ..Access::open(stored.spec.etcd.endpoints.clone())
    };
    stored.access = Some(access.clone());
    let state = State {
        cluster_id: "c1".to_owned(),
        registries: BTreeMap::from([("default".to_owned(), stored)]),
    };
    let read = State::decode(&state.encode()).expect("a state");
    assert_eq!(read.registries["default"].access(), Some(access));
    assert!(!format!("{read:?}").contains("swordfish"));
}
