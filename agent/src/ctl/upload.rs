//! Files of any size as bodies: read piece by piece, as fast as the agent takes them.

use super::args::Form;
use super::client::{Answer, Client, request, whole};
use super::error::Error;
use bytes::BytesMut;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};
use http_body_util::Either;
use http_body_util::channel::{Channel, Sender};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Bytes that are read at a time.
const PIECE: usize = 64 * 1024;

/// Pieces that may wait to be sent.
const WAITING: usize = 2;

/// What a file is called that is none.
pub(super) const STANDARD_INPUT: &str = "-";

/// A file that is open, and what it holds.
pub(super) struct Upload {
    path: PathBuf,
    source: Box<dyn AsyncRead + Unpin>,
    /// What was read to see what the file holds.
    beginning: BytesMut,
    form: Form,
    length: Option<u64>,
}

impl Upload {
    pub(super) async fn open(path: &Path, form: Option<Form>) -> Result<Self, Error> {
        let (source, length) = source(path).await?;
        let mut upload =
            Self { path: path.to_owned(), source, beginning: BytesMut::new(), form: Form::Text, length };
        upload.form = match form.or_else(|| by_extension(path)) {
            Some(form) => form,
            None => upload.look().await.map_err(|source| Error::Read { path: path.to_owned(), source })?,
        };
        Ok(upload)
    }

    /// Reads until it is clear what the file holds.
    async fn look(&mut self) -> io::Result<Form> {
        loop {
            self.beginning.reserve(PIECE);
            let ended = self.source.read_buf(&mut self.beginning).await? == 0;
            match by_content(&self.beginning) {
                Some(form) => return Ok(form),
                None if ended => return Ok(Form::Text),
                None => {}
            }
        }
    }

    /// Sends the file, and waits for the whole answer. On a terminal's standard error a bar shows how far it is.
    pub(super) async fn send(self, client: &Client, method: Method, path: &str) -> Result<Answer, Error> {
        let bar = bar(self.length);
        let (sender, body) = Channel::new(WAITING);
        let kind = HeaderValue::from_static(self.form.media_type());
        let request = request(method, path).header(CONTENT_TYPE, kind).body(Either::Right(body))?;
        let mut answer = pin!(async { whole(client.exchange(request).await?).await });
        let file = self.path.clone();
        let feeding = pin!(self.feed(sender, &bar));
        // The agent may answer before it has read everything.
        let result = tokio::select! {
            biased;
            result = &mut answer => result,
            fed = feeding => match fed {
                Ok(()) => answer.await,
                Err(source) => Err(Error::ReadMidway { path: file, source }),
            },
        };
        bar.finish_and_clear();
        result
    }

    /// Passes everything on, and ends the body in a way that tells the agent whether it is whole.
    async fn feed(
        mut self,
        mut sender: Sender<bytes::Bytes, io::Error>,
        bar: &ProgressBar,
    ) -> io::Result<()> {
        let mut piece = std::mem::take(&mut self.beginning);
        loop {
            let length = piece.len();
            if length > 0 && sender.send_data(piece.split().freeze()).await.is_err() {
                // The connection has ended, and the answer says why.
                return Ok(());
            }
            bar.inc(length.try_into().unwrap_or(u64::MAX));
            piece.reserve(PIECE);
            match self.source.read_buf(&mut piece).await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => {
                    sender.abort(io::Error::from(error.kind()));
                    return Err(error);
                }
            }
        }
    }
}

impl Form {
    fn media_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::Ndjson => "application/x-ndjson",
            Self::Json => "application/json",
        }
    }
}

/// Reads a small file, or standard input, as a whole.
pub(super) async fn read(path: &Path, most: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let (source, _) = source(path).await?;
    let read = source.take(most + 1).read_to_end(&mut bytes).await;
    let failed = |source| Error::Read { path: path.to_owned(), source };
    if read.map_err(failed)? as u64 > most {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is over {most} bytes"))));
    }
    Ok(bytes)
}

async fn source(path: &Path) -> Result<(Box<dyn AsyncRead + Unpin>, Option<u64>), Error> {
    if path.as_os_str() == STANDARD_INPUT {
        return Ok((Box::new(tokio::io::stdin()), None));
    }
    let open = async {
        let file = File::open(path).await?;
        let about = file.metadata().await?;
        Ok((file, about.is_file().then_some(about.len())))
    };
    let (file, length) = open.await.map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok((Box::new(file), length))
}

fn by_extension(path: &Path) -> Option<Form> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "json" => Some(Form::Json),
        "ndjson" | "jsonl" => Some(Form::Ndjson),
        "txt" | "csv" => Some(Form::Text),
        _ => None,
    }
}

/// What a file holds by its beginning; `None` if that is too short to tell.
fn by_content(beginning: &[u8]) -> Option<Form> {
    let mut rest = beginning.iter().copied().filter(|byte| !byte.is_ascii_whitespace());
    match rest.next()? {
        b'[' => Some(Form::Json),
        b'"' => Some(Form::Ndjson),
        // The members of an object of days are days; those of a line are `sid` and `day`.
        b'{' => match (rest.next()?, rest.next()?) {
            (b'"', b'0'..=b'9') => Some(Form::Json),
            (b'}', _) => Some(Form::Json),
            _ => Some(Form::Ndjson),
        },
        _ => Some(Form::Text),
    }
}

/// indicatif draws nothing where standard error is no terminal.
fn bar(length: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
    let shape = match length {
        Some(_) => "{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        None => "{spinner} {bytes}, {bytes_per_sec}",
    };
    bar.with_style(ProgressStyle::with_template(shape).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_by_name_and_beginning() {
        for (name, form) in [
            ("a.json", Some(Form::Json)),
            ("a.NDJSON", Some(Form::Ndjson)),
            ("a.jsonl", Some(Form::Ndjson)),
            ("a.txt", Some(Form::Text)),
            ("a.list", None),
            ("json", None),
            (STANDARD_INPUT, None),
        ] {
            assert_eq!(by_extension(Path::new(name)), form, "{name}");
        }
        for (beginning, form) in [
            ("", None),
            (" \n", None),
            ("{", None),
            ("{ \"", None),
            ("\n[\"a\"]", Some(Form::Json)),
            ("{ \"20251228\": \"a\" }", Some(Form::Json)),
            ("{\"sid\":\"a\"}", Some(Form::Ndjson)),
            ("{\"day\":20251228,\"sid\":\"a\"}", Some(Form::Ndjson)),
            ("\"a\"\n\"b\"", Some(Form::Ndjson)),
            ("20251228 : \"a,b\"", Some(Form::Text)),
            ("a,b", Some(Form::Text)),
        ] {
            assert_eq!(by_content(beginning.as_bytes()), form, "{beginning}");
        }
    }
}
