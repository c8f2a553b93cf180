//! The presentation the demo origin serves: 11.52 s of a test picture and a tone, in HLS and in DASH, and a
//! lesson page with a film for a second token scheme.
//!
//! Both presentations describe the same fragmented MP4 segments, 1.92 s each: `stream_01` is H.264 video of
//! 144 frames, `stream_02` AAC audio of 537 frames. Every URI in the playlists and the manifest is relative,
//! so a player that was given a token as the first path segment keeps it for everything it asks for later.
//!
//! `ffplay`, `ffprobe` and `ffmpeg` play `…/HLS/master.m3u8` and `…/DASH/master.mpd` over HTTP without
//! options. For HLS that takes the `?type=.mp4` behind the video segments' names: without it, versions that
//! check the extensions of segments need `-extension_picky 0`.
//!
//! The files live in `agent/demo`; the script `make` there writes them.

/// One file of the demo origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asset {
    /// The value of its `Content-Type` header.
    pub content_type: &'static str,
    /// The whole file.
    pub body: &'static [u8],
}

/// The file at `path`: absolute, without query, compared byte by byte (`/Content/Channel/Demo/HLS/master.m3u8`).
pub fn asset(path: &str) -> Option<Asset> {
    FILES.iter().find(|(served, _)| *served == path).map(|(_, asset)| *asset)
}

/// The path of every file [`asset`] finds.
pub fn paths() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(path, _)| *path)
}

const PLAYLIST: &str = "application/vnd.apple.mpegurl";
const MANIFEST: &str = "application/dash+xml";
const VIDEO: &str = "video/mp4";
const AUDIO: &str = "audio/mp4";
const PAGE: &str = "text/html; charset=utf-8";

const FILES: &[(&str, Asset)] = files! {
    "/Content/Channel/Demo/HLS/": {
        "master.m3u8": PLAYLIST,
        "stream_01/index.m3u8": PLAYLIST,
        "stream_01/init.m4i": VIDEO,
        "stream_01/Segment-1.m4v": VIDEO,
        "stream_01/Segment-2.m4v": VIDEO,
        "stream_01/Segment-3.m4v": VIDEO,
        "stream_01/Segment-4.m4v": VIDEO,
        "stream_01/Segment-5.m4v": VIDEO,
        "stream_01/Segment-6.m4v": VIDEO,
        "stream_02/index.m3u8": PLAYLIST,
        "stream_02/init.m4i": AUDIO,
        "stream_02/Segment-1.m4a": AUDIO,
        "stream_02/Segment-2.m4a": AUDIO,
        "stream_02/Segment-3.m4a": AUDIO,
        "stream_02/Segment-4.m4a": AUDIO,
        "stream_02/Segment-5.m4a": AUDIO,
        "stream_02/Segment-6.m4a": AUDIO,
    },
    "/Content/Channel/Demo/DASH/": {
        "master.mpd": MANIFEST,
        "stream_01/init.m4i": VIDEO,
        "stream_01/Segment-1.m4v": VIDEO,
        "stream_01/Segment-2.m4v": VIDEO,
        "stream_01/Segment-3.m4v": VIDEO,
        "stream_01/Segment-4.m4v": VIDEO,
        "stream_01/Segment-5.m4v": VIDEO,
        "stream_01/Segment-6.m4v": VIDEO,
        "stream_02/init.m4i": AUDIO,
        "stream_02/Segment-1.m4a": AUDIO,
        "stream_02/Segment-2.m4a": AUDIO,
        "stream_02/Segment-3.m4a": AUDIO,
        "stream_02/Segment-4.m4a": AUDIO,
        "stream_02/Segment-5.m4a": AUDIO,
        "stream_02/Segment-6.m4a": AUDIO,
    },
    "/classes/": {
        "lesson-1.html": PAGE,
        "lesson-1.mp4": VIDEO,
    },
};

/// A table of `(path, asset)` from URL folders and the files of `agent/demo` served in each.
macro_rules! files {
    ($($folder:tt: { $($file:tt: $content_type:expr),* $(,)? }),* $(,)?) => {
        &[$($((
            concat!($folder, $file),
            Asset { content_type: $content_type, body: include_bytes!(concat!("../../demo/", $file)) },
        )),*),*]
    };
}
use files;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const HLS: &str = "/Content/Channel/Demo/HLS/";
    const DASH: &str = "/Content/Channel/Demo/DASH/";

    #[test]
    fn the_playlists_reach_every_file_of_the_hls_folder() {
        let master = format!("{HLS}master.m3u8");
        let mut seen = BTreeSet::from([master.clone()]);
        let mut queue = vec![master];
        while let Some(playlist) = queue.pop() {
            for uri in playlist_uris(text(&playlist)) {
                let path = resolve(&playlist, uri);
                let found = asset(&path).unwrap_or_else(|| panic!("{path} of {playlist} is not served"));
                if seen.insert(path.clone()) && found.content_type == PLAYLIST {
                    queue.push(path);
                }
            }
        }
        assert_eq!(seen, served_under(HLS));
    }

    #[test]
    fn the_manifest_reaches_every_file_of_the_dash_folder() {
        let manifest = format!("{DASH}master.mpd");
        let mut seen = BTreeSet::from([manifest.clone()]);
        for set in text(&manifest).split("<AdaptationSet ").skip(1) {
            let id = attribute(set.split("<Representation").nth(1).unwrap(), "id").unwrap();
            let template = |name| attribute(set, name).unwrap().replace("$RepresentationID$", id);
            let media = template("media");
            let segments: u32 = set
                .split("<S ")
                .skip(1)
                .map(|run| run.split("/>").next().unwrap())
                .map(|run| 1 + attribute(run, "r").map_or(0, |repeats| repeats.parse::<u32>().unwrap()))
                .sum();
            let names = (1..=segments).map(|number| media.replace("$Number$", &number.to_string()));
            for name in names.chain([template("initialization")]) {
                let path = resolve(&manifest, &name);
                let found = asset(&path).unwrap_or_else(|| panic!("{path} is not served"));
                assert_eq!(Some(found.content_type), attribute(set, "mimeType"), "{path}");
                seen.insert(path);
            }
        }
        assert_eq!(seen, served_under(DASH));
    }

    #[test]
    fn both_presentations_share_their_segments() {
        let segments: Vec<_> =
            served_under(DASH).into_iter().filter(|path| path.contains("/stream_")).collect();
        assert_eq!(segments.len(), 14);
        for path in segments {
            assert_eq!(asset(&path), asset(&path.replace(DASH, HLS)), "{path}");
        }
    }

    #[test]
    fn content_types_follow_the_file_names() {
        for path in paths() {
            let expected = match path.rsplit_once('.').unwrap().1 {
                "m3u8" => "application/vnd.apple.mpegurl",
                "mpd" => "application/dash+xml",
                "m4v" | "mp4" => "video/mp4",
                "m4a" => "audio/mp4",
                "m4i" if path.contains("/stream_01/") => "video/mp4",
                "m4i" => "audio/mp4",
                "html" => "text/html; charset=utf-8",
                other => panic!("unexpected extension {other}"),
            };
            assert_eq!(asset(path).unwrap().content_type, expected, "{path}");
        }
    }

    #[test]
    fn paths_are_unique_and_compared_exactly() {
        assert_eq!(paths().collect::<BTreeSet<_>>().len(), paths().count());
        for path in ["", "/", "/Content/Channel/Demo/HLS/", "/content/channel/demo/hls/master.m3u8"] {
            assert_eq!(asset(path), None, "{path}");
        }
        assert_eq!(asset("/Content/Channel/Demo/HLS/master.m3u8?"), None);
        assert_eq!(asset("Content/Channel/Demo/HLS/master.m3u8"), None);
    }

    #[test]
    fn media_files_are_mp4_and_the_whole_demo_stays_small() {
        for path in paths() {
            let body = asset(path).unwrap().body;
            match path.rsplit_once('.').unwrap().1 {
                "m4i" | "mp4" => assert_eq!(&body[4..8], b"ftyp", "{path}"),
                "m4v" | "m4a" => assert_eq!(&body[4..8], b"styp", "{path}"),
                _ => assert!(std::str::from_utf8(body).is_ok(), "{path}"),
            }
        }
        let distinct: BTreeSet<_> = paths().map(|path| asset(path).unwrap().body).collect();
        assert!(distinct.iter().map(|body| body.len()).sum::<usize>() <= 300 * 1024);
    }

    #[test]
    fn the_lesson_page_shows_the_lesson_film() {
        let page = "/classes/lesson-1.html";
        let film = attribute(text(page), "src").unwrap();
        assert_eq!(asset(&resolve(page, film)).unwrap().content_type, "video/mp4");
    }

    fn text(path: &str) -> &'static str {
        std::str::from_utf8(asset(path).unwrap().body).unwrap()
    }

    fn served_under(folder: &str) -> BTreeSet<String> {
        paths().filter(|path| path.starts_with(folder)).map(str::to_owned).collect()
    }

    /// URI lines and `URI="…"` attributes.
    fn playlist_uris(playlist: &str) -> impl Iterator<Item = &str> {
        playlist
            .lines()
            .filter_map(|line| if line.starts_with('#') { attribute(line, "URI") } else { Some(line) })
    }

    /// The value of the first ` name="…"`, `,name="…"` or `:name="…"`.
    fn attribute<'a>(markup: &'a str, name: &str) -> Option<&'a str> {
        let start = markup.match_indices(&format!("{name}=\"")).find_map(|(at, found)| {
            let separated = at == 0 || markup[..at].ends_with([' ', ',', ':']);
            separated.then_some(at + found.len())
        })?;
        markup[start..].split('"').next()
    }

    /// The served path a player asks for: `uri` against the folder of `base`, its query left to the server.
    fn resolve(base: &str, uri: &str) -> String {
        assert!(
            !uri.starts_with('/') && !uri.contains("://") && !uri.contains(".."),
            "{uri} is not relative"
        );
        let folder = &base[..=base.rfind('/').unwrap()];
        format!("{folder}{}", uri.split('?').next().unwrap())
    }
}
