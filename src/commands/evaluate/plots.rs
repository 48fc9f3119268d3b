//! The report's plots, as SVG.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::stream::Timeline;
use crate::commands::drawing::{DrawError, colour, drawn, svg};

/// A legend: the regimes' names with their colours.
pub(super) fn key(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    names: &[String],
) -> Result<(), DrawError> {
    for (r, name) in names.iter().enumerate() {
        let y = 50 + 22 * r as i32;
        let box_ = Rectangle::new([(4, y), (16, y + 12)], colour(r).filled());
        area.draw(&box_).map_err(drawn)?;
        let font = ("sans-serif", 13.0).into_font();
        area.draw(&Text::new(name.clone(), (22, y), font)).map_err(drawn)?;
    }
    Ok(())
}

/// Posteriors over time, the truth as a band above them.
pub(super) fn timeline(t: &Timeline, names: &[String], bin_width_s: f64) -> Result<String> {
    let seconds = (t.truth.len().max(1)) as f64 * bin_width_s;
    svg((1000, 320), |area| {
        let (plot, legend) = area.split_horizontally(830);
        let mut chart = ChartBuilder::on(&plot)
            .caption("label posterior; band: truth", ("sans-serif", 16))
            .margin(10)
            .x_label_area_size(32)
            .y_label_area_size(40)
            .build_cartesian_2d(0.0..seconds, 0.0..1.15)
            .map_err(drawn)?;
        chart
            .configure_mesh()
            .disable_mesh()
            .x_desc("time (s)")
            .y_desc("probability")
            .draw()
            .map_err(drawn)?;
        let mut from = 0;
        for i in 1..=t.truth.len() {
            if i == t.truth.len() || t.truth[i] != t.truth[from] {
                if let Some(r) = t.truth[from] {
                    let corners =
                        [(from as f64 * bin_width_s, 1.05), (i as f64 * bin_width_s, 1.13)];
                    let band = Rectangle::new(corners, colour(r).filled());
                    chart.draw_series([band]).map_err(drawn)?;
                }
                from = i;
            }
        }
        for r in 0..names.len() {
            let points = t
                .posterior
                .iter()
                .enumerate()
                .map(|(i, p)| ((i as f64 + 1.0) * bin_width_s, f64::from(p[r])));
            chart.draw_series(LineSeries::new(points, colour(r).stroke_width(1))).map_err(drawn)?;
        }
        key(&legend, names)
    })
}

/// Fraction right against the probability drawn; the diagonal is calibrated. Dots grow with the
/// bins.
pub(super) fn reliability(classes: &[(f64, f64, u64)]) -> Result<String> {
    let most = classes.iter().map(|c| c.2).max().unwrap_or(1).max(1) as f64;
    svg((360, 340), |area| {
        let mut chart = ChartBuilder::on(area)
            .caption("fraction right against probability drawn", ("sans-serif", 15))
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(44)
            .build_cartesian_2d(0.0..1.0, 0.0..1.02)
            .map_err(drawn)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc("largest posterior probability")
            .y_desc("fraction right")
            .draw()
            .map_err(drawn)?;
        let diagonal = [(0.0, 0.0), (1.0, 1.0)];
        chart
            .draw_series(LineSeries::new(diagonal, RGBColor(150, 150, 150).stroke_width(1)))
            .map_err(drawn)?;
        let points = classes.iter().map(|c| (c.0, c.1));
        chart.draw_series(LineSeries::new(points, colour(0).stroke_width(2))).map_err(drawn)?;
        let dot = |c: &(f64, f64, u64)| {
            let size = 2.0 + 6.0 * (c.2 as f64 / most).sqrt();
            Circle::new((c.0, c.1), size as i32, colour(0).filled())
        };
        chart.draw_series(classes.iter().map(dot)).map_err(drawn)?;
        Ok(())
    })
}

/// Accuracy against the time since a start or change, chance as a line.
pub(super) fn accuracy(points: &[(f64, f64)], n_regimes: usize) -> Result<String> {
    let end = points.last().map_or(1.0, |p| p.0);
    svg((520, 320), |area| {
        let mut chart = ChartBuilder::on(area)
            .caption("accuracy after a start or change; dashed: chance", ("sans-serif", 15))
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(44)
            .build_cartesian_2d(0.0..end, 0.0..1.02)
            .map_err(drawn)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("time (s)")
            .y_desc("fraction right")
            .draw()
            .map_err(drawn)?;
        let chance = 1.0 / n_regimes as f64;
        let dashes = (0..40)
            .map(|i| end * f64::from(i) / 40.0)
            .map(|x| PathElement::new(vec![(x, chance), (x + end / 80.0, chance)], BLACK.mix(0.6)));
        chart.draw_series(dashes).map_err(drawn)?;
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour(0).stroke_width(2)))
            .map_err(drawn)?;
        chart
            .draw_series(points.iter().map(|&p| Circle::new(p, 3, colour(0).filled())))
            .map_err(drawn)?;
        Ok(())
    })
}

/// Confusion matrix, rows are the truth.
pub(super) fn confusion(rows: &[Vec<f64>], names: &[String]) -> Result<String> {
    let n = names.len() as i32;
    let cell = 72;
    let (left, top) = (170, 60);
    svg(((left + n * cell + 20) as u32, (top + n * cell + 20) as u32), |area| {
        let text = |s: &str, at: (i32, i32), size: f64, colour: RGBColor| {
            area.draw(&Text::new(s.to_owned(), at, ("sans-serif", size).into_font().color(&colour)))
                .map_err(drawn)
        };
        text("truth (rows) against label (columns), fractions of bins", (10, 10), 15.0, BLACK)?;
        for (i, (row, name)) in rows.iter().zip(names).enumerate() {
            let y = top + i as i32 * cell;
            text(name, (10, y + cell / 2 - 6), 13.0, BLACK)?;
            let short: String = name.chars().take(10).collect();
            text(&short, (left + i as i32 * cell + 2, top - 16), 11.0, BLACK)?;
            for (j, &x) in row.iter().enumerate() {
                let at = (left + j as i32 * cell, y);
                let shade = colour(0).mix(x.clamp(0.0, 1.0)).filled();
                area.draw(&Rectangle::new([at, (at.0 + cell - 2, at.1 + cell - 2)], shade))
                    .map_err(drawn)?;
                let ink = if x > 0.5 { WHITE } else { BLACK };
                text(&format!("{x:.2}"), (at.0 + 20, at.1 + cell / 2 - 6), 14.0, ink)?;
            }
        }
        Ok(())
    })
}
