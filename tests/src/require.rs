//! Tools that a test needs and a machine may lack.
//!
//! A test whose tool is missing says so and passes, unless the environment variable `EDGEGATE_REQUIRE` names the tool:
//! `EDGEGATE_REQUIRE=nginx,ffmpeg,python-jwt,curl,nats-server`. Continuous integration names all of them. `kernel` is one, too: a
//! kernel that lets a test load programs into it (see [`crate::kernel`]); and `root`: the right to become somebody else and to
//! mount.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A program with arguments that succeed only where the tool is fit for use.
type Probe = (&'static str, &'static [&'static str]);

/// Programs by tool; the first that is fit is the one.
const TOOLS: &[(&str, &[Probe])] = &[
    ("nginx", &[("nginx", &["-v"]), ("/usr/sbin/nginx", &["-v"])]),
    ("haproxy", &[("haproxy", &["-v"]), ("/usr/sbin/haproxy", &["-v"])]),
    ("ffmpeg", &[("ffmpeg", &["-version"])]),
    ("ffprobe", &[("ffprobe", &["-version"])]),
    ("curl", &[("curl", &["--version"])]),
    ("nats-server", &[("nats-server", &["--version"]), ("/usr/sbin/nats-server", &["--version"])]),
    ("valgrind", &[("valgrind", &["--version"])]),
    ("openssl", &[("openssl", &["version"])]),
    (
        "python-jwt",
        &[
            ("/usr/bin/python3", &["-c", "import jwt; jwt.encode"]),
            ("python3", &["-c", "import jwt; jwt.encode"]),
        ],
    ),
];

/// The program of a tool, or `None` where the machine lacks it and the test has nothing to do.
///
/// # Panics
/// When it is missing and required.
#[must_use]
pub fn capability(tool: &str) -> Option<PathBuf> {
    let (_, programs) =
        TOOLS.iter().find(|(name, _)| *name == tool).unwrap_or_else(|| panic!("no tool {tool}"));
    let fit = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if let Some((program, _)) = programs.iter().find(|(program, arguments)| fit(program, arguments)) {
        return Some(program.into());
    }
    let probed: Vec<String> = programs.iter().map(|(p, a)| format!("{p} {}", a.join(" "))).collect();
    missing(tool, &probed.join("; "));
    None
}

/// Says that a test is skipped for want of a tool.
///
/// # Panics
/// When the tool is required.
pub fn missing(tool: &str, reason: &str) {
    let thread = std::thread::current();
    let message = format!("{}: needs {tool}: {reason}", thread.name().unwrap_or("test"));
    let required = std::env::var("EDGEGATE_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name.trim() == tool), "{message}");
    println!("skipped: {message}");
}
