//! Packets of connections that were refused, by the program or by the agent.

use super::answers::{ANSWERS, answer, assert_made, refusing, reset};
use super::requests::{OTHER, SID, of_session};
use super::*;
use ebpf_abi::{FLAG_RESET, FLAG_RESPOND, FLAG_SESSIONS, stage};
use std::net::SocketAddr;
use tests::frames::{ACK, FIN, PSH, RST, SYN, Segment, URG, VLAN};
use tests::kernel::{DROP, PASS, TX};

const PORT: u16 = 8080;

/// What the program does with a blacklisted session.
const ACTIONS: [u32; 3] = [FLAG_RESPOND, FLAG_RESET, 0];

/// Where the client's refused request is, and where the server's next byte would be.
const REQUEST: u32 = 0x1020_3040;
const REPLY: u32 = 0x5060_7080;

/// The connection of a test, over IPv4 or IPv6.
fn segment(family: usize, data: &[u8]) -> Segment {
    let (source, destination) = [("192.0.2.9", "198.18.7.7"), ("2001:db8::9", "2001:db8:ffff::7")][family];
    let end = |ip: &str, port| SocketAddr::new(ip.parse().expect("an address"), port);
    let segment = Segment::new(end(source, 50_123), end(destination, PORT), data);
    assert_eq!((segment.sequence, segment.acknowledged), (REQUEST, REPLY));
    segment
}

fn state(stage: u32) -> FlowState {
    FlowState { until: u64::MAX, stage, request: REQUEST, reply: REPLY, reserved: 0 }
}

/// Gives the program an action, and makes the connections of this test known to it in a stage.
fn prepare(kernel: &mut Kernel, action: u32, stage: u32) {
    kernel.configure(0, FLAG_SESSIONS | action);
    know(kernel, stage);
}

fn know(kernel: &Kernel, stage: u32) {
    for family in 0..2 {
        kernel.set_flow(segment(family, b"").flow(), state(stage));
    }
}

/// The stage that a connection is in.
#[track_caller]
fn stage_of(kernel: &Kernel, segment: &Segment) -> u32 {
    let found = kernel.flow(&segment.flow()).expect("a flow that is known");
    assert_eq!(FlowState { stage: 0, ..found }, FlowState { stage: 0, ..state(0) });
    found.stage
}

/// The client acknowledges so many bytes of the answer.
fn after(segment: &Segment, taken: u32, flags: u8) -> Segment {
    let mut next = Segment { data: vec![], flags, ..segment.clone() };
    (next.sequence, next.acknowledged) = (segment.end(), segment.acknowledged.wrapping_add(taken));
    next
}

/// What a client gets for its end.
fn end_answer(end: &Segment) -> Segment {
    let mut made = answer(end, b"");
    (made.flags, made.acknowledged) = (ACK, end.end().wrapping_add(1));
    made
}

/// What a client gets from a connection that the agent has cut, or that was reset.
fn client_reset(segment: &Segment) -> Segment {
    Segment { flags: RST | ACK, ..answer(segment, b"") }
}

#[test]
fn a_request_again_is_answered_again() {
    let Some(mut kernel) = refusing(PORT, 0) else { return };
    for stage in [stage::SERVER_WAITS, stage::OVER] {
        prepare(&mut kernel, FLAG_RESPOND, stage);
        for family in 0..2 {
            for (method, data) in [("GET", ANSWERS[0]), ("HEAD", ANSWERS[1])] {
                for request in [
                    segment(family, &of_session(method, SID)),
                    segment(family, &of_session(method, SID)).stamped(70, 90),
                    Segment { tags: vec![VLAN], ..segment(family, &of_session(method, SID)) },
                ] {
                    let made = answer(&request, data);
                    assert_made(&kernel, &request.frame(), Outcome::RespondAgain, TX, &made);
                    assert_eq!(stage_of(&kernel, &request), stage);
                }
            }
            // At the same place, and no request.
            for data in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[b'x'; 100], b"x"] {
                assert_outcome(&kernel, &segment(family, data).frame(), Outcome::DropOver);
            }
            let last = Segment { flags: PSH | ACK | FIN, ..segment(family, &of_session("GET", SID)) };
            assert_outcome(&kernel, &last.frame(), Outcome::DropOver);
            assert_eq!(stage_of(&kernel, &last), stage);
        }
    }
}

/// Whatever comes first after the answer becomes the reset that the server waits for.
#[test]
fn the_next_packet_resets_the_server() {
    let Some(mut kernel) = refusing(PORT, 0) else { return };
    for action in ACTIONS {
        prepare(&mut kernel, action, stage::SERVER_WAITS);
        for family in 0..2 {
            let request = segment(family, &of_session("GET", SID));
            let length = u32::try_from(ANSWERS[0].len()).expect("short");
            let mut nexts = vec![
                after(&request, length + 1, ACK),
                after(&request, 10, ACK).stamped(7, 8),
                after(&request, length + 1, ACK | FIN),
                Segment { tags: vec![VLAN], ..after(&request, 0, ACK) },
                Segment { data: b"more".to_vec(), ..after(&request, 0, ACK | PSH) },
                Segment { sequence: REQUEST - 1, data: vec![0], ..after(&request, 0, ACK) },
                Segment { window: 0, ..after(&request, 0, ACK | URG) },
            ];
            if action != FLAG_RESPOND {
                // The request again.
                nexts.push(request);
            }
            for next in nexts {
                know(&kernel, stage::SERVER_WAITS);
                let made = Segment { sequence: REQUEST, acknowledged: REPLY, ..reset(&next) };
                for frame in [next.frame(), [&next.frame()[..], &[0; 6]].concat()] {
                    know(&kernel, stage::SERVER_WAITS);
                    assert_made(&kernel, &frame, Outcome::ResetServer, PASS, &made);
                    assert_eq!(stage_of(&kernel, &next), stage::OVER);
                }
            }
        }
    }
}

#[test]
fn the_clients_end_is_acknowledged() {
    let Some(mut kernel) = refusing(PORT, 0) else { return };
    for action in ACTIONS {
        prepare(&mut kernel, action, stage::OVER);
        for family in 0..2 {
            let request = segment(family, &of_session("GET", SID));
            for end in [
                after(&request, 200, ACK | FIN),
                after(&request, 200, ACK | FIN).stamped(7, 8),
                Segment { data: b"last".to_vec(), ..after(&request, 200, ACK | FIN | PSH) },
                Segment { sequence: u32::MAX, ..after(&request, 200, ACK | FIN) },
                Segment { sequence: u32::MAX - 1, data: vec![b'x'; 9], ..after(&request, 200, ACK | FIN) },
                Segment { tags: vec![VLAN], ..after(&request, 200, ACK | FIN) },
            ] {
                assert_made(&kernel, &end.frame(), Outcome::AnswerFin, TX, &end_answer(&end));
                assert_eq!(stage_of(&kernel, &end), stage::OVER);
            }
        }
    }
}

#[test]
fn what_comes_later_is_dropped() {
    let Some(mut kernel) = refusing(PORT, 0) else { return };
    for action in ACTIONS {
        prepare(&mut kernel, action, stage::OVER);
        for family in 0..2 {
            let request = segment(family, &of_session("GET", SID));
            let second = Segment { data: of_session("GET", OTHER), ..after(&request, 0, ACK | PSH) };
            for later in [
                after(&request, 200, ACK),
                after(&request, 200, ACK).stamped(7, 8),
                Segment { data: b"more".to_vec(), ..after(&request, 200, ACK | PSH) },
                second,
                Segment { data: vec![], ..request.clone() },
            ] {
                assert_outcome(&kernel, &later.frame(), Outcome::DropOver);
                assert_eq!(stage_of(&kernel, &later), stage::OVER);
            }
        }
    }
}

/// The request again, after the server was told: the client is reset, or gets no answer.
#[test]
fn a_request_again_is_reset_again_or_dropped_again() {
    let Some(mut kernel) = refusing(PORT, 0) else { return };
    for family in 0..2 {
        let request = segment(family, &of_session("GET", SID));
        prepare(&mut kernel, 0, stage::OVER);
        assert_outcome(&kernel, &request.frame(), Outcome::DropOver);
        prepare(&mut kernel, FLAG_RESET, stage::OVER);
        for request in [request.clone(), request.clone().stamped(7, 8)] {
            let made = client_reset(&request);
            let ran = kernel.run(&request.frame());
            assert_eq!(ran.outcome, Outcome::ResetAgain);
            assert_eq!(ran.frame, made.frame());
            // It is for the client, so it has to leave by the interface.
            assert_eq!(ran.verdict, TX);
            assert_eq!(stage_of(&kernel, &request), stage::OVER);
        }
    }
}

/// A new connection with the same ports is judged like any other, and its request may be searched.
#[test]
fn a_new_connection_is_not_the_old_one() {
    let Some(mut kernel) = refusing(PORT, 0) else { return };
    for action in ACTIONS {
        for stage in [stage::SERVER_WAITS, stage::OVER, stage::NO_MORE_DATA, stage::CUT] {
            prepare(&mut kernel, action, stage);
            for family in 0..2 {
                let request = segment(family, &of_session("GET", SID));
                let first = Segment { flags: SYN, ..after(&request, 0, 0) };
                assert_outcome(&kernel, &first.frame(), Outcome::Pass);
                assert_eq!(kernel.flow(&first.flow()), None);
                assert_outcome(&kernel, &request.frame(), Outcome::PassBusy);
                assert_outcome(&kernel, &after(&request, 0, ACK).frame(), Outcome::Pass);
            }
        }
    }
}

#[test]
fn the_clients_reset_passes() {
    let Some(mut kernel) = refusing(PORT, 0) else { return };
    for action in ACTIONS {
        for stage in [stage::SERVER_WAITS, stage::OVER, stage::NO_MORE_DATA, stage::CUT] {
            prepare(&mut kernel, action, stage);
            for family in 0..2 {
                let request = segment(family, &of_session("GET", SID));
                for flags in [RST, RST | ACK] {
                    assert_outcome(&kernel, &after(&request, 0, flags).frame(), Outcome::Pass);
                    assert_eq!(stage_of(&kernel, &request), stage);
                }
            }
        }
    }
}

/// The agent wants no more requests: what ends the connection in good order passes, and data does not.
#[test]
fn no_more_data() {
    let Some(mut kernel) = refusing(PORT, 0) else { return };
    for action in ACTIONS {
        prepare(&mut kernel, action, stage::NO_MORE_DATA);
        for family in 0..2 {
            let request = segment(family, &of_session("GET", OTHER));
            let without = [ACK, ACK | FIN, ACK | PSH].map(|flags| after(&request, 0, flags));
            let with = [
                request.clone(),
                request.clone().stamped(7, 8),
                Segment { flags: ACK | FIN, ..request.clone() },
                Segment { data: b"x".to_vec(), ..after(&request, 9, ACK) },
            ];
            for segment in &without {
                assert_outcome(&kernel, &segment.frame(), Outcome::Pass);
            }
            for segment in &with {
                refused(&kernel, action, segment);
            }
            kernel.configure(0, FLAG_SESSIONS | action | FLAG_MONITOR);
            for segment in without.iter().chain(&with[2..]) {
                assert_outcome(&kernel, &segment.frame(), Outcome::Pass);
            }
            assert_outcome(&kernel, &request.frame(), Outcome::PassInspected);
            assert_eq!(stage_of(&kernel, &request), stage::NO_MORE_DATA);
            kernel.configure(0, FLAG_SESSIONS | action);
        }
    }
}

/// That a segment of a connection is refused that the agent rejected: reset, or where nobody is told anything, dropped.
#[track_caller]
fn refused(kernel: &Kernel, action: u32, segment: &Segment) {
    if action == 0 {
        assert_outcome(kernel, &segment.frame(), Outcome::DropFlow);
    } else {
        assert_made(kernel, &segment.frame(), Outcome::ResetFlow, TX, &client_reset(segment));
    }
}

#[test]
fn cut() {
    let Some(mut kernel) = refusing(PORT, 0) else { return };
    for action in ACTIONS {
        prepare(&mut kernel, action, stage::CUT);
        for family in 0..2 {
            let request = segment(family, &of_session("GET", SID));
            let all = [
                request.clone(),
                request.clone().stamped(7, 8),
                Segment { tags: vec![VLAN], ..request.clone() },
                after(&request, 0, ACK),
                after(&request, 10, ACK).stamped(7, 8),
                after(&request, 0, ACK | FIN),
            ];
            for segment in &all {
                refused(&kernel, action, segment);
                assert_eq!(stage_of(&kernel, &request), stage::CUT);
            }
            kernel.configure(0, FLAG_SESSIONS | action | FLAG_MONITOR);
            assert_outcome(&kernel, &request.frame(), Outcome::MonitorSession);
            assert_outcome(&kernel, &all[3].frame(), Outcome::Pass);
            // Where no sessions are searched for, the agent's word counts all the same.
            kernel.configure(0, 0);
            for segment in &all {
                refused(&kernel, FLAG_RESET, segment);
            }
            kernel.configure(0, FLAG_SESSIONS | action);
        }
    }
}

/// Connections of any port, also without TCP.
#[test]
fn flows_of_other_ports_and_protocols() {
    let Some(mut kernel) = refusing(PORT, 0) else { return };
    for action in ACTIONS {
        kernel.configure(0, FLAG_SESSIONS | action);
        for family in 0..2 {
            let mut segment = segment(family, b"datagram");
            segment.destination.set_port(443);
            let mut flow = segment.flow();
            kernel.set_flow(flow, state(stage::CUT));
            refused(&kernel, action, &segment);
            flow.protocol = 17;
            let mut datagram = segment.frame();
            datagram[if family == 0 { 14 + 9 } else { 14 + 6 }] = 17;
            assert_outcome(&kernel, &datagram, Outcome::Pass);
            kernel.set_flow(flow, state(stage::CUT));
            assert_outcome(&kernel, &datagram, Outcome::DropFlow);
            kernel.configure(0, FLAG_SESSIONS | action | FLAG_MONITOR);
            assert_outcome(&kernel, &datagram, Outcome::Pass);
            assert_outcome(&kernel, &segment.frame(), Outcome::Pass);
            kernel.configure(0, FLAG_SESSIONS | action);
            kernel.forget(&flow);
        }
    }
}

/// Neither after its time, nor where its cell is not known to have any.
#[test]
fn what_is_known_no_longer() {
    let Some(kernel) = refusing(PORT, FLAG_RESPOND) else { return };
    for family in 0..2 {
        let next = after(&segment(family, b""), 0, ACK);
        let flow = next.flow();
        for (until, cell, outcome) in [
            (u64::MAX, u64::MAX, Outcome::DropOver),
            (1, u64::MAX, Outcome::Pass),
            (u64::MAX, 1, Outcome::Pass),
            (u64::MAX, 0, Outcome::Pass),
            (0, u64::MAX, Outcome::Pass),
            (u64::MAX, u64::MAX, Outcome::DropOver),
        ] {
            kernel.set_flow(flow, FlowState { until, ..state(stage::OVER) });
            kernel.set_cell(&flow, cell);
            assert_outcome(&kernel, &next.frame(), outcome);
        }
        // Its cell may have others.
        let mut other = next.clone();
        other.source.set_port(other.source.port() ^ 1);
        kernel.set_cell(&other.flow(), u64::MAX);
        assert_outcome(&kernel, &other.frame(), Outcome::Pass);
    }
}

/// Every part of a flow counts.
#[test]
fn another_connection_is_not_known() {
    let Some(mut kernel) = refusing(PORT, 0) else { return };
    prepare(&mut kernel, FLAG_RESPOND, stage::OVER);
    for family in 0..2 {
        let next = after(&segment(family, b""), 0, ACK);
        assert_outcome(&kernel, &next.frame(), Outcome::DropOver);
        let mut others = [(); 5].map(|()| next.clone());
        others[0].source.set_port(next.source.port() + 1);
        others[1].destination.set_port(PORT + 1);
        let other_ip = if family == 0 { "192.0.2.10" } else { "2001:db8::a" };
        others[2].source.set_ip(other_ip.parse().expect("an address"));
        others[3].destination.set_ip(other_ip.parse().expect("an address"));
        (others[4].source, others[4].destination) = (next.destination, next.source);
        for other in others {
            kernel.set_cell(&other.flow(), u64::MAX);
            assert_outcome(&kernel, &other.frame(), Outcome::Pass);
        }
    }
}

/// Where a frame cannot be made into another one, it is dropped and not let through.
#[test]
fn packets_with_options_of_ip() {
    let Some(mut kernel) = refusing(PORT, 0) else { return };
    for stage in [stage::SERVER_WAITS, stage::OVER, stage::CUT] {
        prepare(&mut kernel, FLAG_RESPOND, stage);
        for flags in [ACK, ACK | FIN] {
            let next = after(&segment(0, b""), 0, flags);
            let mut frame = next.frame();
            frame.splice(34..34, [1, 1, 1, 0]);
            frame[14] = 0x46;
            frame[17] += 4;
            assert_outcome(&kernel, &frame, Outcome::DropOver);
            assert_eq!(stage_of(&kernel, &next), stage);
        }
    }
}

/// An allowed source is no exception, a trusted one is, and a denied one is denied.
#[test]
fn lists_and_flows() {
    let Some(mut kernel) = refusing(PORT, 0) else { return };
    prepare(&mut kernel, FLAG_RESPOND, stage::OVER);
    let next = after(&segment(0, b""), 0, ACK);
    for (flags, outcome) in [
        (LIST_ALLOW, Outcome::DropOver),
        (LIST_TRUSTED, Outcome::PassTrusted),
        (LIST_DENY, Outcome::DropIpDenied),
    ] {
        kernel.exact(0, address("192.0.2.9"), flags);
        kernel.configure(0, FLAG_SESSIONS | FLAG_RESPOND | FLAG_EXACT);
        assert_outcome(&kernel, &next.frame(), outcome);
    }
}

/// The same connection from its refused request to its end, by nothing but packets.
#[test]
fn a_whole_connection() {
    use tests::handshake::Connection;
    for ip in ["127.0.0.1", "::1"] {
        let Some(connection) = Connection::local(ip) else { return };
        let Some(kernel) = refusing(connection.port(), FLAG_RESPOND) else { return };
        let request = connection.request(&of_session("GET", SID)).stamped(5, 6);
        let made = answer(&request, ANSWERS[0]);
        assert_made(&kernel, &request.frame(), Outcome::RespondSession, TX, &made);
        assert_made(&kernel, &request.frame(), Outcome::RespondAgain, TX, &made);
        let length = u32::try_from(made.data.len()).expect("short");
        let acknowledged = after(&request, length + 1, ACK);
        let told = Segment {
            sequence: request.sequence,
            acknowledged: request.acknowledged,
            ..reset(&acknowledged)
        };
        assert_made(&kernel, &acknowledged.frame(), Outcome::ResetServer, PASS, &told);
        // Lost, and asked for again after the server was told.
        assert_made(&kernel, &request.frame(), Outcome::RespondAgain, TX, &made);
        let end = after(&request, length + 1, ACK | FIN);
        for _ in 0..2 {
            assert_made(&kernel, &end.frame(), Outcome::AnswerFin, TX, &end_answer(&end));
        }
        let ran = kernel.run(&acknowledged.frame());
        assert_eq!((ran.outcome, ran.verdict), (Outcome::DropOver, DROP));
    }
}
