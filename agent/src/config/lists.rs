//! Lists of sessions, networks and countries, and the settings of the kernel programs that apply some of them.

use super::listeners::{net, nets};
use super::problem::shown;
use super::reader::{Section, Value};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use validator_core::limits::MAX_INTEGER;
use validator_core::net::{NetSet, PortSet};
use validator_core::{Countries, Country, Day, Prefilter, Service, Sessions};

/// Days for which a list of sessions counts, unless configured.
const RETAIN_DAYS: u32 = 31;

/// Distinct sessions, unless configured.
const CAPACITY: usize = 1_000_000;

/// Where the kernel keeps what outlives the process, unless configured.
pub(crate) const PIN_DIR: &str = "/sys/fs/bpf/edgegate";

/// The geo databases. The files are not opened here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GeoPaths {
    /// Cities, and with them countries.
    pub city: Option<PathBuf>,
    /// Countries.
    pub country: Option<PathBuf>,
    /// Autonomous systems.
    pub asn: Option<PathBuf>,
}

impl GeoPaths {
    /// Whether there is a database that knows countries.
    pub fn knows_countries(&self) -> bool {
        self.city.is_some() || self.country.is_some()
    }
}

/// The kernel prefilter. What it refuses is also in [`validator_core::Prefilter`], where it applies on every listener.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Network interfaces to attach to; none turns the kernel prefilter off.
    pub interfaces: Vec<String>,
    /// How to attach.
    pub mode: KernelMode,
    /// Whether the process ends when it cannot attach.
    pub required: bool,
    /// Whether refusals are only counted.
    pub monitor: bool,
    /// Where program, links and maps are pinned: a folder on a BPF file system.
    pub pin_dir: PathBuf,
    /// Refused networks, as configured.
    pub deny: Vec<IpNet>,
    /// Networks exempt from everything else, as configured.
    pub allow: Vec<IpNet>,
    /// Peers that speak for others: all that a listener trusts, as configured.
    pub trusted: Vec<IpNet>,
    /// The destination networks of each of the policy's services, in the same order.
    pub services: Vec<Vec<IpNet>>,
    /// Ports whose connections are watched for blacklisted sessions.
    pub session_ports: Vec<u16>,
    /// What happens to a connection with a blacklisted session.
    pub session_action: SessionAction,
}

/// How the kernel prefilter attaches to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelMode {
    /// In the driver where it can, else in the network stack.
    Auto,
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
}

/// What the kernel does to a connection with a blacklisted session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionAction {
    /// Answers in place of the server.
    Respond,
    /// Resets the connection.
    Reset,
    /// Drops the packets.
    Drop,
    /// Nothing.
    Off,
}

pub(super) fn geo(mut section: Section<'_>, folder: &Path) -> GeoPaths {
    let mut path = |key| section.take(key).and_then(|value| value.path(folder));
    let geo = GeoPaths { city: path("city"), country: path("country"), asn: path("asn") };
    section.finish();
    geo
}

/// `[blacklist]`.
pub(super) struct Blacklist {
    /// All that is listed.
    pub(super) sessions: Sessions,
    /// The same by day, sorted and each once.
    pub(super) days: BTreeMap<Day, Vec<Box<str>>>,
    /// How many distinct ones may be listed.
    pub(super) capacity: usize,
}

/// The blacklist of the configuration. `now` is in unix seconds.
pub(super) fn blacklist(section: Option<Section<'_>>, now: u64) -> Blacklist {
    let Some(mut section) = section else {
        return Blacklist { sessions: Sessions::new(RETAIN_DAYS), days: BTreeMap::new(), capacity: CAPACITY };
    };
    let retain_days = section.number("retain_days", &(0..=36_500)).unwrap_or(RETAIN_DAYS);
    let capacity = section.number("capacity", &(1..=10_000_000)).unwrap_or(CAPACITY);
    let lists = section.section("days");
    section.finish();

    let mut sessions = Sessions::new(retain_days);
    let mut days = BTreeMap::<Day, Vec<Box<str>>>::new();
    for (name, place, value) in lists.as_ref().map(Section::entries).unwrap_or_default() {
        let day = Day::from_name(name);
        match day {
            None => place.problem("not a day of the calendar; write YYYYMMDD"),
            Some(day) if !sessions.is_retained(day, now) => {
                place
                    .warn(format!("the list is older than retain_days = {retain_days} and no longer counts"));
            }
            Some(_) => {}
        }
        for sid in sids(&value) {
            if let Some(day) = day {
                sessions.add(day, sid);
                days.entry(day).or_default().push(sid.into());
            }
        }
    }
    for list in days.values_mut() {
        list.sort_unstable();
        list.dedup();
    }
    if let Some(lists) = lists
        && sessions.len() > capacity
    {
        let found = sessions.len();
        lists.place.problem(format!("{found} distinct sessions, but capacity is {capacity}; raise it"));
    }
    Blacklist { sessions, days, capacity }
}

/// Comma-separated, or one per element of a list.
fn sids<'t>(value: &Value<'t>) -> Vec<&'t str> {
    if value.is_string() {
        let text = value.string().unwrap_or_default();
        return text.split(',').map(str::trim).filter(|sid| !sid.is_empty()).collect();
    }
    let mut sids = Vec::new();
    for element in value.string_or_list().unwrap_or_default() {
        let sid = element.string().unwrap_or_default().trim();
        if sid.contains(',') {
            element.place.warn("in a list of strings, a comma is part of the session's name");
        }
        if !sid.is_empty() {
            sids.push(sid);
        }
    }
    sids
}

/// The address and country lists, and the settings of the kernel prefilter.
pub(super) fn prefilter(
    section: Option<Section<'_>>,
    folder: &Path,
    countries_known: bool,
) -> (Prefilter, Kernel) {
    let mut kernel = Kernel {
        interfaces: Vec::new(),
        mode: KernelMode::Auto,
        required: false,
        monitor: false,
        pin_dir: PIN_DIR.into(),
        deny: Vec::new(),
        allow: Vec::new(),
        trusted: Vec::new(),
        services: Vec::new(),
        session_ports: Vec::new(),
        session_action: SessionAction::Respond,
    };
    let Some(mut section) = section else { return (Prefilter::default(), kernel) };
    for value in section.list("interfaces") {
        let Some(name) = interface(&value) else { continue };
        if kernel.interfaces.iter().any(|other| other == name) {
            value.place.problem("the interface is listed twice; remove one");
        }
        kernel.interfaces.push(name.to_owned());
    }
    let modes =
        [("auto", KernelMode::Auto), ("native", KernelMode::Native), ("generic", KernelMode::Generic)];
    kernel.mode = section.word("mode", &modes).unwrap_or(kernel.mode);
    kernel.required = section.boolean("required", false);
    kernel.monitor = section.boolean("monitor", false);
    if let Some(path) = section.take("pin_dir").and_then(|value| value.path(folder)) {
        kernel.pin_dir = path;
    }
    if kernel.required && kernel.interfaces.is_empty() {
        section.place.warn("required has no effect without interfaces");
    }
    kernel.deny = nets(&section.list("deny"));
    kernel.allow = nets(&section.list("allow"));
    kernel.session_ports = ports(&section.list("session_ports"));
    let actions = [
        ("respond", SessionAction::Respond),
        ("reset", SessionAction::Reset),
        ("drop", SessionAction::Drop),
        ("off", SessionAction::Off),
    ];
    kernel.session_action = section.word("session_action", &actions).unwrap_or(kernel.session_action);
    let mut services = Vec::new();
    for section in section.tables("service") {
        if !countries_known {
            section.place.problem("countries need a geo database; set city or country in [geo]");
        }
        let Some((service, addresses)) = service(section) else { continue };
        services.push(service);
        kernel.services.push(addresses);
    }
    section.finish();
    let allow = NetSet::new(kernel.allow.iter().copied());
    let deny = NetSet::new(kernel.deny.iter().copied());
    // What the kernel refuses must not pass in userspace either; where it leaves sessions alone, their ports mean nothing.
    let watched = kernel.session_ports.iter().filter(|_| kernel.session_action != SessionAction::Off);
    let session_ports = PortSet::new(watched.copied());
    (Prefilter { allow, deny, services, session_ports, monitor: kernel.monitor }, kernel)
}

fn service(mut section: Section<'_>) -> Option<(Service, Vec<IpNet>)> {
    let addresses =
        section.require("address", "write for example address = \"0.0.0.0/0\"").and_then(|value| {
            let list = value.string_or_list()?;
            if list.is_empty() {
                value.place.problem("needs at least one address or network");
            }
            Some(list.iter().filter_map(net).collect::<Vec<_>>())
        });
    let ports = ports(&section.list("ports"));
    let countries = match (section.take("countries"), section.take("deny_countries")) {
        (Some(value), None) => country_list(&value).map(Countries::Only),
        (None, Some(value)) => country_list(&value).map(Countries::AllBut),
        (Some(_), Some(value)) => {
            value.place.problem("both countries and deny_countries are given; remove one");
            None
        }
        (None, None) => {
            section.place.missing("countries", "write exactly one of countries and deny_countries");
            None
        }
    };
    let windows = section.tables("windows").into_iter().filter_map(window).collect();
    section.finish();
    let addresses = addresses?;
    let service =
        Service { addresses: NetSet::new(addresses.iter().copied()), ports, countries: countries?, windows };
    Some((service, addresses))
}

fn window(mut section: Section<'_>) -> Option<std::ops::Range<u64>> {
    let mut instant =
        |key| section.require(key, "write unix seconds").and_then(|v| v.number(&(0..=MAX_INTEGER)));
    let (start, end): (Option<u64>, Option<u64>) = (instant("start"), instant("end"));
    let (start, end) = match (start, end) {
        (Some(start), Some(end)) if start >= end => {
            section.place.problem("the window ends before it starts; end has to be greater than start");
            (None, None)
        }
        both => both,
    };
    section.finish();
    Some(start?..end?)
}

fn country_list(value: &Value<'_>) -> Option<Vec<Country>> {
    let list = value.list()?;
    if list.is_empty() {
        value.place.problem("needs at least one country, such as \"FR\"");
    }
    let country = |value: &Value<'_>| {
        let text = value.string()?;
        let country = Country::new(text);
        if country.is_none() {
            value.place.problem(format!("{} is not an ISO 3166-1 alpha-2 code such as \"FR\"", shown(text)));
        }
        country
    };
    Some(list.iter().filter_map(country).collect())
}

fn ports(values: &[Value<'_>]) -> Vec<u16> {
    values.iter().filter_map(|value| value.number(&(1..=65_535))).collect()
}

fn interface<'t>(value: &Value<'t>) -> Option<&'t str> {
    /// `IFNAMSIZ` without the NUL at the end.
    const LONGEST: usize = 15;
    let name = value.text()?;
    let fits = name.len() <= LONGEST && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
    if !fits || name == "." || name == ".." {
        value.place.problem(format!("{} cannot be the name of a network interface", shown(name)));
        return None;
    }
    Some(name)
}
