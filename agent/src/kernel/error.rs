//! What may stand between the agent and the kernel.

use aya::EbpfError;
use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;
use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

/// Why the kernel part is not in force.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel lacks what the program and its attachment need.
    #[error("Linux {0} is too old; the kernel part needs 5.15 or later")]
    OldKernel(String),
    /// There is no BPF file system to pin to.
    #[error(
        "{} is not on a BPF file system{}; mount one with `mount -t bpf bpf {}`",
        path.display(), because(error.as_ref()), mount.display()
    )]
    NoBpffs {
        /// Where pins were to be.
        path: PathBuf,
        /// Where one should be mounted.
        mount: PathBuf,
        /// Why it could not be mounted, if that was tried.
        error: Option<io::Error>,
    },
    /// Another process works on the same pins.
    #[error("{} is in use by another edgegate", .0.display())]
    InUse(PathBuf),
    /// A file or folder.
    #[error("{}: {error}{}", path.display(), hint(error))]
    File {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// There is no such interface.
    #[error("prefilter.interfaces: there is no interface {0:?}")]
    NoInterface(String),
    /// The system does not tell about an interface.
    #[error("interface {interface}: cannot ask about it: {error}")]
    Interface {
        /// Which.
        interface: String,
        /// What went wrong.
        error: io::Error,
    },
    /// Somebody else's program is on an interface.
    #[error(
        "interface {interface}: another XDP program is attached ({program:?}, id {id}, {place}); edgegate does not \
         replace what is not its own. Detach it, or take the interface out of prefilter.interfaces"
    )]
    Foreign {
        /// Where.
        interface: String,
        /// Its name.
        program: String,
        /// Its id.
        id: u32,
        /// How it is attached.
        place: &'static str,
    },
    /// The embedded object cannot be loaded.
    #[error("cannot load the kernel object: {}{}", chain(.0), privileges(.0))]
    Load(#[source] Box<EbpfError>),
    /// The embedded object is not what this agent was made for.
    #[error("the kernel object does not fit this agent: {0}")]
    Object(&'static str),
    /// The verifier, or the lack of privileges.
    #[error("cannot load the kernel program: {}{}", chain(.0), privileges(.0))]
    Program(#[source] Box<ProgramError>),
    /// The program cannot be attached.
    #[error("interface {interface}: cannot attach in {mode} mode: {}{}", chain(error), privileges(error))]
    Attach {
        /// Where.
        interface: String,
        /// How.
        mode: &'static str,
        /// What went wrong.
        error: Box<ProgramError>,
    },
    /// The kernel attached without a link, which nothing can keep through a restart.
    #[error("interface {0}: the kernel has no links for XDP here; detach with `ip link set dev {0} xdp off`")]
    NoLink(String),
    /// A link.
    #[error("{}: {}", path.display(), chain(error))]
    Link {
        /// Its pin.
        path: PathBuf,
        /// What went wrong.
        error: Box<LinkError>,
    },
    /// A pin cannot be made.
    #[error("{}: cannot be pinned: {}", path.display(), chain(error))]
    Pin {
        /// Where.
        path: PathBuf,
        /// What went wrong.
        error: Box<PinError>,
    },
    /// A map.
    #[error("map {map}: {}{}", chain(error), privileges(error))]
    Map {
        /// Which.
        map: &'static str,
        /// What went wrong.
        error: Box<MapError>,
    },
    /// There are more sessions than the table was made for.
    #[error("map SESSIONS: no room for another session; it was made for {0}")]
    SessionsFull(u32),
    /// A program did not go away.
    #[error("interface {0}: the program is still there after it was detached")]
    Stays(String),
}

impl KernelError {
    pub(super) fn map(map: &'static str) -> impl FnOnce(MapError) -> Self {
        move |error| Self::Map { map, error: Box::new(error) }
    }

    pub(super) fn file(path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::File { path: path.to_owned(), error }
    }
}

/// An error and what caused it, in one line but for what the verifier says.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            // Writing to a string cannot fail.
            let _infallible = write!(text, ": {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// What to do about it if somewhere below it the system did not permit something.
fn privileges(error: &(dyn Error + 'static)) -> &'static str {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return hint(error);
        }
        next = error.source();
    }
    ""
}

fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        " (needs root, or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN and write access to the pins)"
    } else {
        ""
    }
}

fn because(error: Option<&io::Error>) -> String {
    error.map(|error| format!(" and none could be mounted ({error})")).unwrap_or_default()
}
