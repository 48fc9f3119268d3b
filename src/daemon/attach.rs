//! What a session has beside its ports: the rig that the daemon goes to, and where its results are written.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::task::JoinHandle;

use super::models::Plan;
use crate::config::{SessionConfig, SourceConfig};
use crate::publish::{SessionBus, brand as brand_out, network_events, redis as redis_out};
use crate::recording::Recording;
use crate::source::replay::{Player, Seek};
use crate::source::{Entry, PortSettings, Status, blackrock, brand, intan, open_ephys, replay};

/// Tasks of a session.
#[derive(Default)]
pub(super) struct Attached {
    pub(super) status: Option<Arc<Status>>,
    pub(super) seek: Option<Arc<Seek>>,
    pub(super) sources: Vec<JoinHandle<()>>,
    pub(super) outs: Vec<JoinHandle<()>>,
}

/// The session's table with its rig's names for the channels in the order of its readout. Names are what tells one
/// channel from another: an order learned from who fires first is right for a readout that is learned with it, and for no
/// other.
///
/// # Errors
/// Names that are not the readout's; none, where only the order would be left.
pub(super) fn named(mut session: SessionConfig, plan: &Plan) -> Result<SessionConfig> {
    let is_new = plan.is_new_animal();
    let Some((key, electrodes, learns)) = electrodes(&mut session) else { return Ok(session) };
    let names = plan.readout.channels.as_deref();
    if electrodes.is_empty() {
        match names {
            // A rig that goes by numbers goes on to do so, where the names are none.
            Some(names) if learns || names.iter().all(|n| n.parse::<u32>().is_ok()) => {
                *electrodes = names.to_vec();
            }
            Some(_) => tracing::warn!(
                session = session.name,
                "{key}.electrodes: expected the rig's names of the readout's channels, found none: the rig's channel 1 \
                 is taken for the readout's first, and so on"
            ),
            None if learns && !is_new => bail!(
                "{key}.electrodes: expected the rig's names of the readout's {} channels, in their order, found none: \
                 channels would be numbered by who fires first, which the readout does not know (list them as on the \
                 day of the recording; a recording with the key 'channels' gives a model that knows them; or let the \
                 session calibrate itself as a new animal with calibrate_s)",
                plan.readout.n_channels()
            ),
            None => {}
        }
        return Ok(session);
    }
    let Some(names) = names else { return Ok(session) };
    let strange: Vec<&str> =
        electrodes.iter().filter(|e| !names.contains(e)).map(String::as_str).collect();
    // Where none is the readout's, the list says which is which by its order.
    if strange.len() == electrodes.len() {
        return Ok(session);
    }
    if let Some(first) = strange.first() {
        bail!(
            "{key}.electrodes: expected the readout's channels ({}, ...), found {} others among them ({first}, ...)",
            names[..names.len().min(3)].join(", "),
            strange.len()
        );
    }
    *electrodes = names.to_vec();
    Ok(session)
}

/// The names that a session's rig goes by, with their key, and whether without them the order is learned.
fn electrodes(session: &mut SessionConfig) -> Option<(&'static str, &mut Vec<String>, bool)> {
    match session.source.as_mut()? {
        SourceConfig::OpenEphys(s) => {
            let learns = s.threshold_sd.is_none();
            Some(("open_ephys", &mut s.electrodes, learns))
        }
        SourceConfig::Intan(s) => Some(("intan", &mut s.electrodes, true)),
        SourceConfig::Blackrock(s) => Some(("blackrock", &mut s.electrodes, s.split_sorted)),
        _ => None,
    }
}

/// Whether a session's channels are numbered by who fires first.
pub(super) fn learns_order(session: &SessionConfig) -> bool {
    let mut session = session.clone();
    electrodes(&mut session).is_some_and(|(_, electrodes, learns)| learns && electrodes.is_empty())
}

/// A session's recording, in its bins and channels.
///
/// # Errors
/// What of the file does not fit.
fn replayed(
    settings: &replay::Settings,
    bin_width_s: f64,
    n_channels: usize,
    names: Option<&[String]>,
) -> Result<Recording> {
    let mut recording =
        replay::load(&settings.file, bin_width_s).context("cannot replay this recording")?;
    if let Some(names) = names {
        recording.arrange(names)?;
    }
    if recording.n_channels != n_channels {
        bail!(
            "{}: expected {n_channels} channels as in the session's readout, found {}",
            settings.file.display(),
            recording.n_channels
        );
    }
    Ok(recording)
}

/// What a session's rig is, for people; a recording is read and held against the session.
///
/// # Errors
/// A recording that does not fit.
pub fn check_source(session: &SessionConfig, plan: &Plan) -> Result<Option<String>> {
    let session = named(session.clone(), plan)?;
    Ok(match &session.source {
        None => None,
        Some(SourceConfig::OpenEphys(s)) => Some(format!("Open Ephys at {}", s.endpoint)),
        Some(SourceConfig::Brand(s)) => {
            let url = crate::source::redis::without_password(&s.url);
            Some(format!("BRAND's stream '{}' at {url}", s.stream))
        }
        Some(SourceConfig::Blackrock(s)) => Some(format!("Blackrock's packets at {}", s.listen)),
        Some(SourceConfig::Intan(s)) => Some(format!("Intan RHX at {}", s.address)),
        Some(SourceConfig::Replay(s)) => {
            let names = plan.readout.channels.as_deref();
            let (width, n) = (plan.model.bin_width_s, plan.readout.n_channels());
            let recording = replayed(s, width, n, names)?;
            Some(format!("{} bins of {}", recording.n_bins(), s.file.display()))
        }
        #[cfg(feature = "lsl")]
        Some(SourceConfig::Lsl(s)) => Some(format!("LSL stream '{}{}'", s.name, s.kind)),
    })
}

/// What a session's rig needs before it can be gone to.
pub(super) enum Ready {
    Nothing,
    /// What is replayed.
    Recording(Recording),
    /// The port at which packets come; `None` where the machine does not have its address yet.
    Port(Option<std::net::UdpSocket>),
}

/// Reads, and takes, what a session's rig needs.
///
/// # Errors
/// A recording that cannot be replayed to it, a port that is another's.
pub(super) fn prepare(
    config: &SessionConfig,
    shape: &PortSettings,
    names: Option<&[String]>,
) -> Result<Ready> {
    Ok(match &config.source {
        Some(SourceConfig::Replay(settings)) => {
            Ready::Recording(replayed(settings, shape.bin_width_s, shape.n_channels, names)?)
        }
        Some(SourceConfig::Blackrock(settings)) => {
            Ready::Port(blackrock::bind(settings).with_context(|| {
                format!(
                    "blackrock.listen: cannot listen on {} (another address, or ending what uses it, helps)",
                    settings.listen
                )
            })?)
        }
        _ => Ready::Nothing,
    })
}

/// Starts what the session's table asks for, of which `ready` was prepared.
pub(super) fn attach(
    config: &SessionConfig,
    entry: &Entry,
    bus: &Arc<SessionBus>,
    ready: Ready,
) -> Attached {
    let mut attached = Attached::default();
    match &config.source {
        Some(SourceConfig::OpenEphys(settings)) => {
            let status = Arc::new(open_ephys::status(&config.name, settings));
            let (assembly, settings) = (entry.assembly.clone(), settings.clone());
            if let Some(marks) = settings.network_events.clone() {
                attached.sources.push(tokio::spawn(network_events::run(bus.clone(), marks)));
            }
            let task = open_ephys::run(settings, assembly, status.clone());
            attached.sources.push(tokio::spawn(task));
            attached.status = Some(status);
        }
        Some(SourceConfig::Brand(settings)) => {
            let status = Arc::new(brand::status(&config.name, settings));
            let syncs = Arc::new(brand::Syncs::default());
            if let Some(stream) = settings.output_stream.clone() {
                let url = settings.url.clone();
                let task = brand_out::run(bus.clone(), url, stream, syncs.clone());
                attached.outs.push(tokio::spawn(task));
            }
            let task = brand::run(settings.clone(), entry.port.clone(), syncs, status.clone());
            attached.sources.push(tokio::spawn(task));
            attached.status = Some(status);
        }
        Some(SourceConfig::Blackrock(settings)) => {
            let status = Arc::new(blackrock::status(&config.name, settings));
            let (settings, assembly) = (settings.clone(), entry.assembly.clone());
            let bound = if let Ready::Port(bound) = ready { bound } else { None };
            let task = blackrock::run(settings, bound, assembly, status.clone());
            attached.sources.push(tokio::spawn(task));
            attached.status = Some(status);
        }
        Some(SourceConfig::Intan(settings)) => {
            let status = Arc::new(intan::status(&config.name, settings));
            let (settings, assembly) = (settings.clone(), entry.assembly.clone());
            attached.sources.push(tokio::spawn(intan::run(settings, assembly, status.clone())));
            attached.status = Some(status);
        }
        Some(SourceConfig::Replay(settings)) => {
            let Ready::Recording(recording) = ready else { return attached };
            let status = Arc::new(replay::status(&config.name, settings));
            let seek = Arc::new(Seek::default());
            let player = Player {
                recording,
                settings: settings.clone(),
                port: entry.port.clone(),
                seek: seek.clone(),
                status: status.clone(),
            };
            attached.sources.push(tokio::spawn(player.run()));
            attached.seek = Some(seek);
            attached.status = Some(status);
        }
        #[cfg(feature = "lsl")]
        Some(SourceConfig::Lsl(settings)) => {
            use crate::source::lsl;
            let status = Arc::new(lsl::status(&config.name, settings));
            let settings = settings.clone();
            if settings.outlets {
                let (listen, session) = (settings.listen, settings.session_id.clone());
                let task = crate::publish::lsl::run(bus.clone(), listen, session);
                attached.outs.push(tokio::spawn(task));
            }
            let task = lsl::run(settings, entry.port.clone(), status.clone());
            attached.sources.push(tokio::spawn(task));
            attached.status = Some(status);
        }
        None => {}
    }
    if let Some(settings) = config.redis.clone() {
        attached.outs.push(tokio::spawn(redis_out::run(bus.clone(), settings)));
    }
    attached
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Config};
    use crate::daemon::plan;

    /// A session of the built-in model whose readout knows its channels, or does not.
    fn session(source: &str, names: Option<&str>) -> Result<SessionConfig> {
        let text =
            format!("[[session]]\nname = \"rig\"\nmodel = \"builtin\"\nreadout = \"0\"\n{source}");
        let config = config::parse_session(&text)?;
        let all = Config { sessions: vec![config.clone()], ..Config::default() };
        let mut plan = plan(&all)?.remove(0);
        let n = plan.readout.n_channels();
        plan.readout.channels = names.map(|of| (0..n).map(|i| format!("{of}{i}")).collect());
        named(config, &plan)
    }

    fn listed(mut session: SessionConfig) -> Vec<String> {
        electrodes(&mut session).map(|(_, list, _)| list.clone()).unwrap_or_default()
    }

    #[test]
    fn channels_go_by_name_and_no_order_is_made_up() {
        let intan = "[session.intan]\n";
        let from_model = listed(session(intan, Some("A-")).expect("the readout's names"));
        assert_eq!((from_model.len(), from_model[3].as_str()), (96, "A-3"));
        // In whatever order they are listed, a name is its channel's.
        let some = "[session.intan]\nelectrodes = [\"A-7\", \"A-0\"]\n";
        assert_eq!(listed(session(some, Some("A-")).expect("known"))[7], "A-7");
        // A list of other names says which is which by its order.
        assert_eq!(listed(session(some, Some("unit")).expect("a list")), ["A-7", "A-0"]);
        assert_eq!(listed(session(some, None).expect("a list")), ["A-7", "A-0"]);
        let mixed = "[session.intan]\nelectrodes = [\"A-7\", \"B-0\"]\n";
        let said = session(mixed, Some("A-")).expect_err("half known").to_string();
        assert!(said.contains("B-0"), "{said}");
        for source in
            [intan, "[session.open_ephys]\n", "[session.blackrock]\nsplit_sorted = true\n"]
        {
            let said = session(source, None).expect_err("no names at all").to_string();
            assert!(said.contains("who fires first") && said.contains("calibrate_s"), "{said}");
        }
        // Numbers are an order of their own.
        for source in [
            "[session.blackrock]\n",
            "[session.open_ephys]\nthreshold_sd = -4.5\n",
            "[session.brand]\n",
        ] {
            assert!(session(source, None).is_ok(), "{source}");
        }
        let new = "[session.intan]\n".to_owned();
        let text = format!(
            "[[session]]\nname = \"rig\"\nmodel = \"builtin\"\nchannels = 8\ncalibrate_s = 30\n{new}"
        );
        let config = config::parse_session(&text).expect("good");
        let all = Config { sessions: vec![config.clone()], ..Config::default() };
        let plan = plan(&all).expect("fits").remove(0);
        let found = named(config, &plan).expect("it learns both");
        assert!(learns_order(&found));
    }
}
