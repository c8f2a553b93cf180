//! What changes at run time cost: a push until it is in force, a million sessions, a restart with them, and memory.
//!
//! `cargo bench -p benches --bench control`, as root for the kernel part. With `--test` every part runs once on little data,
//! and only outcomes count.
#![expect(clippy::expect_used, reason = "a bench whose parts fail must not look well")]

use benches::networks::{city, networks};
use benches::report::{Promise, Report};
use ebpf_abi::Outcome;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;
use tests::conn::Conn;
use tests::edge::{Edge, Gate, PORT, Since, target};
use tests::netns::Net;
use tests::raw::{Echo, Reply};

/// In all: as many as there is room for.
const SESSIONS: usize = 1_000_000;
const FEW: usize = 20_000;

/// Pushed one by one.
const PUSHES: usize = 500;
const FEW_PUSHES: usize = 10;

/// What the disk is asked for: a page, as a store would.
const PAGE: [u8; 4096] = [7; 4096];

const MIB: f64 = 1024.0 * 1024.0;

fn main() -> ExitCode {
    let full = !std::env::args().any(|argument| argument == "--test");
    let mut report = Report::default();
    let mut ran = false;
    Net::apart(|net| {
        ran = true;
        measure(net, full, &mut report);
    });
    if !ran {
        report.skipped.push("everything: no kernel part here".to_owned());
    }
    print!("{}", report.table(full));
    if full && !report.holds() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn measure(net: &Net, full: bool, report: &mut Report) {
    let (total, pushes) = if full { (SESSIONS, PUSHES) } else { (FEW, FEW_PUSHES) };
    // The file lists one.
    let sessions = total - pushes - 1;
    let state = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on a disk");
    let socket = state.path().join("control.sock");
    let origin = Echo::start();
    // Without it nothing that the program sends back in native mode would arrive.
    let _peer = net.pass_on_peer();
    let mut edge = Edge::new(net, &format!("http://{}", origin.address), "native");
    // On a port where nobody listens: what counts is that the table is there.
    edge.services =
        "[[prefilter.service]]\naddress = \"0.0.0.0/0\"\nports = [443]\ndeny_countries = [\"ZZ\"]\n"
            .to_owned();
    let networks = networks(full);
    let database = city(&networks);
    let config = format!(
        "state_dir = \"{}\"\ncontrol = {{ socket = \"{}\" }}\n{}",
        state.path().join("state").display(),
        socket.display(),
        edge.text()
    );
    let start = || {
        let home = tests::binary::Home::new();
        home.write("city.mmdb", &database);
        let began = Instant::now();
        let gate = Gate(home.run(&config));
        (gate, began.elapsed().as_secs_f64())
    };
    let (gate, _) = start();
    let ranges =
        usize::try_from(gate.metric(r#"edgegate_map_entries{map="countries_v4"}"#)).expect("a number");
    assert_eq!(ranges, networks.len(), "no two neighbours are of one country");

    let body = listing(sessions);
    let began = Instant::now();
    let reply = ask(&mut Conn::open_unix(&socket), "POST", "/v1/blacklist", &body);
    let import = began.elapsed().as_secs_f64();
    assert!(text(&reply).contains(&format!("\"added\":{sessions}")), "{}", text(&reply));
    let bare = bare_write(state.path(), body.as_bytes());
    report.pair(
        &format!("{sessions} sessions in one request, in force"),
        "s",
        &[import],
        ("s to write and sync the same bytes", &[bare]),
        Promise::AtMost(3.0),
    );

    let (took, disk, answered) = one_by_one(net, &gate, &socket, state.path(), pushes);
    for (name, percent) in [("median", 50), ("p99", 99)] {
        let promise = if percent == 99 { Promise::AtMost(5.0) } else { Promise::None };
        report.pair(
            &format!("one session pushed, in force: {name} of {pushes}"),
            "ms",
            &[at(&took, percent) * 1e3],
            ("ms to sync a page to the same disk", &[at(&disk, percent) * 1e3]),
            promise,
        );
    }
    report.single("of the pushed sessions, answered by the kernel", "%", &[answered * 100.0], Promise::None);
    let with = format!("{total} sessions and {} networks", networks.len());
    memory(&gate, &format!("peak with {with}"), report);
    // As a crash would.
    drop(gate);
    let (gate, restart) = start();
    let status = ask(&mut Conn::open_unix(&socket), "GET", "/v1/blacklist", "");
    assert!(text(&status).contains(&format!("\"sessions\":{total},\"version\"")), "{}", text(&status));
    report.single("restart after kill -9 until it is ready", "s", &[restart], Promise::AtMost(1.5));
    memory(&gate, "peak since the restart", report);
}

/// What a process takes, kernel maps included. Those that are also in its own memory are counted once.
fn memory(gate: &Gate, when: &str, report: &mut Report) {
    let (maps, shared) = (kernel_memory(gate.pid()), shared_memory(gate.pid()));
    let all = gate.peak_memory() as f64 + maps - shared;
    report.single(&format!("memory, {when}"), "MiB", &[all / MIB], Promise::AtMost(256.0));
    report.single("  of these, kernel maps", "MiB", &[maps / MIB], Promise::None);
    report.single("  now, less those", "MiB", &[(gate.memory() as f64 - shared) / MIB], Promise::None);
}

/// Pushes sessions one after another; each has to be refused by the kernel once the answer is there. Gives the seconds
/// that each took, that the disk took for a page in between, and which part of the refusals was the kernel's.
fn one_by_one(
    net: &Net,
    gate: &Gate,
    socket: &Path,
    folder: &Path,
    pushes: usize,
) -> (Vec<f64>, Vec<f64>, f64) {
    let mut control = Conn::open_unix(socket);
    let page = File::create(folder.join("page")).expect("a file");
    let (mut took, mut disk) = (Vec::new(), Vec::new());
    let before = Since::now(gate);
    for number in 0..pushes {
        let sid = format!("pushed-{number}");
        let began = Instant::now();
        page.write_all_at(&PAGE, number as u64 * 4096).and_then(|()| page.sync_data()).expect("a page");
        disk.push(began.elapsed().as_secs_f64());

        let began = Instant::now();
        let reply = ask(&mut control, "PUT", &format!("/v1/blacklist/today/{sid}"), "");
        took.push(began.elapsed().as_secs_f64());
        assert_eq!(reply.status, 200, "{}", text(&reply));
        let stream = net.connect(net.good(4), (net.here(4), PORT).into()).expect("a connection");
        let mut client = Conn::over(stream);
        let request = format!("GET {} HTTP/1.1\r\nHost: h\r\n\r\n", target(&sid));
        assert_eq!(client.send(request).reply().status, 403, "{sid}");
    }
    let answered = before.count(Outcome::RespondSession);
    (took, disk, answered as f64 / pushes as f64)
}

/// Bytes of the kernel's maps that a process has open.
fn kernel_memory(process: u32) -> f64 {
    let mut maps = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{process}/fdinfo")).expect("its descriptors").flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let value =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        if let (Some(map), Some(bytes)) = (value("map_id:"), value("memlock:")) {
            maps.insert(map, bytes);
        }
    }
    maps.values().sum::<u64>() as f64
}

/// Bytes of the kernel's maps that are in a process's own memory as well.
fn shared_memory(process: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps")).expect("its memory");
    let mut bytes = 0;
    let mut within = false;
    for line in text.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["Rss:", kilobytes, "kB"] if within => {
                bytes += kilobytes.parse::<u64>().expect("a number") * 1024
            }
            [range, _, _, _, _, ..] if range.contains('-') => within = line.contains("anon_inode:bpf-map"),
            _ => {}
        }
    }
    bytes as f64
}

/// The seed's form: a day and its sessions.
fn listing(sessions: usize) -> String {
    let mut body = String::with_capacity(sessions * 24);
    for number in 0..sessions {
        let _to_memory = writeln!(body, "session-{number:012}");
    }
    body
}

fn bare_write(folder: &Path, bytes: &[u8]) -> f64 {
    let began = Instant::now();
    let mut file = File::create(folder.join("bare")).expect("a file");
    file.write_all(bytes).and_then(|()| file.sync_data()).expect("bytes on the disk");
    began.elapsed().as_secs_f64()
}

fn ask(control: &mut Conn, method: &str, path: &str, body: &str) -> Reply {
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: edgegate\r\nContent-Length: {}\r\n\r\n", body.len());
    control.send(head).send(body).reply()
}

fn text(reply: &Reply) -> Cow<'_, str> {
    String::from_utf8_lossy(&reply.body)
}

fn at(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied().unwrap_or(f64::NAN)
}
