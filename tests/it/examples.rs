//! The examples in deploy/ are configurations that `serve --check` accepts.

use crate::rig::{arg, checkout, recording, run, spikes};

#[test]
fn every_example_passes_serve_check() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = recording(folder.path(), &spikes(100));
    std::fs::rename(file, folder.path().join("recording.npz")).expect("renamed");
    let mut seen = 0;
    for entry in std::fs::read_dir(checkout("deploy/examples")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let here = folder.path().join(&name);
        std::fs::copy(&path, &here).expect("copied");
        let (good, shown, error) = run(&["serve", "--check", "--config", arg(&here)]);
        if name == "lsl.toml" && !cfg!(feature = "lsl") {
            assert!(!good && error.contains("--features lsl"), "{name}: {shown}{error}");
        } else {
            assert!(good && shown.contains("session 'rig'"), "{name}: {shown}{error}");
        }
        // Its page is there, and leads back to it.
        let page = std::fs::read_to_string(&path).expect("text");
        let page =
            page.split("docs/rigs/").nth(1).and_then(|p| p.split(')').next()).expect("a page");
        let page = std::fs::read_to_string(checkout("docs/rigs").join(page)).expect("a page");
        assert!(page.contains(&format!("deploy/examples/{name}")), "{name}");
        seen += 1;
    }
    assert!(seen >= 8, "{seen} examples");
    let (good, shown, error) =
        run(&["serve", "--check", "--config", arg(&checkout("deploy/regimed.toml"))]);
    assert!(good, "{shown}{error}");
}
