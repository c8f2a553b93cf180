use super::*;
use crate::metrics::Metrics;

/// A kernel part that remembers.
#[derive(Default)]
pub(crate) struct Recorder {
    /// Words that are published now.
    pub words: Mutex<HashMap<Flow, (u64, u64)>>,
    /// Every word ever published.
    pub published: Mutex<Vec<(u64, u64)>>,
    /// Rejected flows, in order.
    pub rejected: Mutex<Vec<(Flow, u32)>>,
    /// Whether it refuses to reject.
    pub broken: AtomicBool,
}

impl Recorder {
    /// The word of the only flow.
    pub(crate) fn word(&self) -> Option<(u64, u64)> {
        let words = locked(&self.words);
        assert!(words.len() <= 1, "{words:?}");
        words.values().next().copied()
    }
}

impl Sink for Arc<Recorder> {
    fn publish(&self, flow: &Flow, received: u64, given: u64) {
        locked(&self.words).insert(*flow, (received, given));
        locked(&self.published).push((received, given));
    }

    fn clear(&self, flow: &Flow) {
        locked(&self.words).remove(flow);
    }

    fn reject(&self, flow: &Flow, stage: u32, _: Duration) -> Result<(), KernelError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(KernelError::Object("broken"));
        }
        locked(&self.rejected).push((*flow, stage));
        Ok(())
    }
}

/// Flows with a kernel part that remembers.
pub(crate) fn recorded() -> (Arc<Flows>, Arc<Recorder>) {
    let flows = unplugged();
    let recorder = recorded_by(&flows);
    (flows, recorder)
}

/// Plugs in a kernel part that remembers.
pub(crate) fn recorded_by(flows: &Flows) -> Arc<Recorder> {
    let recorder = Arc::new(Recorder::default());
    flows.set_kernel(Some(Box::new(Arc::clone(&recorder))));
    recorder
}

fn unplugged() -> Arc<Flows> {
    Arc::new(Flows::new(Metrics::new().unwrap().flows_rejected))
}

/// A flow of 192.0.2.1.
pub(crate) fn flow(port: u16) -> Flow {
    tcp(SocketAddr::from(([192, 0, 2, 1], port)), SocketAddr::from(([198, 51, 100, 1], 80)))
}

fn rejected(recorder: &Recorder) -> Vec<(Flow, u32)> {
    let mut rejected = std::mem::take(&mut *locked(&recorder.rejected));
    rejected.sort_by_key(|(flow, _)| flow.source_port);
    rejected
}

fn count(flows: &Flows, cause: Cause) -> u64 {
    flows.rejected.with_label_values(&[cause.label()]).get()
}

#[test]
fn flows_are_as_packets_name_them() {
    let v4 = tcp("192.0.2.1:4000".parse().unwrap(), "198.51.100.2:443".parse().unwrap());
    assert_eq!(v4.source, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]);
    assert_eq!(v4.destination, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 51, 100, 2]);
    assert_eq!((v4.source_port, v4.destination_port, v4.protocol, v4.reserved), (4000, 443, 6, [0; 3]));
    // As a socket for both families tells it.
    let mapped =
        tcp("[::ffff:192.0.2.1]:4000".parse().unwrap(), "[::ffff:198.51.100.2]:443".parse().unwrap());
    assert_eq!(mapped, v4);
    assert_eq!(client(&v4), IpAddr::from([192, 0, 2, 1]));
    let v6 = tcp("[2001:db8::1]:4000".parse().unwrap(), "[2001:db8::2]:443".parse().unwrap());
    assert_eq!(v6.source, "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
    assert_eq!(client(&v6), "2001:db8::1".parse::<IpAddr>().unwrap());
}

#[test]
fn newly_blacklisted_sessions_lose_their_connections() {
    let (flows, recorder) = recorded();
    let now = Instant::now();
    let (one, two, three) = (flows.follow(flow(1)), flows.follow(flow(2)), flows.follow(flow(3)));
    assert!(one.saw("a"));
    assert!(!one.saw("a"), "once for each connection and session");
    assert!(two.saw("a"));
    assert!(three.saw("b"));
    assert!(flows.saw(flow(4), "a", now));
    assert!(!flows.saw(flow(4), "a", now));
    assert!(flows.saw(flow(5), "b", now));
    let nobody = NetSet::default();
    assert_eq!(flows.blacklisted(|sid| sid == "c", &nobody, now), 0);
    assert!(rejected(&recorder).is_empty());
    drop(two);
    assert_eq!(flows.blacklisted(|sid| sid == "a", &nobody, now), 2);
    assert_eq!(rejected(&recorder), [(flow(1), stage::CUT), (flow(4), stage::CUT)]);
    assert_eq!((count(&flows, Cause::Blacklisted), count(&flows, Cause::Denied)), (2, 0));

    // The last session on a connection counts.
    assert!(one.saw("b"));
    assert!(flows.saw(flow(4), "b", now));
    assert_eq!(flows.blacklisted(|sid| sid == "a", &nobody, now), 0);
    assert_eq!(flows.blacklisted(|sid| sid == "b", &nobody, now), 4, "the first was spared since");
    drop((one, three));
    assert!(locked(&flows.open).is_empty());
}

#[test]
fn trusted_clients_are_let_alone() {
    let (flows, recorder) = recorded();
    let one = flows.follow(flow(1));
    assert!(one.saw("a"));
    assert!(flows.saw(flow(2), "a", Instant::now()));
    let trusted = NetSet::new(["192.0.2.0/24".parse().unwrap()]);
    assert_eq!(flows.blacklisted(|_| true, &trusted, Instant::now()), 0);
    assert!(rejected(&recorder).is_empty());
    let others = NetSet::new(["192.0.3.0/24".parse().unwrap()]);
    assert_eq!(flows.blacklisted(|_| true, &others, Instant::now()), 2);
}

/// A port may be used anew before the owner of its last connection knows that this one has ended.
#[test]
fn a_later_connection_of_the_same_name_stays() {
    let (flows, recorder) = recorded();
    let earlier = flows.follow(flow(1));
    assert!(earlier.saw("a"));
    let later = flows.follow(flow(1));
    assert!(later.saw("b"));
    drop(earlier);
    assert_eq!(flows.blacklisted(|sid| sid == "a", &NetSet::default(), Instant::now()), 0);
    assert_eq!(flows.blacklisted(|sid| sid == "b", &NetSet::default(), Instant::now()), 1);
    assert_eq!(rejected(&recorder), [(flow(1), stage::CUT)]);
}

#[test]
fn what_was_asked_about_long_ago_is_forgotten() {
    let (flows, _) = recorded();
    let start = Instant::now();
    let nobody = NetSet::default();
    assert!(flows.saw(flow(1), "a", start));
    assert!(flows.saw(flow(2), "a", start));
    let later = start + ASKED_AGE - Duration::from_secs(1);
    assert!(!flows.saw(flow(2), "a", later));
    assert_eq!(flows.blacklisted(|_| true, &nobody, later), 2);
    assert_eq!(flows.blacklisted(|_| true, &nobody, start + ASKED_AGE), 1);
    assert!(flows.saw(flow(3), "a", start + ASKED_AGE));
    assert_eq!(locked(&flows.asked).len(), 2, "the old one made way");

    let many = u32::try_from(ASKED_CAPACITY).unwrap() + 10;
    for number in 0..many {
        let client = SocketAddr::from((Ipv6Addr::from(u128::from(number)), 1));
        assert!(flows.saw(tcp(client, "[::1]:80".parse().unwrap()), "b", start + ASKED_AGE));
    }
    assert_eq!(locked(&flows.asked).len(), ASKED_CAPACITY);
    assert_eq!(
        flows.blacklisted(|sid| sid == "a", &nobody, start + ASKED_AGE),
        0,
        "the least recent ones went"
    );
}

#[test]
fn denied_requests() {
    let (flows, recorder) = recorded();
    let one = flows.follow(flow(1));
    one.denied();
    assert!(flows.reject(&flow(2), Cause::Denied));
    assert_eq!(rejected(&recorder), [(flow(1), stage::NO_MORE_DATA), (flow(2), stage::NO_MORE_DATA)]);
    assert_eq!(count(&flows, Cause::Denied), 2);
    recorder.broken.store(true, Ordering::Relaxed);
    assert!(!flows.reject(&flow(3), Cause::Denied));
    assert_eq!(count(&flows, Cause::Denied), 2, "only what was done counts");
}

#[tokio::test]
async fn without_a_kernel_part_only_the_gateways_connections_are_remembered() {
    let flows = unplugged();
    let one = flows.follow(flow(1));
    assert!(!flows.saw(flow(2), "a", Instant::now()));
    assert!(!flows.reject(&flow(1), Cause::Denied));
    flows.idle(&flow(1), 1, 2);
    assert_eq!(flows.blacklisted(|_| true, &NetSet::default(), Instant::now()), 0);
    assert!(locked(&flows.open).is_empty() && locked(&flows.asked).is_empty());
    let two = flows.follow(flow(2));
    assert!(two.saw("a"));
    assert_eq!(flows.blacklisted(|_| true, &NetSet::default(), Instant::now()), 1);
    tokio::time::timeout(Duration::from_secs(5), two.cutter().wait()).await.unwrap();
    drop(two);
    assert_eq!(count(&flows, Cause::Denied), 0);

    // It may come, and go, while connections are open.
    let recorder = recorded_by(&flows);
    flows.idle(&flow(1), 1, 2);
    assert_eq!(recorder.word(), Some((1, 2)));
    flows.gone(&flow(1));
    assert_eq!(recorder.word(), None);
    assert!(one.saw("a"));
    flows.set_kernel(None);
    flows.idle(&flow(1), 3, 4);
    assert_eq!(recorder.word(), None);
    drop(one);
    assert!(locked(&flows.open).is_empty());
}
