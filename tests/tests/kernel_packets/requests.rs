//! Requests of sessions, where no socket of this machine waits for them: what is looked into, and what is found.

use super::*;
use agent::kernel::sys;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ebpf_abi::{
    FLAG_RESET, FLAG_RESPOND, FLAG_SESSIONS, SESSION_SLOTS, SID_CAPACITY, Session, session_key, set_bit,
};
use std::net::SocketAddr;
use tests::frames::{ACK, FIN, PSH, RST, SERVICE_VLAN, SYN, Segment, URG, VLAN, octets};
use tests::kernel::{GENERATION, TODAY};

/// A session that is blacklisted.
pub(crate) const SID: &str = "session896";
/// One that is not.
pub(crate) const OTHER: &str = "session897";

const PORT: u16 = 8080;

/// Addresses that this machine has no connection with.
const ENDS: [(&str, &str); 2] = [("192.0.2.9", "198.18.7.7"), ("2001:db8::9", "2001:db8:ffff::7")];

/// A segment of a token.
pub(crate) fn encoded(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// A token around a payload.
pub(crate) fn token(payload: &str) -> String {
    format!("{}.{}.c2lnbmF0dXJl", encoded(r#"{"alg":"HS256","kid":"k1"}"#), encoded(payload))
}

/// A request with a token.
pub(crate) fn with_token(method: &str, token: &str) -> Vec<u8> {
    format!("{method} /{token}/live/c1/a.ts HTTP/1.1\r\nHost: cdn.example\r\n\r\n").into_bytes()
}

/// A request of a session.
pub(crate) fn of_session(method: &str, sid: &str) -> Vec<u8> {
    with_token(method, &token(&format!(r#"{{"iat":1713789350,"sid":"{sid}","exp":1713799350}}"#)))
}

fn segment(family: usize, port: u16, data: &[u8]) -> Segment {
    let (source, destination) = ENDS[family];
    let end = |ip: &str, port| SocketAddr::new(ip.parse().expect("an address"), port);
    Segment::new(end(source, 50_123), end(destination, port), data)
}

/// A frame over IPv4 to a session port.
fn frame(data: &[u8]) -> Vec<u8> {
    segment(0, PORT, data).frame()
}

/// A program that looks for [`SID`] on [`PORT`], in monitor mode: whatever it finds is seen, without a socket.
fn watching() -> Option<Kernel> {
    let mut kernel = Kernel::load()?;
    set_bit(&mut kernel.tables(0).session_ports, PORT);
    kernel.session(SID, u32::MAX, 0);
    kernel.configure(0, FLAG_SESSIONS | FLAG_RESPOND | FLAG_MONITOR);
    Some(kernel)
}

#[test]
fn without_a_socket_nothing_is_refused() {
    let Some(mut kernel) = watching() else { return };
    for action in [FLAG_RESPOND, FLAG_RESET, 0] {
        for family in 0..2 {
            for method in ["GET", "HEAD"] {
                let of = |sid| segment(family, PORT, &of_session(method, sid)).frame();
                kernel.configure(0, FLAG_SESSIONS | action);
                assert_outcome(&kernel, &of(SID), Outcome::PassBusy);
                assert_outcome(&kernel, &of(OTHER), Outcome::PassInspected);
                kernel.configure(0, FLAG_SESSIONS | FLAG_MONITOR | action);
                assert_outcome(&kernel, &of(SID), Outcome::MonitorSession);
                assert_outcome(&kernel, &of(OTHER), Outcome::PassInspected);
                kernel.configure(0, action);
                assert_outcome(&kernel, &of(SID), Outcome::Pass);
            }
        }
    }
    assert_eq!(kernel.flow(&segment(0, PORT, b"").flow()), None);
}

#[test]
fn events_name_the_session() {
    let Some(mut kernel) = watching() else { return };
    assert_outcome(&kernel, &frame(&of_session("GET", SID)), Outcome::MonitorSession);
    let events = kernel.events();
    let [event] = events[..] else { panic!("{events:?}") };
    assert_eq!(Some(event.session), session_key(SID.as_bytes()));
    assert_eq!((event.source_port, event.destination_port, event.protocol), (50_123, PORT, 6));
    assert_eq!((event.source, event.packets), (octets(ENDS[0].0.parse().expect("an address")), 1));
}

#[test]
fn each_bank_has_its_ports() {
    let Some(mut kernel) = watching() else { return };
    for port in [0, 63, 64, 65_535_u16] {
        set_bit(&mut kernel.tables(1).session_ports, port);
    }
    let request = of_session("GET", SID);
    for (bank, ports) in [(0, &[PORT][..]), (1, &[0, 63, 64, 65_535])] {
        kernel.configure(bank, FLAG_SESSIONS | FLAG_MONITOR);
        for port in [0, 1, 62, 63, 64, 65, PORT - 1, PORT, PORT + 1, PORT + 64, 65_534, 65_535] {
            let outcome = if ports.contains(&port) { Outcome::MonitorSession } else { Outcome::Pass };
            assert_outcome(&kernel, &segment(0, port, &request).frame(), outcome);
        }
    }
}

/// A session counts up to its last day, and from its generation on.
#[test]
fn when_a_session_counts() {
    let Some(kernel) = watching() else { return };
    for (last_day, generation, outcome) in [
        (TODAY, GENERATION, Outcome::MonitorSession),
        (TODAY + 1, 0, Outcome::MonitorSession),
        (TODAY - 1, 0, Outcome::PassInspected),
        (0, 0, Outcome::PassInspected),
        (TODAY, GENERATION - 1, Outcome::MonitorSession),
        (TODAY, GENERATION + 1, Outcome::PassInspected),
        (u32::MAX, u32::MAX, Outcome::PassInspected),
        (u32::MAX, GENERATION, Outcome::MonitorSession),
    ] {
        kernel.session(SID, last_day, generation);
        assert_outcome(&kernel, &frame(&of_session("GET", SID)), outcome);
    }
}

#[test]
fn allowed_sources_are_no_exception_and_trusted_ones_are() {
    let Some(mut kernel) = watching() else { return };
    let request = |sid| frame(&of_session("GET", sid));
    for (flags, bad, good) in [
        (LIST_ALLOW, Outcome::MonitorSession, Outcome::PassInspected),
        (LIST_TRUSTED, Outcome::PassTrusted, Outcome::PassTrusted),
        (LIST_DENY, Outcome::MonitorIpDenied, Outcome::MonitorIpDenied),
    ] {
        kernel.exact(0, address(ENDS[0].0), flags);
        kernel.configure(0, FLAG_SESSIONS | FLAG_MONITOR | FLAG_EXACT);
        assert_outcome(&kernel, &request(SID), bad);
        assert_outcome(&kernel, &request(OTHER), good);
    }
    kernel.exact(0, address(ENDS[0].0), LIST_ALLOW);
    assert_outcome(&kernel, &frame(b"GET / HTTP/1.1\r\nHost: cdn.example\r\n\r\n"), Outcome::PassAllowed);
}

#[test]
fn what_is_not_the_whole_head_of_a_request_with_a_token() {
    let Some(kernel) = watching() else { return };
    let good = of_session("GET", SID);
    assert_outcome(&kernel, &frame(&good), Outcome::MonitorSession);
    let text = String::from_utf8(good.clone()).expect("ASCII");
    let head = String::from_utf8(of_session("HEAD", SID)).expect("ASCII");
    let others = [
        text.replace("GET ", "POST "),
        text.replace("GET ", "PUT "),
        text.replace("GET ", "get "),
        text.replace("GET ", "GET  "),
        text.replace("GET /", "GET //"),
        text.replace("GET /", "GET /a/"),
        text.replace("GET /eyJ", "GET /eyK"),
        text.replace("GET /eyJ", "GET /fyJ"),
        text.replace("GET /", "GET http://cdn.example/"),
        head.replace("HEAD ", "HEAP "),
        head.replace("HEAD ", "HEAD  "),
        head.replace("/eyJ", "/eyK"),
        head.replace("/eyJ", "/xyJ"),
        format!(" {text}"),
        format!("\r\n{text}"),
        text.strip_suffix("\n").expect("its end").to_owned(),
        text.strip_suffix("\r\n").expect("its end").to_owned(),
        format!("{text}\n"),
        format!("{text}body"),
        text.replace("\r\n\r\n", "\n\n"),
        text.replace('.', ","),
    ];
    for other in &others {
        assert_outcome(&kernel, &frame(other.as_bytes()), Outcome::Pass);
    }
    // Every end but the last.
    for length in 0..good.len() {
        assert_outcome(&kernel, &frame(&good[..length]), Outcome::Pass);
    }
    // The second half of a head.
    for start in 1..good.len() {
        assert_outcome(&kernel, &frame(&good[start..]), Outcome::Pass);
    }
}

#[test]
fn flags_of_a_segment() {
    let Some(kernel) = watching() else { return };
    for flags in 0..=63_u8 {
        let segment = Segment { flags, ..segment(0, PORT, &of_session("GET", SID)) };
        let outcome = if flags & !PSH == ACK { Outcome::MonitorSession } else { Outcome::Pass };
        assert_outcome(&kernel, &segment.frame(), outcome);
        assert_eq!(outcome == Outcome::Pass, flags & (FIN | SYN | RST | URG) != 0 || flags & ACK == 0);
    }
}

#[test]
fn only_tcp_has_requests() {
    let Some(kernel) = watching() else { return };
    for protocol in [17, 132, 1] {
        let mut frame = frame(&of_session("GET", SID));
        frame[14 + 9] = protocol;
        assert_outcome(&kernel, &frame, Outcome::Pass);
        let mut frame = segment(1, PORT, &of_session("GET", SID)).frame();
        frame[14 + 6] = protocol;
        assert_outcome(&kernel, &frame, Outcome::Pass);
    }
    let mut fragment = frame(&of_session("GET", SID));
    fragment[14 + 6] = 0x20;
    assert_outcome(&kernel, &fragment, Outcome::PassFragment);
    // Several segments that were merged.
    let mut merged = frame(&of_session("GET", SID));
    merged[16..18].fill(0);
    assert_outcome(&kernel, &merged, Outcome::Pass);
    let mut merged = segment(1, PORT, &of_session("GET", SID)).frame();
    merged[18..20].fill(0);
    assert_outcome(&kernel, &merged, Outcome::Pass);
}

/// Tags, options of IP and of TCP, extension headers, and padding behind the packet.
#[test]
fn wherever_the_data_starts() {
    let Some(kernel) = watching() else { return };
    for family in 0..2 {
        for tags in [&[][..], &[VLAN], &[SERVICE_VLAN, VLAN]] {
            for words in 0..=10 {
                let of = |sid| Segment {
                    tags: tags.to_vec(),
                    options: [1, 1, 1, 0].repeat(words),
                    ..segment(family, PORT, &of_session("GET", sid))
                };
                assert_outcome(&kernel, &of(SID).frame(), Outcome::MonitorSession);
                assert_outcome(&kernel, &of(OTHER).frame(), Outcome::PassInspected);
                assert_outcome(&kernel, &of(SID).stamped(7, 9).frame(), Outcome::MonitorSession);
                let mut padded = of(SID).frame();
                padded.extend([0; 7]);
                assert_outcome(&kernel, &padded, Outcome::MonitorSession);
            }
        }
    }
    let packet = segment(0, PORT, &of_session("GET", SID)).packet();
    for words in 6..=15_u8 {
        let mut packet = packet.clone();
        packet[0] = 0x40 | words;
        let more = usize::from(words - 5) * 4;
        packet.splice(20..20, std::iter::repeat_n(1, more));
        let total = u16::try_from(packet.len()).expect("short").to_be_bytes();
        packet[2..4].copy_from_slice(&total);
        assert_outcome(&kernel, &ethernet(&[], IPV4, &packet), Outcome::MonitorSession);
    }
    let mut packet = segment(1, PORT, &of_session("GET", SID)).packet();
    packet.splice(40..40, [6, 0, 0, 0, 0, 0, 0, 0]);
    packet[6] = 60;
    let length = u16::try_from(packet.len() - 40).expect("short").to_be_bytes();
    packet[4..6].copy_from_slice(&length);
    assert_outcome(&kernel, &ethernet(&[], IPV6, &packet), Outcome::MonitorSession);
}

/// A header of TCP that is shorter than it can be, or longer than the packet.
#[test]
fn malformed_tcp() {
    let Some(kernel) = watching() else { return };
    for words in 0..=15 {
        let mut frame = frame(&of_session("GET", SID));
        frame[34 + 12] = words << 4;
        let outcome = if words == 5 { Outcome::MonitorSession } else { Outcome::Pass };
        assert_outcome(&kernel, &frame, outcome);
    }
}

/// The id at every place within a group of letters, of every length, and in the company of others.
#[test]
fn ids_of_all_lengths_at_all_places() {
    let Some(kernel) = watching() else { return };
    for length in 1..=SID_CAPACITY {
        let mut sid: String = "é0123456789-~ /".chars().cycle().take(length).collect();
        while sid.len() > length {
            sid.pop();
        }
        // Made up to the length after a letter of two bytes that did not fit.
        sid.extend(std::iter::repeat_n('x', length - sid.len()));
        kernel.session(&sid, u32::MAX, 0);
        for lead in 0..3 {
            let of = |sid: &str, rest: &str| {
                let payload = format!(r#"{{"a":"{}","sid":"{sid}"{rest}}}"#, "x".repeat(lead));
                frame(&with_token("GET", &token(&payload)))
            };
            for rest in ["", ",\"b\":1", ",\"b\":\"\""] {
                assert_outcome(&kernel, &of(&sid, rest), Outcome::MonitorSession);
                assert_outcome(&kernel, &of(&format!("{sid}!"), rest), Outcome::PassInspected);
                assert_outcome(&kernel, &of(&format!("!{sid}"), rest), Outcome::PassInspected);
                let other = sid.char_indices().last().map_or("", |(at, _)| &sid[..at]).to_owned() + "!";
                assert_outcome(&kernel, &of(&other, rest), Outcome::PassInspected);
            }
        }
    }
    // Longer ones are userspace's.
    for length in [SID_CAPACITY + 1, SID_CAPACITY + 2, 200, 400] {
        let request = of_session("GET", &"x".repeat(length));
        assert_outcome(&kernel, &frame(&request), Outcome::PassInspected);
    }
}

/// What looks like a session and is none: in a string, in an inner object, behind a header that is none.
#[test]
fn what_is_no_session_of_the_token() {
    let Some(kernel) = watching() else { return };
    let outcome = |payload: &str, outcome| {
        assert_outcome(&kernel, &frame(&with_token("GET", &token(payload))), outcome);
    };
    let member = format!(r#""sid":"{SID}""#);
    for lead in ["", "x", "xx"] {
        outcome(&format!(r#"{{"{lead}":0,{member}}}"#), Outcome::MonitorSession);
        outcome(&format!(r#"{{"{lead}":{{"a":[1,{{}}]}},{member}}}"#), Outcome::MonitorSession);
        outcome(&format!(r#"{{"{lead}":"{{[\"\\",{member}}}"#), Outcome::MonitorSession);
        outcome(&format!(r#"{{"{lead}":{{{member}}}}}"#), Outcome::PassUnproven);
        outcome(&format!(r#"{{"{lead}":[{{{member}}}]}}"#), Outcome::PassUnproven);
        outcome(&format!(r#"{{"{lead}":1}}{member}"#), Outcome::PassUnproven);
        outcome(&format!(r#"{{"{lead}":" {member}"}}"#), Outcome::PassUnproven);
        outcome(&format!(r#"{{"{lead}":1, {member}}}"#), Outcome::PassUnproven);
        outcome(&format!(r#"["{lead}",{member}]"#), Outcome::PassUnproven);
        outcome(&format!(r#" {{"{lead}":1,{member}}}"#), Outcome::PassUnproven);
        // In the text of a string the quotes have backslashes, so it does not look like a session.
        outcome(&format!(r#"{{"{lead}":"{}"}}"#, member.replace('"', "\\\"")), Outcome::PassInspected);
        // One of several.
        outcome(&format!(r#"{{"sid":"{OTHER}{lead}",{member}}}"#), Outcome::MonitorSession);
        outcome(&format!(r#"{{{member},"sid":"{OTHER}{lead}"}}"#), Outcome::MonitorSession);
        outcome(&format!(r#"{{"{lead}":{{{member}}},{member}}}"#), Outcome::MonitorSession);
        outcome(&format!(r#"{{{member},"{lead}":{{{member}}}}}"#), Outcome::MonitorSession);
        outcome(&format!(r#"{{"sid":7,"{lead}":{{}},{member}}}"#), Outcome::MonitorSession);
    }
    let payload = encoded(&format!("{{{member}}}"));
    for header in
        ["eyJ/", "eyJhbGciOiJub25lIn0/a", "eyJhbGci iJub25lIn0", "eyJhbGci%20", "eyJ+", "eyJ?x", "eyJ="]
    {
        let request = with_token("GET", &format!("{header}.{payload}.c2ln"));
        assert_outcome(&kernel, &frame(&request), Outcome::PassUnproven);
    }
    for header in ["eyJ", "eyJhbGciOiJub25lIn0", "eyJ-_"] {
        for rest in [".c2ln", "", ".", "..", "=", "/x"] {
            let request = with_token("GET", &format!("{header}.{payload}{rest}"));
            assert_outcome(&kernel, &frame(&request), Outcome::MonitorSession);
        }
    }
}

/// A header of so many letters, up to where it is given up; the same request is found or not by that alone.
#[test]
fn headers_of_all_lengths() {
    let Some(kernel) = watching() else { return };
    let payload = encoded(&format!(r#"{{"sid":"{SID}"}}"#));
    for letters in 3..400_usize {
        let header = format!("eyJ{}", "x".repeat(letters - 3));
        let request = with_token("GET", &format!("{header}.{payload}.c2ln"));
        let outcome = kernel.run(&frame(&request)).outcome;
        match letters {
            3..=300 => assert_eq!(outcome, Outcome::MonitorSession, "{letters}"),
            _ => {
                assert!(matches!(outcome, Outcome::MonitorSession | Outcome::Pass), "{letters}: {outcome:?}")
            }
        }
    }
    let beyond = with_token("GET", &format!("eyJ{}.{payload}.c2ln", "x".repeat(400)));
    assert_outcome(&kernel, &frame(&beyond), Outcome::Pass);
}

/// In either bucket and any slot of it, whatever else is there; and only while all that a slot says holds.
#[test]
fn a_session_is_found_wherever_it_stands() {
    let Some(mut kernel) = Kernel::load() else { return };
    set_bit(&mut kernel.tables(0).session_ports, PORT);
    kernel.configure(0, FLAG_SESSIONS | FLAG_RESPOND | FLAG_MONITOR);
    let key = session_key(SID.as_bytes()).expect("a session that the kernel looks for");
    let frame = frame(&of_session("GET", SID));
    // Its bit; it stands nowhere.
    kernel.session(SID, TODAY, GENERATION);
    kernel.session_map().remove(key);
    assert_outcome(&kernel, &frame, Outcome::PassInspected);
    let write = |bucket, words: &SessionBucket| {
        sys::write_element(kernel.data(map::SESSIONS), bucket, words).expect("a bucket written");
    };
    let state = |last_day, generation| key.state(Session { last_day, generation });
    let counts = state(TODAY, GENERATION);
    for bucket in key.buckets(ebpf_abi::session_buckets(SESSION_CAPACITY)) {
        for slot in 0..SESSION_SLOTS {
            let mut words: SessionBucket = [0; 2 * SESSION_SLOTS];
            for (state, outcome) in [
                (counts, Outcome::MonitorSession),
                (state(TODAY - 1, GENERATION), Outcome::PassInspected),
                (state(TODAY, GENERATION + 1), Outcome::PassInspected),
                (counts ^ 1 << 48, Outcome::PassInspected),
                (counts ^ 1 << 63, Outcome::PassInspected),
                (0, Outcome::PassInspected),
                (state(u32::MAX, 0), Outcome::MonitorSession),
            ] {
                (words[slot], words[SESSION_SLOTS + slot]) = (key.tag(), state);
                write(bucket, &words);
                assert_outcome(&kernel, &frame, outcome);
                words[slot] ^= 1 << 40;
                write(bucket, &words);
                assert_outcome(&kernel, &frame, Outcome::PassInspected);
            }
            // Slots before it that have its tag, and are empty or another's.
            words = [key.tag(); 2 * SESSION_SLOTS];
            words[SESSION_SLOTS..].fill(0);
            words[SESSION_SLOTS] = counts ^ 1 << 48;
            words[SESSION_SLOTS + slot] = counts;
            write(bucket, &words);
            assert_outcome(&kernel, &frame, Outcome::MonitorSession);
            write(bucket, &[0; 2 * SESSION_SLOTS]);
        }
    }
}

/// Sessions find each other's places, beyond capacity even, and the program finds them all.
#[test]
fn sessions_are_found_in_a_full_table() {
    let Some(mut kernel) = watching() else { return };
    kernel.configure(0, FLAG_SESSIONS | FLAG_RESPOND | FLAG_MONITOR);
    let mut table = kernel.session_map();
    let sid = |number: u32| format!("viewer-{number}");
    let count = SESSION_CAPACITY + SESSION_CAPACITY / 6;
    let session = Session { last_day: TODAY, generation: GENERATION };
    for number in 0..count {
        let key = session_key(sid(number).as_bytes()).expect("a session that the kernel looks for");
        table.set(key, session).expect("room");
    }
    assert_eq!(table.iter().count(), count as usize + 1);
    for number in (0..count).step_by(997) {
        assert_outcome(&kernel, &frame(&of_session("GET", &sid(number))), Outcome::MonitorSession);
        assert_outcome(&kernel, &frame(&of_session("GET", &sid(count + number))), Outcome::PassInspected);
    }
    // Then there is no more room, and that is an error.
    let full = (count..2 * count).find_map(|number| {
        let key = session_key(sid(number).as_bytes()).expect("a session that the kernel looks for");
        table.set(key, session).err()
    });
    let error = full.expect("a table that is full").to_string();
    assert!(error.contains("SESSIONS") && error.contains("1000000"), "{error}");
    assert_outcome(&kernel, &frame(&of_session("GET", SID)), Outcome::MonitorSession);
}
