//! The runs as two panels on logarithmic axes: delivery times, and the relay's CPU a delivery.

use std::path::Path;

use loadgen::report::group;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::axes::{BLUE, FAINT, FONT, INK, MUTED, ORANGE, around, decades};
use crate::measured::{Measured, duration};

const SIZE: (u32, u32) = (1120, 480);
const GREEN: RGBColor = RGBColor(0x1a, 0x7f, 0x37);

type Canvas<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Failed<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

/// One measured quantity over the number of viewers.
struct Line {
    name: &'static str,
    color: RGBColor,
    labels: Labels,
    points: Vec<(f64, f64)>,
}

/// Where the labels of a line's points stand: on a side that the line leaves free.
#[derive(Clone, Copy)]
enum Labels {
    AboveLeft,
    AboveRight,
    BelowRight,
}

impl Labels {
    /// The label's corner that is nearest to its point, and how far from the point it is, pixels.
    fn place(self) -> (Pos, (i32, i32)) {
        match self {
            Self::AboveLeft => (Pos::new(HPos::Right, VPos::Bottom), (-7, -5)),
            Self::AboveRight => (Pos::new(HPos::Left, VPos::Bottom), (7, -5)),
            Self::BelowRight => (Pos::new(HPos::Left, VPos::Top), (7, 5)),
        }
    }
}

/// A panel's words.
struct Panel {
    title: &'static str,
    lines: Vec<Line>,
    label: fn(f64) -> String,
}

/// Writes the SVG.
pub fn write(path: &Path, runs: &[Measured]) -> Result<(), String> {
    draw(path, runs).map_err(|error| error.to_string())
}

fn draw<'a>(path: &'a Path, runs: &[Measured]) -> Result<(), Failed<'a>> {
    let over_users = |value: fn(&Measured) -> f64| runs.iter().map(|run| (run.users as f64, value(run))).collect();
    let times = Panel {
        title: "Delivery time, from the planned send to the viewer",
        lines: vec![
            Line { name: "p99", color: ORANGE, labels: Labels::AboveLeft, points: over_users(|run| run.p99_us) },
            Line { name: "p50", color: BLUE, labels: Labels::BelowRight, points: over_users(|run| run.p50_us) },
        ],
        label: |us| duration(us, true),
    };
    let cpu = Panel {
        title: "CPU of the relay for one delivery",
        lines: vec![Line {
            name: "",
            color: GREEN,
            labels: Labels::AboveRight,
            points: over_users(|run| run.cpu_us_per_delivery),
        }],
        label: |us| duration(us, false),
    };
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, panels) = root.split_vertically(62);
    let text = |size: f64, color: &RGBColor| (FONT, size).into_font().color(color).into_text_style(&root);
    head.draw_text("One chat room, every line to every viewer", &text(25.0, &INK), (28, 18))?;
    let machine = runs.first().map_or("", |run| run.machine.as_str());
    head.draw_text(&format!("relay and load generator together on {machine}"), &text(15.5, &MUTED), (28, 48))?;
    let (left, right) = panels.split_horizontally(SIZE.0 / 2);
    panel(&left, &times)?;
    panel(&right, &cpu)?;
    root.present()
}

fn panel<'a>(area: &Canvas<'a>, panel: &Panel) -> Result<(), Failed<'a>> {
    let points = || panel.lines.iter().flat_map(|line| &line.points);
    let users: Vec<f64> = panel.lines[0].points.iter().map(|point| point.0).collect();
    let (x, y) = (around(users.iter().copied(), 2.6, 3.2), around(points().map(|point| point.1), 2.2, 2.2));
    let (x_axis, y_axis) =
        (x.clone().log_scale().with_key_points(users), y.clone().log_scale().with_key_points(decades(&y)));
    let words = |size: f64, color: &RGBColor| (FONT, size).into_font().color(color).into_text_style(area);
    let mut chart = ChartBuilder::on(area)
        .margin(20)
        .margin_left(28)
        .caption(panel.title, words(18.5, &INK))
        .x_label_area_size(52)
        .y_label_area_size(70)
        .build_cartesian_2d(x_axis, y_axis)?;
    chart
        .configure_mesh()
        .axis_style(MUTED)
        .bold_line_style(FAINT)
        .light_line_style(TRANSPARENT)
        .x_desc("viewers")
        .axis_desc_style(words(15.5, &MUTED))
        .label_style(words(15.5, &INK))
        .x_label_formatter(&|users| group(*users as u64))
        .y_label_formatter(&|value| (panel.label)(*value))
        .draw()?;
    for line in &panel.lines {
        chart.draw_series(LineSeries::new(line.points.iter().copied(), line.color.stroke_width(2)))?;
        chart.draw_series(line.points.iter().enumerate().map(|(nth, &point)| {
            let last = nth + 1 == line.points.len();
            let value = (panel.label)(point.1);
            let value = if last && !line.name.is_empty() { format!("{} {value}", line.name) } else { value };
            let (anchor, at) = line.labels.place();
            let style = words(15.5, &line.color).pos(anchor);
            EmptyElement::at(point) + Circle::new((0, 0), 4, line.color.filled()) + Text::new(value, at, style)
        }))?;
    }
    Ok(())
}
