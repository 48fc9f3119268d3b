//! What is deployed: each file by the tool that would read it, where that is here.

use std::process::{Command, Output};

use crate::peer::python;
use crate::rig::{arg, binary, checkout, run, skipped};

fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn the_unit_is_one_that_systemd_takes_and_is_hardened() {
    let test = "the_unit_is_one_that_systemd_takes_and_is_hardened";
    let folder = tempfile::tempdir().expect("a folder");
    let unit = folder.path().join("regimed.service");
    let text = std::fs::read_to_string(checkout("deploy/systemd/regimed.service")).expect("text");
    // Where it would be installed there is nothing; nor are its man pages.
    let here =
        text.replace("/usr/bin/regimed", binary()).replace("Documentation=man:regimed(1)\n", "");
    assert_ne!(text, here);
    std::fs::write(&unit, here).expect("written");
    let analyze = |args: &[&str]| Command::new("systemd-analyze").args(args).output();
    let Ok(security) =
        analyze(&["security", "--offline=true", "--no-pager", "--threshold=20", arg(&unit)])
    else {
        skipped(test, "systemd-analyze is not here");
        return;
    };
    // The exposure is at most 2.0.
    let shown = text_of(&security);
    assert!(security.status.success() && shown.contains("Overall exposure level"), "{shown}");
    println!("{}", shown.lines().rfind(|l| l.contains("Overall")).unwrap_or_default());
    let drop_in = folder.path().join("regimed.service.d");
    std::fs::create_dir(&drop_in).expect("made");
    std::fs::copy(checkout("deploy/systemd/realtime.conf"), drop_in.join("realtime.conf"))
        .expect("copied");
    let verified = analyze(&["verify", arg(&unit)]).expect("it runs");
    let shown = text_of(&verified);
    let ours = shown.lines().any(|l| l.contains("regimed") || l.contains("realtime.conf"));
    assert!(!ours, "{shown}");
}

#[test]
fn compose_reads_its_file() {
    let file = checkout("deploy/docker/compose.yml");
    let run = |program: &str, first: &[&str]| {
        let args = [first, &["-f", arg(&file), "config"]].concat();
        Command::new(program).args(args).output()
    };
    let plugin = run("docker", &["compose"]).ok().filter(|o| o.status.success());
    let Some(done) = plugin.or_else(|| run("docker-compose", &[]).ok()) else {
        skipped("compose_reads_its_file", "neither docker compose nor docker-compose is here");
        return;
    };
    let shown = text_of(&done);
    assert!(done.status.success(), "{shown}");
    for service in ["regimed:", "prometheus:", "grafana:"] {
        assert!(shown.contains(service), "{shown}");
    }
    // What it mounts is in the checkout.
    for path in ["deploy/regimed.toml", "deploy/prometheus", "deploy/grafana/provisioning"] {
        assert!(checkout(path).exists() && shown.contains(path), "{path}: {shown}");
    }
}

#[test]
fn kubernetes_manifests_keep_to_the_schemas() {
    let test = "kubernetes_manifests_keep_to_the_schemas";
    let Some(python) = python(test, &["kubernetes_validate", "yaml"]) else { return };
    for (file, kinds) in [
        ("regimed.yml", "ConfigMap Service StatefulSet NetworkPolicy PodMonitor"),
        ("atlas.yml", "PersistentVolumeClaim Job"),
    ] {
        let manifests = checkout("deploy/kubernetes").join(file);
        let done = Command::new(&python)
            .args([arg(&checkout("tests/interop/manifests.py")), arg(&manifests)])
            .output()
            .expect("python runs");
        assert!(done.status.success(), "{}", text_of(&done));
        assert_eq!(text_of(&done).trim(), kinds);
    }
}

#[test]
fn the_fleets_configuration_passes_serve_check() {
    let text = std::fs::read_to_string(checkout("deploy/kubernetes/regimed.yml")).expect("text");
    let inside = text.split("regimed.toml: |\n").nth(1).expect("a file");
    let lines = inside.lines().take_while(|l| l.starts_with("    "));
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("made");
    std::fs::write(place("tls.crt"), made.cert.pem()).expect("written");
    std::fs::write(place("tls.key"), made.signing_key.serialize_pem()).expect("written");
    for role in ["read", "ingest", "control"] {
        std::fs::write(
            place(role),
            format!("a token for {role} of many letters\n").replace(' ', "-"),
        )
        .expect("written");
    }
    let config = lines.map(|l| l.trim_start().to_owned() + "\n").collect::<String>();
    let config = config
        .replace("/etc/regimed/tls", arg(folder.path()))
        .replace("/etc/regimed/tokens", arg(folder.path()))
        .replace("@POD@", "regimed-0");
    let file = place("regimed.toml");
    std::fs::write(&file, config).expect("written");
    let (good, shown, error) = run(&["serve", "--check", "--config", arg(&file)]);
    assert!(good && shown.contains("regimed-0"), "{shown}{error}");
}
