//! Draws runs: throughput over time, latency over time, and latency by percentile.
//!
//! **Invariants.** Runs that are drawn together have the same scales.
//! **Not here.** The figures (`outcome`).

use crate::outcome::Outcome;
use crate::record::Point;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::io;
use std::path::Path;

const SIZE: (u32, u32) = (1_000, 1_050);
const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 119, 180), RGBColor(255, 127, 14), RGBColor(44, 160, 44), RGBColor(150, 80, 160)];
const PERCENTILES: [&str; 5] = ["50 %", "90 %", "99 %", "99.9 %", "all"];
/// The least latency that is drawn, as logarithms know no zero.
const LATENCY_US_MIN: f64 = 1.0;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Fault = DrawingAreaErrorKind<io::Error>;

/// A run by its name.
pub type Named<'a> = (&'a str, &'a Outcome);

/// One line of a chart: its name, colour and points.
type Line = (String, RGBColor, Vec<(f64, f64)>);

/// Why nothing was drawn.
#[derive(Debug, thiserror::Error)]
#[error("the plot cannot be drawn: {0}")]
pub struct NotDrawn(#[from] Fault);

/// Draws runs into one file.
///
/// # Errors
/// Where the file cannot be written.
pub fn draw(file: &Path, runs: &[Named<'_>]) -> Result<(), NotDrawn> {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let areas = root.split_evenly((3, 1));
    if let [throughput, latency, percentiles] = &areas[..] {
        draw_throughput(throughput, runs)?;
        draw_latency(latency, runs)?;
        draw_percentiles(percentiles, runs)?;
    }
    root.present()?;
    Ok(())
}

fn draw_throughput(area: &Area<'_>, runs: &[Named<'_>]) -> Result<(), Fault> {
    let lines = lines(runs, |point| Some(point.messages_per_s));
    let (seconds, most) = bounds(&lines);
    let mut chart = ChartBuilder::on(area)
        .caption("Messages a second", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(84)
        .build_cartesian_2d(0.0..seconds, 0.0..most * 1.05)?;
    chart
        .configure_mesh()
        .max_light_lines(1)
        .x_desc("seconds")
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    for (name, colour, points) in lines {
        chart.draw_series(LineSeries::new(points, &colour))?.label(name).legend(move |at| key(at, colour));
    }
    chart.configure_series_labels().border_style(BLACK).background_style(WHITE.mix(0.8)).draw()
}

fn draw_latency(area: &Area<'_>, runs: &[Named<'_>]) -> Result<(), Fault> {
    let p50 = lines(runs, |point| latency_of(point, point.latency_us.p50));
    let p99 = lines(runs, |point| latency_of(point, point.latency_us.p99));
    let (seconds, most) = bounds(&p99);
    let mut chart = ChartBuilder::on(area)
        .caption("Latency over time, half and 99 % of the messages", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(84)
        .build_cartesian_2d(0.0..seconds, (LATENCY_US_MIN..most * 1.5).log_scale())?;
    chart
        .configure_mesh()
        .max_light_lines(1)
        .x_desc("seconds")
        .y_desc("µs")
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    for (_, colour, points) in p50 {
        chart.draw_series(LineSeries::new(points, colour.mix(0.5)))?;
    }
    for (_, colour, points) in p99 {
        chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
    }
    Ok(())
}

fn draw_percentiles(area: &Area<'_>, runs: &[Named<'_>]) -> Result<(), Fault> {
    let lines: Vec<Line> = runs
        .iter()
        .zip(COLOURS.iter().cycle())
        .map(|((name, outcome), colour)| {
            let latency = outcome.latency_us;
            let values = [latency.p50, latency.p90, latency.p99, latency.p99_9, latency.max];
            let points = values.iter().enumerate().map(|(at, us)| (at as f64, us.max(LATENCY_US_MIN)));
            ((*name).to_owned(), *colour, points.collect())
        })
        .collect();
    let (_, most) = bounds(&lines);
    let mut chart = ChartBuilder::on(area)
        .caption("Latency of the whole run by share of the messages", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(84)
        .build_cartesian_2d(0.0..(PERCENTILES.len() - 1) as f64, (LATENCY_US_MIN..most * 1.5).log_scale())?;
    let label = |at: &f64| PERCENTILES.get(at.round() as usize).copied().unwrap_or_default().to_owned();
    chart
        .configure_mesh()
        .max_light_lines(1)
        .x_labels(PERCENTILES.len())
        .x_label_formatter(&label)
        .y_desc("µs")
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    for (_, colour, points) in lines {
        chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, colour.filled())))?;
    }
    Ok(())
}

/// A line a run, over the seconds since its load began.
fn lines(runs: &[Named<'_>], value: impl Fn(&Point) -> Option<f64>) -> Vec<Line> {
    let colours = COLOURS.iter().cycle();
    let lines = runs.iter().zip(colours).map(|((name, outcome), colour)| {
        let start_s = outcome.series.first().map_or(0.0, |point| point.at_s);
        let points = outcome.series.iter().filter_map(|point| Some((point.at_s - start_s, value(point)?))).collect();
        ((*name).to_owned(), *colour, points)
    });
    lines.collect()
}

/// What is drawn of a latency; nothing where no message arrived.
fn latency_of(point: &Point, us: f64) -> Option<f64> {
    (point.messages_per_s > 0.0).then_some(us.max(LATENCY_US_MIN))
}

/// The greatest of both axes, neither of them zero.
fn bounds(lines: &[Line]) -> (f64, f64) {
    let points = lines.iter().flat_map(|(_, _, points)| points);
    points.fold((1.0, 2.0 * LATENCY_US_MIN), |(x_max, y_max), (x, y)| (x.max(x_max), y.max(y_max)))
}

fn key((x, y): (i32, i32), colour: RGBColor) -> PathElement<(i32, i32)> {
    PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
}
