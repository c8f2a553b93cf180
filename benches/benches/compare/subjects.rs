//! What is compared: edgegate, nginx and HAProxy, each in front of the same origin, with the same request.

use crate::machine::{Cores, bound, start};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use benches::{KEY, PATH, PATTERN, token_for};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tests::binary::{Edgegate, Home, Owned, free_address};
use tests::contract::{CLASSES_SECRET, now, secure_token};
use tests::wait_for;

/// What the origin says to a request for [`PATH`], and to any other.
pub(crate) const BODY: &str = "a small segment, by its own path";
pub(crate) const OTHER_BODY: &str = "a small segment, by another path";

/// Connections that peers keep to the origin, and clients that anything may have.
const KEPT: usize = 512;
const CLIENTS: usize = 12_000;
/// The same of HAProxy, which is not measured with many and does not start where it cannot have them.
const HAPROXY_CLIENTS: usize = 1_000;

/// How a request says what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// By its target.
    Target,
    /// As nginx asks the auth listener.
    Header,
}

/// One of what is compared.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    /// Whether it is edgegate's.
    pub(crate) ours: bool,
    pub(crate) address: SocketAddr,
    place: Place,
    /// The target that it is measured with.
    pub(crate) target: String,
    pub(crate) body: &'static str,
    /// Targets that it must refuse, and how.
    pub(crate) refused: Vec<(&'static str, String, u16)>,
    /// Whose processor time counts.
    pub(crate) processes: Vec<u32>,
    pub(crate) gate: Option<Edgegate>,
    _others: Vec<Owned>,
}

impl Subject {
    /// Target and headers of a request.
    pub(crate) fn ask(&self, target: &str) -> (String, Vec<String>) {
        let host = "Host: cdn.example".to_owned();
        match self.place {
            Place::Target => (target.to_owned(), vec![host]),
            Place::Header => (
                "/_edgegate".to_owned(),
                vec![host, format!("X-Original-URI: {target}"), "X-Real-IP: 127.0.0.1".to_owned()],
            ),
        }
    }

    /// The same as bytes.
    pub(crate) fn request(&self, target: &str) -> Vec<u8> {
        let (target, headers) = self.ask(target);
        format!("GET {target} HTTP/1.1\r\n{}\r\n\r\n", headers.join("\r\n")).into_bytes()
    }
}

/// Programs of peers, as far as this machine has them.
pub(crate) struct Programs {
    pub(crate) nginx: PathBuf,
    pub(crate) haproxy: Option<PathBuf>,
}

/// What is asked for.
pub(crate) struct Targets {
    pub(crate) jwt: String,
    jwt_refused: Vec<(&'static str, String)>,
    secure: String,
    secure_refused: Vec<(&'static str, String, u16)>,
}

impl Targets {
    /// Good for two hours from now on, for a client at 127.0.0.1.
    pub(crate) fn new() -> Self {
        let now = now();
        let token = |iat, exp| token_for(iat, exp, "127.0.0.1", &KEY);
        let good = token(now - 60, now + 7_200);
        let expired = token(now - 600, now - 60);
        let forged = token_for(now - 60, now + 7_200, "127.0.0.1", b"another key, also with 32 bytes!");
        let other = PATH.replace("/DASH/", "/HLS/");
        let elsewhere = token_for(now - 60, now + 7_200, "192.0.2.1", &KEY);
        let secure = |path: &str, e| format!("{path}?{}", secure_token(path, e));
        let query = secure_token(PATH, now + 7_200);
        Self {
            jwt: format!("/{good}{PATH}"),
            jwt_refused: vec![
                ("expired", format!("/{expired}{PATH}")),
                ("wrong signature", format!("/{forged}{PATH}")),
                ("other path", format!("/{good}{other}")),
                ("other client", format!("/{elsewhere}{PATH}")),
                ("no token", PATH.to_owned()),
            ],
            secure: secure(PATH, now + 7_200),
            secure_refused: vec![
                ("expired", secure(PATH, now - 60), 410),
                ("wrong hash", format!("{PATH}?{}", secure_token(&other, now + 7_200)), 403),
                ("other path", format!("{other}?{query}"), 403),
                ("no token", PATH.to_owned(), 403),
            ],
        }
    }

    /// Targets with a JWT that must be refused, the expired one by its own status.
    fn refused(&self, expired: u16) -> Vec<(&'static str, String, u16)> {
        let status = |name: &str| if name == "expired" { expired } else { 403 };
        self.jwt_refused.iter().map(|(name, target)| (*name, target.clone(), status(name))).collect()
    }
}

/// Everything that has to be there to start a subject.
pub(crate) struct Site {
    pub(crate) cores: Cores,
    pub(crate) programs: Programs,
    pub(crate) targets: Targets,
    origin: SocketAddr,
    folder: TempDir,
    _origin: Owned,
}

impl Site {
    /// Starts the origin, at the side of the load.
    pub(crate) fn new(cores: Cores, programs: Programs) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let server = format!(
            "default_type video/mp4;\nlocation = {PATH} {{ return 200 \"{BODY}\"; }}\n\
             location / {{ return 200 \"{OTHER_BODY}\"; }}\n"
        );
        let (origin, process) = nginx(&programs.nginx, folder.path(), "", &server);
        Self { cores, programs, targets: Targets::new(), origin, folder, _origin: process }
    }

    /// All subjects, in the order in which they are shown; and what is left out, and why.
    pub(crate) fn subjects(&self) -> Vec<Subject> {
        let mut all = vec![
            self.gateway(GATEWAY, "content-jwt"),
            self.gateway(GATEWAY_OPEN, "allow"),
            self.nginx(NGINX),
        ];
        if let Some(program) = &self.programs.haproxy {
            all.push(self.haproxy(program, HAPROXY, HAPROXY_CHECKS));
            all.push(self.haproxy(program, HAPROXY_OPEN, ""));
        }
        all.push(self.auth_request());
        all.push(self.auth_listener());
        all.push(self.gateway(GATEWAY_SECURE, "secure-token"));
        all.push(self.secure_link());
        all
    }

    /// The gateway with a route that checks so.
    pub(crate) fn gateway(&self, name: &'static str, check: &str) -> Subject {
        let gate = self.cores.with_subject(|| self.edgegate(check));
        self.behind(name, check, gate)
    }

    /// The same on both cores.
    pub(crate) fn gateway_on_both(&self) -> Subject {
        let gate = self.cores.with_both(|| self.edgegate("content-jwt"));
        self.behind(GATEWAY, "content-jwt", gate)
    }

    fn behind(&self, name: &'static str, check: &str, gate: Edgegate) -> Subject {
        let targets = &self.targets;
        let (target, refused) = match check {
            "content-jwt" => (targets.jwt.clone(), targets.refused(410)),
            "secure-token" => (targets.secure.clone(), targets.secure_refused.clone()),
            _ => (targets.jwt.clone(), Vec::new()),
        };
        let (address, processes) = (gate.gateway(), vec![gate.pid()]);
        Subject {
            name,
            ours: true,
            address,
            place: Place::Target,
            target,
            // A leading token segment is taken off, whatever the route does.
            body: BODY,
            refused,
            processes,
            gate: Some(gate),
            _others: Vec::new(),
        }
    }

    fn edgegate(&self, check: &str) -> Edgegate {
        let checks = match check {
            "content-jwt" => format!("path_validation = ['{PATTERN}']\nmax_lifetime = 86400"),
            "secure-token" => "secret = \"lessons\"".to_owned(),
            _ => String::new(),
        };
        let config = format!(
            "default = \"deny\"\n\
             [gateway]\nlisten = [\"127.0.0.1:0\"]\nupstream = \"http://{}\"\n\
             [auth]\nlisten = [\"127.0.0.1:0\"]\n\
             [metrics]\nlisten = \"127.0.0.1:0\"\n\
             [secrets.orange-key-1]\nslots = [ {{ slot = 0, key = \"{}\" }} ]\n\
             [secure_token.lessons]\nsecrets = [\"{CLASSES_SECRET}\"]\n\
             [[route]]\nname = \"live\"\ncheck = \"{check}\"\n\
             when = [ {{ variable = \"uri\", operator = \"starts_with\", value = \"/Content/\" }} ]\n{checks}\n",
            self.origin,
            URL_SAFE_NO_PAD.encode(KEY),
        );
        let home = Home::new();
        home.write("edgegate.toml", config);
        let command = bound(&home.command(&["run", "--config", "edgegate.toml"]));
        home.start(command)
    }

    /// nginx as a reverse proxy that checks nothing.
    fn nginx(&self, name: &'static str) -> Subject {
        let (address, process) = self.on_subject(&self.upstream(), PROXY);
        self.peer(name, address, vec![process])
    }

    /// The same with two processes on both cores, which share a port. Two workers of one master would outlive it if it
    /// were killed.
    pub(crate) fn nginx_on_both(&self) -> Subject {
        let address = free_address();
        let processes = self.cores.with_both(|| {
            let start = || {
                let http = self.upstream();
                nginx_at(&self.programs.nginx, self.folder.path(), address, " reuseport", &http, PROXY)
            };
            vec![start(), start()]
        });
        let processes = processes.into_iter().map(|process| process.expect("nginx on its port")).collect();
        self.peer(NGINX, address, processes)
    }

    fn secure_link(&self) -> Subject {
        let server = format!(
            "location / {{\nsecure_link $arg_st,$arg_e;\nsecure_link_md5 \"{CLASSES_SECRET}$uri$arg_e\";\n\
             if ($secure_link = \"\") {{ return 403; }}\nif ($secure_link = \"0\") {{ return 410; }}\n\
             proxy_pass http://origin;\n}}\n"
        );
        let (address, process) = self.on_subject(&self.upstream(), &server);
        let mut subject = self.peer(NGINX_SECURE, address, vec![process]);
        subject.target = self.targets.secure.clone();
        subject.body = BODY;
        subject.refused = self.targets.secure_refused.clone();
        subject
    }

    /// nginx that asks the auth listener, as `agent/dist/nginx.conf` does, without its cache.
    fn auth_request(&self) -> Subject {
        let gate = self.cores.with_subject(|| self.edgegate("content-jwt"));
        let http = format!(
            "{}upstream edgegate {{ server {}; keepalive {KEPT}; keepalive_requests 1000000000; }}\n",
            self.upstream(),
            gate.auth()
        );
        let (address, process) = self.on_subject(&http, AUTH_REQUEST);
        let mut subject = self.peer(NGINX_AUTH, address, vec![process]);
        subject.ours = true;
        subject.body = BODY;
        subject.refused = self.targets.refused(403);
        subject.processes.push(gate.pid());
        subject.gate = Some(gate);
        subject
    }

    fn auth_listener(&self) -> Subject {
        let gate = self.cores.with_subject(|| self.edgegate("content-jwt"));
        let address = gate.auth();
        let mut subject = self.behind(AUTH, "content-jwt", gate);
        subject.address = address;
        subject.place = Place::Header;
        subject.body = "";
        subject.refused = self.targets.refused(403);
        subject
    }

    fn haproxy(&self, program: &Path, name: &'static str, checks: &str) -> Subject {
        let checked = !checks.is_empty();
        let checks = checks.replace("{KEY}", &String::from_utf8_lossy(&KEY));
        let file = self.folder.path().join(format!("haproxy-{checked}.cfg"));
        let (address, process) = start_on_free_port(|address| {
            let text = format!(
                "global\n  nbthread 1\n  maxconn {HAPROXY_CLIENTS}\n\
                 defaults\n  mode http\n  timeout client 75s\n  timeout server 60s\n  timeout connect 5s\n\
                 frontend gate\n  bind {address} backlog 8192\n{checks}  default_backend origin\n\
                 backend origin\n  http-reuse always\n  server origin {}\n",
                self.origin
            );
            fs::write(&file, text).expect("a configuration");
            let mut command = Command::new(program);
            command.args(["-db", "-q", "-f"]).arg(&file);
            self.cores.with_subject(|| start(&command))
        });
        let mut subject = self.peer(name, address, vec![process]);
        if checked {
            subject.body = BODY;
            subject.refused = self.targets.refused(410);
        }
        subject
    }

    /// A peer that passes everything on as it is.
    fn peer(&self, name: &'static str, address: SocketAddr, processes: Vec<Owned>) -> Subject {
        Subject {
            name,
            ours: false,
            address,
            place: Place::Target,
            target: self.targets.jwt.clone(),
            body: OTHER_BODY,
            refused: Vec::new(),
            processes: processes.iter().map(|process| process.0.id()).collect(),
            gate: None,
            _others: processes,
        }
    }

    fn on_subject(&self, http: &str, server: &str) -> (SocketAddr, Owned) {
        self.cores.with_subject(|| nginx(&self.programs.nginx, self.folder.path(), http, server))
    }

    fn upstream(&self) -> String {
        format!(
            "upstream origin {{ server {}; keepalive {KEPT}; keepalive_requests 1000000000; }}\n\
             proxy_http_version 1.1;\nproxy_set_header Connection \"\";\n",
            self.origin
        )
    }
}

pub(crate) const GATEWAY: &str = "gateway, full validation";
pub(crate) const GATEWAY_OPEN: &str = "gateway, no check";
pub(crate) const GATEWAY_SECURE: &str = "gateway, Secure Token";
pub(crate) const NGINX: &str = "nginx proxy_pass, no check";
pub(crate) const NGINX_SECURE: &str = "nginx secure_link";
pub(crate) const NGINX_AUTH: &str = "nginx auth_request to edgegate";
pub(crate) const AUTH: &str = "auth listener by itself";
pub(crate) const HAPROXY: &str = "HAProxy, jwt_verify and claims";
pub(crate) const HAPROXY_OPEN: &str = "HAProxy, no check";

const PROXY: &str = "location / { proxy_pass http://origin; }\n";

const AUTH_REQUEST: &str = r#"
location / {
    auth_request /_edgegate;
    auth_request_set $edgegate_uri $upstream_http_x_edgegate_uri;
    proxy_pass http://origin$edgegate_uri;
}
location = /_edgegate {
    internal;
    proxy_pass http://edgegate;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_pass_request_body off;
    proxy_set_header Content-Length "";
    proxy_set_header X-Original-URI $request_uri;
    proxy_set_header X-Original-Method $request_method;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_set_header X-Real-Port $remote_port;
    proxy_set_header X-Server-Addr $server_addr;
    proxy_set_header X-Server-Port $server_port;
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-For "";
    proxy_set_header X-Forwarded-Uri "";
    proxy_set_header X-Forwarded-Method "";
}
"#;

/// What the gateway checks, as far as HAProxy can: no list of sessions, no key by `kid`, no strict JSON.
const HAPROXY_CHECKS: &str = r#"
  http-request set-var(txn.token) path,field(2,/)
  http-request set-var(txn.alg) var(txn.token),jwt_header_query('$.alg')
  http-request deny deny_status 403 unless { var(txn.alg) -m str HS256 }
  http-request deny deny_status 403 unless { var(txn.token),jwt_verify(txn.alg,"{KEY}") -m int 1 }
  http-request set-var(txn.now) date
  http-request set-var(txn.iat) var(txn.token),jwt_payload_query('$.iat','int')
  http-request set-var(txn.exp) var(txn.token),jwt_payload_query('$.exp','int')
  http-request deny deny_status 403 unless { var(txn.iat),sub(txn.now) -m int le 0 }
  http-request deny deny_status 410 unless { var(txn.exp),sub(txn.now) -m int gt 0 }
  http-request set-path /%[path,field(3,/,0)]
  http-request deny deny_status 403 unless { path -m reg '^/Content/Channel/[^/]*/[^/]*/.*[.](m4a|m4v|m4i|ts)$' }
  http-request set-var(txn.cid) path,field(4,/)
  http-request set-var(txn.stt) path,field(5,/),lower
  http-request set-var(txn.src) src,concat()
  http-request deny deny_status 403 unless { var(txn.token),jwt_payload_query('$.cid'),strcmp(txn.cid) eq 0 }
  http-request deny deny_status 403 unless { var(txn.token),jwt_payload_query('$.stt'),lower,strcmp(txn.stt) eq 0 }
  http-request deny deny_status 403 unless { var(txn.token),jwt_payload_query('$.cip'),strcmp(txn.src) eq 0 }
"#;

/// nginx on a port of its own.
fn nginx(program: &Path, folder: &Path, http: &str, server: &str) -> (SocketAddr, Owned) {
    // The port is free when it is chosen; should somebody be faster, another one is taken.
    let started = (0..5).find_map(|_| {
        let address = free_address();
        Some((address, nginx_at(program, folder, address, "", http, server)?))
    });
    started.expect("nginx on some port")
}

fn nginx_at(
    program: &Path,
    folder: &Path,
    address: SocketAddr,
    shared: &str,
    http: &str,
    server: &str,
) -> Option<Owned> {
    let home = tempfile::tempdir_in(folder).expect("a folder").keep();
    let path = |name: &str| home.join(name).display().to_string();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path {};\n", path(name)))
        .collect();
    // One process in the foreground, so that its handle is all there is to end.
    let text = format!(
        "daemon off;\nmaster_process off;\nerror_log stderr crit;\npid {};\n\
         events {{ worker_connections {}; }}\n\
         http {{\n{temporary}access_log off;\nkeepalive_requests 1000000000;\n\
         large_client_header_buffers 4 20k;\n{http}\
         server {{\nlisten {address} backlog=8192{shared};\n{server}}}\n}}\n",
        path("nginx.pid"),
        2 * CLIENTS,
    );
    fs::write(path("nginx.conf"), text).expect("a configuration");
    let mut command = Command::new(program);
    command.args(["-e", "stderr", "-p", &path(""), "-c", &path("nginx.conf")]);
    until_open(start(&command), address)
}

/// Starts a server that is told its port, on one that nobody has.
fn start_on_free_port(mut start: impl FnMut(SocketAddr) -> Owned) -> (SocketAddr, Owned) {
    let started = (0..5).find_map(|_| {
        let address = free_address();
        Some((address, until_open(start(address), address)?))
    });
    started.expect("a server on some port")
}

/// Waits until a process listens; `None` if it ends instead.
fn until_open(mut process: Owned, address: SocketAddr) -> Option<Owned> {
    let open = wait_for(&format!("{address} to open"), || match process.0.try_wait().expect("a process") {
        Some(_) => Some(false),
        None => TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok().map(|_| true),
    });
    open.then_some(process)
}
