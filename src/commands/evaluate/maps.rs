//! Plots of what the streams' ends show: embeddings on a plane, exponents against the truth.

use anyhow::Result;
use nalgebra::DMatrix;
use plotters::prelude::*;

use super::dynamics::Compared;
use super::plots::key;
use crate::commands::drawing::{Axes, chart, colour, drawn, range, svg};

/// The embedding of each stream's end on the plane of their two leading principal components,
/// coloured by regime.
pub(super) fn embeddings(ends: &[(Option<usize>, Vec<f32>)], names: &[String]) -> Result<String> {
    let points = plane(ends);
    let along = |axis: usize| range(points.iter().map(|p| p[axis]));
    let axes = Axes {
        caption: "embeddings at the streams' ends, by true regime",
        x: "first principal component",
        y: "second",
    };
    svg((760, 420), |area| {
        let (plot, legend) = area.split_horizontally(560);
        if points.is_empty() {
            return Ok(());
        }
        let mut chart = chart(&plot, &axes, along(0), along(1))?;
        let dots = ends.iter().zip(&points).map(|((regime, _), p)| {
            Circle::new((p[0], p[1]), 4, colour(regime.unwrap_or(names.len())).filled())
        });
        chart.draw_series(dots).map_err(drawn)?;
        key(&legend, names)
    })
}

/// Projections on the two leading principal components.
pub(super) fn plane(ends: &[(Option<usize>, Vec<f32>)]) -> Vec<[f64; 2]> {
    let (n, d) = (ends.len(), ends.first().map_or(0, |e| e.1.len()));
    if n < 2 || d == 0 {
        return Vec::new();
    }
    let mut x = DMatrix::from_fn(n, d, |i, j| f64::from(ends[i].1[j]));
    let mean = x.row_mean();
    x.row_iter_mut().for_each(|mut row| row -= &mean);
    let eigen = (x.transpose() * &x).symmetric_eigen();
    let mut order: Vec<usize> = (0..d).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    let second = order[1.min(d - 1)];
    (0..n)
        .map(|i| {
            [order[0], second].map(|c| x.row(i).dot(&eigen.eigenvectors.column(c).transpose()))
        })
        .collect()
}

/// Largest exponents of the fitted network along noisy paths against the true ones, with their 90 %
/// intervals.
pub(super) fn exponents(compared: &[Compared], names: &[String]) -> Result<String> {
    let points: Vec<(usize, f64, crate::dynamics::Estimate)> = compared
        .iter()
        .filter_map(|c| {
            let found = c.found.portrait.lyapunov_max_driven_per_s;
            Some((c.regime, c.truth.lyapunov_max_per_s?, found))
        })
        .collect();
    let all = range(points.iter().flat_map(|p| [p.1, p.2.mean]));
    let (low, high) = (all.start, all.end);
    let axes = Axes {
        caption: "largest Lyapunov exponent: found against true",
        x: "true (1/s)",
        y: "found (1/s)",
    };
    svg((760, 420), |area| {
        let (plot, legend) = area.split_horizontally(560);
        if points.is_empty() {
            return Ok(());
        }
        let mut chart = chart(&plot, &axes, all.clone(), all.clone())?;
        let grey = RGBColor(150, 150, 150).stroke_width(1);
        for line in [[(low, low), (high, high)], [(low, 0.0), (high, 0.0)]] {
            chart.draw_series(LineSeries::new(line, grey)).map_err(drawn)?;
        }
        for (regime, truth, found) in &points {
            let ends = [(*truth, found.low.max(low)), (*truth, found.high.min(high))];
            let bar = PathElement::new(ends, colour(*regime).mix(0.35));
            chart.draw_series([bar]).map_err(drawn)?;
        }
        let dots = points.iter().map(|p| Circle::new((p.1, p.2.mean), 4, colour(p.0).filled()));
        chart.draw_series(dots).map_err(drawn)?;
        key(&legend, names)
    })
}
