//! The live picture: on a terminal with ratatui, in plain lines otherwise.

mod numbers;
mod paint;
mod small;

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Result;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, KeyCode, KeyModifiers};

use crate::regime::Label;
use crate::wire::{Decision, Event, Session};

const EVENTS_KEPT: usize = 500;
/// Bins over which rate and latency are shown.
const RECENT: usize = 512;
/// Readings of the dynamics in a trace: 20 s of the usual ten a second.
const TRACE: usize = 200;
/// Between two frames.
const FRAME: Duration = Duration::from_millis(66);
/// Between two plain lines of a session.
const LINE: Duration = Duration::from_secs(1);

/// Last known state of one session.
#[derive(Default)]
struct Seen {
    newest: Option<Decision>,
    truth: Option<String>,
    recent: VecDeque<(Instant, u64)>,
    bins: u64,
    /// Spectral radii, and exponents by the counts, as they were read.
    radius: VecDeque<f64>,
    exponent: VecDeque<f64>,
    /// Bin of the newest reading.
    read: Option<u64>,
    shown: Option<Instant>,
    /// Its accounts, and what is wrong with it, as it was listed last.
    described: Option<Session>,
}

fn push<T>(to: &mut VecDeque<T>, value: T, most: usize) {
    if to.len() == most {
        to.pop_front();
    }
    to.push_back(value);
}

impl Seen {
    fn take(&mut self, decision: Decision, truth: Option<&str>) {
        push(&mut self.recent, (Instant::now(), decision.latency_ns), RECENT);
        self.bins += 1;
        self.truth = truth.map(str::to_owned);
        if let Some(m) = decision.metrics.as_ref().filter(|m| self.read != Some(m.bin)) {
            self.read = Some(m.bin);
            push(&mut self.radius, f64::from(m.spectral_radius), TRACE);
            let exponent = m.edge.and_then(|e| e.exponent_driven_per_s);
            push(&mut self.exponent, exponent.map_or(f64::NAN, |e| f64::from(e.mean)), TRACE);
        }
        self.newest = Some(decision);
    }

    /// Bins per second and latency percentiles over the recent bins.
    fn pace(&self) -> (f64, u64, u64) {
        let (Some(first), Some(last)) = (self.recent.front(), self.recent.back()) else {
            return (0.0, 0, 0);
        };
        let seconds = last.0.duration_since(first.0).as_secs_f64();
        let mut latencies: Vec<u64> = self.recent.iter().map(|r| r.1).collect();
        latencies.sort_unstable();
        let at = |q: f64| latencies[(q * (latencies.len() - 1) as f64) as usize] / 1000;
        let rate = if seconds > 0.0 { (self.recent.len() - 1) as f64 / seconds } else { 0.0 };
        (rate, at(0.5), at(0.99))
    }

    fn line(&self, lost: u64) -> Option<String> {
        let d = self.newest.as_ref()?;
        let (rate, p50, p99) = self.pace();
        let best = d.posterior.iter().copied().fold(0.0f32, f32::max);
        let truth = self.truth.as_ref().map_or(String::new(), |t| format!(" (truth {t})"));
        let metrics = d.metrics.as_ref().map_or(String::new(), |m| {
            format!(
                ", radius {:.3}, abscissa {:+.2} /s",
                m.spectral_radius, m.spectral_abscissa_per_s
            )
        });
        Some(format!(
            "bin {:>7} {}: {}{}{truth} p {best:.2}, novelty {:.2}{metrics}; {rate:.0} bins/s, \
             latency p50 {p50} p99 {p99} us{}",
            d.bin,
            d.session,
            shown(&d.regime),
            if d.untrusted { " (not calibrated)" } else { "" },
            d.novelty,
            if lost > 0 { format!(", lost {lost}") } else { String::new() },
        ))
    }
}

/// The picture and its data.
pub(crate) struct Picture {
    title: String,
    /// Lines above everything else, e.g. endpoints.
    notes: Vec<String>,
    /// Why nothing comes, where nothing does.
    trouble: Option<String>,
    sessions: BTreeMap<String, Seen>,
    /// The session that is shown in full.
    chosen: Option<String>,
    /// Session and line of each, the newest last.
    events: VecDeque<(String, String)>,
    /// Whether the events of all sessions are shown.
    all_events: bool,
    /// Events scrolled past.
    scrolled: usize,
    paused: bool,
    lost: u64,
    colour: bool,
    screen: Option<DefaultTerminal>,
    drawn: Instant,
    /// Standard output is closed: its reader has gone.
    unread: bool,
    ended: bool,
}

impl Picture {
    /// On a terminal, unless `plain`.
    pub(crate) fn new(title: String, notes: Vec<String>, plain: bool) -> Self {
        let terminal = !plain && std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
        // Where the terminal does not take it, lines do.
        let screen = if terminal { ratatui::try_init().ok() } else { None };
        let mut picture = Self::of(title, notes);
        picture.screen = screen;
        if picture.screen.is_none() {
            let head: Vec<String> =
                std::iter::once(&picture.title).chain(&picture.notes).cloned().collect();
            head.iter().for_each(|line| picture.print(line));
        }
        picture
    }

    fn of(title: String, notes: Vec<String>) -> Self {
        Self {
            title,
            notes,
            trouble: None,
            sessions: BTreeMap::new(),
            chosen: None,
            events: VecDeque::new(),
            all_events: false,
            scrolled: 0,
            paused: false,
            lost: 0,
            // https://no-color.org
            colour: std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
            screen: None,
            drawn: Instant::now(),
            unread: false,
            ended: false,
        }
    }

    /// Prints a line, until the reader has gone.
    fn print(&mut self, line: &str) {
        let mut out = std::io::stdout().lock();
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            self.unread = true;
        }
    }

    /// Adds a session before its first update.
    pub(crate) fn session(&mut self, name: &str) {
        self.sessions.entry(name.to_owned()).or_default();
        self.chosen.get_or_insert_with(|| name.to_owned());
    }

    /// A session as it is listed: what became of its bins, and what is wrong.
    pub(crate) fn described(&mut self, session: Session) {
        if self.paused {
            return;
        }
        self.session(&session.name);
        if let Some(seen) = self.sessions.get_mut(&session.name) {
            seen.described = Some(session);
        }
    }

    /// The events that are asked for, the newest first.
    fn wanted_events(&self) -> impl Iterator<Item = &(String, String)> {
        let wanted = |e: &&(String, String)| self.all_events || Some(&e.0) == self.chosen.as_ref();
        self.events.iter().rev().filter(wanted)
    }

    /// Why nothing comes; or that all is well again.
    pub(crate) fn trouble(&mut self, what: Option<String>) {
        if self.screen.is_none()
            && let Some(what) = &what
        {
            self.print(&what.clone());
        }
        self.trouble = what;
    }

    /// Another decision, with the truth where it is known.
    pub(crate) fn decision(&mut self, decision: Decision, lost: u64, truth: Option<&str>) {
        self.lost = lost;
        if self.paused {
            return;
        }
        self.session(&decision.session);
        if let Some(seen) = self.sessions.get_mut(&decision.session) {
            seen.take(decision, truth);
        }
    }

    /// Shows another event.
    pub(crate) fn event(&mut self, e: &Event) {
        let from = if e.from.is_empty() { "(start)" } else { &e.from };
        let line = format!(
            "#{:<4} bin {:>7}  {from} -> {}  p {:.2}, since bin {} ({} to {})",
            e.event_sequence,
            e.bin,
            e.to,
            e.probability,
            e.onset_bin,
            e.onset_low_bin,
            e.onset_high_bin
        );
        if self.screen.is_none() {
            self.print(&format!("event {} {line}", e.session));
        }
        push(&mut self.events, (e.session.clone(), line), EVENTS_KEPT);
    }

    /// Draws when it is time; false when the user quits (q, Esc or Ctrl-C in raw mode) or the
    /// reader has gone.
    pub(crate) fn refresh(&mut self) -> Result<bool> {
        if self.screen.is_some() {
            if self.drawn.elapsed() < FRAME {
                return Ok(true);
            }
            self.drawn = Instant::now();
            while event::poll(Duration::ZERO)? {
                if let event::Event::Key(key) = event::read()?
                    && !self.key(key.code, key.modifiers)
                {
                    return Ok(false);
                }
            }
            self.draw()?;
        } else {
            let lost = self.lost;
            let due = |seen: &Seen| seen.shown.is_none_or(|at| at.elapsed() >= LINE);
            let mut lines = Vec::new();
            for seen in self.sessions.values_mut().filter(|seen| due(seen) && seen.bins > 0) {
                // The first line comes once there is a pace.
                if seen.shown.is_some() {
                    lines.extend(seen.line(lost));
                }
                seen.shown = Some(Instant::now());
            }
            lines.iter().for_each(|line| self.print(line));
        }
        Ok(!self.unread)
    }

    /// What a key does; false where it leaves.
    fn key(&mut self, code: KeyCode, modifiers: KeyModifiers) -> bool {
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => return false,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('a') => self.all_events = !self.all_events,
            KeyCode::Right | KeyCode::Tab | KeyCode::Char('l') => self.step(1),
            KeyCode::Left | KeyCode::BackTab | KeyCode::Char('h') => self.step(-1),
            KeyCode::Char(digit @ '1'..='9') => {
                let at = digit as usize - '1' as usize;
                if let Some(name) = self.sessions.keys().nth(at) {
                    self.choose(name.clone());
                }
            }
            KeyCode::Down | KeyCode::Char('j') => self.scroll(1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll(-1),
            KeyCode::PageDown => self.scroll(10),
            KeyCode::PageUp => self.scroll(-10),
            KeyCode::Home => self.scrolled = 0,
            _ => {}
        }
        true
    }

    fn choose(&mut self, name: String) {
        self.chosen = Some(name);
        self.scrolled = 0;
    }

    fn step(&mut self, by: isize) {
        let names: Vec<&String> = self.sessions.keys().collect();
        let at = names.iter().position(|n| Some(*n) == self.chosen.as_ref()).unwrap_or(0);
        let next = at.saturating_add_signed(by).min(names.len().saturating_sub(1));
        if let Some(&name) = names.get(next) {
            self.choose(name.clone());
        }
    }

    fn scroll(&mut self, by: isize) {
        self.scrolled =
            self.scrolled.saturating_add_signed(by).min(self.events.len().saturating_sub(1));
    }

    fn draw(&mut self) -> Result<()> {
        let Some(mut screen) = self.screen.take() else { return Ok(()) };
        let result = screen.draw(|frame| self.paint(frame)).map(drop);
        self.screen = Some(screen);
        Ok(result?)
    }

    /// Gives the terminal back.
    pub(crate) fn end(&mut self) {
        if self.screen.take().is_some() && !self.ended {
            ratatui::restore();
        }
        self.ended = true;
    }
}

impl Drop for Picture {
    fn drop(&mut self) {
        self.end();
    }
}

/// A label, or a placeholder.
fn shown(regime: &str) -> &str {
    match regime {
        "" => "(no label yet)",
        Label::UNKNOWN => "UNKNOWN DYNAMICS",
        r => r,
    }
}

/// Writes a line of JSON to standard output; false when the reader has gone.
///
/// # Errors
/// Standard output fails otherwise.
pub(crate) fn json_line(value: &impl serde::Serialize) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    let written = serde_json::to_string(value).map_err(std::io::Error::from);
    match written.and_then(|line| writeln!(out, "{line}")).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e.into()),
    }
}
