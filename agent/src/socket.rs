//! Sockets of either kind, and listening on them.

use crate::config::Listen;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;

/// Connections that the system holds for us until they are accepted.
const BACKLOG: u32 = 4096;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{section}.listen: cannot listen on {address}: {source}")]
pub struct BindError {
    /// Section of the configuration.
    pub section: &'static str,
    /// The address as configured.
    pub address: String,
    /// What the system says.
    pub source: io::Error,
}

/// A bound socket. It is served by the runtime that it was bound on.
pub(crate) enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket, and its file, which goes with it.
    Unix(UnixListener, SocketFile),
}

impl Listener {
    /// Binds an address of the configuration.
    ///
    /// # Errors
    /// [`BindError`], which names the address.
    pub(crate) fn bind(section: &'static str, listen: &Listen) -> Result<Self, BindError> {
        let bound = match listen {
            Listen::Tcp(address) => bind_tcp(*address).map(Self::Tcp),
            Listen::Unix(path) => bind_unix(path),
        };
        bound.map_err(|source| BindError { section, address: listen.to_string(), source })
    }

    /// Binds the control socket, which only the agent's user and root may open.
    ///
    /// # Errors
    /// [`BindError`], which names the path.
    pub(crate) fn bind_control(path: &Path) -> Result<Self, BindError> {
        let bound = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| bind_private(path));
        bound.map_err(|source| BindError {
            section: "control",
            address: format!("unix:{}", path.display()),
            source,
        })
    }

    /// The address as it came out of binding, with the port that the system chose.
    #[must_use]
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// What the system says, mostly that there are too many open files.
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => address.fmt(f),
                Err(error) => error.fmt(f),
            },
            Self::Unix(_, file) => write!(f, "unix:{}", file.0.display()),
        }
    }
}

/// The file of a unix socket, removed on drop.
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _already_gone = std::fs::remove_file(&self.0);
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A socket file that nobody listens on is left over from a crash and makes way; one that answers does not.
fn bind_unix(path: &Path) -> io::Result<Listener> {
    remove_left_over(path)?;
    Ok(Listener::Unix(UnixListener::bind(path)?, SocketFile(path.to_owned())))
}

/// Likewise, and the file is there with its mode from the first moment.
fn bind_private(path: &Path) -> io::Result<Listener> {
    remove_left_over(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux gives the file the mode of the socket.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, i32::try_from(BACKLOG).unwrap_or(i32::MAX))?;
    Ok(Listener::Unix(UnixListener::from_std(socket.into())?, SocketFile(path.to_owned())))
}

fn remove_left_over(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt as _;
    let left_over = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if left_over { std::fs::remove_file(path) } else { Ok(()) }
}

/// A connection on either kind of socket.
pub(crate) struct Socket {
    stream: Stream,
    cut: Option<Arc<Cut>>,
}

/// A connection that nothing was done with.
pub(crate) enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// The same connection on the runtime that this is called on, after another has accepted it.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn moved(self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(TcpStream::from_std(stream.into_std()?)?),
            Self::Unix(stream) => Self::Unix(UnixStream::from_std(stream.into_std()?)?),
        })
    }
}

impl From<Stream> for Socket {
    fn from(stream: Stream) -> Self {
        Self { stream, cut: None }
    }
}

/// What is under way on a connection that is to be cut may take so long. A request that was let through just before has its
/// answer, and a client that asks again is told why not; a broadcast ends.
const GRACE: Duration = Duration::from_secs(1);

/// Has a connection cut, from anywhere.
#[derive(Default)]
pub(crate) struct Cut {
    done: AtomicBool,
    told: Notify,
}

impl Cut {
    /// Cuts it, after a moment of grace. False: that was done already.
    pub(crate) fn cut(&self) -> bool {
        let first = !self.done.swap(true, Ordering::AcqRel);
        self.told.notify_one();
        first
    }

    /// Leaves it, if it is still there.
    pub(crate) fn spare(&self) {
        self.done.store(false, Ordering::Release);
    }

    /// Returns when the connection is to be dropped.
    pub(crate) async fn wait(&self) {
        loop {
            self.told.notified().await;
            tokio::time::sleep(GRACE).await;
            if self.done.load(Ordering::Acquire) {
                return;
            }
        }
    }
}

/// What is still to be sent on a connection that is cut is thrown away, and its client learns at once.
impl Drop for Socket {
    fn drop(&mut self) {
        if let (Stream::Tcp(stream), Some(cut)) = (&self.stream, &self.cut)
            && cut.done.load(Ordering::Acquire)
            && let Err(error) = stream.set_zero_linger()
        {
            tracing::debug!(%error, "a connection ends in good order instead of being reset");
        }
    }
}

/// Calls the same method on whichever socket it is.
macro_rules! delegate {
    ($self:ident, $method:ident ( $($argument:expr),* )) => {
        match &mut $self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Unix(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl Socket {
    /// Resets the connection when it is dropped, if it is cut by then.
    pub(crate) fn reset_if_cut(&mut self, cut: Arc<Cut>) {
        self.cut = Some(cut);
    }

    /// The address of the other side; `None` for a unix socket.
    #[must_use]
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match &self.stream {
            Stream::Tcp(stream) => stream.peer_addr().ok(),
            Stream::Unix(_) => None,
        }
    }

    /// The user on the other side of a unix socket, when it connected.
    #[must_use]
    pub(crate) fn user(&self) -> Option<u32> {
        match &self.stream {
            Stream::Tcp(_) => None,
            Stream::Unix(stream) => stream.peer_cred().ok().map(|peer| peer.uid()),
        }
    }

    /// The address of this side; `None` for a unix socket.
    #[must_use]
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        match &self.stream {
            Stream::Tcp(stream) => stream.local_addr().ok(),
            Stream::Unix(_) => None,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_shutdown(cx))
    }
}
