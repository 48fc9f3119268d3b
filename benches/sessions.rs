//! Question: does one daemon hold 40 sessions of 256 channels at 100 Hz, 16 hypotheses each, on 2
//! cores? Budget: no bin refused, no decision lost, and at most 8 MiB of resident memory for each
//! session. The rigs send over gRPC from this process, on the same cores.
//!
//!     cargo bench --bench sessions [-- 100]

mod support;

use std::time::{Duration, Instant};

use ndarray::Axis;
use regimed::internals::checkpoint;
use regimed::internals::model::RegimePrior;
use regimed::internals::wire::Counts;
use regimed::internals::wire::exchange_reply::Reply;
use regimed::internals::wire::ingest_client::IngestClient;
use support::{Daemon, processor_s, resident_mib};

const SESSIONS: usize = 40;
const CHANNELS: usize = 256;
const HYPOTHESES: usize = 16;
const RATE_HZ: f64 = 100.0;
const SECONDS: u64 = 20;
const MIB_MAX: f64 = 8.0;

/// The built-in model with a readout of more channels and as many hypotheses as the budget names.
fn wide_model(folder: &std::path::Path) {
    let mut built_in = regimed::internals::checkpoint::builtin().expect("the built-in model");
    let readout = &mut built_in.model.readouts[0];
    let again: Vec<usize> = (0..readout.n_channels()).cycle().take(CHANNELS).collect();
    readout.loading = readout.loading.select(Axis(0), &again);
    readout.baseline = readout.baseline.select(Axis(0), &again);
    let components = readout.prior.components.clone();
    let mut more: Vec<_> = components.into_iter().cycle().take(HYPOTHESES).collect();
    more.iter_mut().for_each(|c| c.weight = 1.0 / HYPOTHESES as f32);
    readout.prior = RegimePrior { components: more };
    checkpoint::save(folder, &built_in.model, &built_in.provenance).expect("a model");
}

async fn rig(address: String, session: String) -> (u64, u64, Vec<u64>) {
    let bins = SECONDS * RATE_HZ as u64;
    let start = tokio::time::Instant::now();
    let outbound = futures_util::stream::unfold(0u64, move |bin| {
        let session = session.clone();
        async move {
            if bin == bins {
                return None;
            }
            tokio::time::sleep_until(start + Duration::from_secs_f64(bin as f64 / RATE_HZ)).await;
            let value = |c: u64| u32::from((c * 7 + bin * 13).is_multiple_of(6));
            let counts = Counts {
                session,
                sequence: bin,
                n_channels: CHANNELS as u32,
                bin_width_s: 0.01,
                counts: (0..CHANNELS as u64).map(value).collect(),
                ..Counts::default()
            };
            Some((counts, bin + 1))
        }
    });
    let mut client = IngestClient::connect(address).await.expect("connected");
    let mut replies = client.exchange(outbound).await.expect("accepted").into_inner();
    let (mut refused, mut latencies) = (0, Vec::new());
    while let Some(reply) = replies.message().await.expect("no error") {
        match reply.reply {
            Some(Reply::Decision(d)) => latencies.push(d.latency_ns),
            Some(Reply::Rejection(_)) => refused += 1,
            _ => {}
        }
    }
    (bins - refused - latencies.len() as u64, refused, latencies)
}

fn start(sessions: usize, folder: &std::path::Path) -> Daemon {
    let mut config = String::from(
        "[grpc]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"127.0.0.1:0\"\n\
         [zeromq]\npull = \"\"\npublish = \"\"\n",
    );
    for i in 0..sessions {
        config += &format!(
            "[[session]]\nname = \"rig{i}\"\nmodel = \"{}\"\nreadout = \"0\"\n",
            folder.display()
        );
    }
    Daemon::start(folder, &config)
}

/// What a counter of the daemon says, over all its labels.
fn counted(http: &str, name: &str) -> f64 {
    let text = support::get(http, "/metrics");
    let of = text.lines().filter(|l| l.starts_with(name));
    of.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    wide_model(folder.path());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let asked = std::env::args().skip(1).find_map(|a| a.parse().ok());
    let many = asked.unwrap_or(SESSIONS);
    let mut resident = Vec::new();
    for sessions in [1, many] {
        let daemon = start(sessions, folder.path());
        let (pid, http) = (daemon.child.id(), daemon.address("http"));
        let grpc = format!("http://{}", daemon.address("grpc"));
        let began = Instant::now();
        let before = processor_s(pid);
        let found = runtime.block_on(async {
            let rigs: Vec<_> =
                (0..sessions).map(|i| tokio::spawn(rig(grpc.clone(), format!("rig{i}")))).collect();
            let mut found = Vec::new();
            for rig in rigs {
                found.push(rig.await.expect("a rig"));
            }
            found
        });
        let seconds = began.elapsed().as_secs_f64();
        let busy = (processor_s(pid) - before) / seconds;
        resident.push(resident_mib(pid));
        let lost: u64 = found.iter().map(|f| f.0).sum();
        let refused: u64 = found.iter().map(|f| f.1).sum();
        let missing = counted(&http, "regimed_bins_missing_total");
        let dropped = counted(&http, "regimed_decisions_lost_total");
        let mut latencies: Vec<u64> = found.into_iter().flat_map(|f| f.2).collect();
        latencies.sort_unstable();
        let at = |q: f64| latencies[(q * (latencies.len() - 1) as f64) as usize] as f64 * 1e-3;
        println!(
            "{sessions:>3} sessions of {CHANNELS} channels, {HYPOTHESES} hypotheses, {RATE_HZ} Hz, \
             {seconds:.0} s: {} decisions, lost {lost}, refused {refused}, missing {missing}, \
             decisions dropped {dropped}",
            latencies.len()
        );
        println!(
            "    in the daemon p50 {:.0}, p99 {:.0}, max {:.0} us; {busy:.2} cores; resident {:.0} \
             MiB",
            at(0.5),
            at(0.99),
            at(1.0),
            resident[resident.len() - 1]
        );
    }
    let each = (resident[1] - resident[0]) / (many - 1) as f64;
    println!("resident for each session added {each:.2} MiB / {MIB_MAX} = {:.2}", each / MIB_MAX);
}
