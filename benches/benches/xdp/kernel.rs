//! Edgegate's program in the kernel, with maps of its own and attached nowhere, and what it needs of the machine.
#![expect(clippy::expect_used, reason = "without what was loaded here there is nothing to measure")]

use agent::kernel::SessionMap;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray, lpm_trie::Key};
use aya::programs::{ProgramInfo, Xdp};
use aya::{Ebpf, EbpfLoader};
use ebpf_abi::{
    ABI_VERSION, Address, Config, LIST_DENY, MAGIC, Outcome, PROGRAM, Session, SessionKey, TCP_FIELDS,
    Tables, map,
};
use std::os::fd::{AsFd as _, BorrowedFd};

/// The object that edgegate embeds.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/prebuilt/edgegate.o");

/// Today for the program, in days since 1970.
pub(crate) const TODAY: u32 = 20_000;

/// Why no program can be loaded here, if so.
pub(crate) fn unfit() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    Array::<MapData, u32>::create(1, 0).err().map(|error| format!("no right to make BPF maps: {error}"))
}

/// The object's maps, and its program once it is loaded.
pub(crate) struct Kernel(Ebpf);

impl Kernel {
    /// Makes the maps alone, which takes a fraction of the time.
    pub(crate) fn maps() -> Self {
        let mut loader = EbpfLoader::new();
        let offsets = agent::kernel::tcp_offsets().unwrap_or_default();
        for ((global, _), offset) in TCP_FIELDS.iter().zip(&offsets) {
            loader.override_global(global, offset, true);
        }
        Self(loader.load(OBJECT).expect("an object with maps that the kernel makes"))
    }

    /// Makes the maps and loads the program.
    pub(crate) fn load() -> Self {
        let mut kernel = Self::maps();
        kernel.program_mut().load().expect("a program that the verifier accepts");
        kernel
    }

    pub(crate) fn program_mut(&mut self) -> &mut Xdp {
        self.0.program_mut(PROGRAM).expect(PROGRAM).try_into().expect("an XDP program")
    }

    fn program(&self) -> &Xdp {
        self.0.program(PROGRAM).expect(PROGRAM).try_into().expect("an XDP program")
    }

    /// The program.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.program().fd().expect("a loaded program").as_fd()
    }

    /// What the kernel knows of the program.
    pub(crate) fn info(&self) -> ProgramInfo {
        self.program().info().expect("a loaded program")
    }

    /// A map.
    pub(crate) fn map(&self, name: &str) -> &MapData {
        match self.0.map(name) {
            Some(
                Map::Array(data)
                | Map::PerCpuArray(data)
                | Map::HashMap(data)
                | Map::LruHashMap(data)
                | Map::LpmTrie(data),
            ) => data,
            _ => unreachable!("a map of the object: {name}"),
        }
    }

    /// Puts the first bank in force, with its policies.
    pub(crate) fn configure(&self, flags: u32) {
        let config = Config {
            magic: MAGIC,
            abi: ABI_VERSION,
            flags,
            version: 1,
            generation: 1,
            today: TODAY,
            active: [u64::MAX; 2],
            ..Config::default()
        };
        agent::kernel::sys::write_element(self.map(map::CONFIG), 0, &config)
            .expect("the configuration written");
    }

    /// Fills the first bank's tables.
    pub(crate) fn tables(&self, tables: &Tables) {
        agent::kernel::sys::write_element(self.map(map::TABLES), 0, tables).expect("the tables written");
    }

    /// Denies single addresses.
    pub(crate) fn exact(&mut self, addresses: &[Address]) {
        let map = self.0.map_mut(map::EXACT[0]).expect(map::EXACT[0]);
        let mut map = HashMap::<_, Address, u32>::try_from(map).expect("a hash");
        addresses.iter().for_each(|address| map.insert(address, LIST_DENY, 0).expect("an address written"));
    }

    /// Denies networks.
    pub(crate) fn prefixes(&mut self, prefixes: &[(Address, u32)]) {
        let map = self.0.map_mut(map::PREFIX[0]).expect(map::PREFIX[0]);
        let mut map = LpmTrie::<_, Address, u32>::try_from(map).expect("a trie");
        for &(address, bits) in prefixes {
            map.insert(&Key::new(bits, address), LIST_DENY, 0).expect("a network written");
        }
    }

    /// The table of sessions.
    pub(crate) fn sessions(&self) -> SessionMap {
        SessionMap::new(self.map(map::SESSIONS), self.map(map::SESSION_BITS)).expect("the table")
    }

    /// Lists sessions.
    pub(crate) fn list(&self, sessions: &[(SessionKey, Session)]) {
        let mut table = self.sessions();
        sessions.iter().for_each(|&(key, session)| table.set(key, session).expect("a session written"));
    }

    /// Takes sessions off the list again.
    pub(crate) fn forget(&self, keys: &[SessionKey]) {
        let mut table = self.sessions();
        keys.iter().for_each(|&key| table.remove(key));
    }

    /// All counters, in the order of [`Outcome::ALL`].
    pub(crate) fn counters(&self) -> [u64; Outcome::ALL.len()] {
        let map = self.0.map(map::COUNTERS).expect(map::COUNTERS);
        let map = PerCpuArray::<_, u64>::try_from(map).expect("an array per processor");
        Outcome::ALL.map(|outcome| map.get(&(outcome as u32), 0).expect("a counter").iter().sum())
    }
}

/// How much a counter has risen.
pub(crate) fn risen(
    before: &[u64; Outcome::ALL.len()],
    after: &[u64; Outcome::ALL.len()],
    outcome: Outcome,
) -> u64 {
    after[outcome as usize] - before[outcome as usize]
}
