//! Plots as SVG: what all of them are drawn with.

use std::ops::Range;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

/// Colours, distinct for colour-blind readers too (Okabe & Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(240, 228, 66),
    RGBColor(90, 90, 90),
];

pub(in crate::commands) fn colour(i: usize) -> RGBColor {
    COLOURS[i % COLOURS.len()]
}

/// Draws into an SVG text.
pub(in crate::commands) fn svg(
    size: (u32, u32),
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), DrawError>,
) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE).map_err(drawn)?;
        draw(&area)?;
        area.present().map_err(drawn)?;
    }
    Ok(text)
}

/// Why a plot cannot be drawn, in the plotting library's words.
#[derive(Debug, thiserror::Error)]
#[error("plot: {0}")]
pub(in crate::commands) struct DrawError(String);

pub(in crate::commands) fn drawn(e: impl std::fmt::Display) -> DrawError {
    DrawError(e.to_string())
}

/// Caption and axis labels of a chart.
pub(in crate::commands) struct Axes<'a> {
    pub(in crate::commands) caption: &'a str,
    pub(in crate::commands) x: &'a str,
    pub(in crate::commands) y: &'a str,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// An empty chart with its axes drawn.
pub(in crate::commands) fn chart<'a, 'b>(
    area: &'a Area<'b>,
    axes: &Axes<'_>,
    x: Range<f64>,
    y: Range<f64>,
) -> Result<Chart<'a, 'b>, DrawError> {
    let mut chart = ChartBuilder::on(area)
        .caption(axes.caption, ("sans-serif", 15))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(50)
        .build_cartesian_2d(x, y)
        .map_err(drawn)?;
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(WHITE).x_desc(axes.x).y_desc(axes.y).draw().map_err(drawn)?;
    Ok(chart)
}

/// From the least to the largest of finite values, with a margin.
pub(in crate::commands) fn range(values: impl Iterator<Item = f64>) -> Range<f64> {
    let finite = values.filter(|v| v.is_finite());
    let (low, high) = finite.fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
    if low > high {
        return 0.0..1.0;
    }
    let margin = 0.06 * (high - low).max(1e-6);
    low - margin..high + margin
}
