//! `leasehold crds`: prints the CRDs, to apply them or to keep them in a repository.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::api::manifests;

/// Where to write the CRDs.
#[derive(Args, Clone, Debug)]
pub struct CrdsArgs {
    /// Write one file per kind into this directory instead of printing them; the directory is created if it is missing
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot write to {}: {cause}; specify a writable directory with --dir", path.display())]
    Folder { path: PathBuf, cause: io::Error },
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

pub fn crds(args: &CrdsArgs) -> ExitCode {
    let done = match &args.dir {
        Some(folder) => write(folder),
        None => print(&mut io::stdout().lock()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints one YAML document per kind.
fn print(out: &mut impl Write) -> Result<(), Error> {
    let documents: Vec<_> = manifests().into_iter().map(|(_, text)| text).collect();
    let written = out
        .write_all(documents.join("---\n").as_bytes())
        .and_then(|()| out.flush());
    match written {
        // The reader has closed the pipe, as in `leasehold crds | head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Error::Output),
    }
}

fn write(folder: &Path) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |cause| Error::Folder { path, cause }
    };
    std::fs::create_dir_all(folder).map_err(failed(folder))?;
    for (name, text) in manifests() {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(failed(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_reads_as_one_document_a_kind() {
        let mut text = Vec::new();
        print(&mut text).unwrap();
        let documents: Vec<serde_json::Value> =
            serde_saphyr::from_multiple(std::str::from_utf8(&text).unwrap()).unwrap();
        let names: Vec<_> = documents.iter().map(|it| it["metadata"]["name"].as_str()).collect();
        assert_eq!(
            names,
            [
                Some("serviceregistrations.leasehold.dev"),
                Some("registries.leasehold.dev"),
                Some("recordformats.leasehold.dev")
            ]
        );
    }

    #[test]
    fn a_reader_that_leaves_early_is_no_failure() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        print(&mut Gone).unwrap();
    }

    #[test]
    fn the_files_are_written_into_a_folder_that_need_not_exist() {
        let root = std::env::temp_dir().join(format!("leasehold-crds-{}", std::process::id()));
        write(&root.join("deep")).unwrap();
        for (name, text) in manifests() {
            assert_eq!(std::fs::read_to_string(root.join("deep").join(name)).unwrap(), text);
        }
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_named() {
        let error = write(Path::new("/proc/nowhere")).unwrap_err().to_string();
        assert!(error.starts_with("cannot write to /proc/nowhere"), "{error}");
        assert!(error.contains("specify a writable directory"), "{error}");
    }
}
