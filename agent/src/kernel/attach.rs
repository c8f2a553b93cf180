//! From the loaded program to an interface: attached anew, or in place of the program of an earlier run.

use super::error::KernelError;
use super::interface::{Interfaces, Place};
use super::object::Object;
use super::pins::{self, Pins};
use crate::config::KernelMode;
use aya::programs::links::FdLink;
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{ProgramError, loaded_programs};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long the kernel may take to let go of a detached program: it waits until no packet is within it.
const GOING: Duration = Duration::from_secs(5);

/// What is on an interface before the agent does anything.
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// The program of an earlier run, by its pinned link.
    Own {
        /// The link's pin, which may be that of an older version.
        pin: PathBuf,
        /// Where the program runs.
        place: Place,
    },
}

/// How an interface came to have the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// It had none.
    Attached,
    /// It took the place of an earlier one; no packet came between.
    Adopted,
    /// The earlier one had to go first.
    Replaced,
}

/// Looks at an interface.
///
/// # Errors
/// When there is none of this name, or somebody else's program is on it.
pub(crate) fn look(pins: &Pins, interfaces: &Interfaces, name: &str) -> Result<Found, KernelError> {
    let problem = |error| KernelError::Interface { interface: name.to_owned(), error };
    let index = interfaces.index(name).map_err(problem)?;
    let index = index.ok_or_else(|| KernelError::NoInterface(name.to_owned()))?;
    let programs = interfaces.programs(index).map_err(problem)?;
    let mut own = Found::Nothing;
    for (place, id) in programs {
        match own_link(pins, name, id)? {
            Some(pin) => own = Found::Own { pin, place },
            None => {
                let program = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
                let program = program.as_ref().and_then(|program| program.name_as_str()).unwrap_or("unknown");
                return Err(KernelError::Foreign {
                    interface: name.to_owned(),
                    program: program.to_owned(),
                    id,
                    place: match place {
                        Place::Native => "native",
                        Place::Generic => "generic",
                        Place::Offloaded => "offloaded",
                    },
                });
            }
        }
    }
    Ok(own)
}

/// The pin of the link through which the program is on the interface. A link whose interface is gone, or was made again
/// under the same name, has another program or the interface has none.
fn own_link(pins: &Pins, name: &str, program: u32) -> Result<Option<PathBuf>, KernelError> {
    for pinned in pins.links()?.into_iter().filter(|pinned| pinned.interface == name) {
        let link = pins::open_link(&pinned.path)?;
        let info = link
            .info()
            .map_err(|error| KernelError::Link { path: pinned.path.clone(), error: Box::new(error) })?;
        if info.program_id() == program {
            return Ok(Some(pinned.path));
        }
    }
    Ok(None)
}

/// Puts the program on an interface and pins the link.
pub(crate) fn attach(
    object: &mut Object,
    pins: &Pins,
    interfaces: &Interfaces,
    name: &str,
    mode: KernelMode,
    found: &Found,
) -> Result<How, KernelError> {
    let pin = pins.link(name);
    let mut how = How::Attached;
    if let Found::Own { pin: old, place } = found {
        let wanted = match mode {
            KernelMode::Auto => true,
            KernelMode::Native => *place == Place::Native,
            KernelMode::Generic => *place == Place::Generic,
        };
        if wanted {
            match update(object, old) {
                Ok(()) if *old == pin => return Ok(How::Adopted),
                Ok(()) => {
                    pins::remove(&pin)?;
                    pin_link(pins::open_link(old)?, &pin)?;
                    pins::remove(old)?;
                    return Ok(How::Adopted);
                }
                Err(error) => {
                    tracing::warn!(
                        interface = name,
                        "kernel: the program cannot be replaced in place: {error}"
                    );
                }
            }
        }
        tracing::warn!(
            interface = name,
            "kernel: the filter is detached and attached again; for a moment it is off"
        );
        pins::remove(old)?;
        wait_until_free(interfaces, name)?;
        how = How::Replaced;
    }
    // A pin that is left belongs to an interface that is gone.
    pins::remove(&pin)?;
    let link = match mode {
        KernelMode::Native => link(object, name, XdpMode::Driver)?,
        KernelMode::Generic => link(object, name, XdpMode::Skb)?,
        KernelMode::Auto => match link(object, name, XdpMode::Driver) {
            Err(KernelError::Attach { error, .. }) if may_be_the_driver(&error) => {
                tracing::info!(interface = name, "kernel: not in native mode ({error}); trying generic mode");
                link(object, name, XdpMode::Skb)?
            }
            link => link?,
        },
    };
    pin_link(link, &pin)?;
    Ok(how)
}

/// Waits until an interface has no program any more, or is gone itself.
pub(crate) fn wait_until_free(interfaces: &Interfaces, name: &str) -> Result<(), KernelError> {
    let problem = |error| KernelError::Interface { interface: name.to_owned(), error };
    let deadline = Instant::now() + GOING;
    loop {
        let Some(index) = interfaces.index(name).map_err(problem)? else { return Ok(()) };
        if interfaces.programs(index).map_err(problem)?.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(KernelError::Stays(name.to_owned()));
        }
        sleep(Duration::from_millis(1));
    }
}

/// Puts the program in the place of another, for all packets at once.
fn update(object: &mut Object, pin: &std::path::Path) -> Result<(), KernelError> {
    let problem = |error| KernelError::Link { path: pin.to_owned(), error: Box::new(error) };
    let link = XdpLink::try_from(pins::open_link(pin)?).map_err(problem)?;
    let program = object.program()?;
    let failed = |error| KernelError::Program(Box::new(error));
    let id = program.attach_to_link(link).map_err(failed)?;
    // The pin holds it; the descriptor is closed.
    program.take_link(id).map(drop).map_err(failed)
}

fn link(object: &mut Object, name: &str, mode: XdpMode) -> Result<FdLink, KernelError> {
    let mode_name = if mode == XdpMode::Skb { "generic" } else { "native" };
    let problem =
        |error| KernelError::Attach { interface: name.to_owned(), mode: mode_name, error: Box::new(error) };
    let program = object.program()?;
    let id = program.attach(name, mode).map_err(problem)?;
    let link = program.take_link(id).map_err(problem)?;
    FdLink::try_from(link).map_err(|_| KernelError::NoLink(name.to_owned()))
}

fn pin_link(link: FdLink, pin: &std::path::Path) -> Result<(), KernelError> {
    let pinned = link.pin(pin).map(drop);
    pinned.map_err(|error| KernelError::Pin { path: pin.to_owned(), error: Box::new(error) })
}

/// Whether the driver, rather than the system as a whole, refused.
fn may_be_the_driver(error: &ProgramError) -> bool {
    use std::io::ErrorKind::{PermissionDenied, ResourceBusy};
    match error {
        ProgramError::SyscallError(error) => {
            !matches!(error.io_error.kind(), PermissionDenied | ResourceBusy)
        }
        ProgramError::XdpError(_) => true,
        _ => false,
    }
}
