//! What is in the kernel, for operators: `edgegate ctl prefilter status` and `edgegate ctl prefilter detach`.

use super::attach::{Found, look, wait_until_free};
use super::error::KernelError;
use super::flows::flow_count;
use super::interface::Interfaces;
use super::object::{Counters, Maps};
use super::pins::{self, Pins};
use ebpf_abi::{
    Config, EXACT_CAPACITY, FLAG_MONITOR, FLAG_RESET, FLAG_RESPOND, FLAG_SERVICES, FLAG_SESSIONS,
    FLOW_CAPACITY, Outcome, PREFIX_CAPACITY,
};
use std::fmt;
use std::path::{Path, PathBuf};

/// What is pinned in a folder.
pub struct Status {
    folder: PathBuf,
    links: Vec<Link>,
    tables: Option<Tables>,
}

struct Link {
    interface: String,
    /// `None` where the interface is gone, or has another program.
    place: Option<String>,
    link: u32,
    program: u32,
}

struct Tables {
    config: Config,
    exact: usize,
    prefix: usize,
    sessions: (usize, u32),
    flows: usize,
    counters: [(Outcome, u64); Outcome::ALL.len()],
}

impl Status {
    /// Whether any interface is filtered.
    #[must_use]
    pub fn attached(&self) -> bool {
        self.links.iter().any(|link| link.place.is_some())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.links.is_empty() {
            writeln!(f, "nothing attached (pins in {})", self.folder.display())?;
        }
        for Link { interface, place, link, program } in &self.links {
            match place {
                Some(place) => writeln!(f, "{interface}: {place}, program {program}, link {link}")?,
                None => writeln!(f, "{interface}: gone, or with another program; link {link} does nothing")?,
            }
        }
        let Some(Tables { config, exact, prefix, sessions, flows, counters }) = &self.tables else {
            return Ok(());
        };
        let monitor = if config.flags & FLAG_MONITOR == 0 { "no" } else { "yes: nothing is dropped" };
        writeln!(f, "monitor: {monitor}")?;
        writeln!(f, "lists: version {}, bank {}", config.version, config.bank)?;
        writeln!(f, "map exact: {exact} of {EXACT_CAPACITY} entries")?;
        writeln!(f, "map prefix: {prefix} of {PREFIX_CAPACITY} entries")?;
        writeln!(f, "map sessions: {} of {} entries", sessions.0, sessions.1)?;
        writeln!(f, "map flows: {flows} of {FLOW_CAPACITY} entries")?;
        let countries = if config.flags & FLAG_SERVICES == 0 { "no" } else { "yes" };
        writeln!(f, "countries: {countries}")?;
        let action = match config.flags {
            flags if flags & FLAG_SESSIONS == 0 => "not looked for",
            flags if flags & FLAG_RESPOND != 0 => "answered",
            flags if flags & FLAG_RESET != 0 => "reset",
            _ => "dropped",
        };
        writeln!(f, "blacklisted sessions: {action}")?;
        for (outcome, count) in counters {
            let (verdict, reason) = outcome.labels();
            writeln!(f, "packets {verdict} {reason}: {count}")?;
        }
        Ok(())
    }
}

/// Reads what is pinned in a folder, whether or not an agent runs.
///
/// # Errors
/// [`KernelError`], above all for lack of privileges.
pub fn status(folder: &Path) -> Result<Status, KernelError> {
    let interfaces = Interfaces::open();
    let interfaces =
        interfaces.map_err(|error| KernelError::Interface { interface: "*".to_owned(), error })?;
    let mut links = Vec::new();
    for pinned in pins::links(folder)? {
        let info = pins::open_link(&pinned.path)?;
        let info = info
            .info()
            .map_err(|error| KernelError::Link { path: pinned.path.clone(), error: Box::new(error) })?;
        let index = interfaces.index(&pinned.interface).ok().flatten();
        let programs = index.and_then(|index| interfaces.programs(index).ok()).unwrap_or_default();
        let place =
            programs.iter().find(|(_, id)| *id == info.program_id()).map(|(place, _)| place.to_string());
        links.push(Link { interface: pinned.interface, place, link: info.id(), program: info.program_id() });
    }
    let maps = pins::maps(folder);
    let tables = match Maps::existing(&maps)? {
        None => None,
        Some(found) => {
            let config = found.config()?;
            let lists = found.read(config.bank as usize)?;
            let counters = Counters::open(&maps)?.read()?;
            let sessions = (found.sessions.iter().count(), found.sessions.capacity());
            Some(Tables {
                config,
                exact: lists.exact.len(),
                prefix: lists.prefix.len(),
                sessions,
                flows: flow_count(&maps)?,
                counters,
            })
        }
    };
    Ok(Status { folder: folder.to_owned(), links, tables })
}

/// Takes program, links and maps out of the kernel. Gives the interfaces that had links.
///
/// # Errors
/// [`KernelError`], above all where an agent runs: it would go on to believe that the kernel filters.
pub fn detach(folder: &Path) -> Result<Vec<String>, KernelError> {
    let Some(pins) = Pins::existing(folder)? else { return Ok(Vec::new()) };
    let interfaces = Interfaces::open();
    let interfaces =
        interfaces.map_err(|error| KernelError::Interface { interface: "*".to_owned(), error })?;
    let links = pins.links()?;
    // On those whose pin is that of the program they run, it has to be gone afterwards.
    let own = |name: &&String| matches!(look(&pins, &interfaces, name), Ok(Found::Own { .. }));
    let names: Vec<String> = links.into_iter().map(|link| link.interface).collect();
    let running: Vec<String> = names.iter().filter(own).cloned().collect();
    pins.remove_all_but(&[])?;
    for name in running {
        wait_until_free(&interfaces, &name)?;
    }
    Ok(names)
}
