//! A migration as its reader sees it: how much came in each 10 ms, and by which path.

use std::time::{Duration, Instant};

use plotters::prelude::*;

use super::switch::{Load, Migration, Road, Run};

const SIZE: (u32, u32) = (960, 560);
const SLICE_MS: i64 = 10;
/// What is shown, around the moment in which the migration is asked for.
const SHOWN_MS: (i64, i64) = (-200, 500);
const LOAD: Load = Load {
    piece: 8 * 1024,
    every: Duration::from_millis(2),
    pieces: 1500,
};
/// Windows have grown by then.
const WARM: Duration = Duration::from_millis(2000);

const OLD: RGBColor = RGBColor(0xd9, 0x7a, 0x27);
const NEW: RGBColor = RGBColor(0x2b, 0x6c, 0xb0);
const MARK: RGBColor = RGBColor(0x33, 0x33, 0x33);

/// MiB/s by the old path and by the new one, in each slice.
type Slices = Vec<(f64, f64)>;

pub async fn draw() -> Result<String, String> {
    let mut panels = Vec::new();
    for (delays, title) in [
        (
            [0, 0],
            "TCP to QUIC on loopback, no delay added, 4 MiB/s written",
        ),
        (
            [80, 5],
            "TCP with 80 ms each way to QUIC with 5 ms, 4 MiB/s written",
        ),
    ] {
        let mut road = Road::new(delays, false).await;
        let run = road.run([Some(LOAD), None], Some(WARM)).await;
        panels.push((title, run));
    }
    let mut svg = String::new();
    paint(&mut svg, &panels).map_err(|error| error.to_string())?;
    Ok(svg)
}

fn paint(svg: &mut String, panels: &[(&str, Run)]) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, (title, run)) in root.split_evenly((panels.len(), 1)).iter().zip(panels) {
        let at = run.migration.ok_or("there was no migration")?;
        let slices = slices(run, at.asked);
        let highest = slices
            .iter()
            .map(|(old, new)| old + new)
            .fold(1.0, f64::max);
        let top = 1.15 * highest;
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(34)
            .y_label_area_size(52)
            .build_cartesian_2d(SHOWN_MS.0..SHOWN_MS.1, 0.0..top)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .x_desc("ms after the migration was asked for")
            .y_desc("received, MiB/s")
            .x_labels(8)
            .y_labels(6)
            .draw()?;
        let bars = |colour: RGBColor, values: Vec<(f64, f64)>| {
            (SHOWN_MS.0..)
                .step_by(SLICE_MS as usize)
                .zip(values)
                .filter(|(_, (from, to))| to > from)
                .map(move |(ms, (from, to))| {
                    Rectangle::new([(ms, from), (ms + SLICE_MS, to)], colour.filled())
                })
                .collect::<Vec<_>>()
        };
        let old = slices.iter().map(|(old, _)| (0.0, *old)).collect();
        let new = slices.iter().map(|(old, new)| (*old, old + new)).collect();
        for (colour, name, values) in [(OLD, "old path", old), (NEW, "new path", new)] {
            chart
                .draw_series(bars(colour, values))?
                .label(name)
                .legend(move |(x, y)| {
                    Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled())
                });
        }
        for (name, ms) in marks(at) {
            let line = PathElement::new(vec![(ms, 0.0), (ms, top)], MARK.stroke_width(1));
            let style = ("sans-serif", 12).into_font().color(&MARK);
            let text = Text::new(name, (ms + 3, 0.98 * top), style);
            chart.draw_series([line])?;
            chart.draw_series([text])?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE)
            .label_font(("sans-serif", 12))
            .draw()?;
    }
    root.present()?;
    Ok(())
}

/// The switch: where the writer goes over to the new path.
fn marks(at: Migration) -> [(&'static str, i64); 1] {
    let ms = at.agreed.saturating_duration_since(at.asked).as_millis();
    [("switch", ms as i64)]
}

fn slices(run: &Run, asked: Instant) -> Slices {
    let count = (SHOWN_MS.1 - SHOWN_MS.0) / SLICE_MS;
    let mut slices = vec![(0.0, 0.0); count as usize];
    let mut position = 0;
    for &(at, n) in &run.arrivals[0] {
        let by_old = run.by_old.saturating_sub(position).min(n as u64);
        let by_new = n as u64 - by_old;
        position += n as u64;
        let ms = match at.checked_duration_since(asked) {
            Some(after) => after.as_millis() as i64,
            None => -1 - asked.duration_since(at).as_millis() as i64,
        };
        let slice = usize::try_from((ms - SHOWN_MS.0).div_euclid(SLICE_MS)).ok();
        if let Some(slice) = slice.and_then(|slice| slices.get_mut(slice)) {
            let rate = |bytes: u64| bytes as f64 / (SLICE_MS as f64 / 1000.0) / f64::from(1 << 20);
            slice.0 += rate(by_old);
            slice.1 += rate(by_new);
        }
    }
    slices
}
