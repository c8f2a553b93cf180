//! Cores, processes on them, and the processor time that they take.

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs;
use std::process::{Command, Stdio};
use tests::binary::Owned;

/// Where subjects run, and where everything runs that puts load on them, the origin included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cores {
    pub(crate) subject: usize,
    pub(crate) load: usize,
}

impl Cores {
    /// The first two cores that this process may use.
    pub(crate) fn find() -> Result<Self, String> {
        let allowed = sched_getaffinity(None).map_err(|error| error.to_string())?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        match (cores.next(), cores.next()) {
            (Some(subject), Some(load)) => Ok(Self { subject, load }),
            _ => Err("there is one core; subject and load need one each".to_owned()),
        }
    }

    /// Moves this thread, and what it starts from now on, to the core of the load.
    pub(crate) fn stay_with_load(self) {
        stay_on(&[self.load]);
    }

    /// Runs something on the core of the subject; what it starts stays there.
    pub(crate) fn with_subject<T>(self, run: impl FnOnce() -> T) -> T {
        self.on(&[self.subject], run)
    }

    /// The same on both cores.
    pub(crate) fn with_both<T>(self, run: impl FnOnce() -> T) -> T {
        self.on(&[self.subject, self.load], run)
    }

    fn on<T>(self, cores: &[usize], run: impl FnOnce() -> T) -> T {
        stay_on(cores);
        let outcome = run();
        self.stay_with_load();
        outcome
    }
}

fn stay_on(cores: &[usize]) {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    sched_setaffinity(None, &set).expect("a core that this process may use");
}

/// A command whose process ends with this one, however that ends: by `setpriv`, as the system only does so if asked by
/// the process itself. It keeps its process id. To be started from the main thread, which lives as long as the process.
pub(crate) fn bound(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        bound.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(name, value),
            None => bound.env_remove(name),
        };
    }
    bound.stdin(Stdio::null());
    bound
}

/// Lets this process, and what it starts, have as many files open as the system permits. Gives how many that is.
pub(crate) fn open_many_files() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("a limit up to the highest one");
    limit.maximum.unwrap_or(u64::MAX)
}

/// Starts a server in the foreground, whose handle is all there is to end.
pub(crate) fn start(command: &Command) -> Owned {
    let mut command = bound(command);
    command.stdout(Stdio::null());
    Owned(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
}

/// Seconds of processor time that processes have had with all their threads.
pub(crate) fn processor_time(processes: &[u32]) -> f64 {
    let nanoseconds: u64 = processes.iter().map(|process| scheduled(*process)).sum();
    nanoseconds as f64 / 1e9
}

/// Nanoseconds on a core. `utime` and `stime` say the same in steps of ten milliseconds, which is too coarse here.
fn scheduled(process: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("a process that runs");
    let time = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0)
    };
    threads.flatten().map(time).sum()
}
