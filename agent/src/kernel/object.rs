//! The embedded object, and the maps that the agent and the program share.

use super::error::KernelError;
use super::lists::{Lists, Prefix};
use super::pins::{self, Pins};
use super::sessions::SessionMap;
use super::sys;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, MapType, PerCpuArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use ebpf_abi::{
    ABI_VERSION, Address, BANKS, BUCKETS_GLOBAL, CELLS, Cell, Config, EVENT_BYTES, EXACT_CAPACITY,
    FLOW_CAPACITY, Flow, FlowState, MAGIC, Outcome, PREFIX_CAPACITY, PROGRAM, SESSION_BIT_WORDS,
    SessionBucket, TCP_FIELDS, Tables, map, session_buckets,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// Built by `ebpf/build`; aya wants it aligned.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/prebuilt/edgegate.o");

/// A [`Config`] in memory order.
type ConfigBytes = [u8; size_of::<Config>()];

type Exact = HashMap<MapData, Address, u32>;
type Prefixes = LpmTrie<MapData, Address, u32>;

/// How often a map is asked again that has no memory at hand; the kernel refills its reserve in the background.
const ATTEMPTS: u32 = 20;

/// What a map has to look like.
struct Shape {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: u32,
}

/// Buckets of the table of sessions.
fn buckets(sessions: usize) -> u32 {
    session_buckets(u32::try_from(sessions).unwrap_or(u32::MAX))
}

/// Maps by their shapes; `sessions` is how many sessions the operator wants room for.
fn shapes(sessions: usize) -> impl Iterator<Item = Shape> {
    let shape = |name, kind, key, value, entries| Shape { name, kind, key, value, entries };
    let outcomes = u32::try_from(Outcome::ALL.len()).unwrap_or(u32::MAX);
    let own = [
        shape(map::CONFIG, MapType::Array, 4, size_of::<Config>(), 1),
        shape(map::COUNTERS, MapType::PerCpuArray, 4, 8, outcomes),
    ];
    let buckets = buckets(sessions);
    let more = [
        shape(map::TABLES, MapType::Array, 4, size_of::<Tables>(), 2),
        shape(map::SESSIONS, MapType::Array, 4, size_of::<SessionBucket>(), buckets),
        shape(map::SESSION_BITS, MapType::Array, 4, 8, SESSION_BIT_WORDS),
        shape(map::FLOWS, MapType::LruHash, size_of::<Flow>(), size_of::<FlowState>(), FLOW_CAPACITY),
        shape(map::CELLS, MapType::Array, 4, CELLS as usize * size_of::<Cell>(), 1),
        shape(map::IDLE, MapType::Array, 4, 8, CELLS),
        shape(map::EVENTS, MapType::RingBuf, 0, 0, EVENT_BYTES),
    ];
    let exact = map::EXACT.map(|name| shape(name, MapType::Hash, 16, 4, EXACT_CAPACITY));
    let prefix = map::PREFIX.map(|name| shape(name, MapType::LpmTrie, 20, 4, PREFIX_CAPACITY));
    own.into_iter().chain(more).chain(exact).chain(prefix)
}

impl Shape {
    fn fits(&self, info: &MapInfo) -> bool {
        info.map_type().is_ok_and(|kind| kind == self.kind)
            && info.key_size() as usize == self.key
            && info.value_size() as usize == self.value
            && info.max_entries() == self.entries
    }
}

/// The loaded program.
pub(crate) struct Object(Ebpf);

impl Object {
    /// Loads program and maps. Pinned maps are used as they are if all of them are there and as expected; otherwise new
    /// ones take their pins, and the programs attached so far go on with the old ones. True: they were used.
    pub(crate) fn load(pins: &Pins, sessions: usize) -> Result<(Self, Maps, bool), KernelError> {
        let folder = pins.maps();
        let reused = usable(&folder, Some(sessions));
        if !reused {
            for stale in pins::entries(&folder)? {
                pins::remove(&stale)?;
            }
        }
        let mut loader = EbpfLoader::new();
        for shape in shapes(sessions) {
            loader.map_pin_path(shape.name, folder.join(shape.name));
            if shape.name == map::SESSIONS {
                loader.map_max_entries(shape.name, shape.entries);
            }
        }
        let buckets = buckets(sessions);
        loader.override_global(BUCKETS_GLOBAL, &buckets, true);
        // Without them the program answers nobody: it cannot tell whether an answer would come at its place.
        let offsets = super::tcp_offsets();
        if offsets.is_none() {
            tracing::warn!(
                "kernel: it does not describe its sockets (no BTF), so blacklisted sessions are refused in userspace alone"
            );
        }
        let offsets = offsets.unwrap_or_default();
        for ((global, _), offset) in TCP_FIELDS.iter().zip(&offsets) {
            loader.override_global(global, offset, true);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| KernelError::Load(Box::new(error)))?;
        for shape in shapes(sessions) {
            let found = ebpf.map(shape.name).ok_or(KernelError::Object("it lacks a map"))?;
            let info = map_data(found)?.info().map_err(KernelError::map(shape.name))?;
            if !shape.fits(&info) {
                return Err(KernelError::Object("a map has another shape"));
            }
        }
        // Before any map is taken: the program refers to their file descriptors.
        xdp(&mut ebpf)?.load().map_err(|error| KernelError::Program(Box::new(error)))?;
        let maps = Maps::open(&folder)?;
        Ok((Self(ebpf), maps, reused))
    }

    /// The program.
    pub(crate) fn program(&mut self) -> Result<&mut Xdp, KernelError> {
        xdp(&mut self.0)
    }
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, KernelError> {
    let program = ebpf.program_mut(PROGRAM).ok_or(KernelError::Object("it lacks the program"))?;
    program.try_into().map_err(|error| KernelError::Program(Box::new(error)))
}

fn map_data(map: &Map) -> Result<&MapData, KernelError> {
    match map {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data)
        | Map::RingBuf(data) => Ok(data),
        _ => Err(KernelError::Object("a map has another type")),
    }
}

/// Whether every map is pinned here as this version makes it, with room for so many sessions, or for any number.
fn usable(folder: &Path, sessions: Option<usize>) -> bool {
    let all_fit = shapes(sessions.unwrap_or_default()).all(|shape| {
        let any_number = sessions.is_none() && shape.name == map::SESSIONS;
        MapInfo::from_pin(folder.join(shape.name)).is_ok_and(|info| {
            let entries = if any_number { info.max_entries() } else { shape.entries };
            Shape { entries, ..shape }.fits(&info)
        })
    });
    // All zero: its maker had no time to write it.
    let ours = |config: Config| match config.magic {
        0 => config == Config::default(),
        MAGIC => config.abi == ABI_VERSION && (config.bank as usize) < BANKS,
        _ => false,
    };
    all_fit && config_map(folder).and_then(|map| read(&map)).is_ok_and(ours)
}

/// The maps, by their pins.
pub(crate) struct Maps {
    config: Array<MapData, ConfigBytes>,
    tables: MapData,
    /// Blacklisted sessions.
    pub(crate) sessions: SessionMap,
    exact: [Exact; BANKS],
    prefix: [Prefixes; BANKS],
    /// What each bank holds, where that is known.
    contents: [Option<Lists>; BANKS],
}

impl Maps {
    /// Opens the pinned maps, whose shapes were checked.
    pub(crate) fn open(folder: &Path) -> Result<Self, KernelError> {
        let exact = |name| Exact::try_from(pinned(folder, name)?).map_err(KernelError::map(name));
        let prefix = |name| Prefixes::try_from(pinned(folder, name)?).map_err(KernelError::map(name));
        let [exact_0, exact_1] = map::EXACT;
        let [prefix_0, prefix_1] = map::PREFIX;
        Ok(Self {
            config: config_map(folder)?,
            tables: pinned_data(folder, map::TABLES)?,
            sessions: SessionMap::open(folder)?,
            exact: [exact(exact_0)?, exact(exact_1)?],
            prefix: [prefix(prefix_0)?, prefix(prefix_1)?],
            contents: [None, None],
        })
    }

    /// The pinned maps if there are any and they are of this version.
    pub(crate) fn existing(folder: &Path) -> Result<Option<Self>, KernelError> {
        if usable(folder, None) { Self::open(folder).map(Some) } else { Ok(None) }
    }

    /// The configuration in force.
    pub(crate) fn config(&self) -> Result<Config, KernelError> {
        read(&self.config)
    }

    /// Puts a configuration in force.
    pub(crate) fn set_config(&mut self, config: &Config) -> Result<(), KernelError> {
        self.config
            .set(0, bytemuck::cast::<Config, ConfigBytes>(*config), 0)
            .map_err(KernelError::map(map::CONFIG))
    }

    /// Makes a bank hold exactly these lists and tables. No packet may be looking at the bank.
    pub(crate) fn fill(&mut self, bank: usize, lists: &Lists, tables: &Tables) -> Result<(), KernelError> {
        let index = u32::try_from(bank).unwrap_or_default();
        sys::write_element(&self.tables, index, tables)
            .map_err(|error| KernelError::map(map::TABLES)(MapError::IoError(error)))?;
        // Until it is done, nobody can say what the bank holds.
        let known = self.contents[bank].take();
        let old = match known {
            Some(contents) => contents,
            None => self.read(bank)?,
        };
        sync(&mut self.exact[bank], &old.exact, &lists.exact).map_err(KernelError::map(map::EXACT[bank]))?;
        sync(&mut self.prefix[bank], &old.prefix, &lists.prefix)
            .map_err(KernelError::map(map::PREFIX[bank]))?;
        self.contents[bank] = Some(lists.clone());
        Ok(())
    }

    /// What a bank holds.
    pub(crate) fn read(&self, bank: usize) -> Result<Lists, KernelError> {
        let exact = self.exact[bank].iter().collect::<Result<_, _>>();
        let entry = |entry: Result<(Key<Address>, u32), MapError>| {
            entry.map(|(key, flags)| (Prefix { address: key.data(), bits: key.prefix_len() }, flags))
        };
        let prefix = self.prefix[bank].iter().map(entry).collect::<Result<_, _>>();
        Ok(Lists {
            exact: exact.map_err(KernelError::map(map::EXACT[bank]))?,
            prefix: prefix.map_err(KernelError::map(map::PREFIX[bank]))?,
        })
    }
}

/// What became of packets, counted by the program for as long as its maps are pinned.
pub(crate) struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    /// Opens the pinned counters.
    pub(crate) fn open(folder: &Path) -> Result<Self, KernelError> {
        let counters = PerCpuArray::try_from(pinned(folder, map::COUNTERS)?);
        counters.map(Self).map_err(KernelError::map(map::COUNTERS))
    }

    /// The sum over all processors for each outcome.
    pub(crate) fn read(&self) -> Result<[(Outcome, u64); Outcome::ALL.len()], KernelError> {
        let mut sums = Outcome::ALL.map(|outcome| (outcome, 0u64));
        for (outcome, sum) in &mut sums {
            let values = self.0.get(&(*outcome as u32), 0).map_err(KernelError::map(map::COUNTERS))?;
            *sum = values.iter().fold(0, |sum, value| sum.wrapping_add(*value));
        }
        Ok(sums)
    }
}

/// A map from keys to list flags.
trait Table<K> {
    fn put(&mut self, key: &K, flags: u32) -> Result<(), MapError>;
    fn delete(&mut self, key: &K) -> Result<(), MapError>;
}

impl Table<Address> for Exact {
    fn put(&mut self, key: &Address, flags: u32) -> Result<(), MapError> {
        self.insert(key, flags, 0)
    }

    fn delete(&mut self, key: &Address) -> Result<(), MapError> {
        self.remove(key)
    }
}

impl Table<Prefix> for Prefixes {
    fn put(&mut self, key: &Prefix, flags: u32) -> Result<(), MapError> {
        self.insert(&Key::new(key.bits, key.address), flags, 0)
    }

    fn delete(&mut self, key: &Prefix) -> Result<(), MapError> {
        self.remove(&Key::new(key.bits, key.address))
    }
}

fn sync<K: Ord>(
    table: &mut impl Table<K>,
    old: &BTreeMap<K, u32>,
    new: &BTreeMap<K, u32>,
) -> Result<(), MapError> {
    // First what makes room.
    for key in old.keys().filter(|key| !new.contains_key(key)) {
        table.delete(key)?;
    }
    for (key, &flags) in new.iter().filter(|&(key, flags)| old.get(key) != Some(flags)) {
        let mut attempt = 1;
        while let Err(error) = table.put(key, flags) {
            if attempt == ATTEMPTS || !out_of_memory(&error) {
                return Err(error);
            }
            attempt += 1;
            sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

fn out_of_memory(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.kind() == std::io::ErrorKind::OutOfMemory)
}

/// Opens a pinned map.
pub(super) fn pinned(folder: &Path, name: &'static str) -> Result<Map, KernelError> {
    let data = MapData::from_pin(folder.join(name)).map_err(KernelError::map(name))?;
    Map::from_map_data(data).map_err(KernelError::map(name))
}

pub(super) fn pinned_data(folder: &Path, name: &'static str) -> Result<MapData, KernelError> {
    MapData::from_pin(folder.join(name)).map_err(KernelError::map(name))
}

fn config_map(folder: &Path) -> Result<Array<MapData, ConfigBytes>, KernelError> {
    Array::try_from(pinned(folder, map::CONFIG)?).map_err(KernelError::map(map::CONFIG))
}

fn read(map: &Array<MapData, ConfigBytes>) -> Result<Config, KernelError> {
    map.get(&0, 0).map(bytemuck::cast::<ConfigBytes, Config>).map_err(KernelError::map(map::CONFIG))
}
