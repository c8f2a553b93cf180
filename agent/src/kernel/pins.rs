//! Pins: what keeps the program, its links and its maps in the kernel when no agent runs.
//!
//! ```text
//! <pin_dir>/v<ABI>/maps/<MAP>                shared by all interfaces
//! <pin_dir>/v<ABI>/interfaces/<name>/link
//! ```

use super::error::KernelError;
use aya::programs::links::{FdLink, PinnedLink};
use ebpf_abi::ABI_VERSION;
use rustix::mount::{MountFlags, mount};
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Where the BPF file system is by convention.
const BPFFS: &str = "/sys/fs/bpf";

/// Its number in `statfs`: `BPF_FS_MAGIC` of linux/magic.h.
const BPFFS_MAGIC: u64 = 0xcafe_4a11;

/// A folder of pins, held by this process alone.
pub(crate) struct Pins {
    base: PathBuf,
    /// Its lock ends with it.
    _lock: File,
}

/// The pinned link of an interface.
pub(crate) struct PinnedAt {
    /// The interface's name.
    pub(crate) interface: String,
    /// The link's pin.
    pub(crate) path: PathBuf,
}

impl Pins {
    /// Makes the folder if need be, and mounts the BPF file system if it is not.
    pub(crate) fn open(base: &Path) -> Result<Self, KernelError> {
        mounted(base)?;
        make(base)?;
        Self::lock(base)
    }

    /// Takes the folder if it exists.
    pub(crate) fn existing(base: &Path) -> Result<Option<Self>, KernelError> {
        match fs::metadata(base) {
            Ok(_) => Self::lock(base).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(KernelError::File { path: base.to_owned(), error }),
        }
    }

    fn lock(base: &Path) -> Result<Self, KernelError> {
        let folder = File::open(base).map_err(KernelError::file(base))?;
        match folder.try_lock() {
            Ok(()) => Ok(Self { base: base.to_owned(), _lock: folder }),
            Err(TryLockError::WouldBlock) => Err(KernelError::InUse(base.to_owned())),
            Err(TryLockError::Error(error)) => Err(KernelError::File { path: base.to_owned(), error }),
        }
    }

    /// The folder of this version's maps.
    pub(crate) fn maps(&self) -> PathBuf {
        maps(&self.base)
    }

    /// The pin of an interface's link.
    pub(crate) fn link(&self, interface: &str) -> PathBuf {
        version(&self.base).join("interfaces").join(encoded(interface)).join("link")
    }

    /// Makes the folders for this version's maps and for an interface's link.
    pub(crate) fn make_folders(&self, interfaces: &[String]) -> Result<(), KernelError> {
        make(&self.maps())?;
        interfaces.iter().filter_map(|name| self.link(name).parent().map(make)).collect()
    }

    /// Every pinned link, of any version.
    pub(crate) fn links(&self) -> Result<Vec<PinnedAt>, KernelError> {
        links(&self.base)
    }

    /// Removes everything but the links of this version's `keep`, and folders that became empty. Maps of this version
    /// are kept if any link is.
    pub(crate) fn remove_all_but(&self, keep: &[String]) -> Result<(), KernelError> {
        let kept: Vec<PathBuf> = keep.iter().map(|name| self.link(name)).collect();
        for PinnedAt { path, .. } in self.links()? {
            if !kept.contains(&path) {
                remove(&path)?;
            }
        }
        for version_dir in folders(&self.base)? {
            for interface in entries(&version_dir.join("interfaces"))? {
                prune(&interface);
            }
            if !keep.is_empty() && version_dir == version(&self.base) {
                continue;
            }
            for map in entries(&version_dir.join("maps"))? {
                remove(&map)?;
            }
            prune(&version_dir.join("maps"));
            prune(&version_dir.join("interfaces"));
            prune(&version_dir);
        }
        if keep.is_empty() {
            prune(&self.base);
        }
        Ok(())
    }
}

/// The folder of this version's maps.
pub(crate) fn maps(base: &Path) -> PathBuf {
    version(base).join("maps")
}

/// Every pinned link, of any version.
pub(crate) fn links(base: &Path) -> Result<Vec<PinnedAt>, KernelError> {
    let mut links = Vec::new();
    for version_dir in folders(base)? {
        for folder in entries(&version_dir.join("interfaces"))? {
            let path = folder.join("link");
            if path.exists() {
                let interface = decoded(folder.file_name().unwrap_or_default());
                links.push(PinnedAt { interface, path });
            }
        }
    }
    Ok(links)
}

/// Removes maps and folders that no link needs, as a failed start leaves them.
pub(crate) fn tidy(base: &Path) {
    if let Ok(Some(pins)) = Pins::existing(base)
        && pins.links().is_ok_and(|links| links.is_empty())
        && let Err(error) = pins.remove_all_but(&[])
    {
        tracing::debug!("kernel: {error}");
    }
}

/// Opens a pinned link.
pub(crate) fn open_link(path: &Path) -> Result<FdLink, KernelError> {
    let link = PinnedLink::from_pin(path);
    link.map(FdLink::from)
        .map_err(|error| KernelError::Link { path: path.to_owned(), error: Box::new(error) })
}

/// Removes a pin. What it kept goes when nobody else holds it.
pub(crate) fn remove(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::File { path: path.to_owned(), error })
        }
        _ => Ok(()),
    }
}

/// Files and folders in a folder; none if it does not exist.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        found => found.map_err(KernelError::file(folder)),
    }
}

fn version(base: &Path) -> PathBuf {
    base.join(format!("v{ABI_VERSION}"))
}

/// The folders of all versions.
fn folders(base: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let is_version = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).and_then(|name| name.strip_prefix('v'));
        name.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    Ok(entries(base)?.into_iter().filter(is_version).collect())
}

/// Makes a folder for its owner alone: whoever may open it may also lock it.
fn make(folder: &Path) -> Result<(), KernelError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(KernelError::file(folder))
}

/// Removes a folder if it is empty.
fn prune(folder: &Path) {
    let _not_empty = fs::remove_dir(folder);
}

fn mounted(path: &Path) -> Result<(), KernelError> {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let is_bpffs = |path: &Path| {
        // The type's width and sign differ between platforms.
        #[expect(clippy::cast_sign_loss, reason = "a pattern of bits")]
        rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type as u64 & 0xffff_ffff == BPFFS_MAGIC)
    };
    if is_bpffs(existing) {
        return Ok(());
    }
    let error = if path.starts_with(BPFFS) {
        match mount("bpf", BPFFS, "bpf", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None) {
            Ok(()) => return Ok(()),
            Err(error) => Some(error.into()),
        }
    } else {
        None
    };
    let mount = if path.starts_with(BPFFS) { Path::new(BPFFS) } else { path };
    Err(KernelError::NoBpffs { path: path.to_owned(), mount: mount.to_owned(), error })
}

/// The BPF file system has no names with a dot; interfaces do.
fn encoded(interface: &str) -> String {
    interface.replace('%', "%25").replace('.', "%2e")
}

fn decoded(folder: &OsStr) -> String {
    folder.to_string_lossy().replace("%2e", ".").replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for name in ["eth0", "bond0.12", "a%2e", "%", "a.%25"] {
            assert!(!encoded(name).contains('.'));
            assert_eq!(decoded(OsStr::new(&encoded(name))), name);
        }
    }
}
