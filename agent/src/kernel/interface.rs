//! Network interfaces, and the XDP program that runs on one, asked over netlink.

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, recv, send, socket_with,
};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

// linux/netlink.h, linux/rtnetlink.h, linux/if_link.h
const HEADER: usize = 16;
const IFINFO: usize = 16;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLM_F_REQUEST: u16 = 1;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;
const TYPE_MASK: u16 = 0x3fff;

/// Where in the path of a packet a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
    /// In the network card.
    Offloaded,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
        })
    }
}

/// A socket to ask about interfaces.
pub(crate) struct Interfaces(OwnedFd);

impl Interfaces {
    /// Opens the socket.
    pub(crate) fn open() -> io::Result<Self> {
        // Netlink's protocol 0 is NETLINK_ROUTE.
        Ok(Self(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?))
    }

    /// The index of an interface; `None` if there is none of this name.
    pub(crate) fn index(&self, name: &str) -> io::Result<Option<u32>> {
        match netdevice::name_to_index(&self.0, name) {
            Ok(index) => Ok(Some(index)),
            Err(rustix::io::Errno::NODEV | rustix::io::Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The programs on an interface by their ids: more than one where a card and its driver run one each.
    pub(crate) fn programs(&self, index: u32) -> io::Result<Vec<(Place, u32)>> {
        let mut request = Vec::with_capacity(HEADER + IFINFO);
        request.extend_from_slice(&u32::try_from(HEADER + IFINFO).unwrap_or_default().to_ne_bytes());
        request.extend_from_slice(&RTM_GETLINK.to_ne_bytes());
        request.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        request.extend_from_slice(&[0; 8]); // sequence number, port
        request.extend_from_slice(&[0; 4]); // family, type
        request.extend_from_slice(&index.to_ne_bytes());
        request.extend_from_slice(&[0; 8]); // flags, mask
        send(&self.0, &request, SendFlags::empty())?;

        let mut answer = vec![0; 64 << 10];
        let (length, _) = recv(&self.0, answer.as_mut_slice(), RecvFlags::empty())?;
        let answer = answer.get(..length).unwrap_or_default();
        programs(answer)
            .unwrap_or_else(|| Err(io::Error::new(io::ErrorKind::InvalidData, "netlink: damaged answer")))
    }
}

/// `None` for what is no answer to the request.
fn programs(message: &[u8]) -> Option<io::Result<Vec<(Place, u32)>>> {
    let length = usize::try_from(word(message.get(..4)?)?).ok()?;
    let kind = half(message.get(4..6)?)?;
    let body = message.get(HEADER..length)?;
    if kind == NLMSG_ERROR {
        let errno = word(body.get(..4)?)?.cast_signed();
        return Some(Err(io::Error::from_raw_os_error(errno.saturating_neg())));
    }
    if kind != RTM_NEWLINK {
        return None;
    }
    let mut found = Vec::new();
    let Some((_, xdp)) = attributes(body.get(IFINFO..)?).find(|&(kind, _)| kind == IFLA_XDP) else {
        return Some(Ok(found));
    };
    for (kind, value) in attributes(xdp) {
        let place = match kind {
            IFLA_XDP_DRV_PROG_ID => Place::Native,
            IFLA_XDP_SKB_PROG_ID => Place::Generic,
            IFLA_XDP_HW_PROG_ID => Place::Offloaded,
            _ => continue,
        };
        found.push((place, word(value)?));
    }
    Some(Ok(found))
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(bytes.get(..2)?)?);
        let kind = half(bytes.get(2..4)?)? & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn word(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8]) -> Option<u16> {
    bytes.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_no_program() {
        let interfaces = Interfaces::open().unwrap();
        let index = interfaces.index("lo").unwrap().unwrap();
        assert_eq!(interfaces.programs(index).unwrap(), []);
        assert_eq!(interfaces.index("no-such-thing").unwrap(), None);
        assert!(interfaces.programs(0x7fff_ffff).is_err());
    }
}
