//! What the README shows is what comes out.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "tests fail by panicking")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use tests::binary::{self, Home, finish};
use tests::require::{capability, missing};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Fenced blocks of one language.
fn blocks(language: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let fence = format!("```{language}\n");
    readme
        .split(&fence)
        .skip(1)
        .map(|rest| rest.split_once("```").expect("a closed block").0.to_owned())
        .collect()
}

#[test]
fn commands_print_what_is_shown() {
    let blocks = blocks("console");
    assert_eq!(blocks.len(), 2, "one example for each token system");
    let folder = binary::path().parent().unwrap().to_str().unwrap();
    for block in blocks {
        let (command, expected) = block.split_once('\n').unwrap();
        let command = command.strip_prefix("$ ").expect("a command");
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &format!("PATH='{folder}':$PATH; {command}")]).current_dir(root());
        let output = finish(shell);
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{command}");
    }
}

#[test]
fn the_demo_prints_the_tables_that_are_shown() {
    let tables: Vec<String> =
        blocks("text").into_iter().filter(|block| block.contains("as expected")).collect();
    let [table, kernel_table] = &tables[..] else { panic!("two tables") };
    let output = Home::new().output(&["demo", "--listen", "127.0.0.1:0", "--once"]);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains(table), "printed:\n{printed}\nshown:\n{table}");
    let (_, kernel_part) = printed.split_once(table).unwrap();
    if let Some((_, reason)) = kernel_part.split_once("not shown") {
        missing("kernel", reason.trim());
    } else if capability("curl").is_some() {
        assert_eq!(shape(kernel_part), shape(kernel_table), "printed:\n{printed}");
    }
}

/// The walk-through, as printed, in a folder of its own.
#[test]
fn a_session_is_revoked_as_shown() {
    if capability("curl").is_none() {
        return;
    }
    let home = Home::new();
    let folder = home.path("demo");
    let start = || {
        let mut demo = Command::new(binary::path());
        demo.args(["demo", "--listen", "127.0.0.1:0", "--dir"]).arg(&folder);
        Demo::start(demo)
    };
    let [first, second] = &blocks("sh-session")[..] else { panic!("before and after the restart") };
    assert!(blocks("sh").iter().any(|block| block == "edgegate demo --dir /tmp/edgegate-demo\n"));
    let demo = start();
    assert_eq!(transcript(first, &folder), *first);
    demo.kill();
    let demo = start();
    assert_eq!(transcript(second, &folder), *second);
    demo.kill();
}

/// A demo that serves.
struct Demo(std::process::Child);

impl Demo {
    fn start(mut command: Command) -> Self {
        let mut demo = Self(command.stdout(Stdio::piped()).spawn().unwrap());
        let printed = BufReader::new(demo.0.stdout.take().unwrap());
        let mut lines = printed.lines();
        assert!(lines.any(|line| line.unwrap() == "Serving until Ctrl-C."), "the demo has ended");
        // Whatever else it prints is read, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        demo
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// The commands of a session in one shell, each with what it prints.
fn transcript(session: &str, folder: &Path) -> String {
    let bin = binary::path().parent().unwrap().to_str().unwrap();
    let folder = folder.to_str().unwrap();
    let mut script = format!("exec 2>&1; PATH='{bin}':$PATH; cd '{folder}'\n");
    for command in session.lines().filter_map(|line| line.strip_prefix("$ ")) {
        let shown = command.replace('\'', r"'\''");
        script += &format!("printf '%s\n' '$ {shown}'\n");
        script += &command.replace("/tmp/edgegate-demo", folder);
        script += "\n";
        if command.ends_with('&') {
            // A reader of the page takes longer than this to type the next line.
            script += "sleep 1\n";
        }
    }
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &script]);
    String::from_utf8(finish(shell).stdout).unwrap()
}

/// A text without what differs from run to run: numbers, and so the width of columns.
fn shape(text: &str) -> String {
    let mut shape = String::new();
    for c in text.trim().chars() {
        let c = if c.is_ascii_digit() { '0' } else { c };
        if !((c == '0' || c == ' ') && shape.ends_with(c)) {
            shape.push(c);
        }
    }
    shape
}

#[test]
fn the_example_configuration_is_good() {
    let mut command = Command::new(binary::path());
    command.args(["config", "check", "agent/dist/edgegate.toml"]).current_dir(root());
    assert!(finish(command).status.success());
}
