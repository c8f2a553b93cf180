//! What the agent tells the kernel about single connections.

use super::error::KernelError;
use super::idle::IdleWords;
use super::object::pinned;
use super::sys::{self, SharedWords};
use crate::flows::Sink;
use aya::maps::{HashMap, MapData, MapError};
use ebpf_abi::{CELLS, Cell, Flow, FlowState, map, stage};
use rustix::time::{ClockId, clock_gettime};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A [`Flow`] in memory order.
type FlowBytes = [u8; size_of::<Flow>()];

/// A [`FlowState`] in memory order.
type StateBytes = [u8; size_of::<FlowState>()];

/// The maps about connections.
pub struct Connections {
    words: IdleWords,
    maps: FlowMaps,
}

impl Connections {
    /// Opens the maps that are pinned in a folder. Idle words of an earlier process are zeroed.
    ///
    /// # Errors
    /// [`KernelError`], which names the map.
    pub fn open(folder: &Path) -> Result<Self, KernelError> {
        Ok(Self { words: IdleWords::open(folder)?, maps: FlowMaps::open(folder)? })
    }
}

impl Sink for Connections {
    fn publish(&self, flow: &Flow, received: u64, given: u64) {
        self.words.publish(flow, received, given);
    }

    fn clear(&self, flow: &Flow) {
        self.words.clear(flow);
    }

    fn reject(&self, flow: &Flow, stage: u32, lasting: Duration) -> Result<(), KernelError> {
        self.maps.reject(flow, stage, lasting)
    }
}

/// Connections that the kernel refuses.
pub(crate) struct FlowMaps(Mutex<Tables>);

struct Tables {
    flows: HashMap<MapData, FlowBytes, StateBytes>,
    cells: Cells,
}

impl FlowMaps {
    fn open(folder: &Path) -> Result<Self, KernelError> {
        let flows = pinned(folder, map::FLOWS)?.try_into().map_err(KernelError::map(map::FLOWS))?;
        let cells = Cells::open(folder)?;
        Ok(Self(Mutex::new(Tables { flows, cells })))
    }

    /// Has a connection refused for a while, at most [`Cell::LONGEST`].
    ///
    /// # Errors
    /// [`KernelError`], which names the map.
    pub(crate) fn reject(&self, flow: &Flow, stage: u32, lasting: Duration) -> Result<(), KernelError> {
        let now = monotonic();
        let until = now.saturating_add(
            u64::try_from(lasting.as_nanos()).map_or(Cell::LONGEST, |lasting| lasting.min(Cell::LONGEST)),
        );
        let new = FlowState { until, stage, ..FlowState::default() };
        let key: FlowBytes = bytemuck::cast(*flow);
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match tables.flows.get(&key, 0) {
            Ok(bytes) => Some(bytemuck::cast::<StateBytes, FlowState>(bytes)),
            Err(MapError::KeyNotFound) => None,
            Err(error) => return Err(KernelError::map(map::FLOWS)(error)),
        };
        if known.is_some_and(|known| outweighs(&known, &new, now)) {
            return Ok(());
        }
        // The cell first: without it the kernel does not look for the flow. Other flows share it, so it only rises.
        tables.cells.raise(flow, Cell::until(until), now);
        let state: StateBytes = bytemuck::cast(new);
        tables.flows.insert(key, state, 0).map_err(KernelError::map(map::FLOWS))
    }
}

/// A [`Cell`] for each [`Flow::cell`], four in a word. The program writes them, too.
struct Cells(SharedWords);

impl Cells {
    fn open(folder: &Path) -> Result<Self, KernelError> {
        let data = MapData::from_pin(folder.join(map::CELLS)).map_err(KernelError::map(map::CELLS))?;
        let words = SharedWords::map(data.fd().as_fd(), CELLS as usize / 4)
            .map_err(|error| KernelError::map(map::CELLS)(MapError::IoError(error)))?;
        Ok(Self(words))
    }

    /// The word that a flow's cell is in, and how far up in it.
    fn place(&self, flow: &Flow) -> Option<(&AtomicU64, u32)> {
        let cell = Flow::cell(flow.hash());
        Some((self.0.get(cell as usize / 4)?, cell % 4 * 16))
    }

    fn in_word(word: u64, shift: u32) -> Cell {
        let [low, high, ..] = (word >> shift).to_le_bytes();
        Cell(u16::from_le_bytes([low, high]))
    }

    /// Lets the cell of a flow be no earlier.
    fn raise(&self, flow: &Flow, until: Cell, now: u64) {
        if let Some((word, shift)) = self.place(flow) {
            let raised = |word| {
                let Cell(cell) = Self::in_word(word, shift).or_later(until, now);
                Some(word & !(0xffff << shift) | u64::from(cell) << shift)
            };
            let _always_some = word.fetch_update(Ordering::Release, Ordering::Relaxed, raised);
        }
    }
}

/// How many connections the kernel remembers.
pub(crate) fn flow_count(folder: &Path) -> Result<usize, KernelError> {
    let flows = MapData::from_pin(folder.join(map::FLOWS)).map_err(KernelError::map(map::FLOWS))?;
    let entries = sys::read_entries::<Flow, FlowState>(&flows);
    let problem = |error| KernelError::map(map::FLOWS)(MapError::IoError(error));
    entries.map(|entries| entries.len()).map_err(problem)
}

/// Whether a flow that is cut already would be let off with less.
fn outweighs(known: &FlowState, new: &FlowState, now: u64) -> bool {
    known.stage == stage::CUT && known.until > now && new.stage != stage::CUT
}

/// Nanoseconds of the clock that the kernel program reads.
fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let part = |value: i64| u64::try_from(value).unwrap_or_default();
    part(now.tv_sec).saturating_mul(1_000_000_000).saturating_add(part(now.tv_nsec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya::maps::Array;
    use std::path::PathBuf;

    /// `BPF_F_MMAPABLE` of linux/bpf.h.
    const MMAPABLE: u32 = 1 << 10;

    fn flow(source_port: u16) -> Flow {
        Flow { source_port, protocol: 6, ..bytemuck::Zeroable::zeroed() }
    }

    #[test]
    fn a_cut_flow_stays_cut() {
        let state = |stage, until| FlowState { until, stage, ..FlowState::default() };
        let end = state(stage::NO_MORE_DATA, 200);
        assert!(outweighs(&state(stage::CUT, 150), &end, 100));
        assert!(!outweighs(&state(stage::CUT, 100), &end, 100), "it has run out");
        assert!(!outweighs(&state(stage::CUT, 150), &state(stage::CUT, 200), 100));
        assert!(!outweighs(&state(stage::OVER, 150), &end, 100));
        assert!(!outweighs(&state(stage::NO_MORE_DATA, 150), &state(stage::CUT, 200), 100));
    }

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _best_effort = std::fs::remove_dir_all(&self.0);
        }
    }

    /// Maps like those of the object, pinned; `None` where the test may not make any.
    fn pinned_maps() -> Option<(Folder, Array<MapData, u64>)> {
        let folder = Folder(format!("/sys/fs/bpf/edgegate-flows-{}", std::process::id()).into());
        let made = || -> Result<Array<MapData, u64>, Box<dyn std::error::Error>> {
            let idle = Array::<MapData, u64>::create(CELLS, MMAPABLE)?;
            let cells = Array::<MapData, [u16; CELLS as usize]>::create(1, MMAPABLE)?;
            let flows = HashMap::<MapData, FlowBytes, StateBytes>::create(ebpf_abi::FLOW_CAPACITY, 0)?;
            std::fs::create_dir(&folder.0)?;
            let pin = |name| folder.0.join(name);
            idle.pin(pin(map::IDLE))?;
            cells.pin(pin(map::CELLS))?;
            flows.pin(pin(map::FLOWS))?;
            Ok(pinned(&folder.0, map::IDLE)?.try_into()?)
        };
        match made() {
            Ok(idle) => Some((folder, idle)),
            Err(error) => {
                println!("skipped: needs a BPF file system and the right to make maps: {error}");
                None
            }
        }
    }

    /// Cells of a word that are set.
    fn count(word: &AtomicU64) -> u32 {
        let word = word.load(Ordering::Acquire);
        [0, 16, 32, 48].into_iter().map(|shift| u32::from(Cells::in_word(word, shift).0 != 0)).sum()
    }

    #[test]
    fn what_the_kernel_gets_to_see() {
        let Some((folder, mut idle)) = pinned_maps() else { return };
        idle.set(9, 9, 0).unwrap();
        let connections = Connections::open(&folder.0).unwrap();
        assert_eq!(idle.get(&9, 0).unwrap(), 0, "zeroed");

        let (one, cell) = (flow(1), Flow::cell(flow(1).hash()));
        connections.publish(&one, 7, 8);
        assert_eq!(idle.get(&cell, 0).unwrap(), ebpf_abi::Idle::new(one.hash(), 7, 8).0);
        connections.clear(&one);
        assert_eq!(idle.get(&cell, 0).unwrap(), 0);

        let before = monotonic();
        let seconds = 1_000_000_000;
        let state = |flow: &Flow| {
            let tables = connections.maps.0.lock().unwrap();
            let state: FlowState = bytemuck::cast(tables.flows.get(&bytemuck::cast(*flow), 0).unwrap());
            let (word, shift) = tables.cells.place(flow).unwrap();
            (state, Cells::in_word(word.load(Ordering::Acquire), shift))
        };
        connections.reject(&one, stage::CUT, Duration::from_secs(120)).unwrap();
        let (cut, cell) = state(&one);
        assert_eq!((cut.stage, cut.request, cut.reply, cut.reserved), (stage::CUT, 0, 0, 0));
        assert_eq!(cell, Cell::until(cut.until));
        assert!((before + 120 * seconds..monotonic() + 121 * seconds).contains(&cut.until), "{cut:?}");
        connections.reject(&one, stage::NO_MORE_DATA, Duration::from_secs(60)).unwrap();
        assert_eq!(state(&one), (cut, cell), "neither lowered nor let off");

        let other = flow(2);
        connections.reject(&other, stage::NO_MORE_DATA, Duration::from_secs(60)).unwrap();
        let (first, _) = state(&other);
        connections.reject(&other, stage::NO_MORE_DATA, Duration::from_secs(60)).unwrap();
        let (second, cell) = state(&other);
        assert!(second.until > first.until && cell == Cell::until(second.until), "{first:?} {second:?}");
        // The cells around one stay as they are.
        let set: u32 = connections.maps.0.lock().unwrap().cells.0.iter().map(count).sum();
        assert_eq!(set, 2);
    }

    #[test]
    fn missing_maps_are_named() {
        let error = Connections::open(Path::new("/nowhere")).err().unwrap().to_string();
        assert!(error.contains(map::IDLE), "{error}");
    }
}
