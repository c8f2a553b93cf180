//! Requests of blacklisted sessions that a socket of this machine waits for: what becomes of them, byte by byte.

use super::requests::{OTHER, SID, of_session};
use super::*;
use ebpf_abi::{Cell, FLAG_RESET, FLAG_RESPOND, FLAG_SESSIONS, FlowState, Idle, set_bit, stage};
use rustix::time::{ClockId, clock_gettime};
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use tests::frames::{ACK, FIN, PSH, RST, SERVICE_VLAN, Segment, VLAN};
use tests::handshake::{Connection, Pending};
use tests::kernel::{PASS, TX};
use tests::netns::Net;
use tests::tables::reply;
use tests::wait_for;

/// The answers to a `GET` and to a `HEAD`.
pub(crate) const ANSWERS: [&[u8]; 2] = [
    b"HTTP/1.1 403 Forbidden\r\ncontent-length: 20\r\nconnection: close   \r\n\r\nsession_blacklisted\n",
    b"HTTP/1.1 403 Forbidden\r\ncontent-length: 20\r\nconnection: close       \r\n\r\n",
];

/// How long a refused connection is remembered, in nanoseconds.
const REMEMBERED: u64 = 60_000_000_000;

/// A program that answers, resets or drops on a port.
pub(crate) fn refusing(port: u16, action: u32) -> Option<Kernel> {
    let mut kernel = Kernel::load()?;
    kernel.tables(0).replies = ANSWERS.map(reply);
    set_bit(&mut kernel.tables(0).session_ports, port);
    kernel.session(SID, u32::MAX, 0);
    kernel.configure(0, FLAG_SESSIONS | action);
    Some(kernel)
}

/// What a client gets for its request.
pub(crate) fn answer(request: &Segment, data: &[u8]) -> Segment {
    let mut answer = request.back();
    (answer.flags, answer.data) = (FIN | PSH | ACK, data.to_vec());
    if let [1, 1, 8, 10, theirs @ .., _, _, _, _] = &request.options[..] {
        let theirs = u32::from_be_bytes(theirs.try_into().expect("four bytes"));
        let echoed = u32::from_be_bytes(request.options[8..12].try_into().expect("four bytes"));
        answer = answer.stamped(echoed, theirs);
    }
    answer
}

/// What the server gets in place of a request.
pub(crate) fn reset(request: &Segment) -> Segment {
    Segment { flags: RST | ACK, window: 0, options: vec![], data: vec![], ..request.clone() }
}

#[track_caller]
pub(crate) fn assert_made(kernel: &Kernel, frame: &[u8], outcome: Outcome, verdict: u32, made: &Segment) {
    let ran = kernel.run(frame);
    assert_eq!((ran.outcome, ran.verdict), (outcome, verdict), "{frame:02x?}");
    assert_eq!(ran.frame, made.frame(), "{made:02x?}");
}

fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).expect("a time") * 1_000_000_000 + u64::try_from(now.tv_nsec).expect("a part")
}

/// That the flow of a request was remembered between `since` and now.
#[track_caller]
fn assert_remembered(kernel: &Kernel, request: &Segment, since: u64, stage: u32) {
    let flow = request.flow();
    let state = kernel.flow(&flow).expect("a flow that is remembered");
    let FlowState { until, .. } = state;
    assert!((since + REMEMBERED..=monotonic() + REMEMBERED).contains(&until), "{until}");
    let (request, reply) = (request.sequence, request.acknowledged);
    assert_eq!(state, FlowState { until, stage, request, reply, reserved: 0 });
    assert_eq!(kernel.cell(&flow), Cell::until(until));
}

/// A frame, and the same one with padding behind its packet.
fn padded(segment: &Segment) -> [Vec<u8>; 2] {
    let frame = segment.frame();
    [[&frame[..], &[0; 9]].concat(), frame]
}

#[test]
fn a_first_request_is_answered() {
    for ip in ["127.0.0.1", "::1"] {
        let Some(connection) = Connection::local(ip) else { return };
        let Some(kernel) = refusing(connection.port(), FLAG_RESPOND) else { return };
        for (method, data) in [("GET", ANSWERS[0]), ("HEAD", ANSWERS[1])] {
            for tags in [&[][..], &[VLAN], &[SERVICE_VLAN, VLAN]] {
                for request in [
                    connection.request(&of_session(method, SID)),
                    connection.request(&of_session(method, SID)).stamped(0x0102_0304, 0x0506_0708),
                    // Options that are no time stamps.
                    Segment { options: vec![1; 12], ..connection.request(&of_session(method, SID)) },
                    Segment { flags: ACK, window: 1, ..connection.request(&of_session(method, SID)) },
                ] {
                    let request = Segment { tags: tags.to_vec(), ..request };
                    let mut made = answer(&request, data);
                    if request.options == [1; 12] {
                        made.options = vec![];
                    }
                    for frame in padded(&request) {
                        kernel.set_cell(&request.flow(), 0);
                        let since = monotonic();
                        assert_made(&kernel, &frame, Outcome::RespondSession, TX, &made);
                        assert_remembered(&kernel, &request, since, stage::SERVER_WAITS);
                    }
                }
            }
        }
        kernel.set_cell(&connection.next.flow(), 0);
        let good = connection.request(&of_session("GET", OTHER));
        assert_outcome(&kernel, &good.frame(), Outcome::PassInspected);
        assert_eq!(kernel.cell(&good.flow()), Cell(0));
    }
}

/// The last packet of the handshake may be in a queue behind the program, or be lost.
#[test]
fn a_first_request_ends_the_handshake() {
    for ip in ["127.0.0.1", "::1"] {
        let Some(Pending { next, client: _client, listener }) = Pending::local(ip) else { return };
        let Some(kernel) = refusing(next.destination.port(), FLAG_RESPOND) else { return };
        let request = Segment { data: of_session("GET", SID), ..next };
        let busy = |request: &Segment| assert_outcome(&kernel, &request.frame(), Outcome::PassBusy);
        for step in [1, u32::MAX] {
            busy(&Segment { sequence: request.sequence.wrapping_add(step), ..request.clone() });
            busy(&Segment { acknowledged: request.acknowledged.wrapping_add(step), ..request.clone() });
        }
        busy(&Segment { window: 0, ..request.clone() });
        let since = monotonic();
        assert_made(&kernel, &request.frame(), Outcome::RespondSession, TX, &answer(&request, ANSWERS[0]));
        assert_remembered(&kernel, &request, since, stage::SERVER_WAITS);
        // The server has not heard of it.
        listener.set_nonblocking(true).expect("a listener");
        let accepted = listener.accept().map(drop).map_err(|error| error.kind());
        assert_eq!(accepted, Err(std::io::ErrorKind::WouldBlock));
    }
}

/// Answers shorter and longer than their requests, and one without a body.
#[test]
fn answers_of_all_lengths() {
    let Some(connection) = Connection::local("127.0.0.1") else { return };
    let Some(mut kernel) = refusing(connection.port(), FLAG_RESPOND) else { return };
    let longest: Vec<u8> = (0..251).cycle().take(ebpf_abi::REPLY_CAPACITY).collect();
    for length in (0..=longest.len()).step_by(8) {
        // The other one is not to be sent.
        kernel.tables(0).replies = [reply(&longest[..length]), reply(&longest[..8])];
        if length % 128 != 0 && length > 64 {
            continue;
        }
        kernel.configure(0, FLAG_SESSIONS | FLAG_RESPOND);
        let request = connection.request(&of_session("GET", SID)).stamped(1, 2);
        kernel.set_cell(&request.flow(), 0);
        let made = answer(&request, &longest[..length]);
        assert_made(&kernel, &request.frame(), Outcome::RespondSession, TX, &made);
    }
    // Sums that carry over as often as they can.
    kernel.tables(0).replies[0] = reply(&[0xff; ebpf_abi::REPLY_CAPACITY]);
    kernel.configure(0, FLAG_SESSIONS | FLAG_RESPOND);
    let request = connection.request(&of_session("GET", SID));
    kernel.set_cell(&request.flow(), 0);
    let made = answer(&request, &[0xff; ebpf_abi::REPLY_CAPACITY]);
    assert_made(&kernel, &request.frame(), Outcome::RespondSession, TX, &made);
}

#[test]
fn each_bank_has_its_answers() {
    let Some(connection) = Connection::local("::1") else { return };
    let Some(mut kernel) = refusing(connection.port(), FLAG_RESPOND) else { return };
    let others: [&[u8]; 2] = [b"no GET! ", b"no HEAD!no HEAD!"];
    kernel.tables(1).replies = others.map(reply);
    set_bit(&mut kernel.tables(1).session_ports, connection.port());
    for (bank, answers) in [(1, others), (0, ANSWERS), (1, others)] {
        kernel.configure(bank, FLAG_SESSIONS | FLAG_RESPOND);
        for (method, data) in [("GET", answers[0]), ("HEAD", answers[1])] {
            let request = connection.request(&of_session(method, SID));
            kernel.set_cell(&request.flow(), 0);
            let made = answer(&request, data);
            assert_made(&kernel, &request.frame(), Outcome::RespondSession, TX, &made);
        }
    }
}

/// The server is told, and what tells it passes; the client will hear of it when it asks again.
#[test]
fn a_first_request_is_reset_or_dropped() {
    for ip in ["127.0.0.1", "::1"] {
        let Some(connection) = Connection::local(ip) else { return };
        let Some(mut kernel) = refusing(connection.port(), 0) else { return };
        for (action, outcome) in [(FLAG_RESET, Outcome::ResetSession), (0, Outcome::DropSession)] {
            kernel.configure(0, FLAG_SESSIONS | action);
            for tags in [&[][..], &[VLAN]] {
                for method in ["GET", "HEAD"] {
                    let request = connection.request(&of_session(method, SID)).stamped(7, 9);
                    let request = Segment { tags: tags.to_vec(), ..request };
                    kernel.set_cell(&request.flow(), 0);
                    let since = monotonic();
                    let made = reset(&request);
                    assert_made(&kernel, &request.frame(), outcome, PASS, &made);
                    assert_remembered(&kernel, &request, since, stage::OVER);
                }
            }
        }
    }
}

/// A request that is not what the socket waits for is userspace's.
#[test]
fn what_the_socket_does_not_wait_for() {
    for ip in ["127.0.0.1", "::1"] {
        let Some(connection) = Connection::local(ip) else { return };
        let request = connection.request(&of_session("GET", SID));
        let Some(mut kernel) = refusing(connection.port(), 0) else { return };
        for action in [FLAG_RESPOND, FLAG_RESET, 0] {
            kernel.configure(0, FLAG_SESSIONS | action);
            let busy = |request: &Segment| assert_outcome(&kernel, &request.frame(), Outcome::PassBusy);
            for by in [1, u32::MAX, 100, 1 << 31] {
                busy(&Segment { sequence: request.sequence.wrapping_add(by), ..request.clone() });
                busy(&Segment { acknowledged: request.acknowledged.wrapping_add(by), ..request.clone() });
            }
            busy(&Segment { window: 0, ..request.clone() });
            // Another connection, one the other way round, and the listener's port without one.
            let mut other = request.clone();
            other.source.set_port(other.source.port() ^ 1);
            busy(&other);
            let mut options = request.frame();
            if request.source.is_ipv4() {
                options.splice(34..34, [1, 1, 1, 0]);
                options[14] = 0x46;
                options[17] += 4;
            } else {
                options.splice(54..54, [6, 0, 0, 0, 0, 0, 0, 0]);
                options[14 + 6] = 60;
                options[14 + 5] += 8;
            }
            assert_outcome(&kernel, &options, Outcome::PassBusy);
            assert_eq!(kernel.flow(&request.flow()), None);
            assert_eq!(kernel.cell(&request.flow()), Cell(0));
            kernel.configure(0, FLAG_SESSIONS | FLAG_MONITOR | action);
            assert_outcome(&kernel, &request.frame(), Outcome::MonitorSession);
            assert_eq!(kernel.flow(&request.flow()), None);
            // All of it right.
            kernel.configure(0, FLAG_SESSIONS | action);
            assert_ne!(kernel.run(&request.frame()).outcome, Outcome::PassBusy);
            kernel.forget(&request.flow());
        }
    }
}

/// A kernel that does not describe its sockets is asked nothing.
#[test]
fn without_places_of_fields_nothing_is_refused() {
    let Some(_able) = Kernel::load() else { return };
    let Some(connection) = Connection::local("127.0.0.1") else { return };
    let mut kernel = Kernel::load_with(&[]);
    set_bit(&mut kernel.tables(0).session_ports, connection.port());
    kernel.session(SID, u32::MAX, 0);
    kernel.configure(0, FLAG_SESSIONS | FLAG_RESPOND);
    let request = connection.request(&of_session("GET", SID));
    assert_outcome(&kernel, &request.frame(), Outcome::PassBusy);
}

/// A server that has said its last word, and a client that has.
#[test]
fn half_closed_connections() {
    for by_server in [true, false] {
        let Some(connection) = Connection::local("127.0.0.1") else { return };
        let Some(kernel) = refusing(connection.port(), FLAG_RESPOND) else { return };
        let end = if by_server { &connection.server } else { &connection.client };
        end.shutdown(Shutdown::Write).expect("an end");
        let mut other = if by_server { &connection.client } else { &connection.server };
        assert_eq!(other.read(&mut [0]).expect("an end"), 0);
        for (more, acknowledged) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            let mut request = connection.request(&of_session("GET", SID));
            request.sequence = request.sequence.wrapping_add(more);
            request.acknowledged = request.acknowledged.wrapping_add(acknowledged);
            assert_outcome(&kernel, &request.frame(), Outcome::PassBusy);
        }
    }
}

/// After its first byte a connection is busy, unless the agent says otherwise, and says it of what there is now.
#[test]
fn later_requests_need_the_agents_word() {
    for ip in ["127.0.0.1", "::1"] {
        let Some(mut connection) = Connection::local(ip) else { return };
        let Some(kernel) = refusing(connection.port(), FLAG_RESPOND) else { return };
        let flow = connection.next.flow();
        let hash = flow.hash();
        let (mut taken, mut given) = (0_u32, 0_u32);
        // Of the client's bytes, of the server's, of both.
        for (sent, answered) in [(10, 0), (0, 33), (7, 700)] {
            connection.client.write_all(&vec![b'x'; sent]).expect("sent");
            connection.server.read_exact(&mut vec![0; sent]).expect("taken");
            connection.server.write_all(&vec![b'y'; answered]).expect("given");
            connection.client.read_exact(&mut vec![0; answered]).expect("got");
            taken += u32::try_from(sent).expect("a few");
            given += u32::try_from(answered).expect("a few");
            let mut request = connection.request(&of_session("GET", SID));
            request.sequence = request.sequence.wrapping_add(taken);
            request.acknowledged = request.acknowledged.wrapping_add(given);
            let (taken, given) = (u64::from(taken), u64::from(given));
            let made = answer(&request, ANSWERS[0]);
            // The client's kernel may be slow to acknowledge.
            kernel.set_idle(&flow, Idle::new(hash, taken, given).0);
            wait_for("an answer", || {
                let ran = kernel.run(&request.frame());
                (ran.outcome == Outcome::RespondSession).then(|| assert_eq!(ran.frame, made.frame()))
            });
            kernel.set_cell(&flow, 0);
            for word in [
                0,
                Idle::new(hash, taken + 1, given).0,
                Idle::new(hash, taken - 1, given).0,
                Idle::new(hash, taken, given + 1).0,
                Idle::new(hash, taken, given.wrapping_sub(1)).0,
                Idle::new(hash, given, taken).0,
                Idle::new(hash, 0, 0).0,
                Idle::new(hash ^ 1 << 32, taken, given).0,
                Idle::new(!hash, taken, given).0,
            ] {
                if word == Idle::new(hash, taken, given).0 {
                    continue;
                }
                kernel.set_idle(&flow, word);
                assert_outcome(&kernel, &request.frame(), Outcome::PassBusy);
            }
            kernel.set_idle(&flow, Idle::new(hash, taken, given).0);
            for (sequence, acknowledged) in [(1, 0), (0, 1)] {
                let mut early = request.clone();
                early.sequence = early.sequence.wrapping_sub(sequence);
                early.acknowledged = early.acknowledged.wrapping_sub(acknowledged);
                assert_outcome(&kernel, &early.frame(), Outcome::PassBusy);
            }
            assert_made(&kernel, &request.frame(), Outcome::RespondSession, TX, &made);
            kernel.set_cell(&flow, 0);
        }
    }
}

/// Bytes that have arrived and nobody has read yet: the agent's word of before is not of now.
#[test]
fn bytes_that_arrive_after_the_agents_word() {
    let Some(mut connection) = Connection::local("127.0.0.1") else { return };
    let Some(kernel) = refusing(connection.port(), FLAG_RESPOND) else { return };
    let flow = connection.next.flow();
    kernel.set_idle(&flow, Idle::new(flow.hash(), 0, 0).0);
    connection.client.write_all(b"GET").expect("sent");
    connection.server.peek(&mut [0; 3]).expect("there");
    let mut request = connection.request(&of_session("GET", SID));
    assert_outcome(&kernel, &request.frame(), Outcome::PassBusy);
    request.sequence = request.sequence.wrapping_add(3);
    assert_outcome(&kernel, &request.frame(), Outcome::PassBusy);
}

/// What the server has sent and the client has not acknowledged may not have arrived. The request itself may be what
/// acknowledges it; the socket does not know yet.
#[test]
fn unacknowledged_data() {
    for family in [4, 6] {
        let Some(net) = Net::new() else { return };
        let here = net.here(family);
        let connect = |server| net.connect(net.good(family), server).expect("a connection");
        let Some(mut connection) = Connection::new(here, connect) else { return };
        let Some(kernel) = refusing(connection.port(), FLAG_RESPOND) else { return };
        let flow = connection.next.flow();
        let mut request = connection.request(&of_session("GET", SID));
        net.silence(family, true);
        connection.server.write_all(b"0123456789").expect("sent");
        for (acknowledged, given, outcome) in [
            (0, 0, Outcome::PassBusy),
            (0, 10, Outcome::PassBusy),
            (9, 10, Outcome::PassBusy),
            (10, 0, Outcome::PassBusy),
            (10, 9, Outcome::PassBusy),
            (10, 10, Outcome::RespondSession),
        ] {
            request.acknowledged = connection.next.acknowledged.wrapping_add(acknowledged);
            kernel.set_idle(&flow, Idle::new(flow.hash(), 0, given).0);
            assert_eq!(kernel.run(&request.frame()).outcome, outcome, "{acknowledged} {given}");
        }
        kernel.set_cell(&flow, 0);
        net.silence(family, false);
        connection.client.read_exact(&mut [0; 10]).expect("arrived after all");
        kernel.set_idle(&flow, Idle::new(flow.hash(), 0, 10).0);
        wait_for("an acknowledgement", || {
            (kernel.run(&request.frame()).outcome == Outcome::RespondSession).then_some(())
        });
    }
}
