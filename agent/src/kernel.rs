//! The kernel part: one XDP program on every interface of `prefilter.interfaces`, which judges packets before they reach
//! a socket.
//!
//! ```text
//! snapshot ─▶ lists, tables ─▶ the bank that no packet reads ─┐
//!          ─▶ sessions ─▶ entries of a generation to come ────┴▶ CONFIG names bank and generation: both in force at once
//! ```
//!
//! Program, links and maps are pinned: they filter on while no agent runs, and the next one takes them over. Userspace
//! enforces the same lists, whether or not the kernel does.

mod attach;
mod btf;
mod countries;
mod error;
mod events;
mod flows;
mod idle;
mod interface;
mod lists;
mod object;
mod part;
mod pins;
mod reply;
mod report;
mod sessions;
pub mod sys;
mod table;
mod tables;

pub use error::KernelError;
pub use flows::Connections;
pub use lists::{Lists, OverCapacity};
pub use report::{Status, detach, status};
pub use sessions::SessionMap;
pub use table::{SessionTable, TableFull};

pub(crate) use events::Events;
pub(crate) use object::Counters;
pub use part::FollowError;
pub(crate) use part::{Part, Report};
pub(crate) use tables::{Compiled, KernelTables};

use crate::config;
use crate::snapshot::Snapshot;
use attach::{Found, How};
use aya::util::KernelVersion;
use ebpf_abi::{
    ABI_VERSION, BANKS, Config, FLAG_EXACT, FLAG_MONITOR, FLAG_PREFIX, FLAG_SESSIONS, MAGIC, TCP_FIELDS,
    TCP_SOCK_FIELDS,
};
use interface::Interfaces;
use object::{Maps, Object};
use pins::Pins;
use rustix::thread::{MembarrierCommand, membarrier};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;
use validator_core::Sessions;

/// What the program is made for. Links for XDP are older.
const OLDEST_KERNEL: KernelVersion = KernelVersion::new(5, 15, 0);

/// Windows and day lists are over in the kernel so many seconds before they are in userspace, and windows begin as much
/// later: the kernel is told of the time now and then, and must not refuse what userspace would not.
const AHEAD: u64 = 2;

/// How long to wait for packets under way where the kernel cannot say when they are through. None takes this long.
const GRACE: Duration = Duration::from_millis(200);

/// The kernel part, in force.
pub(crate) struct Filter {
    object: Object,
    maps: Maps,
    pins: Pins,
    interfaces: Interfaces,
    attached: Vec<String>,
}

/// Everything that a new configuration needs is in the kernel, and nothing of it is in force.
#[must_use]
pub(crate) struct Prepared {
    config: Config,
    wanted: Vec<String>,
    added: Vec<String>,
}

impl Filter {
    /// Puts the lists in force on the configured interfaces. What an earlier run left there is taken over without a gap.
    ///
    /// # Errors
    /// [`KernelError`]. What an earlier run left stays as it was, or has the new lists.
    pub(crate) fn start(snapshot: &Snapshot, tables: &KernelTables, now: u64) -> Result<Self, KernelError> {
        let settings = &snapshot.config.kernel;
        let outcome = Self::try_start(settings, snapshot, tables, now);
        if outcome.is_err() {
            pins::tidy(&settings.pin_dir);
        }
        outcome
    }

    fn try_start(
        settings: &config::Kernel,
        snapshot: &Snapshot,
        tables: &KernelTables,
        now: u64,
    ) -> Result<Self, KernelError> {
        let running = KernelVersion::current().unwrap_or(OLDEST_KERNEL);
        if running < OLDEST_KERNEL {
            return Err(KernelError::OldKernel(format!("{running:?}")));
        }
        let open = Interfaces::open();
        let interfaces = open.map_err(|error| KernelError::Interface { interface: "*".to_owned(), error })?;
        // What only needs looking comes first: nothing has changed if it fails.
        for name in &settings.interfaces {
            if interfaces.index(name).is_ok_and(|index| index.is_none()) {
                return Err(KernelError::NoInterface(name.clone()));
            }
        }
        let pins = Pins::open(&settings.pin_dir)?;
        let look = |name: &String| Ok((name.clone(), attach::look(&pins, &interfaces, name)?));
        let found: Vec<(String, Found)> = settings.interfaces.iter().map(look).collect::<Result<_, _>>()?;

        pins.make_folders(&settings.interfaces)?;
        let (object, maps, reused) = Object::load(&pins, snapshot.config.blacklist_capacity)?;
        tracing::debug!(reused, "kernel: maps are there");
        let mut filter = Self { object, maps, pins, interfaces, attached: Vec::new() };
        let config = filter.fill(snapshot, tables, now)?;
        filter.maps.set_config(&config)?;
        let mut added = Vec::new();
        for (name, found) in &found {
            match filter.attach(name, settings.mode, found) {
                Ok(How::Attached) => added.push(name.clone()),
                Ok(How::Adopted | How::Replaced) => {}
                Err(error) => {
                    filter.detach(&added);
                    return Err(error);
                }
            }
        }
        filter.keep_only(&settings.interfaces)?;
        Ok(filter)
    }

    /// Brings everything that a new configuration needs into the kernel, without putting it in force.
    ///
    /// # Errors
    /// [`KernelError`]; nothing has changed then.
    pub(crate) fn prepare(
        &mut self,
        snapshot: &Snapshot,
        tables: &KernelTables,
        now: u64,
    ) -> Result<Prepared, KernelError> {
        let settings = &snapshot.config.kernel;
        let config = self.fill(snapshot, tables, now)?;
        let mut added = Vec::new();
        for name in &settings.interfaces {
            match self.prepare_interface(name, settings.mode) {
                Ok(true) => added.push(name.clone()),
                Ok(false) => {}
                Err(error) => {
                    self.detach(&added);
                    return Err(error);
                }
            }
        }
        Ok(Prepared { config, wanted: settings.interfaces.clone(), added })
    }

    /// Attaches to an interface that is new in the configuration, or was made anew under its name. False: it has the
    /// program.
    fn prepare_interface(&mut self, name: &str, mode: config::KernelMode) -> Result<bool, KernelError> {
        let found = attach::look(&self.pins, &self.interfaces, name)?;
        if matches!(found, Found::Own { .. }) && self.attached.iter().any(|other| other == name) {
            return Ok(false);
        }
        self.pins.make_folders(&[name.to_owned()])?;
        self.attach(name, mode, &found)?;
        Ok(true)
    }

    /// Puts in force what was prepared.
    ///
    /// # Errors
    /// [`KernelError`]; the old configuration stays in force then.
    pub(crate) fn commit(&mut self, prepared: Prepared) -> Result<(), KernelError> {
        let Prepared { config, wanted, added } = prepared;
        if let Err(error) = self.maps.set_config(&config) {
            self.detach(&added);
            return Err(error);
        }
        if let Err(error) = self.keep_only(&wanted) {
            tracing::warn!("kernel: what is no longer configured could not be detached: {error}");
        }
        Ok(())
    }

    /// Leaves what was prepared for another configuration.
    pub(crate) fn give_up(&mut self, prepared: &Prepared) {
        self.detach(&prepared.added);
    }

    /// Brings changed sessions into the kernel. Those that are added do not count before [`Filter::commit_sessions`], those
    /// that are removed do not any more: userspace is asked about them.
    ///
    /// # Errors
    /// [`KernelError`].
    pub(crate) fn prepare_sessions<'s>(
        &mut self,
        snapshot: &Snapshot,
        sids: impl Iterator<Item = &'s str>,
    ) -> Result<Config, KernelError> {
        let old = self.maps.config()?;
        let generation = old.generation.wrapping_add(1);
        if generation == 0 {
            // All that is there says that it counts from a later generation on.
            self.sync_sessions(snapshot, generation)?;
        } else {
            self.change_sessions(snapshot, sids, generation)?;
        }
        Ok(Config { version: snapshot.version, generation, ..old })
    }

    /// Has these sessions as a snapshot says, as of a generation.
    fn change_sessions<'s>(
        &mut self,
        snapshot: &Snapshot,
        sids: impl Iterator<Item = &'s str>,
        generation: u32,
    ) -> Result<(), KernelError> {
        if !searches_sessions(snapshot) {
            return Ok(());
        }
        let sessions = &snapshot.config.policy.sessions;
        let last_day = |sid| sessions.newest(sid).map(|day| sessions.last_day(day));
        self.maps.sessions.change(sids.map(|sid| (sid, last_day(sid))), generation)
    }

    /// Puts in force what was prepared. The time may have been told meanwhile.
    ///
    /// # Errors
    /// [`KernelError`]; the next change of sessions puts it in force too.
    pub(crate) fn commit_sessions(&mut self, prepared: Config) -> Result<(), KernelError> {
        let Config { version, generation, .. } = prepared;
        let now = self.maps.config()?;
        self.maps.set_config(&Config { version, generation, ..now })
    }

    /// Has the sessions of the configuration in force again, after a change of these was refused.
    ///
    /// # Errors
    /// [`KernelError`].
    pub(crate) fn restore_sessions<'s>(
        &mut self,
        snapshot: &Snapshot,
        sids: impl Iterator<Item = &'s str>,
    ) -> Result<(), KernelError> {
        let generation = self.maps.config()?.generation;
        self.change_sessions(snapshot, sids, generation)
    }

    /// Takes everything out of the kernel.
    pub(crate) fn remove(&mut self) -> Result<(), KernelError> {
        self.keep_only(&[])
    }

    /// The program's counters.
    pub(crate) fn counters(&self) -> Result<Counters, KernelError> {
        Counters::open(&self.pins.maps())
    }

    /// Has the sessions of the configuration in force again, after another one was refused.
    pub(crate) fn restore(&mut self, snapshot: &Snapshot) -> Result<(), KernelError> {
        let generation = self.maps.config()?.generation;
        self.sync_sessions(snapshot, generation).map(drop)
    }

    /// Tells the kernel the time, as far as it matters: which day it is, and which windows are open. Amid a reload the
    /// snapshot may not be the kernel's, and its windows not those of the kernel's services; the next tick will do.
    ///
    /// # Errors
    /// [`KernelError`]; the kernel goes on with what it knows then.
    pub(crate) fn tick(&mut self, snapshot: &Snapshot, now: u64) -> Result<(), KernelError> {
        let old = self.maps.config()?;
        let Some(tables) = snapshot.kernel.as_ref().filter(|_| old.version == snapshot.version) else {
            return Ok(());
        };
        let mut new = Config { today: sessions::today(now), ..old };
        if let Some(active) = new.active.get_mut(old.bank as usize) {
            *active = open_windows(tables, now);
        }
        if new == old { Ok(()) } else { self.maps.set_config(&new) }
    }

    /// The maps about single connections.
    pub(crate) fn connections(&self) -> Result<Connections, KernelError> {
        Connections::open(&self.pins.maps())
    }

    /// The program's events.
    pub(crate) fn events(&self) -> Result<Events, KernelError> {
        Events::open(&self.pins.maps())
    }

    /// Fills the bank that is not in force, and the sessions of the generation to come. Gives the configuration that would
    /// put both in force.
    fn fill(&mut self, snapshot: &Snapshot, tables: &KernelTables, now: u64) -> Result<Config, KernelError> {
        let old = self.maps.config()?;
        let (bank, generation) = match old.magic {
            MAGIC => ((old.bank as usize + 1) % BANKS, old.generation.wrapping_add(1)),
            _ => (0, 1),
        };
        let KernelTables { lists, compiled } = tables;
        // A packet may still be looking at the bank that was left at the last swap.
        wait_for_packets();
        if let Some(tables) = &compiled.tables {
            self.maps.fill(bank, lists, tables)?;
        }
        self.sync_sessions(snapshot, generation)?;
        let flag = |condition, flag| if condition { flag } else { 0 };
        let flags = compiled.flags
            | flag(snapshot.config.kernel.monitor, FLAG_MONITOR)
            | flag(!lists.exact.is_empty(), FLAG_EXACT)
            | flag(!lists.prefix.is_empty(), FLAG_PREFIX);
        let mut active = old.active;
        if let Some(active) = active.get_mut(bank) {
            *active = open_windows(tables, now);
        }
        Ok(Config {
            magic: MAGIC,
            abi: ABI_VERSION,
            bank: u32::try_from(bank).unwrap_or_default(),
            flags,
            version: snapshot.version,
            generation,
            today: sessions::today(now),
            active,
        })
    }

    /// Without ports that are searched for sessions, the kernel has none.
    fn sync_sessions(&mut self, snapshot: &Snapshot, generation: u32) -> Result<usize, KernelError> {
        let none = Sessions::new(0);
        let sessions = if searches_sessions(snapshot) { &snapshot.config.policy.sessions } else { &none };
        self.maps.sessions.sync(sessions, generation)
    }

    fn attach(&mut self, name: &str, mode: config::KernelMode, found: &Found) -> Result<How, KernelError> {
        let how = attach::attach(&mut self.object, &self.pins, &self.interfaces, name, mode, found)?;
        self.attached.retain(|other| other != name);
        self.attached.push(name.to_owned());
        let program = attach::look(&self.pins, &self.interfaces, name)?;
        let mode = match &program {
            Found::Own { place, .. } => place.to_string(),
            Found::Nothing => "gone again".to_owned(),
        };
        let verb = match how {
            How::Attached => "attached",
            How::Adopted => "taken over without a gap",
            How::Replaced => "replaced",
        };
        tracing::info!(interface = name, mode, "kernel: filter {verb}");
        Ok(how)
    }

    /// Detaches what a failed attempt has attached.
    fn detach(&mut self, names: &[String]) {
        let keep: Vec<String> = self.attached.iter().filter(|name| !names.contains(name)).cloned().collect();
        for name in names {
            if let Err(error) = pins::remove(&self.pins.link(name)) {
                tracing::warn!(interface = name, "kernel: the filter could not be detached: {error}");
            }
        }
        self.attached = keep;
    }

    /// Detaches the program from all other interfaces and removes what older versions left.
    fn keep_only(&mut self, names: &[String]) -> Result<(), KernelError> {
        for pinned in self.pins.links()?.iter().filter(|pinned| !names.contains(&pinned.interface)) {
            tracing::info!(interface = pinned.interface, "kernel: filter detached");
        }
        self.pins.remove_all_but(names)?;
        self.attached.retain(|name| names.contains(name));
        Ok(())
    }
}

/// Where the running kernel has the fields of its sockets that the program asks for, in the order of
/// [`ebpf_abi::TCP_FIELDS`]; `None` if it does not say.
#[must_use]
pub fn tcp_offsets() -> Option<Vec<u32>> {
    let fields = TCP_FIELDS.map(|(_, field)| field);
    let (socket, request) = fields.split_at(TCP_SOCK_FIELDS);
    let offsets = [btf::offsets("tcp_sock", socket)?, btf::offsets("tcp_request_sock", request)?];
    Some(offsets.concat())
}

/// The counters of the program whose maps are pinned in a folder.
pub(crate) fn counters(folder: &Path) -> Result<Counters, KernelError> {
    Counters::open(&pins::maps(folder))
}

/// Interfaces with the filter of an earlier run, as far as this process may know.
pub(crate) fn leftovers(settings: &config::Kernel) -> Vec<String> {
    let links = pins::links(&settings.pin_dir).unwrap_or_default();
    links.into_iter().map(|link| link.interface).collect()
}

/// Detaches what an earlier run left in the kernel where the configuration has no interfaces any more.
pub(crate) fn remove_leftovers(settings: &config::Kernel) {
    match detach(&settings.pin_dir) {
        Ok(interfaces) => {
            for interface in interfaces {
                tracing::info!(interface, "kernel: filter of an earlier run detached");
            }
        }
        // Another agent's.
        Err(KernelError::InUse(_)) => {}
        Err(error) => tracing::debug!("kernel: no look at what an earlier run may have left: {error}"),
    }
}

/// Whether the kernel looks for sessions.
fn searches_sessions(snapshot: &Snapshot) -> bool {
    snapshot.kernel.as_ref().is_some_and(|tables| tables.compiled.flags & FLAG_SESSIONS != 0)
}

/// The services whose policy applies now, and will for a while.
fn open_windows(tables: &KernelTables, now: u64) -> u64 {
    tables.compiled.active(now) & tables.compiled.active(now.saturating_add(AHEAD))
}

/// Returns when every packet that was within the program has left it.
fn wait_for_packets() {
    // It is the kernel's `synchronize_rcu`; a processor reserved for one task (nohz_full) rules it out.
    if membarrier(MembarrierCommand::Global).is_err() {
        sleep(GRACE);
    }
}
