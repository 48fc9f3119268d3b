//! A session's connections apart from the ports: its rig, and where its results are written.

use std::net::UdpSocket;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::task::JoinHandle;

use crate::bus::{Plan, Seek, SessionHandle};
use crate::config::{SessionConfig, SourceConfig};
use crate::intake::{Assembly, Port, PortSettings, Status};
use crate::recording::Recording;
#[cfg(feature = "lsl")]
use crate::rigs::lsl;
use crate::rigs::replay::Player;
use crate::rigs::{blackrock, brand, intan, open_ephys, redis, replay};
use crate::tasks;

/// The session's table with the rig's channel names in the order of the readout. Only names
/// identify channels: an order that was learned from which channel fired first fits the readout
/// that was learned with it, and no other.
///
/// # Errors
/// Names that are not the readout's; none, where only the order would be left.
pub(crate) fn named(mut session: SessionConfig, plan: &Plan) -> Result<SessionConfig> {
    let is_new = plan.is_new_animal();
    let Some((key, electrodes, learns)) = electrodes(&mut session) else { return Ok(session) };
    let names = plan.readout.channels.as_deref();
    if electrodes.is_empty() {
        match names {
            // Without names, a rig that uses numbers continues to.
            Some(names) if learns || names.iter().all(|n| n.parse::<u32>().is_ok()) => {
                *electrodes = names.to_vec();
            }
            Some(_) => tracing::warn!(
                session = session.name,
                "{key}.electrodes: expected the rig's names of the readout's channels, found none: \
                 the rig's channel 1 \
                 is taken for the readout's first, and so on"
            ),
            None if learns && !is_new => bail!(
                "{key}.electrodes: expected the rig's names of the readout's {} channels, in their \
                 order, found none: \
                 channels would be numbered by who fires first, which the readout does not know \
                 (list them as on the \
                 day of the recording; a recording with the key 'channels' gives a model that \
                 knows them; or let the \
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
    // Where no name is the readout's, the list's order decides.
    if strange.len() == electrodes.len() {
        return Ok(session);
    }
    if let Some(first) = strange.first() {
        bail!(
            "{key}.electrodes: expected the readout's channels ({}, ...), found {} others among \
             them ({first}, ...)",
            names[..names.len().min(3)].join(", "),
            strange.len()
        );
    }
    *electrodes = names.to_vec();
    Ok(session)
}

/// The names that a session's rig goes by, with their key, and whether without them the order is
/// learned.
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

/// Describes a session's rig; a recording is read and checked against the session.
///
/// # Errors
/// A recording that does not fit.
pub(crate) fn check_source(session: &SessionConfig, plan: &Plan) -> Result<Option<String>> {
    let session = named(session.clone(), plan)?;
    Ok(match &session.source {
        None => None,
        Some(SourceConfig::OpenEphys(s)) => Some(format!("Open Ephys at {}", s.endpoint)),
        Some(SourceConfig::Brand(s)) => {
            let url = redis::without_password(&s.url);
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

/// What a session needs before its rig is connected to.
#[derive(Default)]
pub(super) struct Prepared {
    /// Connection state of the rig, where the daemon connects to one.
    pub(super) status: Option<Arc<Status>>,
    /// Where it replays a recording.
    pub(super) seek: Option<Arc<Seek>>,
    /// The recording to replay.
    recording: Option<Recording>,
    /// The port at which packets come; `None` also where the machine does not have its address yet.
    packets: Option<UdpSocket>,
}

/// Reads, and takes, what a session's rig needs.
///
/// # Errors
/// A recording that cannot be replayed to it, a port that is another's.
pub(super) fn prepare(
    config: &SessionConfig,
    shape: &PortSettings,
    names: Option<&[String]>,
) -> Result<Prepared> {
    let Some(source) = &config.source else { return Ok(Prepared::default()) };
    let name = config.name.as_str();
    let status = Arc::new(match source {
        SourceConfig::OpenEphys(settings) => open_ephys::status(name, settings),
        SourceConfig::Brand(settings) => brand::status(name, settings),
        SourceConfig::Blackrock(settings) => blackrock::status(name, settings),
        SourceConfig::Intan(settings) => intan::status(name, settings),
        SourceConfig::Replay(settings) => replay::status(name, settings),
        #[cfg(feature = "lsl")]
        SourceConfig::Lsl(settings) => lsl::status(name, settings),
    });
    let mut prepared = Prepared { status: Some(status), ..Prepared::default() };
    match source {
        SourceConfig::Replay(settings) => {
            prepared.seek = Some(Arc::default());
            let recording = replayed(settings, shape.bin_width_s, shape.n_channels, names)?;
            prepared.recording = Some(recording);
        }
        SourceConfig::Blackrock(settings) => {
            prepared.packets = blackrock::bind(settings).with_context(|| {
                format!(
                    "blackrock.listen: cannot listen on {} (another address, or ending what uses \
                     it, helps)",
                    settings.listen
                )
            })?;
        }
        _ => {}
    }
    Ok(prepared)
}

/// Tasks that bring counts in, and those that carry results out.
type SourcesAndOuts = (Vec<JoinHandle<()>>, Vec<JoinHandle<()>>);

/// Starts what the session's table asks for.
pub(super) fn attach(
    config: &SessionConfig,
    session: &Arc<SessionHandle>,
    prepared: Prepared,
) -> SourcesAndOuts {
    let (mut sources, mut outs) = (Vec::new(), Vec::new());
    if let Some(source) = &config.source {
        let syncs = Arc::new(brand::Syncs::default());
        beside(source, session, &syncs, &mut sources, &mut outs);
        let entrance = (session.port.clone(), session.assembly.clone());
        sources.extend(read(source, entrance, prepared, syncs));
    }
    if let Some(settings) = config.redis.clone() {
        outs.push(tasks::spawn(redis::out::run(session.clone(), settings)));
    }
    #[cfg(feature = "lsl")]
    if let Some(settings) = config.notes.clone() {
        sources.push(tasks::spawn(lsl::notes::run(settings, session.clone())));
    }
    let assembly = session.assembly.clone();
    sources.push(tasks::spawn(async move { assembly.keep_closing().await }));
    (sources, outs)
}

/// Starts what goes back to the rig.
fn beside(
    source: &SourceConfig,
    session: &Arc<SessionHandle>,
    syncs: &Arc<brand::Syncs>,
    sources: &mut Vec<JoinHandle<()>>,
    outs: &mut Vec<JoinHandle<()>>,
) {
    match source {
        SourceConfig::OpenEphys(settings) => {
            if let Some(marks) = settings.network_events.clone() {
                sources.push(tasks::spawn(open_ephys::network_events::run(session.clone(), marks)));
            }
        }
        SourceConfig::Brand(settings) => {
            if let Some(stream) = settings.output_stream.clone() {
                let (url, syncs) = (settings.url.clone(), syncs.clone());
                outs.push(tasks::spawn(brand::out::run(session.clone(), url, stream, syncs)));
            }
        }
        #[cfg(feature = "lsl")]
        SourceConfig::Lsl(settings) if settings.outlets => {
            let (listen, lsl_session) = (settings.listen, settings.session_id.clone());
            outs.push(tasks::spawn(lsl::outlets::run(session.clone(), listen, lsl_session)));
        }
        _ => {}
    }
}

/// Starts reading a rig into an entrance; `None` where nothing was prepared for it.
pub(super) fn read(
    source: &SourceConfig,
    (port, assembly): (Arc<Port>, Arc<Assembly>),
    prepared: Prepared,
    syncs: Arc<brand::Syncs>,
) -> Option<JoinHandle<()>> {
    let status = prepared.status?;
    Some(match source.clone() {
        SourceConfig::OpenEphys(settings) => {
            tasks::spawn(open_ephys::run(settings, assembly, status))
        }
        SourceConfig::Brand(settings) => tasks::spawn(brand::run(settings, port, syncs, status)),
        SourceConfig::Blackrock(settings) => {
            tasks::spawn(blackrock::run(settings, prepared.packets, assembly, status))
        }
        SourceConfig::Intan(settings) => tasks::spawn(intan::run(settings, assembly, status)),
        SourceConfig::Replay(settings) => {
            let (recording, seek) = (prepared.recording?, prepared.seek?);
            tasks::spawn(Player { recording, settings, port, seek, status }.run())
        }
        #[cfg(feature = "lsl")]
        SourceConfig::Lsl(settings) => tasks::spawn(lsl::run(settings, port, status)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Config};
    use crate::daemon::plans::plan;

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
        // A list of other names decides by its order.
        assert_eq!(listed(session(some, Some("unit")).expect("a list")), ["A-7", "A-0"]);
        assert_eq!(listed(session(some, None).expect("a list")), ["A-7", "A-0"]);
        let mixed = "[session.intan]\nelectrodes = [\"A-7\", \"B-0\"]\n";
        let error = session(mixed, Some("A-")).expect_err("half known").to_string();
        assert!(error.contains("B-0"), "{error}");
        for source in
            [intan, "[session.open_ephys]\n", "[session.blackrock]\nsplit_sorted = true\n"]
        {
            let error = session(source, None).expect_err("no names at all").to_string();
            assert!(error.contains("who fires first") && error.contains("calibrate_s"), "{error}");
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
            "[[session]]\nname = \"rig\"\nmodel = \"builtin\"\nchannels = 8\ncalibrate_s = \
             30\n{new}"
        );
        let config = config::parse_session(&text).expect("good");
        let all = Config { sessions: vec![config.clone()], ..Config::default() };
        let plan = plan(&all).expect("fits").remove(0);
        let found = named(config, &plan).expect("it learns both");
        assert!(learns_order(&found));
    }
}
