//! A client that asks at a fixed rate, whatever the answers do.
//!
//! A client that waits for an answer before it asks again asks less while a server stalls, and most of what viewers would
//! have waited is never measured ("coordinated omission"). Here each request has its instant beforehand, and its latency
//! counts from that instant, also if it had to wait for a connection that is free. Every answer is read to its end and
//! held against what it has to be.

use hdrhistogram::Histogram;
use rustix::event::epoll;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long the answers to the last requests are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Latencies go from a microsecond to this, in nanoseconds.
const LONGEST: u64 = 120_000_000_000;

/// The event of the timer; connections have their index.
const TIMER: u64 = u64::MAX;

/// What to ask, of whom and how often.
#[derive(Debug, Clone, Copy)]
pub struct Load<'a> {
    /// The server.
    pub address: SocketAddr,
    /// Connections, all of which are used in turn.
    pub connections: usize,
    /// Requests per second.
    pub rate: f64,
    /// For how long requests are sent.
    pub lasting: Duration,
    /// The request, as bytes.
    pub request: &'a [u8],
    /// The body that a 200 has to have.
    pub body: &'a [u8],
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Latencies in nanoseconds, from the instant at which each request was due. One that was never answered counts
    /// with what it had waited.
    pub latency: Histogram<u64>,
    /// Right answers.
    pub right: u64,
    /// Wrong ones, and connections that ended instead of an answer.
    pub wrong: u64,
    /// Requests that have no answer.
    pub unanswered: u64,
    /// What was wrong with the first one.
    pub first_wrong: Option<String>,
}

impl Outcome {
    /// A percentile of the latency, in microseconds.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> f64 {
        self.latency.value_at_percentile(percent) as f64 / 1e3
    }

    /// Why this is no measurement, if so.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let Self { wrong, unanswered, right, .. } = self;
        let first = self.first_wrong.as_deref().unwrap_or_default();
        (*wrong + *unanswered > 0)
            .then(|| format!("{right} answers right, {wrong} wrong, {unanswered} missing. {first}"))
    }
}

/// One connection.
struct Client {
    stream: TcpStream,
    /// When the request that it is busy with was due.
    due: Option<Instant>,
    answer: Vec<u8>,
}

struct Run<'a> {
    load: Load<'a>,
    epoll: OwnedFd,
    clients: Vec<Client>,
    idle: VecDeque<usize>,
    outcome: Outcome,
}

impl Load<'_> {
    /// Asks, and waits for the answers.
    ///
    /// # Errors
    /// When there are no connections, or the system does not do its part.
    pub fn run(&self) -> io::Result<Outcome> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // Edge-triggered: nobody has to read it.
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), edge)?;
        let outcome = Outcome {
            latency: Histogram::new_with_bounds(1_000, LONGEST, 3).map_err(io::Error::other)?,
            right: 0,
            wrong: 0,
            unanswered: 0,
            first_wrong: None,
        };
        let mut run = Run {
            load: *self,
            epoll,
            clients: Vec::with_capacity(self.connections),
            idle: (0..self.connections).collect(),
            outcome,
        };
        for index in 0..self.connections {
            let client = run.connect(index)?;
            run.clients.push(client);
        }
        run.go(&timer)?;
        Ok(run.outcome)
    }
}

impl Run<'_> {
    fn connect(&self, index: usize) -> io::Result<Client> {
        let stream = TcpStream::connect(self.load.address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
        Ok(Client { stream, due: None, answer: Vec::new() })
    }

    fn go(&mut self, timer: &OwnedFd) -> io::Result<()> {
        let seconds = self.load.lasting.as_secs_f64();
        // Less than 2^32 requests.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let total = (self.load.rate * seconds) as u32;
        let (start, rate) = (Instant::now(), self.load.rate);
        let due = |number: u32| start + Duration::from_secs_f64(f64::from(number) / rate);
        let end = due(total) + PATIENCE;
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; 256];
        let mut next = 0;
        loop {
            let now = Instant::now();
            while next < total && due(next) <= now {
                let Some(index) = self.idle.pop_front() else { break };
                self.ask(index, due(next))?;
                next += 1;
            }
            let busy = self.clients.len() - self.idle.len();
            if next == total && busy == 0 {
                return Ok(());
            }
            if now > end {
                let waiting: Vec<Instant> = self.clients.iter().filter_map(|client| client.due).collect();
                for due in waiting.into_iter().chain((next..total).map(due)) {
                    self.record(now, due)?;
                    self.outcome.unanswered += 1;
                }
                return Ok(());
            }
            // Without a connection that is free, an answer is what comes next.
            let wake = if next < total && !self.idle.is_empty() { due(next).min(end) } else { end };
            alarm(timer, wake.saturating_duration_since(Instant::now()))?;
            let (ready, _) = match epoll::wait(&self.epoll, &mut events, None) {
                Err(rustix::io::Errno::INTR) => continue,
                waited => waited?,
            };
            for event in ready {
                if let Ok(index) = usize::try_from(event.data.u64())
                    && index < self.clients.len()
                {
                    self.hear(index)?;
                }
            }
        }
    }

    fn ask(&mut self, index: usize, due: Instant) -> io::Result<()> {
        let client = &mut self.clients[index];
        client.due = Some(due);
        // A request is smaller than any send buffer, and nothing else is in it.
        match client.stream.write(self.load.request) {
            Ok(length) if length == self.load.request.len() => Ok(()),
            Ok(length) => self.give_up(index, format!("took {length} bytes of the request")),
            Err(error) => self.give_up(index, format!("took no request: {error}")),
        }
    }

    fn hear(&mut self, index: usize) -> io::Result<()> {
        let mut piece = [0; 16 * 1024];
        let client = &mut self.clients[index];
        match client.stream.read(&mut piece) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            // A server may close a connection that is idle.
            Ok(0) | Err(_) if client.due.is_none() => {
                self.clients[index] = self.connect(index)?;
                Ok(())
            }
            Ok(0) => self.give_up(index, "closed instead of an answer".to_owned()),
            Err(error) => self.give_up(index, format!("no answer: {error}")),
            Ok(length) => {
                client.answer.extend_from_slice(&piece[..length]);
                match judge(&client.answer, self.load.body) {
                    Answer::Part => Ok(()),
                    Answer::Right if client.due.is_some() => {
                        client.answer.clear();
                        self.outcome.right += 1;
                        self.free(index)
                    }
                    _ => {
                        let text = String::from_utf8_lossy(&client.answer).into_owned();
                        self.give_up(index, format!("a wrong answer: {text:?}"))
                    }
                }
            }
        }
    }

    /// Ends a request that went wrong, and its connection.
    fn give_up(&mut self, index: usize, why: String) -> io::Result<()> {
        self.outcome.wrong += 1;
        self.outcome.first_wrong.get_or_insert(why);
        self.free(index)?;
        self.clients[index] = self.connect(index)?;
        Ok(())
    }

    fn free(&mut self, index: usize) -> io::Result<()> {
        let Some(due) = self.clients[index].due.take() else { return Ok(()) };
        self.idle.push_back(index);
        self.record(Instant::now(), due)
    }

    fn record(&mut self, now: Instant, due: Instant) -> io::Result<()> {
        let nanoseconds = u64::try_from(now.saturating_duration_since(due).as_nanos()).unwrap_or(LONGEST);
        self.outcome.latency.record(nanoseconds.clamp(1_000, LONGEST)).map_err(io::Error::other)
    }
}

/// Sets the timer, which no time rounds up as the timeout of epoll would.
fn alarm(timer: &OwnedFd, after: Duration) -> io::Result<()> {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Zero would turn it off.
    let after = after.max(Duration::from_nanos(1));
    let it_value = Timespec {
        tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(after.subsec_nanos()),
    };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: zero, it_value })?;
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// More has to come.
    Part,
    Right,
    Wrong,
}

/// Whether an answer is a 200 with just this body.
fn judge(answer: &[u8], body: &[u8]) -> Answer {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Answer::Part };
    let (head, rest) = (&answer[..end], &answer[end + 4..]);
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let status = lines.next().unwrap_or_default();
    let length = lines.find_map(|line| {
        let (name, value) = line.split_at_checked(line.iter().position(|byte| *byte == b':')?)?;
        let value = std::str::from_utf8(&value[1..]).ok()?;
        name.eq_ignore_ascii_case(b"content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    if !status.starts_with(b"HTTP/1.1 200") || length != Some(body.len()) {
        return Answer::Wrong;
    }
    if rest == body {
        Answer::Right
    } else if body.starts_with(rest) {
        Answer::Part
    } else {
        Answer::Wrong
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Load, judge};
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";

    /// A server whose answers depend on how long it has been there.
    fn server(answer: impl Fn(Duration) -> &'static [u8] + Send + Sync + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, start) = (Arc::new(answer), Instant::now());
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let answer = Arc::clone(&answer);
                std::thread::spawn(move || {
                    let mut request = [0; REQUEST.len()];
                    while stream.read_exact(&mut request).is_ok() {
                        let _gone = stream.write_all(answer(start.elapsed()));
                    }
                });
            }
        });
        address
    }

    fn load(address: SocketAddr) -> Load<'static> {
        Load {
            address,
            connections: 4,
            rate: 1_000.0,
            lasting: Duration::from_secs(1),
            request: REQUEST,
            body: b"ok",
        }
    }

    /// The server stands still for 400 of 1,000 ms. Only four requests meet that on their way, one for each connection, and
    /// a client that waits for answers would report 0.4 % slow ones. But 400 were due.
    #[test]
    fn requests_that_could_not_be_sent_have_waited() {
        let (from, to) = (Duration::from_millis(300), Duration::from_millis(700));
        let address = server(move |age| {
            if age >= from && age < to {
                std::thread::sleep(to - age);
            }
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        });
        let outcome = load(address).run().unwrap();
        assert_eq!((outcome.fault(), outcome.right), (None, 1_000));
        let waited = |percent: f64| outcome.percentile(percent) / 1e3;
        // In the best case 0 to 400 ms, evenly over 40 % of the requests.
        assert!(waited(99.0) > 300.0, "p99 {} ms", waited(99.0));
        assert!(waited(80.0) > 150.0, "p80 {} ms", waited(80.0));
        assert!(waited(25.0) < 100.0, "p25 {} ms", waited(25.0));
    }

    #[test]
    fn wrong_answers_are_told() {
        let wrong: [&'static [u8]; 4] = [
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok!",
            b"HTTP/1.1 200 OK\r\n\r\nok",
        ];
        for answer in wrong {
            let load = Load { lasting: Duration::from_millis(20), ..load(server(move |_| answer)) };
            let outcome = load.run().unwrap();
            assert_eq!((outcome.right, outcome.wrong), (0, 20));
            assert!(outcome.fault().unwrap().contains("a wrong answer"), "{outcome:?}");
        }
    }

    #[test]
    fn answers_come_in_parts() {
        let whole = b"HTTP/1.1 200 OK\r\nX: y\r\ncontent-length: 2\r\n\r\nok";
        for end in 0..whole.len() {
            assert_eq!(judge(&whole[..end], b"ok"), Answer::Part, "{end}");
        }
        assert_eq!(judge(whole, b"ok"), Answer::Right);
        assert_eq!(judge(&[whole.as_slice(), b"!"].concat(), b"ok"), Answer::Wrong);
    }
}
