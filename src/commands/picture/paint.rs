//! The picture on a terminal, as large as that is.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::canvas::{Canvas, Circle, Line as Stroke, Points};
use ratatui::widgets::{Axis, Bar, BarChart, Block, Chart, Dataset, GraphType, Paragraph};

use super::numbers::lines;
use super::{Picture, Seen, shown};
use crate::wire::Decision;

const COLOURS: [Color; 6] =
    [Color::Cyan, Color::Yellow, Color::Green, Color::Magenta, Color::Red, Color::Blue];
/// Narrower or lower than this, the small picture is painted.
const WIDE: u16 = 100;
const HIGH: u16 = 32;
const KEYS: &str =
    " q leave  \u{2190}\u{2192} 1-9 session  \u{2191}\u{2193} events  a events of all  p pause ";

impl Picture {
    pub(super) fn hue(&self, colour: Color) -> Style {
        if self.colour { Style::default().fg(colour) } else { Style::default() }
    }

    pub(super) fn regime_style(&self, d: &Decision) -> Style {
        let at = d.regime_names.iter().position(|n| *n == d.regime);
        self.hue(at.map_or(Color::Gray, |i| COLOURS[i % COLOURS.len()]))
    }

    pub(super) fn paint(&self, frame: &mut Frame<'_>) {
        let area = frame.area();
        if area.width < WIDE || area.height < HIGH {
            return self.paint_small(frame);
        }
        let seen = self.chosen.as_ref().and_then(|name| self.sessions.get(name));
        let n_regimes =
            seen.and_then(|s| s.newest.as_ref()).map_or(1, |d| d.posterior.len() as u16);
        let many = self.sessions.len() > 1;
        let rows_max = usize::from(area.height / 3);
        let list = if many { self.sessions.len().min(rows_max) as u16 + 2 } else { 0 };
        let numbers = seen
            .and_then(|s| {
                Some(lines(s, s.newest.as_ref()?, self.lost, usize::from(area.width) - 2))
            })
            .unwrap_or_default();
        let notes = self.notes.len() as u16 + u16::from(self.trouble.is_some());
        let head = if notes > 0 { notes + 2 } else { 1 };
        let [head, list, label, middle, below, log, foot] = Layout::vertical([
            Constraint::Length(head),
            Constraint::Length(list),
            Constraint::Length(3),
            Constraint::Length((n_regimes + 2).max(9)),
            Constraint::Length(numbers.len() as u16 + 2),
            Constraint::Min(3),
            Constraint::Length(1),
        ])
        .areas(area);
        self.paint_head(frame, head);
        if many {
            self.paint_sessions(frame, list);
        }
        self.paint_events(frame, log);
        frame.render_widget(
            Paragraph::new(KEYS).style(Style::new().add_modifier(Modifier::DIM)),
            foot,
        );
        let Some((seen, d)) = seen.and_then(|s| Some((s, s.newest.as_ref()?))) else {
            let waiting = Paragraph::new("waiting for the first decision");
            frame.render_widget(waiting.block(Block::bordered().title(" regime ")), label);
            return;
        };
        self.paint_label(frame, label, seen, d);
        let [bars, radius, exponent, plane] = Layout::horizontal([
            Constraint::Percentage(34),
            Constraint::Percentage(22),
            Constraint::Percentage(22),
            Constraint::Percentage(22),
        ])
        .areas(middle);
        self.paint_bars(frame, bars, d);
        self.paint_trace(frame, radius, " spectral radius ", &seen.radius, 1.0);
        self.paint_trace(frame, exponent, " exponent by counts, /s ", &seen.exponent, 0.0);
        self.paint_plane(frame, plane, d);
        let numbers: Vec<Line<'_>> = numbers.into_iter().map(Line::raw).collect();
        let block = Block::bordered().title(" now ");
        frame.render_widget(Paragraph::new(numbers).block(block), below);
    }

    fn paint_head(&self, frame: &mut Frame<'_>, area: Rect) {
        let paused = if self.paused { " (paused: p goes on)" } else { "" };
        let title = format!(" {}{paused} ", self.title);
        let mut lines: Vec<Line<'_>> = self.notes.iter().map(|n| Line::raw(n.as_str())).collect();
        if let Some(trouble) = &self.trouble {
            lines.push(Line::styled(trouble.as_str(), self.hue(Color::Red)));
        }
        if lines.is_empty() {
            frame.render_widget(Paragraph::new(title), area);
        } else {
            frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(title)), area);
        }
    }

    fn paint_sessions(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = usize::from(area.height.saturating_sub(2));
        let at = self.sessions.keys().position(|n| Some(n) == self.chosen.as_ref()).unwrap_or(0);
        let first = (at + 1).saturating_sub(rows);
        let line = |(i, (name, seen)): (usize, (&String, &Seen))| {
            let mark = if i == at { "> " } else { "  " };
            let Some(d) = &seen.newest else {
                return Line::raw(format!("{mark}{:<3}{name:<20} (nothing heard)", i + 1));
            };
            let (rate, _, p99) = seen.pace();
            let best = d.posterior.iter().copied().fold(0.0f32, f32::max);
            Line::from(vec![
                Span::raw(format!("{mark}{:<3}{name:<20} ", i + 1)),
                Span::styled(format!("{:<24}", shown(&d.regime)), self.regime_style(d)),
                Span::raw(format!(
                    "p {best:.2}  novelty {:.2}  {rate:>6.0} bins/s  p99 {p99} us",
                    d.novelty
                )),
            ])
        };
        let lines: Vec<Line<'_>> =
            self.sessions.iter().enumerate().skip(first).take(rows).map(line).collect();
        frame.render_widget(
            Paragraph::new(lines).block(Block::bordered().title(" sessions ")),
            area,
        );
    }

    fn paint_label(&self, frame: &mut Frame<'_>, area: Rect, seen: &Seen, d: &Decision) {
        let style = self.regime_style(d).add_modifier(Modifier::BOLD | Modifier::REVERSED);
        let mut words = vec![Span::styled(format!(" {} ", shown(&d.regime)), style)];
        if let Some(truth) = &seen.truth {
            words.push(Span::raw(format!("  truth: {truth}")));
        }
        if d.predicted {
            words.push(Span::raw("  (bin missing)"));
        }
        if d.untrusted {
            words.push(Span::raw("  (not calibrated: labels are not to be believed)"));
        }
        let title = format!(" {} ", d.session);
        frame.render_widget(
            Paragraph::new(Line::from(words)).block(Block::bordered().title(title)),
            area,
        );
    }

    fn paint_bars(&self, frame: &mut Frame<'_>, area: Rect, d: &Decision) {
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
                    .style(self.hue(COLOURS[i % COLOURS.len()]))
            })
            .collect();
        let chart = BarChart::horizontal(bars)
            .max(1000)
            .bar_gap(0)
            .block(Block::bordered().title(" posterior "));
        frame.render_widget(chart, area);
    }

    /// A trace with the edge in it.
    fn paint_trace(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        title: &str,
        values: &std::collections::VecDeque<f64>,
        edge: f64,
    ) {
        let points: Vec<(f64, f64)> = values
            .iter()
            .enumerate()
            .map(|(i, &v)| (i as f64, v))
            .filter(|p| p.1.is_finite())
            .collect();
        let low = points.iter().map(|p| p.1).fold(edge, f64::min);
        let high = points.iter().map(|p| p.1).fold(edge, f64::max);
        let room = (0.1 * (high - low)).max(0.01);
        let width = super::TRACE as f64;
        let line = [(0.0, edge), (width, edge)];
        let series = |data, colour| {
            Dataset::default()
                .marker(Marker::Braille)
                .graph_type(GraphType::Line)
                .style(self.hue(colour))
                .data(data)
        };
        let datasets = vec![series(&line[..], Color::DarkGray), series(&points[..], Color::Cyan)];
        let now = points.last().map_or(String::new(), |p| format!("{:+.3} ", p.1));
        let chart = Chart::new(datasets)
            .block(Block::bordered().title(format!("{title}{now}")))
            .x_axis(Axis::default().bounds([0.0, width]))
            .y_axis(
                Axis::default()
                    .bounds([low - room, high + room])
                    .labels([format!("{:.2}", low - room), format!("{:.2}", high + room)]),
            );
        frame.render_widget(chart, area);
    }

    /// Eigenvalues and the part of the unit circle near them.
    fn paint_plane(&self, frame: &mut Frame<'_>, area: Rect, d: &Decision) {
        let values = d.metrics.as_ref().map_or(&[][..], |m| &m.map_eigenvalues);
        let points: Vec<(f64, f64)> =
            values.iter().map(|e| (f64::from(e.re), f64::from(e.im))).collect();
        let left = points.iter().map(|p| p.0).fold(0.9, f64::min) - 0.02;
        let right = points.iter().map(|p| p.0).fold(1.03, f64::max) + 0.02;
        let high = points.iter().map(|p| p.1.abs()).fold(0.05, f64::max) * 1.2;
        let canvas = Canvas::default()
            .block(Block::bordered().title(" eigenvalues, unit circle "))
            .marker(Marker::Braille)
            .x_bounds([left, right])
            .y_bounds([-high, high])
            .paint(|context| {
                let plain = if self.colour { Color::DarkGray } else { Color::Reset };
                context.draw(&Stroke { x1: left, y1: 0.0, x2: right, y2: 0.0, color: plain });
                let edge = if self.colour { Color::Yellow } else { Color::Reset };
                context.draw(&Circle { x: 0.0, y: 0.0, radius: 1.0, color: edge });
                context.layer();
                for &(x, y) in &points {
                    let at = [(x, y)];
                    let colour = if self.colour { Color::Cyan } else { Color::Reset };
                    context.draw(&Points { coords: &at, color: colour });
                    context.print(x, y, Span::styled("o", self.hue(colour)));
                }
            });
        frame.render_widget(canvas, area);
    }

    fn paint_events(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = usize::from(area.height.saturating_sub(2));
        let lines: Vec<Line<'_>> = self
            .wanted_events()
            .skip(self.scrolled)
            .take(rows)
            .map(|(session, line)| match self.all_events {
                true => Line::raw(format!("{session:<16} {line}")),
                false => Line::raw(line.as_str()),
            })
            .collect();
        let of = if self.all_events { " events of all sessions " } else { " events " };
        frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(of)), area);
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyModifiers};

    use super::*;
    use crate::wire::{Eigenvalue, Event, Metrics};

    fn decision(session: &str, bin: u64, regime: &str) -> Decision {
        Decision {
            session: session.into(),
            bin,
            regime: regime.into(),
            regime_names: vec!["calm".into(), "wild".into()],
            posterior: vec![0.9, 0.1],
            metrics: Some(Metrics {
                bin,
                spectral_radius: 0.98,
                map_eigenvalues: vec![Eigenvalue { re: 0.95, im: 0.02 }],
                ..Metrics::default()
            }),
            ..Decision::default()
        }
    }

    fn on_screen(picture: &Picture, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| picture.paint(frame)).expect("drawn");
        let cells = terminal
            .backend()
            .buffer()
            .content()
            .iter()
            .map(ratatui::buffer::Cell::symbol)
            .collect::<Vec<_>>();
        cells.chunks(usize::from(width)).map(|row| row.concat() + "\n").collect()
    }

    #[test]
    fn sessions_are_chosen_by_keys_and_events_are_of_the_chosen_one() {
        let mut picture = Picture::of("watch".into(), Vec::new());
        let none = KeyModifiers::NONE;
        assert!(on_screen(&picture, 80, 24).contains("waiting for the first decision"));
        for (session, regime) in [("a", "calm"), ("b", "wild")] {
            picture.decision(decision(session, 7, regime), 0, None);
            let event = Event { session: session.into(), to: regime.into(), ..Event::default() };
            picture.event(&event);
        }
        let shown = on_screen(&picture, 120, 40);
        for part in ["sessions", "> 1  a", "spectral radius", "eigenvalues", "calm", "-> calm"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(!shown.contains("-> wild"), "{shown}");
        assert!(picture.key(KeyCode::Right, none));
        let shown = on_screen(&picture, 120, 40);
        assert!(shown.contains("> 2  b") && shown.contains("-> wild"), "{shown}");
        assert!(!shown.contains("-> calm"));
        picture.key(KeyCode::Char('a'), none);
        let shown = on_screen(&picture, 120, 40);
        assert!(shown.contains("-> wild") && shown.contains("-> calm"), "{shown}");
        picture.key(KeyCode::Char('1'), none);
        assert_eq!(picture.chosen.as_deref(), Some("a"));
        // Nothing moves while it is paused.
        picture.key(KeyCode::Char('p'), none);
        picture.decision(decision("a", 8, "wild"), 0, None);
        assert!(on_screen(&picture, 120, 40).contains("bin 7 "));
        assert!(!picture.key(KeyCode::Char('q'), none));
        assert!(!picture.key(KeyCode::Char('c'), KeyModifiers::CONTROL));
    }

    #[test]
    fn any_size_of_a_terminal_is_painted() {
        let mut picture = Picture::of("watch".into(), vec!["a note".into()]);
        picture.trouble = Some("not connected".into());
        for session in 0..12 {
            picture.decision(decision(&format!("s{session}"), 1, "calm"), 3, Some("wild"));
        }
        for (width, height) in [(1, 1), (10, 4), (40, 12), (80, 24), (99, 60), (200, 70)] {
            let shown = on_screen(&picture, width, height);
            assert_eq!(shown.lines().count(), usize::from(height));
        }
    }

    #[test]
    fn a_terminal_of_80_by_24_shows_all_sessions_and_whole_numbers() {
        let mut picture = Picture::of("watch".into(), Vec::new());
        for session in 0..10 {
            picture.decision(decision(&format!("rig-{session}"), 1, "calm"), 0, None);
        }
        let event = Event { session: "rig-0".into(), to: "calm".into(), ..Event::default() };
        picture.event(&event);
        let described = crate::wire::Session {
            name: "rig-0".into(),
            bins: 7,
            accounts: Some(crate::wire::Accounts { bins_received: 9, ..Default::default() }),
            ..Default::default()
        };
        picture.described(described);
        let shown = on_screen(&picture, 80, 24);
        for session in 0..10 {
            assert!(shown.contains(&format!("rig-{session} ")), "{shown}");
        }
        for part in [
            "calm 0.90   wild 0.10",
            "spectral radius 0.9800",
            "spectral abscissa 0.00 /s",
            "leading frequency 0.00 Hz",
            "log-likelihood 0.000 nats",
            " bins a second",
            "received 9",
            "processed 7",
            "-> calm",
            "q leave",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        // Many more are there in two columns, the chosen one among them.
        for session in 10..40 {
            picture.decision(decision(&format!("rig-{session}"), 1, "wild"), 0, None);
        }
        for _ in 0..39 {
            assert!(picture.key(KeyCode::Right, KeyModifiers::NONE));
        }
        let shown = on_screen(&picture, 80, 24);
        let chosen = picture.chosen.clone().expect("one");
        assert!(shown.contains(&chosen) && shown.matches("rig-").count() >= 20, "{shown}");
    }

    #[test]
    fn without_colour_there_is_none() {
        let mut picture = Picture::of("watch".into(), Vec::new());
        picture.colour = false;
        picture.decision(decision("a", 7, "calm"), 0, None);
        let mut terminal = Terminal::new(TestBackend::new(120, 40)).expect("a terminal");
        terminal.draw(|frame| picture.paint(frame)).expect("drawn");
        let cells = terminal.backend().buffer().content();
        assert!(cells.iter().all(|c| c.fg == Color::Reset && c.bg == Color::Reset));
    }
}
