//! `cargo xtask image`: the operator's image as an OCI archive, without a docker daemon, the same for the same tree.
//!
//! - [`build`]: the static program.
//! - [`sbom`]: what it is made of.
//! - [`oci`]: the image around it, in [`tar`] archives.
//!
//! Knows nothing of image registries: `skopeo copy oci-archive:FILE docker://...` and the like carry it there.

mod build;
mod oci;
mod sbom;
mod tar;

use std::{
    fs,
    path::{Path, PathBuf},
};

use self::build::Profile;
use crate::{
    check::workspace,
    error::{Result, doing},
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What image to make.
#[derive(clap::Args)]
pub struct Options {
    /// Path of the archive; the default is target/image/leasehold-VERSION-ARCHITECTURE.oci.tar. The bill of materials
    /// is written beside it
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Name and tag of the image
    #[arg(long, value_name = "NAME:TAG", default_value_t = format!("leasehold:{VERSION}"))]
    name: String,
    /// Build without optimization, for tests: in seconds instead of minutes
    #[arg(long)]
    dev: bool,
    /// Use this static program instead of building one
    #[arg(long, value_name = "PATH", conflicts_with = "dev")]
    program: Option<PathBuf>,
}

/// Makes the image and prints where it is.
pub async fn run(options: Options) -> Result<()> {
    tokio::task::spawn_blocking(move || make(&options))
        .await
        .expect("building does not panic")
}

fn make(options: &Options) -> Result<()> {
    let target = build::host()?;
    let architecture = build::architecture(&target);
    let profile = if options.dev { Profile::Dev } else { Profile::Release };
    let program = match &options.program {
        Some(program) => program.clone(),
        None => build::program(&target, profile)?,
    };
    let read = |path: &Path| fs::read(path).map_err(doing(format!("read {}", path.display())));
    let licence = String::from_utf8_lossy(&read(&workspace().join("LICENSE"))?).into_owned();
    let bill = sbom::bill(&target)?;
    let archive = oci::archive(&oci::Content {
        program: &read(&program)?,
        bill: &bill,
        licence: &licence,
        architecture,
        name: &options.name,
        version: VERSION,
    });
    let file = format!("leasehold-{VERSION}-{architecture}.oci.tar");
    let output = options.output.clone();
    let output = output.unwrap_or_else(|| workspace().join("target/image").join(file));
    let beside = output.with_extension("cdx.json");
    let write = |path: &Path, bytes: &[u8]| {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(doing(format!("create {}", folder.display())))?;
        }
        fs::write(path, bytes).map_err(doing(format!("write {}", path.display())))
    };
    write(&output, &archive)?;
    write(&beside, bill.as_bytes())?;
    println!("{}\n{}", output.display(), beside.display());
    Ok(())
}
