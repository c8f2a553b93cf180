//! `ctl prefilter`: what is pinned in the kernel, whether an agent runs or not.

use super::args::{PinDir, PrefilterCommand};
use super::error::Error;
use crate::kernel;
use std::io::Write;

/// Says whether an interface is filtered, or was.
pub(super) fn run(command: &PrefilterCommand, out: &mut dyn Write) -> Result<bool, Error> {
    match command {
        PrefilterCommand::Status(PinDir { pin_dir }) => {
            let status = kernel::status(pin_dir)?;
            write!(out, "{status}")?;
            Ok(status.attached())
        }
        PrefilterCommand::Detach(PinDir { pin_dir }) => {
            let interfaces = kernel::detach(pin_dir)?;
            for interface in &interfaces {
                writeln!(out, "{interface}: detached")?;
            }
            if interfaces.is_empty() {
                writeln!(out, "nothing was attached")?;
            }
            Ok(true)
        }
    }
}
