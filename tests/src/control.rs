//! The control socket of a running gate. Every answer, also a refusal, is held against the API's own document.

use crate::binary::{Edgegate, Home};
use crate::conn::Conn;
use crate::contract::{Config, SEGMENT, claims, get, token_of};
use crate::raw::Reply;
use crate::schema::{misfit, resolve};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The document of the API.
///
/// # Panics
/// When it is no JSON.
pub fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    let text = include_str!("../../agent/src/control/openapi.json");
    DOCUMENT.get_or_init(|| serde_json::from_str(text).expect("JSON"))
}

/// Operations with the statuses that were answered, in this process: `putConfig 412`.
static REACHED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Likewise, all that the document describes.
///
/// # Panics
/// When it is not of the form of one.
#[must_use]
pub fn described() -> BTreeSet<String> {
    let paths = document()["paths"].as_object().expect("paths").values();
    let operations = paths.flat_map(|item| item.as_object().expect("operations").values());
    let pairs = operations.flat_map(|operation| {
        let statuses = operation["responses"].as_object().expect("responses").keys();
        statuses.map(|status| format!("{} {status}", operation["operationId"].as_str().expect("its name")))
    });
    pairs.collect()
}

/// What of [`described`] was answered so far.
#[must_use]
pub fn reached() -> BTreeSet<String> {
    REACHED.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// What `text` needs in front of it so that the agent has a store and a control socket in its home.
#[must_use]
pub fn controlled(home: &Home, text: &str) -> String {
    let (store, socket) = (home.path("state"), home.path("control.sock"));
    format!("state_dir = \"{}\"\n{text}\n[control]\nsocket = \"{}\"\n", store.display(), socket.display())
}

/// Starts a gate with a configuration, a store and a control socket.
#[must_use]
pub fn run(config: &Config) -> (Edgegate, Api) {
    let home = Home::new();
    let text = controlled(&home, &config.text());
    let gate = home.run(&text);
    let api = Api::of(&gate);
    (gate, api)
}

/// The API of a gate.
#[derive(Clone)]
pub struct Api {
    socket: PathBuf,
}

/// What it answers.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// JSON; null where it is a stream.
    pub body: Value,
    /// Of a stream.
    pub lines: Vec<Value>,
    pub reply: Reply,
}

impl Answer {
    /// The version since a change.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.body["version"].as_u64().unwrap_or_else(|| panic!("no version: {self:?}"))
    }

    /// A number in it.
    ///
    /// # Panics
    /// When there is none of this name.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.body[name].as_u64().unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    /// Itself, which is one of 2xx.
    ///
    /// # Panics
    /// When it is another.
    #[must_use]
    #[track_caller]
    pub fn done(self) -> Self {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.body);
        self
    }

    /// The message of a refusal with this status and code.
    ///
    /// # Panics
    /// When it is another.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> &str {
        assert_eq!((self.status, self.body["error"].as_str()), (status, Some(code)), "{}", self.body);
        self.body["message"].as_str().unwrap_or_default()
    }
}

impl Api {
    /// Of a gate that was started with [`controlled`].
    #[must_use]
    pub fn of(gate: &Edgegate) -> Self {
        Self::at(&gate.home().path("control.sock"))
    }

    /// Behind a socket.
    #[must_use]
    pub fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A request without a body.
    #[must_use]
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str) -> Answer {
        self.send(method, path, &[], "")
    }

    /// [`Api::ask`] that reads.
    #[must_use]
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path)
    }

    /// A request with a body, of a form.
    #[must_use]
    #[track_caller]
    pub fn put(&self, method: &str, path: &str, form: &str, body: impl AsRef<[u8]>) -> Answer {
        self.send(method, path, &[("Content-Type", form)], body)
    }

    /// A request with headers.
    ///
    /// # Panics
    /// When there is no answer, or one that the document does not describe.
    #[must_use]
    #[track_caller]
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Answer {
        self.try_send(method, path, headers, body).expect("an answer")
    }

    /// [`Api::send`] to an agent that may be killed meanwhile.
    ///
    /// # Errors
    /// When there is no answer.
    ///
    /// # Panics
    /// When there is one that the document does not describe.
    #[track_caller]
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> io::Result<Answer> {
        let body = body.as_ref();
        let mut conn = Conn::try_open_unix(&self.socket)?;
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: gate\r\nContent-Length: {}\r\n", body.len());
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        // It may have answered before it has read everything.
        let _answered_early = conn.try_send(&[format!("{head}\r\n").as_bytes(), body].concat());
        conn.try_reply(false).map(|reply| judged(method, path, reply))
    }

    /// A connection for what is sent byte by byte.
    #[must_use]
    pub fn connect(&self) -> Conn {
        Conn::open_unix(&self.socket)
    }

    /// The version in force.
    #[must_use]
    #[track_caller]
    pub fn version(&self) -> u64 {
        self.get("/v1/status").done().version()
    }

    /// The names in a day's list.
    ///
    /// # Panics
    /// When a line has none.
    #[must_use]
    #[track_caller]
    pub fn sids(&self, day: &str) -> Vec<String> {
        let answer = self.get(&format!("/v1/blacklist/{day}")).done();
        answer.lines.iter().map(|line| line["sid"].as_str().expect("a sid").to_owned()).collect()
    }
}

/// Reads an answer, and holds it against the document.
///
/// # Panics
/// When the document does not describe it.
#[must_use]
#[track_caller]
pub fn judged(method: &str, path: &str, reply: Reply) -> Answer {
    let status = reply.status;
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let what = || format!("{method} {path}: {status} {text}");
    let parse = |text: &str| -> Value {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("no JSON ({error}): {}", what()))
    };
    let form = reply.header("content-type").unwrap_or_default().to_owned();
    let (body, lines) = match form.as_str() {
        "application/x-ndjson" => (Value::Null, text.lines().map(parse).collect()),
        "application/json" => (parse(&text), Vec::new()),
        other => panic!("a body of type {other:?}: {}", what()),
    };
    let Some((item, operation)) = operation(method, path) else {
        // There is no such call, and that is what is said.
        let error = &document()["components"]["schemas"]["Error"];
        assert_eq!(misfit(document(), error, &body), None, "{}", what());
        assert!(matches!(status, 400 | 403 | 404), "{}", what());
        return Answer { status, body, lines, reply };
    };
    let name = operation["operationId"].as_str().expect("its name");
    let described = operation["responses"].get(status.to_string());
    let described =
        resolve(document(), described.unwrap_or_else(|| panic!("not described: {name} {}", what())));
    let schema =
        described["content"].get(&form).unwrap_or_else(|| panic!("not as {form}: {name} {}", what()));
    for value in if lines.is_empty() && body.is_null() {
        &[]
    } else if lines.is_empty() {
        std::slice::from_ref(&body)
    } else {
        &lines[..]
    } {
        assert_eq!(misfit(document(), &schema["schema"], value), None, "{name} {}", what());
    }
    if described["headers"].get("ETag").is_some() {
        let tag = format!("\"{}\"", body["version"]);
        assert_eq!(reply.header("etag"), Some(&*tag), "{}", what());
    }
    // That a method is not allowed is said of the path.
    let of_path = item.values().filter_map(|operation| operation["operationId"].as_str());
    let names = if status == 405 { of_path.collect() } else { vec![name] };
    let names = names.into_iter().map(|name| format!("{name} {status}"));
    REACHED.lock().unwrap_or_else(PoisonError::into_inner).extend(names);
    Answer { status, body, lines, reply }
}

/// The operation that a request asks for, and all of its path. Where only the method is wrong, it is any of the path.
fn operation(method: &str, path: &str) -> Option<(&'static Map<String, Value>, &'static Value)> {
    let path = path.split('?').next().unwrap_or_default();
    let fits = |template: &str| {
        let (template, path): (Vec<&str>, Vec<&str>) =
            (template.split('/').collect(), path.split('/').collect());
        // A network may have its slash as it is.
        let rest = template.last() == Some(&"{cidr}") && path.len() > template.len();
        (rest || template.len() == path.len())
            && template
                .iter()
                .zip(&path)
                .all(|(part, segment)| part == segment || part.starts_with('{') && !segment.is_empty())
    };
    let paths = document()["paths"].as_object()?;
    let exact = paths.iter().find(|(template, _)| *template == path);
    let item = exact.or_else(|| paths.iter().find(|(template, _)| fits(template)))?.1.as_object()?;
    Some((item, item.get(&method.to_lowercase()).or_else(|| item.values().next())?))
}

/// The status that the gateway gives a session, on a connection of its own.
///
/// # Panics
/// Never in practice.
#[must_use]
#[track_caller]
pub fn session_status(gateway: SocketAddr, sid: &str) -> u16 {
    let mut claims = claims();
    claims.insert("sid".into(), sid.into());
    Conn::open(gateway).send(get(&format!("/{}{SEGMENT}", token_of(&claims)))).reply().status
}
