//! xdp-filter in the kernel, by its own object and without its command: a filter of addresses, ports and Ethernet
//! addresses that many know.
#![expect(clippy::expect_used, reason = "without what was loaded here there is nothing to measure")]

use aya::maps::{PerCpuHashMap, PerCpuValues};
use aya::programs::Xdp;
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

const PROGRAM: &str = "xdpfilt_alw_all";

/// What its maps have for an address that is denied as a source: `MAP_FLAG_SRC`.
const SOURCE: u64 = 1;

/// How many addresses of each family its maps hold.
pub(crate) const CAPACITY: usize = 10_000;

/// The loaded program.
pub(crate) struct XdpFilter(Ebpf);

impl XdpFilter {
    /// Loads it with denied addresses.
    pub(crate) fn load(object: &[u8], denied: &[IpAddr]) -> Self {
        let pins = Pins::new();
        let mut ebpf = EbpfLoader::new().default_map_pin_directory(&pins.0).load(object).expect("its object");
        let processors = nr_cpus().expect("processors");
        let values = || PerCpuValues::try_from(vec![SOURCE; processors]).expect("one for each");
        let map = ebpf.map_mut("filter_ipv4").expect("its map");
        let mut v4 = PerCpuHashMap::<_, [u8; 4], u64>::try_from(map).expect("a hash");
        for ip in denied {
            if let IpAddr::V4(ip) = ip {
                v4.insert(ip.octets(), values(), 0).expect("an address written");
            }
        }
        let map = ebpf.map_mut("filter_ipv6").expect("its map");
        let mut v6 = PerCpuHashMap::<_, [u8; 16], u64>::try_from(map).expect("a hash");
        for ip in denied {
            if let IpAddr::V6(ip) = ip {
                v6.insert(ip.octets(), values(), 0).expect("an address written");
            }
        }
        let program: &mut Xdp = ebpf.program_mut(PROGRAM).expect(PROGRAM).try_into().expect("an XDP program");
        program.load().expect("a program that the verifier accepts");
        Self(ebpf)
    }

    /// The program.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        let program: &Xdp = self.0.program(PROGRAM).expect(PROGRAM).try_into().expect("an XDP program");
        program.fd().expect("a loaded program").as_fd()
    }
}

/// Its object that has all features, drops what is listed and passes everything else, where its package puts
/// such.
pub(crate) fn object() -> Option<Vec<u8>> {
    let folders =
        ["/usr/lib/x86_64-linux-gnu/bpf", "/usr/lib/aarch64-linux-gnu/bpf", "/usr/lib/bpf", "/usr/lib64/bpf"];
    folders.iter().find_map(|folder| std::fs::read(format!("{folder}/xdpfilt_alw_all.o")).ok())
}

/// Why it cannot be loaded here, if so.
pub(crate) fn unfit() -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounted = mounts.lines().any(|line| line.split(' ').nth(1) == Some(PINS));
    (!mounted).then(|| format!("no BPF file system at {PINS}, where its maps ask to be"))
}

const PINS: &str = "/sys/fs/bpf";

/// Its maps ask to be pinned. They are, where nobody else has theirs, until they are open.
struct Pins(PathBuf);

impl Pins {
    fn new() -> Self {
        let folder = Path::new(PINS).join(format!("edgegate-bench-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("a folder of the BPF file system");
        Self(folder)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _gone_already = std::fs::remove_dir_all(&self.0);
    }
}
