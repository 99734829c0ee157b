//! The files of an image, unpacked, and what they are started by.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::error::{Doing, Error, Result};

/// An image that pods are run from.
#[derive(Clone, Debug)]
pub struct Image {
    pub(super) root: PathBuf,
    pub(super) entrypoint: Vec<String>,
    pub(super) command: Vec<String>,
    pub(super) env: Vec<(String, String)>,
}

impl Image {
    /// Unpacks an OCI archive of one platform into a folder that is not there yet.
    pub fn unpack(archive: &Path, to: &Path) -> Result<Self> {
        let (layout, root) = (to.join("layout"), to.join("root"));
        untar(archive, &layout)?;
        let json = |path: &Path| {
            let bytes = fs::read(path).doing(|| format!("read {}", path.display()))?;
            serde_json::from_slice::<Value>(&bytes)
                .map_err(|error| Error::Invalid(format!("{} is no JSON: {error}", path.display())))
        };
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap_or_default();
            layout.join("blobs").join(digest.replacen(':', "/", 1))
        };
        let manifest = json(&blob(&json(&layout.join("index.json"))?["manifests"][0]))?;
        let config = json(&blob(&manifest["config"]))?["config"].clone();
        for layer in manifest["layers"].as_array().into_iter().flatten() {
            untar(&blob(layer), &root)?;
        }
        let words = |value: &Value| {
            let words = value.as_array().into_iter().flatten().filter_map(Value::as_str);
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        let env = words(&config["Env"]);
        Ok(Self {
            root,
            entrypoint: words(&config["Entrypoint"]),
            command: words(&config["Cmd"]),
            env: env
                .iter()
                .filter_map(|one| one.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        })
    }

    /// What an image of a program of this machine would be: the program as its entry point, with the libraries that it
    /// is linked to, in a folder that is not there yet.
    pub fn of_program(program: &Path, to: &Path) -> Result<Self> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        place(program, &to.join(&name))?;
        let libraries = Command::new("ldd").arg(program).output().doing(|| "run ldd")?;
        for word in String::from_utf8_lossy(&libraries.stdout).split_whitespace() {
            if let Some(inside) = word.strip_prefix('/')
                && Path::new(word).is_file()
            {
                place(Path::new(word), &to.join(inside))?;
            }
        }
        Ok(Self {
            root: to.to_owned(),
            entrypoint: vec![format!("/{name}")],
            command: Vec::new(),
            env: Vec::new(),
        })
    }

    /// The folder with its files.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Puts its files into a folder for one pod.
    pub(super) fn place(&self, to: &Path) -> Result<()> {
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let from = self.root.join(&folder);
            let inside = to.join(&folder);
            fs::create_dir_all(&inside).doing(|| format!("create the folder {}", inside.display()))?;
            for entry in fs::read_dir(&from).doing(|| format!("list the folder {}", from.display()))? {
                let name = folder.join(entry.doing(|| "list a folder")?.file_name());
                if self.root.join(&name).is_dir() {
                    folders.push(name);
                } else {
                    place(&self.root.join(&name), &to.join(&name))?;
                }
            }
        }
        Ok(())
    }
}

/// The same file at another place: a hard link where that can be, else a copy.
fn place(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).doing(|| format!("create the folder {}", folder.display()))?;
    }
    // A link of a link would point outside of the root.
    let from = fs::canonicalize(from).doing(|| format!("find {}", from.display()))?;
    if fs::hard_link(&from, to).is_err() {
        fs::copy(&from, to).doing(|| format!("copy {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

fn untar(archive: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).doing(|| format!("create the folder {}", to.display()))?;
    let mut command = Command::new("tar");
    command.arg("-xf").arg(archive).arg("-C").arg(to).arg("--no-same-owner");
    let output = command.output().doing(|| "run tar")?;
    if output.status.success() {
        return Ok(());
    }
    let reported = String::from_utf8_lossy(&output.stderr);
    Err(Error::Invalid(format!(
        "tar cannot unpack {}: {reported}",
        archive.display()
    )))
}
