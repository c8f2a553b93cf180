//! Folders that nobody else may write.
//!
//! Whoever can write to a folder decides what its files are: a link in the place of a file leads the agent, as root, to overwrite
//! another one, and a store in the place of the agent's own ends a blacklist.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

/// Write permission of the group and of everybody.
const OTHERS_WRITE: u32 = 0o022;

/// Makes a folder for the agent's user alone, or makes sure that one that is there belongs to that user or to root, and that
/// nobody else may write to it.
///
/// # Errors
/// What the system says; or whose folder it is, and the way out.
pub(crate) fn folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let found = fs::metadata(path)?;
    let user = rustix::process::geteuid().as_raw();
    if found.uid() != user && found.uid() != 0 {
        let owner = found.uid();
        let why = format!("it belongs to user {owner}, who could put anything in the place of its files");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    if found.mode() & OTHERS_WRITE != 0 {
        let why = format!(
            "others may write to it (mode {:o}); take that away with chmod go-w",
            found.mode() & 0o7777
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn folders_of_our_own() {
        let within = tempfile::tempdir().unwrap();
        let path = within.path().join("a/b");
        folder(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        for (mode, good) in [(0o755, true), (0o750, true), (0o770, false), (0o702, false), (0o1777, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let outcome = folder(&path);
            assert_eq!(outcome.is_ok(), good, "{mode:o}: {outcome:?}");
        }
        assert!(folder(Path::new("/tmp")).unwrap_err().to_string().contains("mode 1777"));
        fs::write(within.path().join("file"), "").unwrap();
        assert!(folder(&within.path().join("file")).is_err());
    }
}
