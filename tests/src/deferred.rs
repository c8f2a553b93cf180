//! Listeners that take a connection with its first data: until then its handshake is not over for the server.
#![expect(unsafe_code, reason = "a socket option that no crate offers")]

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;

/// Makes one of a listener, for connections of some seconds.
///
/// # Panics
/// When the system refuses.
pub fn defer(listener: &TcpListener) {
    let seconds: libc::c_int = 10;
    let length = libc::socklen_t::try_from(size_of_val(&seconds)).expect("a few bytes");
    // SAFETY: the option's value is an integer, which lives until the call returns.
    let outcome = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            length,
        )
    };
    assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
}
