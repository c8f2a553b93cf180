//! The kernel program without a network: loaded, attached nowhere, pinned nowhere, run on frames by the kernel itself
//! (`BPF_PROG_TEST_RUN`). Every test loads its own, with maps of its own.

use crate::require::missing;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, PerCpuArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use ebpf_abi::{ABI_VERSION, Address, Config, MAGIC, MAPPED_BITS, Outcome, PROGRAM, map};
use std::net::IpAddr;
use std::path::PathBuf;

/// The verdicts of XDP as numbers.
pub const DROP: u32 = 1;
/// See [`DROP`].
pub const PASS: u32 = 2;

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

/// What became of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ran {
    pub verdict: u32,
    pub outcome: Outcome,
}

/// The loaded program.
pub struct Kernel {
    ebpf: Ebpf,
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
        let object = object();
        let bytes = std::fs::read(&object).unwrap_or_else(|error| panic!("{}: {error}", object.display()));
        let mut ebpf = EbpfLoader::new().load(&bytes).expect("an object with maps that the kernel makes");
        let program: &mut Xdp = ebpf.program_mut(PROGRAM).expect(PROGRAM).try_into().expect("an XDP program");
        program.load().expect("a program that the verifier accepts");
        Some(Self { ebpf })
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

    /// Puts a bank in force.
    pub fn configure(&mut self, bank: u32, flags: u32) {
        self.configure_with(Config {
            magic: MAGIC,
            abi: ABI_VERSION,
            bank,
            flags,
            version: 1,
            ..Config::default()
        });
    }

    /// Writes a configuration of any kind.
    pub fn configure_with(&mut self, config: Config) {
        let bytes: [u8; size_of::<Config>()] = bytemuck::cast(config);
        let mut map = Array::<_, [u8; size_of::<Config>()]>::try_from(self.map_mut(map::CONFIG))
            .expect("an array of configurations");
        map.set(0, bytes, 0).expect("the configuration written");
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

    /// All counters, in the order of [`Outcome::ALL`].
    #[must_use]
    pub fn counters(&self) -> [u64; Outcome::ALL.len()] {
        let map = PerCpuArray::<_, u64>::try_from(self.map(map::COUNTERS)).expect("an array per processor");
        Outcome::ALL.map(|outcome| map.get(&(outcome as u32), 0).expect("a counter").iter().sum())
    }

    /// Runs one frame. Whatever becomes of it, it comes out as it went in, and exactly one counter goes up by one.
    pub fn run(&self, frame: &[u8]) -> Ran {
        let before = self.counters();
        let mut out = vec![0xa5; frame.len()];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() };
        let result = self.program().test_run(options).unwrap_or_else(|error| panic!("{frame:02x?}: {error}"));
        assert_eq!(result.data_size_out as usize, frame.len(), "the length of {frame:02x?}");
        assert_eq!(out, frame, "the program changed a frame");
        let after = self.counters();
        let risen: Vec<Outcome> = Outcome::ALL
            .into_iter()
            .flat_map(|outcome| {
                let by = after[outcome as usize] - before[outcome as usize];
                std::iter::repeat_n(outcome, usize::try_from(by).expect("a small number"))
            })
            .collect();
        let &[outcome] = &risen[..] else { panic!("counted as {risen:?}: {frame:02x?}") };
        Ran { verdict: result.return_value, outcome }
    }
}
