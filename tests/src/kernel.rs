//! The kernel program without a network: loaded, attached nowhere, pinned nowhere, run on frames by the kernel itself
//! (`BPF_PROG_TEST_RUN`). Every test loads its own, with maps of its own.

use crate::require::missing;
use agent::kernel::{SessionMap, sys, tcp_offsets};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, Map, MapData, PerCpuArray, RingBuf};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use bytemuck::allocation::zeroed_box;
use ebpf_abi::{
    ABI_VERSION, Address, BANKS, CELLS, Cell, Config, Event, Flow, FlowState, MAGIC, MAPPED_BITS, Outcome,
    PROGRAM, Session, SessionKey, TCP_FIELDS, Tables, map,
};
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// The verdicts of XDP as numbers.
pub const DROP: u32 = 1;
/// See [`DROP`].
pub const PASS: u32 = 2;
/// See [`DROP`].
pub const TX: u32 = 3;

/// The generation of sessions that counts after [`Kernel::configure`].
pub const GENERATION: u32 = 5;
/// The day that it is after [`Kernel::configure`], in days since 1970.
pub const TODAY: u32 = 20_000;

/// Room for the longest frame that may come out: an answer is longer than its request.
const LONGEST: usize = 4096;

/// The oldest kernel that the program is meant for.
const OLDEST: (u32, u32) = (5, 15);

/// The shortest frame that the kernel runs a program on: an Ethernet header.
pub const SHORTEST: usize = 14;

/// The object under test: the one in the repository, or `EDGEGATE_BPF_OBJECT`.
#[must_use]
pub fn object() -> PathBuf {
    std::env::var_os("EDGEGATE_BPF_OBJECT").map_or_else(
        || concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/prebuilt/edgegate.o").into(),
        PathBuf::from,
    )
}

/// A [`Flow`] in memory order.
type FlowBytes = [u8; size_of::<Flow>()];
/// A [`FlowState`] in memory order.
type StateBytes = [u8; size_of::<FlowState>()];

/// Why nothing can be loaded here, if so. It asks the kernel for what every program needs and does not touch the object,
/// so that an object that does not load is a failure and not a reason to skip.
fn unfit() -> Result<(), String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").map_err(|error| error.to_string())?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST {
        return Err(format!("Linux {}.{} or newer, not {}", OLDEST.0, OLDEST.1, release.trim()));
    }
    if !rustix::process::geteuid().is_root() {
        return Err("root".to_owned());
    }
    const NO_PREALLOC: u32 = 1;
    LpmTrie::<_, u32, u32>::create(1, NO_PREALLOC)
        .map(drop)
        .map_err(|error| format!("the right to make BPF maps: {error}"))
}

/// An address as the lists have it.
#[must_use]
pub fn address(ip: &str) -> Address {
    match ip.parse().expect("an address") {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// A session with its last day, by what the kernel's table has of it: any generation is zero.
#[must_use]
pub fn listed(key: SessionKey, last_day: u32) -> (u64, u64) {
    (key.tag(), key.state(Session { last_day, generation: 0 }))
}

/// The sessions that the kernel looks for on behalf of an agent with this folder for pins, as [`listed`] gives them.
///
/// # Panics
/// When there is no map, or one session stands there twice.
#[must_use]
pub fn pinned_sessions(pin_dir: &Path) -> HashSet<(u64, u64)> {
    let pinned = |name| {
        let path = pin_dir.join(format!("v{ABI_VERSION}/maps/{name}"));
        MapData::from_pin(path).expect("a pinned map")
    };
    let table = SessionMap::new(&pinned(map::SESSIONS), &pinned(map::SESSION_BITS)).expect("the table");
    let mut all = HashSet::new();
    for (tag, state) in table.iter() {
        assert!(all.insert((tag, state & !u64::from(u32::MAX))), "twice: {tag:x}");
    }
    all
}

/// What became of one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    pub verdict: u32,
    pub outcome: Outcome,
    /// The frame as it came out.
    pub frame: Vec<u8>,
}

/// The verdict that goes with an outcome. Where a session is reset or dropped, what is made of the frame is for the server.
#[must_use]
pub fn verdict(outcome: Outcome) -> u32 {
    match outcome {
        Outcome::DropIpDenied | Outcome::DropCountryDenied | Outcome::DropOver | Outcome::DropFlow => DROP,
        Outcome::RespondSession
        | Outcome::RespondAgain
        | Outcome::ResetAgain
        | Outcome::AnswerFin
        | Outcome::ResetFlow => TX,
        _ => PASS,
    }
}

/// Whether the program may make another frame of one with this outcome.
#[must_use]
pub fn rewrites(outcome: Outcome) -> bool {
    verdict(outcome) == TX
        || matches!(outcome, Outcome::ResetSession | Outcome::DropSession | Outcome::ResetServer)
}

/// The loaded program.
pub struct Kernel {
    ebpf: Ebpf,
    /// What each bank is to have, and whether the kernel lacks it. Every source is near a list at first.
    tables: [(Box<Tables>, bool); BANKS],
}

impl Kernel {
    /// Loads it, or says why the test is skipped.
    ///
    /// # Panics
    /// When the kernel could load programs and does not load this one.
    #[must_use]
    pub fn load() -> Option<Self> {
        if let Err(reason) = unfit() {
            missing("kernel", &reason);
            return None;
        }
        let offsets = tcp_offsets();
        if offsets.is_none() {
            missing("kernel", "a kernel that describes its sockets (BTF)");
        }
        Some(Self::load_with(&offsets?))
    }

    /// Loads it with places of the socket's fields; without any it cannot ask a socket.
    ///
    /// # Panics
    /// When the kernel does not load it.
    #[must_use]
    pub fn load_with(offsets: &[u32]) -> Self {
        let object = object();
        let bytes = std::fs::read(&object).unwrap_or_else(|error| panic!("{}: {error}", object.display()));
        let mut loader = EbpfLoader::new();
        for ((global, _), offset) in TCP_FIELDS.iter().zip(offsets) {
            loader.override_global(global, offset, true);
        }
        let mut ebpf = loader.load(&bytes).expect("an object with maps that the kernel makes");
        let program: &mut Xdp = ebpf.program_mut(PROGRAM).expect(PROGRAM).try_into().expect("an XDP program");
        program.load().expect("a program that the verifier accepts");
        let tables = [(); BANKS].map(|()| {
            let mut tables: Box<Tables> = zeroed_box();
            tables.listed_v4.fill(u64::MAX);
            tables.listed_v6.fill(u64::MAX);
            (tables, true)
        });
        Self { ebpf, tables }
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &Xdp {
        self.ebpf.program(PROGRAM).expect(PROGRAM).try_into().expect("an XDP program")
    }

    /// A map.
    #[must_use]
    pub fn map(&self, name: &str) -> &Map {
        self.ebpf.map(name).unwrap_or_else(|| panic!("no map {name}"))
    }

    fn map_mut(&mut self, name: &str) -> &mut Map {
        self.ebpf.map_mut(name).unwrap_or_else(|| panic!("no map {name}"))
    }

    /// A map as file and description.
    #[must_use]
    pub fn data(&self, name: &str) -> &MapData {
        match self.map(name) {
            Map::HashMap(data)
            | Map::LruHashMap(data)
            | Map::LpmTrie(data)
            | Map::Array(data)
            | Map::PerCpuArray(data)
            | Map::RingBuf(data) => data,
            other => panic!("{name} is {other:?}"),
        }
    }

    /// The tables of a bank. Changes are in the kernel after the next [`Kernel::configure`].
    pub fn tables(&mut self, bank: usize) -> &mut Tables {
        let (tables, changed) = &mut self.tables[bank];
        *changed = true;
        tables
    }

    /// Puts a bank in force, with every policy active.
    pub fn configure(&mut self, bank: u32, flags: u32) {
        self.configure_with(Config { bank, flags, ..Self::config() });
    }

    /// What [`Kernel::configure`] writes, for the first bank and without flags.
    #[must_use]
    pub fn config() -> Config {
        Config {
            magic: MAGIC,
            abi: ABI_VERSION,
            bank: 0,
            flags: 0,
            version: 1,
            generation: GENERATION,
            today: TODAY,
            active: [u64::MAX; BANKS],
        }
    }

    /// Writes a configuration of any kind, and before it the tables that have changed.
    pub fn configure_with(&mut self, config: Config) {
        let map = self.ebpf.map(map::TABLES).expect(map::TABLES);
        let Map::Array(data) = map else { panic!("{} is {map:?}", map::TABLES) };
        for (bank, (tables, changed)) in (0..).zip(&mut self.tables) {
            if std::mem::take(changed) {
                sys::write_element(data, bank, &**tables).expect("the tables written");
            }
        }
        sys::write_element(self.data(map::CONFIG), 0, &config).expect("the configuration written");
    }

    /// Blacklists a session for good, or up to a day and from a generation on.
    pub fn session(&self, sid: &str, last_day: u32, generation: u32) {
        let key = ebpf_abi::session_key(sid.as_bytes()).expect("a session that the kernel looks for");
        self.sessions(&[(key, Session { last_day, generation })]);
    }

    /// Blacklists many sessions.
    pub fn sessions(&self, sessions: &[(SessionKey, Session)]) {
        let mut table = self.session_map();
        sessions.iter().for_each(|&(key, session)| table.set(key, session).expect("a session written"));
    }

    /// The table of sessions.
    #[must_use]
    pub fn session_map(&self) -> SessionMap {
        SessionMap::new(self.data(map::SESSIONS), self.data(map::SESSION_BITS)).expect("the table")
    }

    /// What is known of a flow.
    #[must_use]
    pub fn flow(&self, flow: &Flow) -> Option<FlowState> {
        let all = sys::read_entries::<Flow, FlowState>(self.data(map::FLOWS)).expect("the flows");
        all.into_iter().find_map(|(other, state)| (other == *flow).then_some(state))
    }

    /// Makes a flow known, and the cell that it falls into.
    pub fn set_flow(&self, flow: Flow, state: FlowState) {
        let (key, value) =
            (bytemuck::cast::<Flow, FlowBytes>(flow), bytemuck::cast::<FlowState, StateBytes>(state));
        self.flows().insert(key, value, 0).expect("a flow written");
        self.set_cell(&flow, state.until);
    }

    /// Makes a flow unknown.
    pub fn forget(&self, flow: &Flow) {
        self.flows().remove(&bytemuck::cast::<Flow, FlowBytes>(*flow)).expect("a flow removed");
        self.set_cell(flow, 0);
    }

    fn flows(&self) -> HashMap<MapData, FlowBytes, StateBytes> {
        let id = self.data(map::FLOWS).info().expect("its description").id();
        let map = Map::LruHashMap(MapData::from_id(id).expect("the same map"));
        HashMap::try_from(map).expect("a hash map")
    }

    /// Up to when any flow of a flow's cell may be known.
    #[must_use]
    pub fn cell(&self, flow: &Flow) -> Cell {
        let (word, shift) = self.place_of_cell(flow);
        let word = self.cells()[word].load(Ordering::Acquire) >> shift & 0xffff;
        Cell(u16::try_from(word).expect("16 bits"))
    }

    /// See [`Kernel::cell`]. Zero is never, and what is too late for a cell is as late as can be.
    pub fn set_cell(&self, flow: &Flow, until: u64) {
        let now = clock_gettime(ClockId::Monotonic);
        let now = u64::try_from(now.tv_sec).expect("a time") * 1_000_000_000;
        let Cell(cell) = if until == 0 { Cell(0) } else { Cell::until(until.min(now + Cell::LONGEST)) };
        let (word, shift) = self.place_of_cell(flow);
        let words = self.cells();
        let others = words[word].load(Ordering::Acquire) & !(0xffff << shift);
        words[word].store(others | u64::from(cell) << shift, Ordering::Release);
    }

    fn cells(&self) -> sys::SharedWords {
        let cells = self.data(map::CELLS).fd().as_fd();
        sys::SharedWords::map(cells, CELLS as usize / 4).expect("cells in memory")
    }

    fn place_of_cell(&self, flow: &Flow) -> (usize, u32) {
        let cell = Flow::cell(flow.hash());
        (cell as usize / 4, cell % 4 * 16)
    }

    /// Says what the agent would say of a connection that waits for a request.
    pub fn set_idle(&self, flow: &Flow, word: u64) {
        sys::write_element(self.data(map::IDLE), Flow::cell(flow.hash()), &word).expect("a word written");
    }

    /// Puts an address on the lists of a bank.
    pub fn exact(&mut self, bank: usize, address: Address, flags: u32) {
        self.try_exact(bank, address, flags).expect("the address written");
    }

    /// [`Kernel::exact`] where there may be no room.
    pub fn try_exact(
        &mut self,
        bank: usize,
        address: Address,
        flags: u32,
    ) -> Result<(), aya::maps::MapError> {
        let mut map =
            HashMap::<_, Address, u32>::try_from(self.map_mut(map::EXACT[bank])).expect("a hash map");
        map.insert(address, flags, 0)
    }

    /// Takes an address off the lists of a bank.
    pub fn remove_exact(&mut self, bank: usize, address: Address) {
        let mut map =
            HashMap::<_, Address, u32>::try_from(self.map_mut(map::EXACT[bank])).expect("a hash map");
        map.remove(&address).expect("the address removed");
    }

    /// Puts a prefix on the lists of a bank: `192.0.2.0/24`, `2001:db8::/32`.
    pub fn prefix(&mut self, bank: usize, prefix: &str, flags: u32) {
        let (ip, length) = prefix.split_once('/').expect("a prefix");
        let mut length = length.parse().expect("its length");
        if !ip.contains(':') {
            length += MAPPED_BITS;
        }
        self.prefix_bits(bank, address(ip), length, flags);
    }

    /// Puts a prefix on the lists of a bank, by its length in an [`Address`].
    pub fn prefix_bits(&mut self, bank: usize, address: Address, length: u32, flags: u32) {
        self.try_prefix_bits(bank, address, length, flags).expect("the prefix written");
    }

    /// [`Kernel::prefix_bits`] where there may be no room.
    pub fn try_prefix_bits(
        &mut self,
        bank: usize,
        address: Address,
        length: u32,
        flags: u32,
    ) -> Result<(), aya::maps::MapError> {
        let mut map = LpmTrie::<_, Address, u32>::try_from(self.map_mut(map::PREFIX[bank])).expect("a trie");
        map.insert(&Key::new(length, address), flags, 0)
    }

    /// Takes a prefix off the lists of a bank.
    pub fn remove_prefix_bits(&mut self, bank: usize, address: Address, length: u32) {
        let mut map = LpmTrie::<_, Address, u32>::try_from(self.map_mut(map::PREFIX[bank])).expect("a trie");
        map.remove(&Key::new(length, address)).expect("the prefix removed");
    }

    /// The events since they were asked for last.
    pub fn events(&mut self) -> Vec<Event> {
        let mut ring = RingBuf::try_from(self.map_mut(map::EVENTS)).expect("a ring");
        let mut events = Vec::new();
        while let Some(entry) = ring.next() {
            events.push(bytemuck::pod_read_unaligned(&entry));
        }
        events
    }

    /// All counters, in the order of [`Outcome::ALL`].
    #[must_use]
    pub fn counters(&self) -> [u64; Outcome::ALL.len()] {
        let map = PerCpuArray::<_, u64>::try_from(self.map(map::COUNTERS)).expect("an array per processor");
        Outcome::ALL.map(|outcome| map.get(&(outcome as u32), 0).expect("a counter").iter().sum())
    }

    /// The counter of one outcome.
    #[must_use]
    pub fn counter(&self, outcome: Outcome) -> u64 {
        let map = PerCpuArray::<_, u64>::try_from(self.map(map::COUNTERS)).expect("an array per processor");
        map.get(&(outcome as u32), 0).expect("a counter").iter().sum()
    }

    /// Runs one frame. Exactly one counter goes up by one, and where nothing is to be made of the frame, it comes out as it
    /// went in.
    pub fn run(&self, frame: &[u8]) -> Ran {
        let before = self.counters();
        let (verdict, out) = self.run_uncounted(frame);
        let after = self.counters();
        let risen: Vec<Outcome> = Outcome::ALL
            .into_iter()
            .flat_map(|outcome| {
                let by = after[outcome as usize] - before[outcome as usize];
                std::iter::repeat_n(outcome, usize::try_from(by).expect("a small number"))
            })
            .collect();
        let &[outcome] = &risen[..] else { panic!("counted as {risen:?}: {frame:02x?}") };
        assert!(rewrites(outcome) || out == frame, "{outcome:?} changed a frame: {frame:02x?} to {out:02x?}");
        Ran { verdict, outcome, frame: out }
    }

    /// Runs one frame. Gives the verdict, and the frame as it came out.
    #[must_use]
    pub fn run_uncounted(&self, frame: &[u8]) -> (u32, Vec<u8>) {
        let mut out = vec![0xa5; LONGEST];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() };
        let result = self.program().test_run(options).unwrap_or_else(|error| panic!("{frame:02x?}: {error}"));
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }
}
