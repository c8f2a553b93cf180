//! The commands besides `run`: `check`, `sign`, `demo`, by what they print and how they end.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use std::fs::Permissions;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};
use tests::binary::{self, Home, Owned, finish};
use tests::conn::Conn;
use tests::contract::{
    CLASSES_SECRET, Config, KEY, KID, SEGMENT, claims, get, now, secure_token, strong_token, token, token_of,
};
use tests::control::controlled;
use tests::origin::Origin;
use tests::require::{capability, missing};

fn home() -> Home {
    let home = Home::new();
    home.write("edgegate.toml", Config::new("http://127.0.0.1:1").text());
    home
}

fn check(home: &Home, url: &str, more: &[&str]) -> Output {
    let arguments = ["check", "--config", "edgegate.toml", "--url", url, "--client", "127.0.0.1"];
    home.output(&[&arguments, more].concat())
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Whoever cannot get a signature right sees what should have been signed.
#[test]
fn check_shows_what_was_hashed() {
    let home = home();
    let token = token();
    let (signed, _) = token.rsplit_once('.').unwrap();
    let output = check(&home, &format!("https://cdn.example/{token}{SEGMENT}"), &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = stdout(&output);
    assert!(text.contains(signed), "{text}");
    assert!(text.contains(SEGMENT) && text.contains("session1") && text.contains("allow"), "{text}");

    let later = now() + 60;
    let wrong = check(&home, &format!("/plain/uri?st={}&e={later}", "A".repeat(22)), &[]);
    assert_eq!(wrong.status.code(), Some(1));
    let text = stdout(&wrong);
    assert!(text.contains(&format!("/plain/uri{later}")), "{text}");
    assert!(text.contains("signature_invalid"), "{text}");
    let good = secure_token("/plain/uri", later);
    assert!(text.contains(good.split_once('&').unwrap().0), "the hash that would have been right: {text}");
    assert_eq!(check(&home, &format!("/plain/uri?{good}"), &[]).status.code(), Some(0));

    let strong = strong_token("/strong/uri", later);
    let output = check(&home, &format!("/strong/uri?{strong}"), &[]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    assert!(text.contains("/strong/uri") && text.contains(&later.to_string()), "{text}");
    for output in [check(&home, &format!("/{token}{SEGMENT}"), &[]), wrong, output] {
        let text = stdout(&output);
        assert!(!text.contains(CLASSES_SECRET), "the secret itself is printed: {text}");
        assert!(!text.contains(&URL_SAFE_NO_PAD.encode(KEY)), "the key itself is printed: {text}");
    }
}

#[test]
fn check_by_exit_code_and_json() {
    let home = home();
    let good = format!("/{}{SEGMENT}", token());
    let mut bound = claims();
    bound.insert("exp".into(), (now() + 60).into());
    let soon = format!("/{}{SEGMENT}", token_of(&bound));
    let json = |output: &Output| -> Value { serde_json::from_slice(&output.stdout).unwrap() };

    let output = check(&home, &format!("{good}?a=1"), &["--json"]);
    assert_eq!(output.status.code(), Some(0));
    let allowed = json(&output);
    assert_eq!((&allowed["verdict"], &allowed["status"]), (&"allow".into(), &200.into()));
    assert_eq!(allowed["upstream_uri"], format!("{SEGMENT}?a=1"));
    assert_eq!((&allowed["route"], &allowed["session"]), (&"live".into(), &"session1".into()));
    assert!(allowed["steps"].as_array().is_some_and(|steps| steps.len() > 3), "{allowed}");

    let at = (now() + 120).to_string();
    let output = check(&home, &soon, &["--json", "--at", &at]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!((&json(&output)["reason"], &json(&output)["status"]), (&"expired".into(), &410.into()));

    let output = check(&home, "https://cdn.example/classes/x?a=1", &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let redirect = json(&output);
    let location = "https://login.example/?return=https%3A%2F%2Fcdn.example%2Fclasses%2Fx%3Fa%3D1";
    assert_eq!((&redirect["verdict"], &redirect["location"]), (&"redirect".into(), &location.into()));

    for (url, more) in [
        ("cdn.example/x", &[][..]),
        ("https://cdn.example", &[]),
        ("/x", &["--method", "G E T"]),
        ("/x", &["--header", "no colon"]),
        ("/x", &["--at", "soon"]),
    ] {
        assert_eq!(check(&home, url, more).status.code(), Some(2), "{url} {more:?}");
    }
    let output = home.output(&["check", "--config", "absent.toml", "--url", "/x", "--client", "127.0.0.1"]);
    assert_eq!(output.status.code(), Some(2));
    let output = home.output(&["check", "--config", "edgegate.toml", "--url", "/x", "--client", "localhost"]);
    assert_eq!(output.status.code(), Some(2));
}

/// What `sign` prints is good for `check` and for a live gateway.
#[test]
fn sign_check_and_gateway_agree() {
    let origin = Origin::start();
    let gate = Home::new().run(&Config::new(&origin.url()).text());
    let home = gate.home();
    let key = URL_SAFE_NO_PAD.encode(KEY);
    home.write("key", &key);
    let jwt = [
        "sign",
        "content-jwt",
        "--kid",
        KID,
        "--path",
        SEGMENT,
        "--cid",
        "Channel7",
        "--stt",
        "HLS",
        "--ttl",
        "1h",
    ];
    let bound =
        ["--cip", "127.0.0.0/8", "--geo", "FR,DE", "--sid", "s1", "--local", "Paris", "--asn", "3215"];
    let base = "https://cdn.example";
    let secret = |path: &'static str| {
        vec!["sign", "secure-token", "--secret", CLASSES_SECRET, "--path", path, "--ttl", "1h"]
    };
    for arguments in [
        [&jwt[..], &["--key", &key]].concat(),
        [&jwt[..], &["--key-file", "key", "--base", base], &bound].concat(),
        secret("/plain/uri"),
        [secret("/plain/uri?a=1&b"), vec!["--base", base]].concat(),
        [secret("/strong/uri"), vec!["--algorithm", "hmac-sha256"]].concat(),
    ] {
        let output = home.output(&arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        let printed = stdout(&output);
        let url = printed.strip_suffix('\n').unwrap();
        assert!(!url.contains('\n'), "more than a URL: {printed}");
        assert_eq!(url.starts_with(base), arguments.contains(&"--base"), "{url}");
        let explained = check(home, url, &[]);
        assert_eq!(explained.status.code(), Some(0), "{arguments:?}: {}", stdout(&explained));
        let target = url.strip_prefix(base).unwrap_or(url);
        let reply = Conn::open(gate.gateway()).send(get(target)).reply();
        assert_eq!(reply.status, 200, "{arguments:?}: {reply:?}");
    }
    // The vector of nginx's documentation of the scheme.
    let vector = [
        "sign",
        "secure-token",
        "--secret",
        "mysecret",
        "--path",
        "/my/uri",
        "--ttl",
        "0s",
        "--at",
        "1470055000",
    ];
    assert_eq!(stdout(&home.output(&vector)), "/my/uri?st=m6WCATfRgS_5lcyChCPgrw&e=1470055000\n");

    for arguments in [
        [&jwt[..], &["--key", "AAAA"]].concat(),
        [&jwt[..], &["--key", "not base64!"]].concat(),
        [&jwt[..], &["--key", &key, "--cip", "localhost"]].concat(),
        [&jwt[..], &["--key", &key, "--geo", "FRA"]].concat(),
        [&jwt[..], &["--key", &key, "--base", "cdn.example"]].concat(),
        jwt.to_vec(),
        secret("plain/uri"),
        secret("/plain/../uri"),
    ] {
        assert_eq!(home.output(&arguments).status.code(), Some(2), "{arguments:?}");
    }
}

/// Whatever runs in the environment: a socket of its own, and no agent.
#[test]
fn ctl_says_what_is_missing() {
    let home = Home::new();
    let output = home.output(&["ctl", "--socket", "absent.sock", "status"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("absent.sock") && text.contains("is the agent running?"), "{text}");

    let mut command = home.command(&["ctl", "blacklist", "list"]);
    command.env("EDGEGATE_SOCKET", "elsewhere.sock");
    let output = finish(command);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("elsewhere.sock"));
    // A key as an argument would stand in the process list.
    let output = home.output(&["ctl", "secret", "put", "kid", "c2VjcmV0", "--slot", "0"]);
    assert_eq!(output.status.code(), Some(2));
}

/// The shells themselves take the scripts, where they are installed.
#[test]
fn completions() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = home.output(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let script = stdout(&output);
        assert!(script.contains("blacklist") && script.contains("import"), "{shell}: {script}");
        home.write(shell, script);
        let mut command = Command::new(shell);
        command.args(["-n", home.path(shell).to_str().unwrap()]);
        if let Ok(checked) = command.output() {
            assert!(checked.status.success(), "{checked:?}");
        }
    }
    assert_eq!(home.output(&["completions", "tcsh"]).status.code(), Some(2));
}

#[test]
fn the_demo_does_what_it_promises() {
    let output = Home::new().output(&["demo", "--once", "--listen", "127.0.0.1:0"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("verdicts as expected") && !text.contains(" NO\n"), "{text}");
    for reason in ["expired", "session_blacklisted", "geo_blocked", "path_mismatch", "signature_invalid"] {
        assert!(text.contains(reason), "no case of {reason}: {text}");
    }
}

/// The commands that it offers for pasting do what is written above them.
#[test]
fn the_demos_commands_can_be_pasted() {
    let (Some(_), Some(_)) = (capability("curl"), capability("ffprobe")) else { return };
    let mut command = Home::new().command(&["demo", "--listen", "127.0.0.1:0"]);
    command.current_dir(std::env::temp_dir()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut demo = Owned(command.spawn().unwrap());
    let printed = BufReader::new(demo.0.stdout.take().unwrap());
    let lines = printed.lines().map(Result::unwrap);
    let lines: Vec<String> = lines.take_while(|line| !line.contains("Ctrl-C")).collect();
    let mut tried = Vec::new();
    for pair in lines.windows(2).filter(|pair| pair[0].starts_with("# ")) {
        let (title, command) = (&*pair[0], &*pair[1]);
        let mut shell = Command::new("sh");
        // Where the binary is installed is not the demo's business.
        let command = command.replace("edgegate ctl", &format!("{} ctl", binary::path().display()));
        let output = if command.starts_with("ffplay ") {
            // The same without a window.
            finish({
                shell.args([
                    "-c",
                    &command.replace("ffplay", "ffprobe -v error -show_entries format=format_name"),
                ]);
                shell
            })
        } else {
            finish({
                shell.args(["-c", &command.replace("curl -i", "curl -sS -i --max-time 30")]);
                shell
            })
        };
        assert!(output.status.success(), "{title}: {command}: {output:?}");
        let first = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
        tried.push((title.to_owned(), first));
    }
    let expected = [
        ("# allowed", "HTTP/1.1 200 OK"),
        ("# the same without its token", "HTTP/1.1 403 Forbidden"),
        ("# bound to France, asked from Germany", "HTTP/1.1 403 Forbidden"),
        ("# Secure Token", "HTTP/1.1 200 OK"),
        ("# play HLS through the gate", "[FORMAT]"),
        ("# play DASH through the gate", "[FORMAT]"),
        ("# end the session of the HLS token", "added 1 (version 2)"),
    ];
    assert_eq!(tried, expected.map(|(title, first)| (title.to_owned(), first.to_owned())));
    let id = i32::try_from(demo.0.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    assert_eq!(demo.wait().code(), Some(0));
}

/// Who owns the folder decides where a link in it leads.
#[test]
fn a_folder_of_somebody_else_is_refused() {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        return missing("root", "to give a folder to somebody else");
    }
    let home = Home::new();
    let (folder, precious) = (home.path("demo"), home.path("precious"));
    home.write("precious", "precious");
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(&precious, folder.join("city.mmdb")).unwrap();
    std::os::unix::fs::chown(&folder, Some(NOBODY), None).unwrap();
    let demo = ["demo", "--listen", "127.0.0.1:0", "--once", "--dir", "demo"];
    let output = home.output(&demo);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("belongs to user 65534"), "{told}");

    home.write(
        "edgegate.toml",
        controlled(&home, "gateway = { listen = [\"127.0.0.1:0\"], upstream = \"http://127.0.0.1:1\" }"),
    );
    std::os::unix::fs::chown(home.path("demo"), Some(0), None).unwrap();
    std::fs::create_dir(home.path("state")).unwrap();
    std::fs::set_permissions(home.path("state"), Permissions::from_mode(0o777)).unwrap();
    let output = home.output(&["run", "--config", "edgegate.toml"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("state_dir") && told.contains("chmod go-w"), "{told}");
    assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
}
