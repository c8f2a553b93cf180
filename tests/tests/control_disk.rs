//! Disks that are full, read-only or damaged: what is in force stays in force, and nothing is lost in silence.
//!
//! Small file systems need root, and the right to mount.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use tests::binary::{Edgegate, Home};
use tests::contract::Config;
use tests::control::{self, Api, controlled, described, reached, session_status};
use tests::origin::Origin;
use tests::require::missing;

const TEXT: &str = "text/plain";
const NOBODY: u32 = 65_534;

/// A file system of 32 MiB, which goes with its test.
struct Small(PathBuf);

impl Small {
    fn mount(folder: PathBuf) -> Option<Self> {
        fs::create_dir(&folder).unwrap();
        match mount("tmpfs", &folder, "tmpfs", MountFlags::empty(), Some(c"size=32m,mode=0700")) {
            Ok(()) => Some(Self(folder)),
            Err(error) => {
                missing("root", &format!("to mount a small file system: {error}"));
                None
            }
        }
    }

    /// Takes half of the room, or what is left of it.
    fn fill(&self) {
        use std::io::Write as _;
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        for _ in 0..16 * 256 {
            if file.write_all(&[7; 4096]).is_err() {
                return;
            }
        }
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }

    fn read_only(&self, read_only: bool) {
        let flags = if read_only { MountFlags::RDONLY } else { MountFlags::empty() };
        mount_remount(&self.0, flags, c"").unwrap_or_else(|error| panic!("{}: {error}", self.0.display()));
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _gone_already = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn writable(api: &Api) -> bool {
    api.get("/v1/status").done().body["store"]["writable"].as_bool().unwrap()
}

fn many(name: &str) -> String {
    (0..9_000).map(|n| format!("{name}{n:0>200}\n")).collect()
}

/// Every change that there is; what becomes of it.
fn every_change(api: &Api) -> Vec<(&'static str, String, u16)> {
    let key = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, [7; 32]);
    [
        ("PUT", "/v1/config", "[blacklist]\nretain_days = 9\n"),
        ("DELETE", "/v1/config", ""),
        ("POST", "/v1/blacklist", "p"),
        ("PUT", "/v1/blacklist/today", "p,q"),
        ("DELETE", "/v1/blacklist/today", ""),
        ("PUT", "/v1/blacklist/today/p", ""),
        ("DELETE", "/v1/blacklist/today/session896", ""),
        ("PUT", "/v1/secrets/pushed/1", &key),
        ("DELETE", "/v1/secrets/orange-key-1/0", ""),
        ("PUT", "/v1/prefilter/deny/192.0.2.1", ""),
        ("DELETE", "/v1/prefilter/deny/203.0.113.0/25", ""),
    ]
    .map(|(method, path, body)| {
        let answer = api.put(method, path, TEXT, body);
        if answer.status == 507 {
            let message = answer.refused(507, "store_failed");
            assert!(message.contains("state.redb"), "{message}");
        }
        (method, path.to_owned(), answer.status)
    })
    .to_vec()
}

/// Pushes until there is no room; gives the names of the lists that were acknowledged.
fn push_until_full(api: &Api, name: &str) -> (Vec<String>, String) {
    let mut stored = Vec::new();
    for part in 0..100 {
        let list = format!("{name}{part}-");
        // One commit each.
        let answer = api.put("POST", "/v1/blacklist", TEXT, many(&list));
        if answer.status != 200 {
            return (stored, answer.refused(507, "store_failed").to_owned());
        }
        stored.push(list);
    }
    panic!("the disk does not fill up");
}

fn assert_listed(gate: &Edgegate, lists: &[String], unlisted: &str) {
    let listed = Api::of(gate).sids("today");
    for list in lists {
        assert_eq!(listed.iter().filter(|sid| sid.starts_with(list)).count(), 9_000, "{list}");
        assert_eq!(session_status(gate.gateway(), &format!("{list}{:0>200}", 77)), 403, "{list}");
    }
    assert_eq!(listed.iter().filter(|sid| sid.starts_with(unlisted)).count(), 0, "{unlisted}");
    assert_eq!(session_status(gate.gateway(), "viewer"), 200);
}

#[test]
fn a_full_disk() {
    let origin = Origin::start();
    let home = Home::new();
    let Some(small) = Small::mount(home.path("state")) else { return };
    let text = controlled(&home, &Config::new(&origin.url()).text());
    let gate = home.run(&text);
    let api = Api::of(&gate);
    assert!(writable(&api));
    small.fill();
    let (mut lists, message) = push_until_full(&api, "first");
    assert!(message.contains("state.redb") && message.contains("nothing was stored"), "{message}");
    assert!(message.to_lowercase().contains("space"), "says what is wanting: {message}");
    let refused = format!("first{}-", lists.len());
    assert_listed(&gate, &lists, &refused);
    // A small change may still find room within the file. Not so if nothing at all can be written.
    let (more, _message) = push_until_full(&api, "more");
    lists.extend(more);
    small.read_only(true);
    let version = api.version();
    for (method, path, status) in every_change(&api) {
        assert_eq!(status, 507, "{method} {path}");
    }
    assert_eq!(api.version(), version);
    assert!(!writable(&api));
    assert_eq!(session_status(gate.gateway(), "viewer"), 200);
    assert_eq!(session_status(gate.gateway(), &format!("{}{:0>200}", lists[0], 77)), 403);
    let list = api.get("/v1/blacklist/today");
    let _message = list.refused(507, "store_failed");
    let open: Vec<String> =
        described().difference(&reached()).filter(|name| name.ends_with("507")).cloned().collect();
    assert!(open.is_empty(), "{open:?}");
    small.read_only(false);

    // Room again, and no restart.
    small.empty();
    let _listed = api.ask("PUT", "/v1/blacklist/today/after").done();
    assert_eq!(session_status(gate.gateway(), "after"), 403);
    assert!(writable(&api));
    assert_listed(&gate, &lists, &refused);
    // The same in the midst of a crash.
    small.fill();
    let (more, _message) = push_until_full(&api, "second");
    lists.extend(more);
    let home = gate.end(Signal::KILL);
    small.empty();
    let gate = home.start_again();
    assert_listed(&gate, &lists, &refused);
    assert_eq!(session_status(gate.gateway(), "after"), 403);
    let _listed = Api::of(&gate).ask("PUT", "/v1/blacklist/today/again").done();
    drop(gate);
    drop(small);
}

/// The file system becomes read-only: the gate goes on with what it has, starts with it, and reads its file again.
#[test]
fn a_read_only_file_system() {
    let origin = Origin::start();
    let home = Home::new();
    let Some(small) = Small::mount(home.path("state")) else { return };
    let text = controlled(&home, &Config::new(&origin.url()).text());
    let gate = home.run(&text);
    let _listed = Api::of(&gate).put("POST", "/v1/blacklist", TEXT, "a,b").done();
    let home = gate.end(Signal::TERM);
    small.read_only(true);
    let gate = home.start_again();
    let api = Api::of(&gate);
    let look = |gate: &Edgegate| {
        assert_eq!(
            ["a", "b", "session123", "viewer"].map(|sid| session_status(gate.gateway(), sid)),
            [403, 403, 403, 200]
        );
    };
    look(&gate);
    assert!(!writable(&api));
    for (method, path, status) in every_change(&api) {
        assert_eq!(status, 507, "{method} {path}");
    }
    assert!(api.ask("PUT", "/v1/blacklist/today/c").refused(507, "store_failed").contains("read-only"));
    assert_eq!(api.sids("today"), ["a", "b", "session123", "session896"]);
    // The file lists others: what is pushed stays all the same.
    let log = gate.reload(&text.replace("session123", "session124"));
    assert!(log.contains("configuration reloaded"), "{log}");
    assert_eq!(
        ["a", "b", "session123", "session124"].map(|sid| session_status(gate.gateway(), sid)),
        [403, 403, 200, 403]
    );
    let log = gate.reload(&text);
    assert!(log.contains("configuration reloaded"), "{log}");
    look(&gate);
    // Not closed in order, where nothing can be repaired.
    let home = gate.end(Signal::KILL);
    let gate = home.start_again();
    look(&gate);
    let home = gate.end(Signal::TERM);
    small.read_only(false);
    let gate = home.start_again();
    look(&gate);
    let _listed = Api::of(&gate).ask("PUT", "/v1/blacklist/today/c").done();
    let home = gate.end(Signal::KILL);
    small.read_only(true);
    let output = home.output(&["run", "--config", "edgegate.toml"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("read-only") && said.contains("state.redb"), "{said}");
    small.read_only(false);
    let gate = home.start_again();
    assert_eq!(session_status(gate.gateway(), "c"), 403);
    drop(gate);
    drop(small);
}

/// A file that the agent's user may not write, which needs nobody's privileges to make.
#[test]
fn a_store_that_may_not_be_written() {
    let origin = Origin::start();
    let home = Home::new();
    home.write("edgegate.toml", controlled(&home, &Config::new(&origin.url()).text()));
    let root = rustix::process::geteuid().is_root();
    let start = |home: Home| {
        let mut command = home.command(&["run", "--config", "edgegate.toml"]);
        if root {
            command.uid(NOBODY);
        }
        home.start(command)
    };
    if root {
        std::os::unix::fs::chown(home.path("."), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let gate = start(home);
    let _listed = Api::of(&gate).ask("PUT", "/v1/blacklist/today/a").done();
    let home = gate.end(Signal::TERM);
    let mode = |mode: u32| {
        fs::set_permissions(home.path("state/state.redb"), fs::Permissions::from_mode(mode)).unwrap()
    };
    mode(0o400);
    let gate = start(home);
    let api = Api::of(&gate);
    assert_eq!(session_status(gate.gateway(), "a"), 403);
    assert!(!writable(&api));
    assert!(api.ask("PUT", "/v1/blacklist/today/b").refused(507, "store_failed").contains("read-only"));
    assert_eq!(api.sids("today"), ["a", "session123", "session896"]);
}

/// The agent does not start with less than it had: it says what is wrong with which file, and what to do.
#[test]
fn a_damaged_store() {
    let origin = Origin::start();
    let home = Home::new();
    let text = controlled(&home, &Config::new(&origin.url()).text());
    let gate = home.run(&text);
    let _listed = Api::of(&gate).put("POST", "/v1/blacklist", TEXT, many("s")).done();
    let home = gate.end(Signal::TERM);
    let path = home.path("state/state.redb");
    let whole = fs::read(&path).unwrap();
    // Where names are.
    let at = whole.windows(9).position(|window| window == b"000000077").unwrap();
    let mut flipped = whole.clone();
    flipped[at] ^= 1;
    let mut header = whole.clone();
    header[..64].fill(0xff);
    for (what, bytes) in [
        ("flipped", &flipped[..]),
        ("header", &header),
        ("cut off", &whole[..whole.len() / 2]),
        ("almost nothing", &whole[..100]),
        ("empty", &[]),
        ("something else", b"<html>not a store</html>"),
    ] {
        fs::write(&path, bytes).unwrap();
        let output = home.output(&["run", "--config", "edgegate.toml"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{what}: {said}");
        for part in ["state.redb", "damaged", "backup"] {
            assert!(said.contains(part), "{what}: no {part:?} in {said}");
        }
        assert!(!said.contains("panicked"), "{what}: {said}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "{what}: the file was touched");
    }
    fs::write(&path, &whole).unwrap();
    let gate = home.start_again();
    assert_eq!(Api::of(&gate).sids("today").len(), 9_002);
}

#[test]
fn two_agents_and_one_store() {
    let origin = Origin::start();
    let home = Home::new();
    let text = controlled(&home, &Config::new(&origin.url()).text());
    let gate = home.run(&text);
    let home = gate.home();
    home.write("other.toml", text.replace("control.sock", "other.sock"));
    let output = home.output(&["run", "--config", "other.toml"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("another agent") && said.contains("state_dir"), "{said}");
    // Commands that only look do so, or say why not.
    let output = home.output(&["config", "check", "edgegate.toml"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let _listed = Api::of(&gate).ask("PUT", "/v1/blacklist/today/a").done();
    assert_eq!(session_status(gate.gateway(), "a"), 403);
    assert!(Path::new(&home.path("state")).join("state.redb").exists());
}

/// A file that was put back from a backup may have any mode.
#[test]
fn a_store_that_others_may_read() {
    let origin = Origin::start();
    let (gate, api) = control::run(&Config::new(&origin.url()));
    let _put = api.ask("PUT", "/v1/blacklist/today/a").done();
    let sessions = api.get("/v1/blacklist").done().count("sessions");
    let home = gate.end(Signal::TERM);
    let store = home.path("state/state.redb");
    fs::set_permissions(&store, fs::Permissions::from_mode(0o644)).unwrap();
    let config = fs::read_to_string(home.path("edgegate.toml")).unwrap();
    let gate = home.run(&config);
    assert_eq!(fs::metadata(&store).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Api::of(&gate).get("/v1/blacklist").done().count("sessions"), sessions);
}
