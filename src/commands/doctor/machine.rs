//! The machine: ports, folders, disk, limits, processors.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use super::finding::{Finding, Level};
use crate::config::Config;
use crate::platform;

/// Less room on the journal's disk is a warning, and none to speak of a failure, bytes.
const ROOM_WARNING: u64 = 2 << 30;
const ROOM_FAILURE: u64 = 64 << 20;

/// Ports that the configuration names.
pub(super) fn addresses(config: &Config) -> Vec<(&'static str, SocketAddr)> {
    let all = [
        ("grpc.listen", config.grpc_listen),
        ("zeromq.pull", config.zeromq_pull),
        ("zeromq.publish", config.zeromq_publish),
        ("http.listen", config.http_listen),
    ];
    all.into_iter().filter_map(|(key, address)| Some((key, address?))).collect()
}

/// Whether every port is free.
pub(super) fn ports(config: &Config) -> Vec<Finding> {
    let mut free = Vec::new();
    let mut findings = Vec::new();
    for (key, address) in addresses(config) {
        match TcpListener::bind(address) {
            Ok(_) => free.push(format!("{key} {address}")),
            Err(e) => {
                let port = address.port();
                let cure = match e.kind() {
                    std::io::ErrorKind::AddrInUse => {
                        format!("end what uses it (`ss -ltnp 'sport = :{port}'`) or name another")
                    }
                    std::io::ErrorKind::PermissionDenied => "name a port from 1024 on".into(),
                    _ => "name an address that this computer has".into(),
                };
                findings.push(Finding::bad(Level::Failure, key, format!("{address}: {e}"), cure));
            }
        }
    }
    if !free.is_empty() {
        findings.push(Finding::good("ports", free.join(", ")));
    }
    findings
}

/// The journal's folder can be written, and its disk has room.
pub(super) fn journal(config: &Config) -> Finding {
    let what = "journal";
    let Some(journal) = &config.journal else {
        let cure = "set journal.folder";
        let found = "none: events are kept in memory alone, and decisions not at all";
        return Finding::bad(Level::Warning, what, found, cure);
    };
    let folder = &journal.settings.folder;
    let shown = folder.display();
    let fails = |e: &dyn std::fmt::Display| {
        let cure = "make it this user's (systemd does it by StateDirectory), or name another";
        Finding::bad(Level::Failure, what, format!("{shown}: {e}"), cure)
    };
    // The folder is made when the daemon starts: the nearest that is there has to allow it.
    let there = folder.ancestors().find(|f| f.is_dir()).unwrap_or(Path::new("."));
    let trial = there.join(format!(".regimed-doctor-{}", std::process::id()));
    if let Err(e) = std::fs::write(&trial, b"x").and_then(|()| std::fs::remove_file(&trial)) {
        return fails(&e);
    }
    match platform::room(there) {
        Err(e) => fails(&e),
        Ok(room) => {
            let found = format!("{shown}: {:.1} GB free", room as f64 / 1e9);
            let cure = "make room, or keep less (journal.retain_*)";
            if room < ROOM_FAILURE {
                Finding::bad(Level::Failure, what, found, cure)
            } else if room < ROOM_WARNING {
                Finding::bad(Level::Warning, what, found, cure)
            } else {
                Finding::good(what, found)
            }
        }
    }
}

/// Limits of this user, and the processors.
pub(super) fn limits(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let wanted = config.connections.connections as u64 * addresses(config).len() as u64;
    let files = platform::open_files_max();
    let shown = files.map_or("no limit".into(), |n| n.to_string());
    findings.push(match files {
        Some(n) if n < wanted => Finding::bad(
            Level::Warning,
            "open files",
            format!("{shown} for up to {wanted} connections"),
            "raise it (LimitNOFILE=, ulimit -n), or lower limits.connections_max",
        ),
        _ => Finding::good("open files", shown),
    });
    let realtime = platform::realtime_max();
    findings.push(match realtime {
        Some(0) => Finding::good(
            "real time",
            "ordinary priority (deploy/systemd/realtime.conf where milliseconds matter)",
        ),
        n => Finding::good(
            "real time",
            format!("priority up to {}", n.map_or("99".into(), |n| n.to_string())),
        ),
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let sessions = config.sessions.len();
    findings.push(if cores < 2 {
        Finding::bad(Level::Warning, "processors", "1", "give it two: one fits, the other serves")
    } else {
        Finding::good("processors", format!("{cores} for {sessions} sessions"))
    });
    let governor = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
    if let Ok(found) = std::fs::read_to_string(governor) {
        let found = found.trim().to_owned();
        findings.push(if found == "powersave" {
            let cure = "cpupower frequency-set -g performance";
            Finding::bad(Level::Warning, "processor speed", found, cure)
        } else {
            Finding::good("processor speed", found)
        });
    }
    findings
}
