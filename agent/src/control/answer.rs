//! Answers: JSON, streams, and what is wrong.

use crate::config::Problems;
use crate::message::{Body, Refusal};
use crate::state::{ChangeError, Counts, Done};
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Either, Full};
use serde::Serialize;
use serde_json::{Value as Json, json};
use std::io;

/// An answer, or why there is none.
pub(super) type Outcome = Result<Response<Body>, Error>;

/// A refusal.
#[derive(Debug)]
pub(super) struct Error {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// More than code and message.
    more: Vec<(&'static str, Json)>,
    /// Methods that would do.
    allow: Option<&'static str>,
}

impl Error {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), more: Vec::new(), allow: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// What is no request, or too long a one.
    pub(super) fn http(refusal: Refusal) -> Self {
        let message = format!("the request's head cannot be read: {}", refusal.reason);
        Self::new(refusal.status, "bad_request", message)
    }

    pub(super) fn forbidden() -> Self {
        let message = "only root and the user that the agent runs as may control it";
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    pub(super) fn not_found() -> Self {
        let message = "there is no such call; GET /v1/openapi.json lists them";
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        let message = format!("only {allow}");
        Self {
            allow: Some(allow),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
        }
    }

    pub(super) fn too_large(longest: usize) -> Self {
        let message = format!("the body is longer than {longest} bytes; POST /v1/blacklist takes any length");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message)
    }

    pub(super) fn full(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "full", message)
    }

    pub(super) fn stopping() -> Self {
        Self::change(&ChangeError::Stopping)
    }

    pub(super) fn problems(problems: &Problems) -> Self {
        let list: Vec<Json> = problems
            .iter()
            .map(|problem| {
                let (line, column) = problem.at.unzip();
                json!({
                    "file": problem.file.as_ref(), "line": line, "column": column, "key": problem.key, "text": problem.text
                })
            })
            .collect();
        let message = format!("the configuration has {} problem(s)", list.len());
        Self::invalid(message).with("problems", list.into())
    }

    pub(super) fn change(error: &ChangeError) -> Self {
        let message = error.to_string();
        match error {
            ChangeError::Version { present, .. } => {
                Self::new(StatusCode::PRECONDITION_FAILED, "version_mismatch", message)
                    .with("version", (*present).into())
            }
            ChangeError::Config(problems) => Self::problems(problems),
            ChangeError::Load(_) | ChangeError::NeedsRestart(_) | ChangeError::Invalid(_) => {
                Self::invalid(message)
            }
            ChangeError::Kernel(_) | ChangeError::Behind(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "kernel_refused", message)
            }
            ChangeError::Store(_) | ChangeError::NoStore => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "store_failed", message)
            }
            ChangeError::Full(_) => Self::full(message),
            ChangeError::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "not_found", message),
            ChangeError::Stopping => Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", message),
        }
    }

    /// Tells something more.
    pub(super) fn with(mut self, name: &'static str, value: Json) -> Self {
        self.more.push((name, value));
        self
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let mut answer = json!({ "error": self.code, "message": self.message });
        for (name, value) in self.more {
            answer[name] = value;
        }
        let mut response = json(&answer, None);
        *response.status_mut() = self.status;
        if let Some(allow) = self.allow {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

/// A value as JSON; `version` becomes its `ETag`.
pub(super) fn json(value: &impl Serialize, version: Option<u64>) -> Response<Body> {
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    let mut response = of_type(Either::Left(Full::new(Bytes::from(text))), "application/json");
    if let Some(version) = version
        && let Ok(tag) = HeaderValue::try_from(format!("\"{version}\""))
    {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

/// A text that is JSON already.
pub(super) fn raw_json(text: &'static str) -> Response<Body> {
    of_type(Either::Left(Full::new(Bytes::from_static(text.as_bytes()))), "application/json")
}

/// Lines of JSON, one after another.
pub(super) fn streamed(body: UnsyncBoxBody<Bytes, io::Error>) -> Response<Body> {
    of_type(Either::Right(Either::Right(body)), "application/x-ndjson")
}

/// What a change has done: these of its counts.
pub(super) fn counts(done: &Done, version: u64, names: &[&'static str]) -> Response<Body> {
    let mut answer = json!({ "version": version });
    match done {
        Done::SecretSet { replaced } => answer["replaced"] = (*replaced).into(),
        Done::Config { changed, warnings } => {
            answer["changed"] = (*changed).into();
            if names.contains(&"warnings") {
                answer["warnings"] = warnings.clone().into();
            }
        }
        Done::Counts(counts) | Done::Sessions(counts) => {
            for name in names {
                answer[*name] = count(counts, name).into();
            }
        }
    }
    json(&answer, Some(version))
}

fn count(counts: &Counts, name: &str) -> u64 {
    match name {
        "added" => counts.added,
        "present" => counts.present,
        "removed" => counts.removed,
        "absent" => counts.absent,
        _ => counts.refused.len() as u64,
    }
}

/// Names of the counts of a change that adds or removes one thing.
pub(super) const fn names_of(remove: bool) -> &'static [&'static str] {
    if remove { &["removed", "absent"] } else { &["added", "present"] }
}

fn of_type(body: Body, media_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
