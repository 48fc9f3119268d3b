//! The house: imports point down, no file is in a circle, files and lines stay readable.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use crate::rig::checkout;

/// Floors from the ground up; a room uses rooms of the floors below it alone.
const FLOORS: [&[&str]; 20] = [
    // Numbers: no clock, no I/O.
    &["model", "teacher", "learner"],
    &["inference"],
    &["experts"],
    &["dynamics", "regime"],
    &["edge", "recogniser"],
    // Ground services.
    &["platform"],
    &["clock", "files", "sync", "tasks", "wire"],
    &["telemetry", "recording"],
    // Learning from files, and what is kept and guarded.
    &["security", "journal", "checkpoint", "training"],
    // The outside world.
    &["intake"],
    &["bus"],
    &["rigs"],
    &["triggers"],
    &["api"],
    &["config"],
    // Composition.
    &["daemon"],
    &["commands"],
    &["internals", "lib"],
    &["cli"],
    &["main"],
];
/// Rooms without a clock or I/O.
const PURE: [&str; 9] = [
    "model",
    "teacher",
    "learner",
    "inference",
    "experts",
    "dynamics",
    "regime",
    "edge",
    "recogniser",
];
const PURE_FORBIDDEN: [&str; 6] =
    ["tokio", "std::fs", "std::net", "Instant::now", "SystemTime", "std::env"];
/// Lines of a file without its tests, at most.
const LINES_MAX: usize = 500;
/// Lines of a function in `src`, at most.
const FUNCTION_LINES_MAX: usize = 60;
/// Columns of a line, at most.
const COLUMNS_MAX: usize = 100;

/// A module's path, and its code without tests and comments.
type Sources = BTreeMap<Vec<String>, String>;

fn files(dir: &Path, ending: &str, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, ending, out);
        } else if path.extension().is_some_and(|e| e == ending) {
            out.push(path);
        }
    }
}

/// A file's code without its tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("text");
    text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned()
}

/// Every module of the library; the crate's root holds the map alone, and the binary is above all.
fn modules() -> Sources {
    let root = checkout("src");
    let mut paths = Vec::new();
    files(&root, "rs", &mut paths);
    let mut sources = Sources::new();
    for path in paths {
        let inside = path.strip_prefix(&root).expect("in src").with_extension("");
        let mut module: Vec<String> =
            inside.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
        if module.last().is_some_and(|name| name == "mod") {
            module.pop();
        }
        let lines = code(&path);
        let lines = lines.lines().filter(|line| !line.trim_start().starts_with("//"));
        sources.insert(module, lines.collect::<Vec<_>>().join("\n"));
    }
    sources
}

/// A `use` tree as flat paths, each with the name it is known by.
fn flattened(tree: &str, before: &str, out: &mut Vec<(String, String)>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        if !tree.is_empty() {
            let (path, name) = tree.split_once(" as ").unwrap_or((tree, tree));
            let path = format!("{before}{}", path.trim().trim_end_matches("::self"));
            let name = name.trim().rsplit("::").next().unwrap_or_default().to_owned();
            out.push((path, name));
        }
        return;
    };
    let before = format!("{before}{}", &tree[..open]);
    let (mut depth, mut from) = (0, open + 1);
    for (at, c) in tree.char_indices().skip_while(|(at, _)| *at <= open) {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                flattened(&tree[from..at], &before, out);
                return;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                flattened(&tree[from..at], &before, out);
                from = at + 1;
            }
            _ => {}
        }
    }
}

/// A path as it is written in a module, from the crate's root on; `None` for one of another crate.
fn absolute(path: &str, module: &[String], sources: &Sources) -> Option<Vec<String>> {
    let mut segments: Vec<&str> = path.split("::").collect();
    let mut base = module.to_vec();
    match segments[0] {
        "crate" => base.clear(),
        "self" => {}
        "super" => {
            while segments.first() == Some(&"super") {
                segments.remove(0);
                base.pop();
            }
            base.extend(segments.into_iter().map(str::to_owned));
            return Some(base);
        }
        first => {
            base.push(first.to_owned());
            if !sources.contains_key(&base) {
                return None;
            }
        }
    }
    base.extend(segments.into_iter().skip(1).map(str::to_owned));
    Some(base)
}

/// What each module uses: its `use` declarations (but for what it only passes on from its own
/// parts), and paths in its code.
struct Imports {
    uses: HashMap<Vec<String>, Vec<Vec<String>>>,
    /// Where a name that a module passes on comes from.
    passed_on: HashMap<(Vec<String>, String), Vec<String>>,
}

fn imports(sources: &Sources) -> Imports {
    let mut found = Imports { uses: HashMap::new(), passed_on: HashMap::new() };
    for (module, text) in sources {
        let mut uses = Vec::new();
        let mut rest = String::new();
        for statement in text.split_inclusive(';') {
            let declaration = statement.rfind("use ").filter(|at| {
                let line = statement[..*at].rsplit('\n').next().unwrap_or_default().trim();
                line.is_empty() || line.starts_with("pub")
            });
            let Some(at) = declaration else {
                rest.push_str(statement);
                continue;
            };
            let is_pub =
                statement[..at].rsplit('\n').next().is_some_and(|line| line.contains("pub"));
            rest.push_str(&statement[..at]);
            let mut flat = Vec::new();
            flattened(statement[at + 4..].trim_end_matches(';'), "", &mut flat);
            for (path, name) in flat {
                let Some(path) = absolute(&path, module, sources) else { continue };
                if is_pub {
                    found.passed_on.insert((module.clone(), name), path.clone());
                }
                if !(is_pub && path.starts_with(module)) {
                    uses.push(path);
                }
            }
        }
        let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        for path in rest.split(|c: char| !word(c)).filter(|p| p.contains("::")) {
            let path = path.trim_matches(':');
            let first = path.split("::").next().unwrap_or_default();
            if first.is_empty() || first.contains(':') {
                continue;
            }
            uses.extend(absolute(path, module, sources));
        }
        found.uses.insert(module.clone(), uses);
    }
    found
}

impl Imports {
    /// The module that a path leads to, through whatever passes it on.
    fn target(&self, path: &[String], sources: &Sources) -> Option<Vec<String>> {
        let mut path = path.to_vec();
        for _ in 0..8 {
            let n = (1..=path.len()).rev().find(|n| sources.contains_key(&path[..*n]))?;
            let (module, rest) = (path[..n].to_vec(), path[n..].to_vec());
            let name = rest.first().cloned().unwrap_or_default();
            let Some(from) = self.passed_on.get(&(module.clone(), name)) else {
                return Some(module);
            };
            path = from.iter().cloned().chain(rest.into_iter().skip(1)).collect();
        }
        None
    }

    /// Modules that each module uses.
    fn edges(&self, sources: &Sources) -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
        let of = |module: &Vec<String>| {
            let targets = self.uses[module].iter().filter_map(|p| self.target(p, sources));
            targets.filter(|to| to != module).collect()
        };
        sources.keys().map(|module| (module.clone(), of(module))).collect()
    }
}

/// The modules that can be come to from one.
fn reached<'a>(
    from: &'a Vec<String>,
    edges: &'a BTreeMap<Vec<String>, BTreeSet<Vec<String>>>,
) -> BTreeSet<&'a Vec<String>> {
    let mut found = BTreeSet::new();
    let mut next: Vec<&Vec<String>> = edges[from].iter().collect();
    while let Some(module) = next.pop() {
        if found.insert(module) {
            next.extend(&edges[module]);
        }
    }
    found
}

fn floor(room: &str) -> usize {
    let floor = FLOORS.iter().position(|f| f.contains(&room));
    floor.unwrap_or_else(|| panic!("{room} is on no floor"))
}

#[test]
fn imports_point_down_and_go_in_no_circle() {
    let mut sources = modules();
    for top in ["lib", "main", "cli"] {
        sources.remove(&vec![top.to_owned()]);
    }
    let edges = imports(&sources).edges(&sources);
    let n: usize = edges.values().map(BTreeSet::len).sum();
    assert!(n > 500, "the scan found only {n} imports");
    let mut faults = BTreeSet::new();
    for (from, targets) in &edges {
        for to in targets.iter().filter(|to| to[0] != from[0]) {
            if floor(&to[0]) >= floor(&from[0]) {
                faults.insert(format!("{} uses {}", from.join("::"), to.join("::")));
            }
        }
        for to in targets.iter().filter(|to| reached(to, &edges).contains(from)) {
            faults.insert(format!("a circle: {} and {}", from.join("::"), to.join("::")));
        }
    }
    assert!(faults.is_empty(), "{}", faults.into_iter().collect::<Vec<_>>().join("\n"));
}

/// What another operating system would have otherwise.
const OF_A_PLATFORM: [&str; 6] =
    ["std::os::", "rustix::", "signal::unix", "net::Unix", "target_os", "cfg(unix)"];

#[test]
fn one_room_knows_the_operating_system() {
    let mut faults = Vec::new();
    let mut known = 0;
    for (module, text) in modules() {
        let found: Vec<&str> = OF_A_PLATFORM.into_iter().filter(|w| text.contains(w)).collect();
        match module[0].as_str() {
            "platform" => known += found.len(),
            _ if found.is_empty() => {}
            _ => faults.push(format!("{}: {}", module.join("::"), found.join(", "))),
        }
    }
    assert!(known >= 4, "the room has little of it: {known}");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn numbers_know_no_clock_and_no_files() {
    let mut faults = Vec::new();
    for (module, text) in modules() {
        if PURE.contains(&module[0].as_str()) {
            let found = PURE_FORBIDDEN.iter().filter(|word| text.contains(**word));
            faults.extend(found.map(|word| format!("{}: {word}", module.join("::"))));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Every file that people read: what is generated or somebody else's is left out.
fn readable() -> Vec<PathBuf> {
    let mut all = Vec::new();
    for (dir, endings) in [
        ("src", &["rs", "js", "css", "html"][..]),
        ("tests", &["rs", "py", "mjs"]),
        ("benches", &["rs", "py"]),
        ("fuzz/decoders", &["rs"]),
        ("fuzz/fuzz_targets", &["rs"]),
        ("clients/python/src", &["py"]),
        ("clients/python/examples", &["py"]),
        ("proto", &["proto"]),
        ("deploy", &["toml", "yml", "service", "conf"]),
        ("docs", &["md"]),
        ("models", &["md"]),
    ] {
        endings.iter().for_each(|ending| files(&checkout(dir), ending, &mut all));
    }
    all.retain(|path| !path.components().any(|part| part.as_os_str() == "vendor"));
    let roots =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "Cargo.toml", "Makefile", ".ci/run"];
    let more = ["build.rs", "fuzz/README.md", "fuzz/Cargo.toml", "fuzz/seeds.py"];
    all.extend(roots.iter().chain(&more).chain(&["clients/python/README.md"]).map(|p| checkout(p)));
    all
}

#[test]
fn lines_have_100_columns() {
    let mut faults = Vec::new();
    let all = readable();
    for file in &all {
        for (number, line) in std::fs::read_to_string(file).expect("text").lines().enumerate() {
            // A table's row cannot be broken in Markdown.
            let row = file.extension().is_some_and(|e| e == "md") && line.starts_with('|');
            if line.chars().count() > COLUMNS_MAX && !row {
                faults.push(format!("{}:{}", file.display(), number + 1));
            }
        }
    }
    assert!(all.len() > 350, "only {} files", all.len());
    assert!(faults.is_empty(), "too long:\n{}", faults.join("\n"));
}

/// Functions of a formatted source: name and number of lines.
fn functions(code: &str) -> Vec<(&str, usize)> {
    let mut found = Vec::new();
    let lines: Vec<&str> = code.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let Some((before, after)) = line.split_once("fn ") else { continue };
        let indent = before.len() - before.trim_start().len();
        let qualifiers = ["pub", "async", "const", "unsafe", "extern"];
        let is_item = before.split_whitespace().all(|word| {
            qualifiers.iter().any(|q| word == *q || (*q == "pub" && word.starts_with("pub(")))
        });
        if !is_item || line.trim_start().starts_with("//") {
            continue;
        }
        let end = format!("{}}}", " ".repeat(indent));
        let length = lines[at..].iter().position(|line| *line == end);
        let name = after.split(['(', '<']).next().unwrap_or_default();
        found.extend(length.map(|n| (name, n + 1)));
    }
    found
}

#[test]
fn files_and_functions_stay_readable() {
    let mut paths = Vec::new();
    for dir in ["src", "tests", "benches", "fuzz/decoders", "fuzz/fuzz_targets"] {
        files(&checkout(dir), "rs", &mut paths);
    }
    let (mut faults, mut n) = (Vec::new(), 0);
    for file in &paths {
        let text = code(file);
        let lines = text.lines().count();
        if lines > LINES_MAX {
            faults.push(format!("{}: {lines} lines", file.display()));
        }
        if !file.starts_with(checkout("src")) {
            continue;
        }
        for (name, lines) in functions(&text) {
            n += 1;
            if lines > FUNCTION_LINES_MAX {
                faults.push(format!("{}: `{name}` has {lines} lines", file.display()));
            }
        }
    }
    assert!(paths.len() > 150 && n > 1500, "only {} files, {n} functions", paths.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn tests_wait_for_conditions() {
    let mut paths = Vec::new();
    files(&checkout("tests/it"), "rs", &mut paths);
    let sleeps = |path: &&PathBuf| {
        let own = path.ends_with("wait.rs") || path.ends_with("tidy.rs");
        !own && std::fs::read_to_string(path).expect("text").contains("sleep(")
    };
    let found: Vec<_> = paths.iter().filter(sleeps).collect();
    assert!(found.is_empty(), "sleep, where `wait.rs` has what waits: {found:?}");
}

/// Every crate of the ordinary build with its features as `cargo tree` has them.
fn built(edges: &str) -> BTreeSet<String> {
    let found = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--prefix=none", "--no-dedupe", "--edges", edges])
        .args(["--format", "{p} with {f}"])
        .current_dir(checkout(""))
        .output()
        .expect("cargo runs");
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn tests_build_no_crate_a_second_time() {
    // What a test alone needs may ask a crate of the program for more features; then that crate and
    // all above it, this one too, would be compiled twice.
    let (program, tests) = (built("normal"), built("normal,dev"));
    assert!(program.len() > 200, "{program:?}");
    let twice: Vec<_> = program.difference(&tests).collect();
    assert!(
        twice.is_empty(),
        "with other features in tests, to be named in Cargo.toml: {twice:#?}"
    );
}
