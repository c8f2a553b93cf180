//! Real players, HLS and DASH, through a gate: everything a manifest leads to is asked for with the manifest's token.

use agent::demo::media;
use std::path::Path;
use std::process::{Command, Output};
use tests::binary::{Edgegate, finish};
use tests::contract::{BLACKLISTED, Config, claims, now, token_of};
use tests::origin::{Origin, Then};
use tests::require::capability;

/// Frames of the presentation.
const FRAMES: [&str; 2] = ["audio,537", "video,144"];

fn gate() -> (Edgegate, Origin) {
    let origin = Origin::answering(|seen, to| {
        let path = seen.target().split('?').next().unwrap_or_default();
        let Some(asset) = media::asset(path) else {
            to.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            return Ok(Then::Keep);
        };
        let (kind, length) = (asset.content_type, asset.body.len());
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n");
        to.write_all(&[head.as_bytes(), asset.body].concat())?;
        Ok(Then::Keep)
    });
    (Edgegate::run(&Config::new(&origin.url()).text()), origin)
}

fn token(technology: &str, changes: &[(&str, serde_json::Value)]) -> String {
    let mut claims = claims();
    claims.insert("cid".into(), "Demo".into());
    claims.insert("stt".into(), technology.into());
    claims.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    token_of(&claims)
}

/// Folder and manifest by technology.
fn manifests() -> [(&'static str, &'static str); 2] {
    [("hls", "/Content/Channel/Demo/HLS/master.m3u8"), ("dash", "/Content/Channel/Demo/DASH/master.mpd")]
}

fn probe(program: &Path, url: &str) -> Output {
    let mut command = Command::new(program);
    command.args(["-v", "error", "-count_frames", "-show_entries", "stream=codec_type,nb_read_frames"]);
    command.args(["-of", "csv=p=0", url]);
    finish(command)
}

#[test]
fn every_frame_is_played() {
    let (Some(ffprobe), Some(ffmpeg)) = (capability("ffprobe"), capability("ffmpeg")) else { return };
    let (gate, origin) = gate();
    for (technology, manifest) in manifests() {
        let before = origin.seen().len();
        let url = format!("http://{}/{}{manifest}", gate.gateway(), token(technology, &[]));
        let output = probe(&ffprobe, &url);
        assert!(output.status.success(), "{technology}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let mut frames: Vec<&str> =
            text.lines().map(|line| line.trim_end_matches(',')).filter(|l| !l.is_empty()).collect();
        frames.sort_unstable();
        frames.dedup();
        assert_eq!(frames, FRAMES, "{technology}");

        let mut command = Command::new(&ffmpeg);
        command.args(["-nostdin", "-v", "warning", "-xerror", "-i", &url, "-map", "0", "-f", "null", "-"]);
        let output = finish(command);
        assert!(output.status.success(), "{technology}: {output:?}");

        let seen = origin.seen().split_off(before);
        let segments = seen.iter().filter(|seen| seen.target().contains("Segment-")).count();
        assert!(segments >= 12, "{technology}: only {segments} segments were asked for");
        assert!(seen.iter().all(|seen| seen.target().starts_with("/Content/")), "a token went upstream");
        assert!(seen.iter().all(|seen| seen.values("x-edgegate-session") == ["session1"]), "{technology}");
    }
}

/// What must not be had is not played, not even its manifest.
#[test]
fn nothing_is_played_without_a_good_token() {
    let Some(ffprobe) = capability("ffprobe") else { return };
    let (gate, origin) = gate();
    for (technology, manifest) in manifests() {
        for (what, token) in [
            ("blacklisted", format!("/{}", token(technology, &[("sid", BLACKLISTED.into())]))),
            ("expired", format!("/{}", token(technology, &[("exp", (now() - 5).into())]))),
            ("another channel", format!("/{}", token(technology, &[("cid", "Other".into())]))),
            ("none", String::new()),
        ] {
            let output = probe(&ffprobe, &format!("http://{}{token}{manifest}", gate.gateway()));
            assert!(!output.status.success(), "{technology}, {what}: {output:?}");
            assert!(output.stdout.trim_ascii().is_empty(), "{technology}, {what}: {output:?}");
        }
    }
    assert!(origin.seen().is_empty(), "{:?}", origin.seen());
}
