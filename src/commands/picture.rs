//! The live picture: on a terminal with ratatui, in plain lines otherwise.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Result;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Bar, BarChart, Block, Paragraph};

use crate::regime::Label;
use crate::wire::{Decision, Estimate, Event, Metrics};

/// Events shown.
const EVENTS_SHOWN: usize = 200;
/// Bins over which rate and latency are shown.
const RECENT: usize = 512;
/// Between two frames.
const FRAME: Duration = Duration::from_millis(66);
/// Between two plain lines.
const LINE: Duration = Duration::from_secs(1);

const COLOURS: [Color; 6] =
    [Color::Cyan, Color::Yellow, Color::Green, Color::Magenta, Color::Red, Color::Blue];

/// What is known and shown.
pub(crate) struct Picture {
    title: String,
    /// Lines above everything else, e.g. endpoints.
    notes: Vec<String>,
    newest: Option<Decision>,
    truth: Option<String>,
    events: VecDeque<String>,
    recent: VecDeque<(Instant, u64)>,
    bins: u64,
    lost: u64,
    screen: Option<DefaultTerminal>,
    drawn: Instant,
    ended: bool,
}

impl Picture {
    /// On a terminal, unless `plain`.
    pub(crate) fn new(title: String, notes: Vec<String>, plain: bool) -> Self {
        let terminal = !plain && std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
        // Where the terminal does not take it, lines do.
        let screen = if terminal { ratatui::try_init().ok() } else { None };
        if screen.is_none() {
            println!("{title}");
            notes.iter().for_each(|n| println!("{n}"));
        }
        Self {
            title,
            notes,
            newest: None,
            truth: None,
            events: VecDeque::new(),
            recent: VecDeque::new(),
            bins: 0,
            lost: 0,
            screen,
            drawn: Instant::now(),
            ended: false,
        }
    }

    /// Another decision, with the truth where it is known.
    pub(crate) fn decision(&mut self, decision: Decision, lost: u64, truth: Option<&str>) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((Instant::now(), decision.latency_ns));
        self.bins += 1;
        self.lost = lost;
        self.truth = truth.map(str::to_owned);
        self.newest = Some(decision);
    }

    /// Another event.
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
            println!("event {} {line}", e.session);
        }
        if self.events.len() == EVENTS_SHOWN {
            self.events.pop_front();
        }
        self.events.push_back(line);
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

    /// Draws when it is time; false when the user wants to leave (q, Esc or Ctrl-C in raw mode).
    pub(crate) fn refresh(&mut self) -> Result<bool> {
        if self.screen.is_some() {
            if self.drawn.elapsed() < FRAME {
                return Ok(true);
            }
            self.drawn = Instant::now();
            while event::poll(Duration::ZERO)? {
                if let event::Event::Key(key) = event::read()? {
                    let control = key.modifiers.contains(KeyModifiers::CONTROL);
                    match key.code {
                        KeyCode::Char('q') | KeyCode::Esc => return Ok(false),
                        KeyCode::Char('c') if control => return Ok(false),
                        _ => {}
                    }
                }
            }
            self.draw()?;
        } else if self.drawn.elapsed() >= LINE {
            self.drawn = Instant::now();
            if let Some(line) = self.line() {
                println!("{line}");
                std::io::stdout().flush()?;
            }
        }
        Ok(true)
    }

    fn line(&self) -> Option<String> {
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
            "bin {:>7} {}: {}{}{truth} p {best:.2}, novelty {:.2}{metrics}; {rate:.0} bins/s, latency p50 {p50} p99 {p99} us{}",
            d.bin,
            d.session,
            shown(&d.regime),
            if d.untrusted { " (not calibrated)" } else { "" },
            d.novelty,
            if self.lost > 0 { format!(", lost {}", self.lost) } else { String::new() },
        ))
    }

    fn draw(&mut self) -> Result<()> {
        let Some(mut screen) = self.screen.take() else { return Ok(()) };
        let result = screen.draw(|frame| self.paint(frame)).map(drop);
        self.screen = Some(screen);
        Ok(result?)
    }

    fn paint(&self, frame: &mut ratatui::Frame<'_>) {
        let notes = self.notes.len() as u16;
        let n_regimes = self.newest.as_ref().map_or(1, |d| d.posterior.len() as u16);
        let [head, label, bars, numbers, log] = Layout::vertical([
            Constraint::Length(notes + 2),
            Constraint::Length(3),
            Constraint::Length(n_regimes + 2),
            Constraint::Length(7),
            Constraint::Min(3),
        ])
        .areas(frame.area());
        let head_lines: Vec<Line<'_>> = self.notes.iter().map(|n| Line::raw(n.as_str())).collect();
        let title = format!(" {} - q leaves ", self.title);
        frame.render_widget(Paragraph::new(head_lines).block(Block::bordered().title(title)), head);
        let Some(d) = &self.newest else {
            let waiting = Paragraph::new("waiting for the first decision");
            frame.render_widget(waiting.block(Block::bordered().title(" regime ")), label);
            return;
        };
        let at = d.regime_names.iter().position(|n| *n == d.regime);
        let colour = at.map_or(Color::White, |i| COLOURS[i % COLOURS.len()]);
        let mut words = vec![Span::styled(
            format!(" {} ", shown(&d.regime)),
            Style::default().fg(Color::Black).bg(colour).add_modifier(Modifier::BOLD),
        )];
        if let Some(truth) = &self.truth {
            words.push(Span::raw(format!("  truth: {truth}")));
        }
        if d.predicted {
            words.push(Span::raw("  (bin missing)"));
        }
        if d.untrusted {
            words.push(Span::raw("  (not calibrated: labels are not to be believed)"));
        }
        let session = format!(" {} ", d.session);
        frame.render_widget(
            Paragraph::new(Line::from(words)).block(Block::bordered().title(session)),
            label,
        );
        self.paint_bars(frame, bars, d);
        self.paint_numbers(frame, numbers, d);
        let rows = usize::from(log.height.saturating_sub(2));
        let lines: Vec<Line<'_>> =
            self.events.iter().rev().take(rows).map(|e| Line::raw(e.as_str())).collect();
        frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" events ")), log);
    }

    fn paint_bars(
        &self,
        frame: &mut ratatui::Frame<'_>,
        area: ratatui::layout::Rect,
        d: &Decision,
    ) {
        let bars: Vec<Bar<'_>> = d
            .posterior
            .iter()
            .zip(&d.regime_names)
            .enumerate()
            .map(|(i, (p, name))| {
                Bar::default()
                    .label(Line::from(name.as_str()))
                    .value((f64::from(*p) * 1000.0).round() as u64)
                    .text_value(format!("{p:.2} "))
                    .style(Style::default().fg(COLOURS[i % COLOURS.len()]))
            })
            .collect();
        let chart = BarChart::horizontal(bars)
            .max(1000)
            .bar_gap(0)
            .block(Block::bordered().title(" posterior "));
        frame.render_widget(chart, area);
    }

    fn paint_numbers(
        &self,
        frame: &mut ratatui::Frame<'_>,
        area: ratatui::layout::Rect,
        d: &Decision,
    ) {
        let (rate, p50, p99) = self.pace();
        let m = d.metrics.clone().unwrap_or_default();
        let lines = vec![
            Line::raw(format!(
                "spectral radius {:.4}   abscissa {:+.2}{} /s   leading {:.2} Hz   time constant {:+.3} s",
                m.spectral_radius,
                m.spectral_abscissa_per_s,
                m.spectral_abscissa_per_s_interval
                    .map_or(String::new(), |i| format!(" ({:+.1} to {:+.1})", i.low, i.high)),
                m.leading_frequency_hz,
                m.leading_time_constant_s
            )),
            Line::raw(free_running(&m)),
            Line::raw(format!(
                "participation ratio {:.2}   novelty {:.2}   unlabelled {:.2}   log-likelihood {:+.3} nats/channel   silent channels {}",
                m.participation_ratio, d.novelty, d.unlabelled, d.log_likelihood, d.silent_channels
            )),
            Line::raw(format!("bin {}   sequence {}   {rate:.1} bins/s", d.bin, d.sequence)),
            Line::raw(format!(
                "latency p50 {p50} us, p99 {p99} us   decisions seen {}, lost {}",
                self.bins, self.lost
            )),
        ];
        frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" now ")), area);
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

/// What the fitted network does when it runs by itself, and what simulated truth makes of it.
fn free_running(m: &Metrics) -> String {
    let told = |name: &str, e: Option<Estimate>, unit: &str| {
        e.map_or(String::new(), |e| {
            format!("   {name} {:+.2}{unit} ({:+.1} to {:+.1})", e.mean, e.low, e.high)
        })
    };
    let exponent = match m.lyapunov_max_driven_learned_per_s {
        None => told("largest exponent", m.lyapunov_max_driven_per_s, " /s"),
        learned => told("largest exponent (learned)", learned, " /s"),
    };
    let points = m.fixed_points.map_or(String::new(), |p| {
        format!("   fixed points {} stable, {} unstable", p.stable, p.unstable)
    });
    let cycle =
        m.oscillation_hz.map_or(String::new(), |e| format!("   oscillates at {:.2} Hz", e.mean));
    let signature = m.signature().as_str_name().trim_start_matches("SIGNATURE_").to_lowercase();
    format!("looks {}{exponent}{points}{cycle}", signature.replace('_', "-"))
}

/// A label, or what stands for none yet.
fn shown(regime: &str) -> &str {
    match regime {
        "" => "(no label yet)",
        Label::UNKNOWN => "UNKNOWN DYNAMICS",
        r => r,
    }
}
