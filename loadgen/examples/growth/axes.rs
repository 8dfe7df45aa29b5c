//! How plots of measurements look: colours, and where logarithmic axes begin, end and have their marks.

use std::ops::Range;

use plotters::style::RGBColor;

pub const FONT: &str = "Helvetica, Arial, sans-serif";
pub const INK: RGBColor = RGBColor(0x24, 0x29, 0x2f);
pub const FAINT: RGBColor = RGBColor(0xd8, 0xde, 0xe4);
pub const MUTED: RGBColor = RGBColor(0x57, 0x60, 0x6a);
pub const BLUE: RGBColor = RGBColor(0x09, 0x69, 0xda);
pub const ORANGE: RGBColor = RGBColor(0xbc, 0x4c, 0x00);

/// From the least to the most with some room on both sides, so many times; on the right, labels need more of it.
pub fn around(values: impl Iterator<Item = f64>, below: f64, above: f64) -> Range<f64> {
    let (least, most) =
        values.fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
    least.max(1e-9) / below..most.max(1e-9) * above
}

/// The powers of ten inside a range, and when they are few their double and fivefold.
pub fn decades(range: &Range<f64>) -> Vec<f64> {
    let (from, to) = (range.start.log10().floor() as i32, range.end.log10().ceil() as i32);
    let of = |steps: &[f64]| {
        let all = (from..=to).flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)));
        all.filter(|value| range.contains(value)).collect::<Vec<_>>()
    };
    let tens = of(&[1.0]);
    if tens.len() < 3 { of(&[1.0, 2.0, 5.0]) } else { tens }
}
