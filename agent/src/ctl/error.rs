//! What can go wrong between the command and the agent.

use super::answers::Refusal;
use std::io;
use std::path::{Path, PathBuf};

/// Why a command is not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(
        "there is no socket {}: is the agent running? [control] socket = … in its configuration says where it \
         listens, and --socket or EDGEGATE_SOCKET tells this command",
        .path.display()
    )]
    NoSocket { path: PathBuf },
    #[error(
        "nobody listens on {}: is the agent running? The socket may be left over from one that ended, or \
         [control] socket = … in its configuration may name another",
        .path.display()
    )]
    NobodyListens { path: PathBuf },
    #[error("no permission to use {}: only root and the agent's user may, so run this as one of them", .path.display())]
    Denied { path: PathBuf },
    #[error("cannot connect to {}", .path.display())]
    Connect { path: PathBuf, source: io::Error },
    /// The connection ended first, or what came is no HTTP.
    #[error(
        "the answer broke off: the agent may have been stopped, and whether it did what was asked is not known"
    )]
    BrokeOff { source: hyper::Error },
    #[error("the agent has ended the stream")]
    StreamEnded,
    #[error("the answer is not of the expected form: are agent and command of the same version?")]
    NotUnderstood { source: serde_json::Error },
    #[error("{0}")]
    Refused(Box<Refusal>),
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{}: the file could not be read to its end; what was sent before may be in force",
        .path.display()
    )]
    ReadMidway { path: PathBuf, source: io::Error },
    #[error("standard input is a terminal, which would show the key: pipe it in, or use --key-file")]
    KeyFromTerminal,
    /// Says nothing of what was read.
    #[error("{}: a key is one line of base64url", .path.display())]
    NoKey { path: PathBuf },
    #[error("prefilter commands print no JSON")]
    NoJson,
    #[error(transparent)]
    Kernel(#[from] crate::kernel::KernelError),
    #[error("cannot build the request")]
    Request(#[from] http::Error),
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

impl Error {
    pub(super) fn connect(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NoSocket { path },
            io::ErrorKind::ConnectionRefused => Self::NobodyListens { path },
            io::ErrorKind::PermissionDenied => Self::Denied { path },
            _ => Self::Connect { path, source },
        }
    }

    /// Whoever reads the output has seen enough, as in `… | head`.
    pub(super) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
