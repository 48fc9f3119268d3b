//! The proof's plots, as SVG.

use anyhow::Result;
use plotters::prelude::*;

pub(super) use crate::commands::drawing::Axes;
use crate::commands::drawing::{chart, colour, drawn, range, svg};
use crate::commands::evaluate::maps::plane;
use crate::commands::evaluate::plots::key;

/// Named curves through points.
pub(super) fn curves(axes: &Axes<'_>, of: &[(String, Vec<(f64, f64)>)]) -> Result<String> {
    let all = || of.iter().flat_map(|c| &c.1);
    let (x, y) = (range(all().map(|p| p.0)), range(all().map(|p| p.1)));
    let names: Vec<String> = of.iter().map(|c| c.0.clone()).collect();
    svg((760, 360), |area| {
        let (plot, legend) = area.split_horizontally(560);
        let mut chart = chart(&plot, axes, x, y)?;
        for (i, (_, points)) in of.iter().enumerate() {
            let line = LineSeries::new(points.iter().copied(), colour(i).stroke_width(2));
            chart.draw_series(line).map_err(drawn)?;
            let dots = points.iter().map(|&p| Circle::new(p, 3, colour(i).filled()));
            chart.draw_series(dots).map_err(drawn)?;
        }
        key(&legend, &names)
    })
}

/// Pairs `(group, true, found)` on the plane: rings where they should be, dots where they are
/// found, a line between.
pub(super) fn pairs(
    axes: &Axes<'_>,
    of: &[(usize, [f64; 2], [f64; 2])],
    names: &[String],
) -> Result<String> {
    let x = range(of.iter().flat_map(|p| [p.1[0], p.2[0]]));
    let y = range(of.iter().flat_map(|p| [p.1[1], p.2[1]]));
    svg((760, 420), |area| {
        let (plot, legend) = area.split_horizontally(560);
        let mut chart = chart(&plot, axes, x, y.clone())?;
        let grey = RGBColor(150, 150, 150);
        let edge = LineSeries::new([(0.0, y.start), (0.0, y.end)], grey.stroke_width(1));
        chart.draw_series(edge).map_err(drawn)?;
        for &(group, truth, found) in of {
            let ends = vec![(truth[0], truth[1]), (found[0], found[1])];
            chart.draw_series([PathElement::new(ends, colour(group).mix(0.4))]).map_err(drawn)?;
            let ring = Circle::new((truth[0], truth[1]), 5, colour(group).stroke_width(1));
            chart.draw_series([ring]).map_err(drawn)?;
            let dot = Circle::new((found[0], found[1]), 3, colour(group).filled());
            chart.draw_series([dot]).map_err(drawn)?;
        }
        key(&legend, names)
    })
}

/// Embeddings on the plane of their two leading principal components, shaded by a true parameter
/// from its least (pale) to its largest (dark).
pub(super) fn by_parameter(caption: &str, of: &[(f64, Vec<f32>)]) -> Result<String> {
    let embeddings: Vec<(Option<usize>, Vec<f32>)> =
        of.iter().map(|(_, e)| (None, e.clone())).collect();
    let points = plane(&embeddings);
    let values = range(of.iter().map(|p| p.0));
    let (x, y) = (range(points.iter().map(|p| p[0])), range(points.iter().map(|p| p[1])));
    svg((560, 420), |area| {
        let mut chart =
            chart(area, &Axes { caption, x: "first principal component", y: "second" }, x, y)?;
        let dots = of.iter().zip(&points).map(|((value, _), p)| {
            let share = (value - values.start) / (values.end - values.start);
            let mix = |from: f64, to: f64| (from + share * (to - from)) as u8;
            let shade = RGBColor(mix(225.0, 60.0), mix(235.0, 0.0), mix(250.0, 110.0));
            Circle::new((p[0], p[1]), 5, shade.filled())
        });
        chart.draw_series(dots).map_err(drawn)?;
        let rings = points.iter().map(|p| Circle::new((p[0], p[1]), 5, BLACK.mix(0.3)));
        chart.draw_series(rings).map_err(drawn)?;
        Ok(())
    })
}
