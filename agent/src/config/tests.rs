use super::*;
use std::fmt::Write as _;
use std::time::Duration;
use validator_core::net::PortSet;
use validator_core::{
    Algorithm, Bindings, Check, Countries, Country, OnDeny, Reason, Secret, TokenPlace,
    secure_token_parameters,
};

/// 2026-01-01.
const NOW: u64 = 1_767_225_600;

const FOLDER: &str = "testdata/config";

/// The smallest gateway, on one line, to put other text behind.
const GATEWAY: &str = "gateway = { listen = [\"127.0.0.1:1\"], upstream = \"http://a\" }\n";

/// Everything in `testdata/config` that must not come out anywhere.
const SECRETS: [&str; 7] = [
    "hunter2",
    "mysecretkey",
    "AAECAwQF",
    "QEFCQ0RF",
    "this is no base64url",
    "not/base64+url",
    "second of file",
];

#[test]
fn bad_configs() {
    let mut different = std::collections::BTreeSet::new();
    let mut files: Vec<_> = fs::read_dir(format!("{FOLDER}/bad"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    let mut wrong = String::new();
    for file in files {
        let problems = match load(&file, NOW) {
            Ok(_) => panic!("{} is good", file.display()),
            Err(problems) => problems,
        };
        let debug = format!("{problems:?}");
        let rendered = problems.to_string().replace(&format!("{FOLDER}/bad/"), "") + "\n";
        for secret in SECRETS {
            assert!(!rendered.contains(secret) && !debug.contains(secret), "{}: {secret}", file.display());
        }
        assert_eq!(rendered.lines().count(), problems.iter().count());
        assert!(problems.iter().is_sorted_by_key(|problem| problem.at));
        different.extend(problems.iter().map(|problem| problem.text.clone()));

        let expected = file.with_extension("txt");
        // Set it to take what comes out as what is expected, then read the difference.
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&expected, &rendered).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        if rendered != expected {
            writeln!(wrong, "{}:\n--- expected\n{expected}--- found\n{rendered}", file.display()).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(different.len() >= 100, "{} different problems", different.len());
}

fn good() -> Config {
    load(Path::new("testdata/config/good.toml"), NOW).unwrap_or_else(|problems| panic!("\n{problems}"))
}

fn parsed(text: &str) -> Result<Config, Problems> {
    parse(text, Path::new("edgegate.toml"), NOW)
}

/// What is wrong with `text`, without the name of the file.
fn problems_of(text: &str) -> Vec<String> {
    let problems = parsed(text).err();
    let rendered = problems.map(|problems| problems.to_string()).unwrap_or_default();
    rendered.lines().map(|line| line.trim_start_matches("edgegate.toml:").to_owned()).collect()
}

fn warnings_of(config: &Config) -> Vec<String> {
    config.warnings.iter().map(|w| w.to_string().split_once(".toml:").unwrap().1.to_owned()).collect()
}

fn ip(text: &str) -> std::net::IpAddr {
    text.parse().unwrap()
}

#[test]
fn good_listeners() {
    let config = good();
    assert_eq!(config.state_dir, Path::new("/var/lib/edgegate"));
    let gateway = config.gateway.unwrap();
    let listen: Vec<_> = gateway.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["0.0.0.0:8080", "[::]:8080", "unix:/run/edgegate/gateway.sock"]);
    assert_eq!(gateway.upstream, Upstream::Tcp { authority: "127.0.0.1:9000".into() });
    assert!(gateway.trusted_proxies.contains(&ip("198.51.100.9")));
    assert!(gateway.trusted_proxies.contains(&ip("2001:db8::1")));
    assert!(!gateway.trusted_proxies.contains(&ip("2001:db8::2")));
    assert!(gateway.proxy_protocol && !gateway.deny_body);
    let timeouts = [
        gateway.header_timeout,
        gateway.body_timeout,
        gateway.keepalive_timeout,
        gateway.connect_timeout,
        gateway.upstream_timeout,
        gateway.drain_timeout,
    ];
    assert_eq!(timeouts, [11, 31, 76, 6, 61, 3600].map(Duration::from_secs));
    assert_eq!(gateway.max_connections, 1_000_000);
    let auth = config.auth.unwrap();
    assert_eq!(auth.listen, [Listen::Tcp("127.0.0.1:9180".parse().unwrap())]);
    assert!(auth.trusted_peers.contains(&ip("192.0.2.7")) && !auth.trusted_peers.contains(&ip("127.0.0.1")));
    assert_eq!(config.control.unwrap(), Path::new("/run/edgegate/control.sock"));
    assert_eq!(config.metrics, Some("127.0.0.1:9190".parse().unwrap()));
    assert_eq!(config.log, Log { format: LogFormat::Json, level: LogLevel::Debug });
    assert_eq!(config.geo.city.unwrap(), Path::new("/var/lib/GeoIP/GeoLite2-City.mmdb"));
    assert_eq!(config.geo.country.unwrap(), Path::new("testdata/config/GeoLite2-Country.mmdb"));
    assert_eq!(config.geo.asn.unwrap(), Path::new("testdata/config/../GeoLite2-ASN.mmdb"));
}

#[test]
fn good_secrets() {
    let keys = good().policy.keys;
    let slot = |kid, iat, now| keys.effective_at(kid, iat, now).map(|slot| (slot.slot, slot.until));
    assert_eq!(slot("orange-key-1", 5, NOW), Some((0, None)));
    assert_eq!(slot("orange-key-1", 1_713_789_349, NOW), Some((1_713_789_349, Some(1_800_000_000))));
    assert_eq!(slot("orange-key-1", 1_713_789_349, 1_800_000_000), None);
    assert_eq!(slot("key 2", 16, NOW), Some((16, None)));
    let expect = |kid, iat, bytes: std::ops::Range<u8>| {
        let expected = validator_core::Key::new(&bytes.collect::<Vec<_>>(), true).unwrap();
        assert_eq!(keys.effective_at(kid, iat, NOW).unwrap().key.sign(&[b"x"]), expected.sign(&[b"x"]));
    };
    expect("orange-key-1", 0, 0..32);
    expect("orange-key-1", 1_713_789_349, 64..96);
    expect("key 2", 16, 0..16);
}

#[test]
fn good_lists() {
    let config = good();
    assert_eq!((config.blacklist_capacity, config.policy.sessions.len()), (4, 4));
    for sid in ["session896", "session123", "session4", "session5"] {
        assert!(config.policy.sessions.contains(sid, NOW), "{sid}");
    }
    let prefilter = &config.policy.prefilter;
    assert!(prefilter.deny.contains(&ip("203.0.113.9")) && prefilter.deny.contains(&ip("2001:db8:dead::1")));
    assert!(prefilter.allow.contains(&ip("203.0.113.7")) && !prefilter.allow.contains(&ip("203.0.113.8")));
    let [first, second] = &prefilter.services[..] else { panic!("two services") };
    let country = |code| Country::new(code).unwrap();
    assert!(matches!(&first.countries, Countries::Only(list) if *list == [country("FR"), country("DE")]));
    assert_eq!(first.windows.len(), 1);
    assert_eq!(
        (first.ports.as_slice(), first.windows[0].clone()),
        (&[8080][..], 1_713_789_349..1_713_794_749)
    );
    assert!(matches!(&second.countries, Countries::AllBut(list) if *list == [country("US")]));
    assert!(second.addresses.contains(&ip("2001:db8::1")) && second.ports.is_empty());
    let kernel = &config.kernel;
    assert_eq!(kernel.interfaces, ["eth0", "bond0.12"]);
    assert_eq!((kernel.mode, kernel.session_action), (KernelMode::Native, SessionAction::Reset));
    assert!(kernel.required && kernel.monitor);
    assert!(config.policy.prefilter.monitor);
    assert_eq!(kernel.pin_dir, Path::new("/sys/fs/bpf/other"));
    assert_eq!(kernel.session_ports, [8080, 443]);
    assert_eq!(config.policy.prefilter.session_ports, PortSet::new([443, 8080]));
    assert_eq!((kernel.deny.len(), kernel.allow.len()), (2, 1));
    assert_eq!(kernel.services.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn session_ports_without_an_action() {
    let ports = |action: &str| {
        let text = format!("{GATEWAY}[prefilter]\nsession_ports = [8080]\n{action}");
        let config = parsed(&text).unwrap();
        assert_eq!(config.kernel.session_ports, [8080]);
        config.policy.prefilter.session_ports.clone()
    };
    assert_eq!(ports(""), PortSet::new([8080]));
    assert_eq!(ports("session_action = \"drop\""), PortSet::new([8080]));
    assert_eq!(ports("session_action = \"off\""), PortSet::default());
}

#[test]
fn good_routes() {
    let config = good();
    let policy = &config.policy;
    assert_eq!((policy.fallback, policy.leeway), (Fallback::Deny, 5));
    let names: Vec<_> = policy.routes.iter().map(|route| &*route.name).collect();
    assert_eq!(names, ["live", "route-2", "classes-2", "route-4", "route-5", "rest"]);
    assert_eq!(config.routes.len(), policy.routes.len());

    let live = &policy.routes[0];
    let Check::ContentJwt(jwt) = &live.check else { panic!("{:?}", live.check) };
    let places = [
        TokenPlace::Path,
        TokenPlace::Query("tok".into()),
        TokenPlace::Header("authorization".into()),
        TokenPlace::Cookie("tok".into()),
    ];
    assert_eq!(jwt.places, places);
    assert_eq!(jwt.patterns.len(), 2);
    assert_eq!(jwt.patterns[0].as_str(), "/Content/(?<cid>[^/]+)/.*");
    assert_eq!(jwt.monitored, Bindings { cip: true, asn: true, ..Bindings::default() });
    assert_eq!((jwt.max_lifetime, jwt.unknown_place_passes), (Some(86_400), true));
    let status = |reason| live.statuses.get(reason);
    assert_eq!([Reason::Expired, Reason::TokenMissing, Reason::IpDenied].map(status), [403, 401, 403]);
    assert!(
        matches!(&live.on_deny, OnDeny::Redirect(to) if to.text() == "https://login.example/?return={return}")
    );
    let headers: Vec<_> =
        config.routes[0].deny_headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
    assert_eq!(headers, [("x-second", "b"), ("access-control-allow-origin", "*")]);

    let secure = |index: usize| match &policy.routes[index].check {
        Check::SecureToken(check) => check,
        other => panic!("{other:?}"),
    };
    let same = |check: &validator_core::SecureToken, index: usize, secret: &[u8]| {
        let expected = Secret::new(check.algorithm, secret).unwrap();
        let tokens = [&check.secrets[index], &expected].map(|s| secure_token_parameters(s, b"/a", NOW));
        assert_eq!(tokens[0], tokens[1]);
    };
    assert_eq!((secure(1).algorithm, secure(1).max_ttl, secure(1).secrets.len()), (Algorithm::Md5, 3600, 2));
    same(secure(1), 0, b"mysecretkey");
    same(secure(1), 1, b"older");
    assert_eq!((secure(2).algorithm, secure(2).max_ttl), (Algorithm::HmacSha256, 60));
    same(secure(2), 0, b"mysecretkey");
    assert_eq!((secure(3).algorithm, secure(3).max_ttl), (Algorithm::HmacSha256, 2_592_000));
    assert_eq!(secure(3).secrets.len(), 2);
    same(secure(3), 1, b"second of file");
    assert!(matches!(&policy.routes[1].on_deny, OnDeny::Forward(url) if &**url == "http://login-app"));
    assert!(matches!(policy.routes[2].on_deny, OnDeny::Status));
    assert!(matches!(policy.routes[4].check, Check::Allow));
    assert!(matches!(policy.routes[5].check, Check::Deny));
}

#[test]
fn good_has_no_warnings_and_shows_no_secret() {
    let config = good();
    // Only one of 0.0.0.0 and [::] could overlap with an address of the other family, and that is up to the system.
    assert_eq!(warnings_of(&config), [""; 0]);
    let debug = format!("{config:?}");
    for secret in SECRETS {
        assert!(!debug.contains(secret), "{secret}");
    }
}

#[test]
fn defaults() {
    let config = parsed(
        "[gateway]\nlisten = [\"127.0.0.1:1\"]\nupstream = \"http://a\"\n[auth]\nlisten = [\"127.0.0.1:2\"]",
    );
    let config = config.unwrap();
    assert_eq!(config.state_dir, Path::new("/var/lib/edgegate"));
    assert_eq!((config.policy.fallback, config.policy.leeway), (Fallback::Deny, 0));
    assert!(config.policy.routes.is_empty() && config.routes.is_empty());
    let gateway = config.gateway.unwrap();
    assert_eq!(gateway.upstream, Upstream::Tcp { authority: "a:80".into() });
    assert!(gateway.trusted_proxies.is_empty() && !gateway.proxy_protocol && gateway.deny_body);
    let timeouts = [
        gateway.header_timeout,
        gateway.body_timeout,
        gateway.keepalive_timeout,
        gateway.connect_timeout,
        gateway.upstream_timeout,
        gateway.drain_timeout,
    ];
    assert_eq!(timeouts, [10, 30, 75, 5, 60, 30].map(Duration::from_secs));
    assert_eq!(gateway.max_connections, 16_384);
    let peers = config.auth.unwrap().trusted_peers;
    assert!(
        peers.contains(&ip("127.9.9.9")) && peers.contains(&ip("::1")) && !peers.contains(&ip("10.0.0.1"))
    );
    assert_eq!((config.control, config.metrics), (None, None));
    assert_eq!(config.log, Log { format: LogFormat::Text, level: LogLevel::Info });
    assert!(!config.geo.knows_countries() && config.geo.asn.is_none());
    let kernel = config.kernel;
    assert_eq!((kernel.mode, kernel.session_action), (KernelMode::Auto, SessionAction::Respond));
    assert!(kernel.interfaces.is_empty() && kernel.session_ports.is_empty());
    assert!(config.policy.prefilter.session_ports.is_empty());
    assert!(!kernel.required && !kernel.monitor);
    assert_eq!(kernel.pin_dir, Path::new("/sys/fs/bpf/edgegate"));
    assert_eq!(config.blacklist_capacity, 1_000_000);
    let day = Day::of(NOW - 31 * 86_400);
    assert!(
        config.policy.sessions.is_retained(day, NOW)
            && !config.policy.sessions.is_retained(day, NOW + 86_400)
    );
}

#[test]
fn defaults_of_a_route() {
    let text = format!(
        "{GATEWAY}secure_token.s.secrets = [\"x\"]\n[secrets.k]\nslots = [{{ slot = 0, key = \"{}\" }}]\n\
         [[route]]\ncheck = \"content-jwt\"\npath_validation = '/.*'\nwhen = [{{ variable = \"args\", operator = \"exists\" }}]\n\
         [[route]]\ncheck = \"secure-token\"\nsecret = \"s\"\n",
        "A".repeat(43)
    );
    let config = parsed(&text).unwrap();
    let [jwt, secure] = &config.policy.routes[..] else { panic!("two routes") };
    assert_eq!((&*jwt.name, &*secure.name), ("route-1", "route-2"));
    let Check::ContentJwt(check) = &jwt.check else { panic!("{:?}", jwt.check) };
    assert_eq!(check.places, [TokenPlace::Path]);
    assert_eq!((check.monitored, check.max_lifetime), (Bindings::default(), None));
    assert!(!check.unknown_place_passes);
    assert!(matches!(jwt.on_deny, OnDeny::Status));
    assert_eq!(jwt.statuses.get(Reason::Expired), 410);
    let Check::SecureToken(check) = &secure.check else { panic!("{:?}", secure.check) };
    assert_eq!((check.algorithm, check.max_ttl), (Algorithm::Md5, 2_592_000));
}

#[test]
fn warnings() {
    let config = load(Path::new("testdata/config/warnings.toml"), NOW).unwrap();
    assert_eq!(
        warnings_of(&config),
        [
            "1:1: default = \"allow\": a request that no route matches passes unchecked",
            "4:27: gateway.listen[1]: 127.0.0.1:8080 overlaps with 0.0.0.0:8080 of gateway.listen[0]; only one can \
             listen",
            "6:19: gateway.trusted_proxies: proxy_protocol is on, but trusted_proxies is empty: no PROXY header will \
             be believed",
            "11:30: auth.trusted_peers[1]: trusts every address: anyone who reaches the listener can ask it, and \
             claim any client",
            "14:40: secrets.k.slots[0].until: the slot ends before it starts, so it verifies nothing",
            "18:10: blacklist.days.20251130: the list is older than retain_days = 31 and no longer counts",
            "18:38: blacklist.days.20260101[0]: in a list of strings, a comma is part of the session's name",
            "20:1: prefilter: required has no effect without interfaces",
            "27:18: route[0].monitor_claims: has no effect without monitor_mode = \"allow\"; mismatches are refused",
            "34:18: route[1].monitor_claims: is empty, so monitor_mode = \"allow\" has no effect",
        ]
    );
    let catch_all =
        "[[route]]\ncheck = \"allow\"\nwhen = []\n[[route]]\ncheck = \"deny\"\n[[route]]\ncheck = \"deny\"\n";
    let config = parsed(&format!("default = \"allow\"\n{GATEWAY}{catch_all}")).unwrap();
    assert_eq!(
        warnings_of(&config),
        ["6:1: route[1]: never reached: route[0] has no `when` and decides every request before"]
    );
    let config = parsed(GATEWAY).unwrap();
    assert_eq!(warnings_of(&config), ["1:1: there is no [[route]], so every request is refused"]);
}

#[test]
fn upstreams() {
    for (text, authority) in [
        ("http://127.0.0.1:9000", "127.0.0.1:9000"),
        ("HTTP://Origin.example", "Origin.example:80"),
        ("http://my_app", "my_app:80"),
        ("http://[2001:db8::1]", "[2001:db8::1]:80"),
        ("http://[::1]:8080", "[::1]:8080"),
        ("http://a:65535", "a:65535"),
    ] {
        assert_eq!(Upstream::parse(text), Ok(Upstream::Tcp { authority: authority.into() }), "{text}");
    }
    assert_eq!(Upstream::parse("unix:/run/a.sock"), Ok(Upstream::Unix("/run/a.sock".into())));
    for text in [
        "",
        "http://",
        "http://:80",
        "http://a:",
        "http://a:0",
        "http://a:080000",
        "http://a:+1",
        "http://a/",
        "http://a?b",
        "http://a#b",
        "http://a b",
        "http://a\r\nb",
        "http://[::1",
        "http://[::1]x",
        "http://[a]",
        "http://ü",
        "http://a@b",
        "http://1.2.3",
        "ftp://a",
        "a:80",
        "unix:",
        "unix:a",
        "unix:/a\0",
        "unix://x\n",
    ] {
        assert!(Upstream::parse(text).is_err(), "{text:?}");
    }
    let path = format!("/{}", "a".repeat(106));
    assert!(Upstream::parse(&format!("unix:{path}")).is_ok());
    assert!(Upstream::parse(&format!("unix:{path}a")).is_err());
}

#[test]
fn key_texts() {
    let key =
        |text: &str| problems_of(&format!("{GATEWAY}[secrets.k]\nslots = [{{ slot = 0, key = {text:?} }}]"));
    let digits = "A".repeat(43);
    assert_eq!(key(&digits), [""; 0]);
    assert_eq!(key(&format!("{digits}=")), [""; 0]);
    // Padding of the wrong length, stray bits in the last digit, blanks, another alphabet.
    for bad in [
        format!("{digits}=="),
        "A".repeat(42) + "B",
        format!("{digits} "),
        format!(" {digits}"),
        "/".repeat(43),
    ] {
        assert_eq!(key(&bad).len(), 1, "{bad}");
    }
}

#[test]
fn kid_lengths() {
    let with = |length: usize| {
        let kid = "k".repeat(length);
        problems_of(&format!(
            "{GATEWAY}[secrets.{kid}]\nslots = [{{ slot = 0, key = \"{}\" }}]",
            "A".repeat(43)
        ))
    };
    assert_eq!(with(128), [""; 0]);
    assert!(with(129)[0].ends_with("a secret's name has 1 to 128 bytes"), "{:?}", with(129));
}

#[test]
fn numbers_at_their_bounds() {
    for (key, bad, good, too_much) in [
        ("leeway", "-1", "3600", "3601"),
        ("gateway.max_connections", "0", "1_000_000", "1000001"),
        ("gateway.drain_timeout", "0", "0xe10", "0xe11"),
        ("blacklist.retain_days", "-1", "36500", "36501"),
        ("blacklist.capacity", "0", "10_000_000", "10000001"),
        ("secure_token.s.max_ttl", "0", "9007199254740992", "9007199254740993"),
    ] {
        let base = "gateway.listen = [\"127.0.0.1:1\"]\ngateway.upstream = \"http://a\"\nsecure_token.s.secrets = [\"x\"]\n";
        let with = |value: &str| problems_of(&format!("{base}{key} = {value}\n"));
        assert_eq!(with(good), [""; 0], "{key}");
        for bad in [bad, too_much] {
            assert_eq!(with(bad).len(), 1, "{key} = {bad}");
            assert!(with(bad)[0].starts_with("4:"), "{:?}", with(bad));
        }
    }
}

#[test]
fn blacklist_at_its_capacity() {
    let with = |sids: &str| {
        problems_of(&format!("{GATEWAY}blacklist = {{ capacity = 2, days = {{ 20260101 = \"{sids}\" }} }}"))
    };
    assert_eq!(with("a,b,a,b,,"), [""; 0]);
    assert_eq!(with("a,b,c").len(), 1);
}

#[test]
fn columns_count_characters_and_lines_may_end_in_crlf() {
    let found = problems_of(&format!("{GATEWAY}# ü\r\nlog = {{ format = \"ü\", level = 1 }}\r\n"));
    assert_eq!(
        found,
        [
            "3:18: log.format: unknown value \"ü\"; known values: text, json".to_owned(),
            "3:31: log.level: expected a string, found an integer".to_owned(),
        ]
    );
    assert_eq!(problems_of("\u{feff}x = 1").len(), 2);
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let rendered =
        |path: &Path| load(path, NOW).unwrap_err().to_string().replace(folder.path().to_str().unwrap(), "");
    assert_eq!(
        rendered(&at("none.toml")),
        "/none.toml: cannot be read: No such file or directory (os error 2)"
    );
    fs::write(at("bytes.toml"), b"# one\n# \xff\n").unwrap();
    assert_eq!(
        rendered(&at("bytes.toml")),
        "/bytes.toml: is not UTF-8 text; the first wrong byte is in line 2"
    );

    fs::write(at("long"), vec![b'A'; 1_048_577]).unwrap();
    fs::write(at("bytes"), b"\xff").unwrap();
    let text = format!(
        "{GATEWAY}[secrets.k]\nslots = [\n{{ slot = 0, key_file = \"long\" }},\n{{ slot = 1, key_file = \"bytes\" }},\n\
         {{ slot = 2, key_file = \".\" }} ]\n"
    );
    fs::write(at("keys.toml"), text).unwrap();
    let found = rendered(&at("keys.toml"));
    let lines: Vec<_> = found.lines().collect();
    assert_eq!(lines.len(), 3, "{found}");
    assert!(
        lines[0].contains(":4:24: ") && lines[0].contains("/long is longer than 1048576 bytes"),
        "{found}"
    );
    assert!(lines[1].contains(":5:24: ") && lines[1].contains("the file is not text"), "{found}");
    assert!(lines[2].contains(":6:24: ") && lines[2].contains("cannot be read"), "{found}");
}

/// Damaged configurations lead to problems or to a configuration, never to a panic, and every problem has a line that
/// exists.
#[test]
fn damage_never_panics() {
    let mut damaged: Vec<Vec<u8>> = vec![fs::read(format!("{FOLDER}/good.toml")).unwrap()];
    for entry in fs::read_dir(format!("{FOLDER}/bad")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            damaged.push(fs::read(path).unwrap());
        }
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let pieces: [&[u8]; 14] = [
        b"\"",
        b"'",
        b"[",
        b"]]",
        b"{",
        b"}",
        b"=",
        b".",
        b",",
        b"\n",
        b"\"\"\"",
        b"-1",
        b"\\u0000",
        b"\xc3\xbc",
    ];
    for round in 0..4_000 {
        let mut text = damaged[round % damaged.len()].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(text.len());
            let end = (at + random.below(30)).min(text.len());
            match random.below(5) {
                0 => text[at] = u8::try_from(random.below(256)).unwrap(),
                1 => drop(text.drain(at..end)),
                2 => drop(text.splice(at..at, pieces[random.below(pieces.len())].iter().copied())),
                3 => {
                    let copy = text[at..end].to_vec();
                    let to = random.below(text.len());
                    drop(text.splice(to..to, copy));
                }
                _ => text.truncate(at.max(1)),
            }
            if text.is_empty() {
                text.push(b'\n');
            }
        }
        let text = String::from_utf8_lossy(&text);
        // Files are looked for in a folder that does not exist.
        if let Err(problems) = parse(&text, Path::new("testdata/none/edgegate.toml"), NOW) {
            let lines = text.split('\n').count();
            assert!(problems.iter().all(|problem| problem.at.is_some_and(|(line, _)| line <= lines)));
            assert!(problems.iter().all(|problem| !problem.text.contains(char::is_control)));
        }
    }
}

/// Xorshift: the same damage in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}
