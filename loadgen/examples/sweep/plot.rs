//! Delivery times against rates, a panel for each room or mix: once on the way up, once on the way down.

use std::path::Path;

use loadgen::report::group;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::axes::{BLUE, FAINT, FONT, INK, MUTED, ORANGE, around, decades};
use crate::measured::{Measured, Row};

/// Of a panel, pixels; two stand side by side.
const PANEL: (u32, u32) = (560, 400);
const HEAD: u32 = 62;

type Canvas<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Failed<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

/// Writes the SVG.
pub fn write(path: &Path, all: &[Measured]) -> Result<(), String> {
    draw(path, all).map_err(|error| error.to_string())
}

fn draw<'a>(path: &'a Path, all: &[Measured]) -> Result<(), Failed<'a>> {
    let columns = all.len().min(2) as u32;
    let rows = (all.len() as u32).div_ceil(columns);
    let size = (PANEL.0 * columns.max(2), PANEL.1 * rows + HEAD);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, panels) = root.split_vertically(HEAD);
    let text = |size: f64, color: &RGBColor| (FONT, size).into_font().color(color).into_text_style(&root);
    head.draw_text("p99 of delivery, as the rate goes up and down again", &text(25.0, &INK), (28, 18))?;
    let machine = all.first().map_or("", |measured| measured.machine.as_str());
    head.draw_text(&format!("relay and clients together on {machine}"), &text(15.5, &MUTED), (28, 48))?;
    for (area, measured) in panels.split_evenly((rows as usize, columns as usize)).iter().zip(all) {
        panel(area, measured)?;
    }
    root.present()
}

fn panel<'a>(area: &Canvas<'a>, measured: &Measured) -> Result<(), Failed<'a>> {
    let rows = &measured.rows;
    let (x, y) =
        (around(rows.iter().map(|row| row.lines_per_s), 1.6, 1.6), around(rows.iter().map(|row| row.p99_ms), 2.0, 2.5));
    let mut rates: Vec<f64> = rows.iter().map(|row| row.lines_per_s).collect();
    rates.sort_by(f64::total_cmp);
    rates.dedup();
    let (x_axis, y_axis) = (x.log_scale().with_key_points(rates), y.clone().log_scale().with_key_points(decades(&y)));
    let words = |size: f64, color: &RGBColor| (FONT, size).into_font().color(color).into_text_style(area);
    let mut chart = ChartBuilder::on(area)
        .margin(20)
        .caption(measured.name(), words(17.0, &INK))
        .x_label_area_size(46)
        .y_label_area_size(70)
        .build_cartesian_2d(x_axis, y_axis)?;
    chart
        .configure_mesh()
        .axis_style(MUTED)
        .bold_line_style(FAINT)
        .light_line_style(TRANSPARENT)
        .x_desc("lines a second")
        .axis_desc_style(words(15.0, &MUTED))
        .label_style(words(14.0, &INK))
        .x_label_formatter(&|rate| group(*rate as u64))
        .y_label_formatter(&|ms| format!("{ms} ms"))
        .draw()?;
    let (up, down) = ways(rows);
    for (way, name, color, anchor, away) in [
        (up, "up", ORANGE, Pos::new(HPos::Center, VPos::Bottom), -8),
        (down, "down", BLUE, Pos::new(HPos::Center, VPos::Top), 8),
    ] {
        let points = || way.iter().map(|row| (row.lines_per_s, row.p99_ms));
        chart.draw_series(LineSeries::new(points(), color.stroke_width(2)))?;
        chart.draw_series(points().enumerate().map(|(nth, point)| {
            let value = format!("{:.0}", point.1);
            let value = if nth == 0 { format!("{name} {value}") } else { value };
            let style = words(14.0, &color).pos(anchor);
            EmptyElement::at(point) + Circle::new((0, 0), 3, color.filled()) + Text::new(value, (0, away), style)
        }))?;
    }
    Ok(())
}

/// The steps up to the highest rate, and from it on.
fn ways(rows: &[Row]) -> (&[Row], &[Row]) {
    let highest = (0..rows.len()).max_by(|&a, &b| rows[a].lines_per_s.total_cmp(&rows[b].lines_per_s)).unwrap_or(0);
    (&rows[..(highest + 1).min(rows.len())], &rows[highest..])
}
