//! The picture on a small terminal, 80 by 24 among them: no boxes, every session, and whole
//! numbers with their units.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::numbers::{flowed, items, wrong};
use super::{Picture, Seen, shown};

/// Lines that are left for what is not the list of sessions.
const BELOW: usize = 12;
/// Width of a session in a list of two columns.
const HALF: usize = 40;
const KEYS: &str = "q leave  \u{2190}\u{2192} 1-9 session  \u{2191}\u{2193} a events  p pause";
const HEAD: &str = "  #  session         label                    p  novelty  bins/s    p99 us";

/// A text in a column: cut with a sign where it is longer.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return format!("{text:<width$}");
    }
    text.chars().take(width.saturating_sub(1)).chain(['\u{2026}']).collect()
}

impl Picture {
    pub(super) fn paint_small(&self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let (width, height) = (usize::from(area.width), usize::from(area.height));
        let dim = Style::new().add_modifier(Modifier::DIM);
        let paused = if self.paused { " (paused: p goes on)" } else { "" };
        let mut lines = vec![Line::styled(format!("{}{paused}", self.title), dim)];
        let words = |text: &str| flowed(&[text.to_owned()], width);
        lines.extend(self.notes.iter().flat_map(|n| words(n)).map(Line::raw));
        if let Some(trouble) = &self.trouble {
            lines.extend(words(trouble).into_iter().map(|l| Line::styled(l, self.hue(Color::Red))));
        }
        if self.sessions.len() > 1 {
            lines.extend(self.list(height.saturating_sub(BELOW + lines.len()).max(3)));
        }
        lines.extend(self.chosen_lines(width));
        let foot = height.saturating_sub(1);
        let room = foot.saturating_sub(lines.len());
        lines.extend(self.newest_events(room, width).into_iter().map(|l| Line::styled(l, dim)));
        lines.truncate(foot);
        let above = Rect { height: foot as u16, ..area };
        frame.render_widget(Paragraph::new(lines), above);
        let below = Rect { y: area.y + foot as u16, height: area.height.min(1), ..area };
        frame.render_widget(Paragraph::new(KEYS).style(dim), below);
    }

    /// Every session in a line, or in half of one where that would be too many; the chosen one is
    /// among those that are seen.
    fn list(&self, rows: usize) -> Vec<Line<'_>> {
        let sessions: Vec<(&String, &Seen)> = self.sessions.iter().collect();
        let at = sessions.iter().position(|s| Some(s.0) == self.chosen.as_ref()).unwrap_or(0);
        if sessions.len() < rows {
            let lines = sessions.iter().enumerate().map(|(i, s)| self.row(i, i == at, *s));
            let head = Line::styled(HEAD, Style::new().add_modifier(Modifier::DIM));
            return std::iter::once(head).chain(lines).collect();
        }
        let first = (at / 2 + 1).saturating_sub(rows);
        let halves = |pair: (usize, &[(&String, &Seen)])| {
            let half = |(k, s): (usize, &(&String, &Seen))| {
                let i = 2 * pair.0 + k;
                self.half(i, i == at, *s)
            };
            Line::from(pair.1.iter().enumerate().flat_map(half).collect::<Vec<_>>())
        };
        sessions.chunks(2).enumerate().skip(first).take(rows).map(halves).collect()
    }

    fn row(&self, i: usize, chosen: bool, (name, seen): (&String, &Seen)) -> Line<'static> {
        let mark = if chosen { '>' } else { ' ' };
        let start = format!("{mark} {:<2} {} ", i + 1, cut(name, 15));
        let Some(d) = &seen.newest else { return Line::raw(start + "(nothing heard)") };
        let (rate, _, p99) = seen.pace();
        let best = d.posterior.iter().copied().fold(0.0f32, f32::max);
        Line::from(vec![
            Span::raw(start),
            Span::styled(cut(shown(&d.regime), 21), self.regime_style(d)),
            Span::raw(format!(" {best:.2}  {:>7.2}  {rate:>6.0}  {p99:>8}", d.novelty)),
        ])
    }

    fn half(&self, i: usize, chosen: bool, (name, seen): (&String, &Seen)) -> [Span<'static>; 3] {
        let mark = if chosen { '>' } else { ' ' };
        let start = format!("{mark}{:<3}{} ", i + 1, cut(name, 11));
        let wide = HALF - 4 - 12 - 7;
        let Some(d) = &seen.newest else {
            let rest = format!("{:<1$}", "(nothing heard)", HALF - 16);
            return [Span::raw(start), Span::raw(rest), Span::raw("")];
        };
        let best = d.posterior.iter().copied().fold(0.0f32, f32::max);
        let label = Span::styled(cut(shown(&d.regime), wide), self.regime_style(d));
        [Span::raw(start), label, Span::raw(format!(" {best:.2}  "))]
    }

    /// The chosen session: label, posterior, numbers, what is wrong.
    fn chosen_lines(&self, width: usize) -> Vec<Line<'static>> {
        let chosen = self.chosen.as_ref().and_then(|name| Some((name, self.sessions.get(name)?)));
        let Some((name, seen)) = chosen else {
            return vec![Line::raw("waiting for the first decision")];
        };
        let Some(d) = &seen.newest else {
            return vec![Line::raw(format!("{name}: waiting for the first decision"))];
        };
        let style = self.regime_style(d).add_modifier(Modifier::BOLD | Modifier::REVERSED);
        let mut words = vec![
            Span::raw(format!("{name}: ")),
            Span::styled(format!(" {} ", shown(&d.regime)), style),
        ];
        if let Some(truth) = &seen.truth {
            words.push(Span::raw(format!("  truth: {truth}")));
        }
        if d.predicted {
            words.push(Span::raw("  (bin missing)"));
        }
        if d.untrusted {
            words.push(Span::raw("  (not calibrated)"));
        }
        let mut lines = vec![Line::from(words)];
        let named = d.regime_names.iter().zip(&d.posterior);
        let posterior: Vec<String> = named.map(|(name, p)| format!("{name} {p:.2}")).collect();
        lines.extend(flowed(&posterior, width).into_iter().map(Line::raw));
        lines.extend(flowed(&items(seen, d, self.lost), width).into_iter().map(Line::raw));
        for said in wrong(seen) {
            let red = self.hue(Color::Red);
            lines.extend(flowed(&[said], width).into_iter().map(|l| Line::styled(l, red)));
        }
        lines
    }

    fn newest_events(&self, rows: usize, width: usize) -> Vec<String> {
        let events = self.wanted_events().skip(self.scrolled).take(rows);
        let line = |(session, line): &(String, String)| match self.all_events {
            true => cut(&format!("{session} {line}"), width),
            false => cut(line, width),
        };
        events.map(line).collect()
    }
}
