//! The kernel part: one XDP program on every interface of `prefilter.interfaces`, which applies the address lists before
//! a packet reaches a socket.
//!
//! ```text
//! snapshot.kernel ─▶ the bank that no packet reads ─▶ CONFIG names that bank (the swap) ─▶ the other bank is free
//! ```
//!
//! Program, links and maps are pinned: they filter on while no agent runs, and the next one takes them over. Userspace
//! enforces the same lists, whether or not the kernel does.

mod attach;
mod countries;
mod error;
mod flows;
mod idle;
mod interface;
mod lists;
mod object;
mod pins;
mod reply;
mod report;
<<<<<<< HEAD
mod tables;
=======
mod sys;
>>>>>>> flows

pub use error::KernelError;
pub use flows::Connections;
pub use lists::{Lists, OverCapacity};
pub use report::{Status, detach, status};

pub(crate) use object::Counters;
pub(crate) use tables::KernelTables;

use crate::config;
use attach::{Found, How};
use aya::util::KernelVersion;
use ebpf_abi::{ABI_VERSION, BANKS, Config, FLAG_EXACT, FLAG_MONITOR, FLAG_PREFIX, MAGIC};
use interface::Interfaces;
use object::{Maps, Object};
use pins::Pins;
use rustix::thread::{MembarrierCommand, membarrier};
use std::thread::sleep;
use std::time::Duration;

/// What the program is made for. Links for XDP are older.
const OLDEST_KERNEL: KernelVersion = KernelVersion::new(5, 15, 0);

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
    pub(crate) fn start(settings: &config::Kernel, lists: &Lists, version: u64) -> Result<Self, KernelError> {
        let outcome = Self::try_start(settings, lists, version);
        if outcome.is_err() {
            pins::tidy(&settings.pin_dir);
        }
        outcome
    }

    fn try_start(settings: &config::Kernel, lists: &Lists, version: u64) -> Result<Self, KernelError> {
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
        let (object, maps, reused) = Object::load(&pins)?;
        tracing::debug!(reused, "kernel: maps are there");
        let mut filter = Self { object, maps, pins, interfaces, attached: Vec::new() };
        let config = filter.fill(settings, lists, version)?;
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
        settings: &config::Kernel,
        lists: &Lists,
        version: u64,
    ) -> Result<Prepared, KernelError> {
        let config = self.fill(settings, lists, version)?;
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

    /// Takes everything out of the kernel.
    pub(crate) fn remove(mut self) -> Result<(), KernelError> {
        self.keep_only(&[])
    }

    /// The program's counters.
    pub(crate) fn counters(&self) -> Result<Counters, KernelError> {
        Counters::open(&self.pins.maps())
    }

    /// Fills the bank that is not in force. Gives the configuration that would put it in force.
    fn fill(
        &mut self,
        settings: &config::Kernel,
        lists: &Lists,
        version: u64,
    ) -> Result<Config, KernelError> {
        let Config { magic, bank, .. } = self.maps.config()?;
        let bank = if magic == MAGIC { (bank as usize + 1) % BANKS } else { 0 };
        // A packet may still be looking at the bank that was left at the last swap.
        wait_for_packets();
        self.maps.fill(bank, lists)?;
        let flag = |condition, flag| if condition { flag } else { 0 };
        let flags = flag(settings.monitor, FLAG_MONITOR)
            | flag(!lists.exact.is_empty(), FLAG_EXACT)
            | flag(!lists.prefix.is_empty(), FLAG_PREFIX);
        let bank = u32::try_from(bank).unwrap_or_default();
        Ok(Config { magic: MAGIC, abi: ABI_VERSION, bank, flags, version, ..Config::default() })
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

/// Returns when every packet that was within the program has left it.
fn wait_for_packets() {
    // It is the kernel's `synchronize_rcu`; a processor reserved for one task (nohz_full) rules it out.
    if membarrier(MembarrierCommand::Global).is_err() {
        sleep(GRACE);
    }
}
