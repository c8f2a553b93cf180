//! What the agent tells the kernel about connections that wait for a request, without a system call.

use super::error::KernelError;
use super::sys::SharedWords;
use aya::maps::{MapData, MapError};
use ebpf_abi::{CELLS, Flow, Idle, map};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// The bits of a word that stand for its flow.
const OF_FLOW: u64 = 0xffff_ffff_0000_0000;

/// One [`Idle`] word for each [`Flow::cell`]. Flows that share a cell take it from each other: the one that lost it is
/// taken for busy.
pub(crate) struct IdleWords(SharedWords);

impl IdleWords {
    /// Takes the pinned map over and zeroes it: what an earlier process said of its connections went with them.
    pub(crate) fn open(folder: &Path) -> Result<Self, KernelError> {
        let data = MapData::from_pin(folder.join(map::IDLE)).map_err(KernelError::map(map::IDLE))?;
        let words = SharedWords::map(std::os::fd::AsFd::as_fd(data.fd()), CELLS as usize)
            .map_err(|error| KernelError::map(map::IDLE)(MapError::IoError(error)))?;
        Ok(Self::new(words))
    }

    fn new(words: SharedWords) -> Self {
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        Self(words)
    }

    /// Says that all `received` bytes of the client are answered and all `given` bytes of answers are written.
    pub(crate) fn publish(&self, flow: &Flow, received: u64, given: u64) {
        let hash = flow.hash();
        if let Some(cell) = self.cell(hash) {
            cell.store(Idle::new(hash, received, given).0, Ordering::Release);
        }
    }

    /// Says nothing about the flow any more. What another flow has said in the same cell stays.
    pub(crate) fn clear(&self, flow: &Flow) {
        let hash = flow.hash();
        if let Some(cell) = self.cell(hash) {
            let word = cell.load(Ordering::Relaxed);
            if word & OF_FLOW == hash & OF_FLOW {
                let _another_took_it = cell.compare_exchange(word, 0, Ordering::Release, Ordering::Relaxed);
            }
        }
    }

    fn cell(&self, hash: u64) -> Option<&AtomicU64> {
        self.0.get(Flow::cell(hash) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::os::fd::AsFd as _;

    fn flow(source_port: u16) -> Flow {
        Flow { source_port, ..bytemuck::Zeroable::zeroed() }
    }

    #[test]
    fn words_of_flows() {
        let file = memfd_create("words", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, u64::from(CELLS) * 8).unwrap();
        let seen_by_kernel = SharedWords::map(file.as_fd(), CELLS as usize).unwrap();
        seen_by_kernel[5].store(9, Ordering::Relaxed);
        let words = IdleWords::new(SharedWords::map(file.as_fd(), CELLS as usize).unwrap());
        assert!(seen_by_kernel.iter().all(|word| word.load(Ordering::Relaxed) == 0), "zeroed");

        let word = |flow: &Flow| seen_by_kernel[Flow::cell(flow.hash()) as usize].load(Ordering::Acquire);
        let one = flow(1);
        words.publish(&one, 100, 2000);
        assert_eq!(word(&one), Idle::new(one.hash(), 100, 2000).0);
        assert_ne!(word(&one), Idle::new(one.hash(), 101, 2000).0);
        assert_ne!(word(&one), Idle::new(one.hash(), 100, 2001).0);

        // Another flow of the same cell takes it, and its word stays when the first one ends.
        let cell = |flow: &Flow| Flow::cell(flow.hash());
        let other = (2..=u16::MAX)
            .map(flow)
            .chain((2..=u16::MAX).map(|port| Flow { destination_port: 7, ..flow(port) }))
            .find(|other| cell(other) == cell(&one))
            .unwrap();
        words.publish(&other, 1, 2);
        words.clear(&one);
        assert_eq!(word(&other), Idle::new(other.hash(), 1, 2).0);
        words.clear(&other);
        assert_eq!(word(&other), 0);
        words.clear(&other);
        assert_eq!(word(&other), 0);
    }
}
