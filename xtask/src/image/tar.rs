//! A tar archive that says nothing of where and when it was made: files in the order of their paths, no owner but root,
//! no time but the beginning of 1970.

use std::collections::BTreeMap;

/// The size of everything in an archive is a multiple of this, in bytes.
const BLOCK: usize = 512;

/// What is at a path.
#[derive(Clone, Debug)]
enum Entry {
    Folder,
    File { content: Vec<u8>, executable: bool },
}

/// Files by path, to be written as an archive.
#[derive(Clone, Debug, Default)]
pub struct Tar {
    entries: BTreeMap<String, Entry>,
}

impl Tar {
    /// Adds a file at a path such as `etc/passwd`, and the folders that lead there.
    pub fn file(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.add(path, content.into(), false);
    }

    /// Adds a program.
    pub fn program(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.add(path, content.into(), true);
    }

    fn add(&mut self, path: &str, content: Vec<u8>, executable: bool) {
        for (at, _) in path.match_indices('/') {
            self.entries.insert(format!("{}/", &path[..at]), Entry::Folder);
        }
        self.entries
            .insert(path.to_owned(), Entry::File { content, executable });
    }

    /// The archive, in the format ustar.
    pub fn bytes(&self) -> Vec<u8> {
        let mut archive = Vec::new();
        for (path, entry) in &self.entries {
            let (mode, kind, content): (u32, u8, &[u8]) = match entry {
                Entry::Folder => (0o755, b'5', &[]),
                Entry::File { content, executable } => (if *executable { 0o755 } else { 0o644 }, b'0', content),
            };
            archive.extend(header(path, mode, kind, content.len()));
            archive.extend(content);
            archive.resize(archive.len().next_multiple_of(BLOCK), 0);
        }
        // Two empty blocks are the end.
        archive.resize(archive.len() + 2 * BLOCK, 0);
        archive
    }
}

fn header(path: &str, mode: u32, kind: u8, size: usize) -> [u8; BLOCK] {
    assert!(path.len() <= 100, "{path} is too long for this simple format");
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, path.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    // The sum is taken with blanks in its own place.
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_written_is_what_tar_unpacks() {
        let folder = testbed::Folder::new("tar").unwrap();
        let mut tar = Tar::default();
        tar.program("bin/run", "#!/bin/sh\necho hello\n");
        tar.file("etc/deep/name", vec![b'x'; 700]);
        tar.file("a", "");
        let archive = folder.path().join("a.tar");
        std::fs::write(&archive, tar.bytes()).unwrap();
        let unpack = Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(folder.path())
            .output()
            .unwrap();
        assert!(unpack.status.success(), "{unpack:?}");
        let said = Command::new(folder.path().join("bin/run")).output().unwrap();
        assert_eq!(said.stdout, b"hello\n");
        assert_eq!(
            std::fs::read(folder.path().join("etc/deep/name")).unwrap(),
            vec![b'x'; 700]
        );
        assert_eq!(std::fs::read(folder.path().join("a")).unwrap(), b"");
    }

    #[test]
    fn the_order_of_additions_leaves_no_trace() {
        let (mut one, mut other) = (Tar::default(), Tar::default());
        one.file("a/b", "1");
        one.file("c", "2");
        other.file("c", "2");
        other.file("a/b", "1");
        assert_eq!(one.bytes(), other.bytes());
    }
}
