//! What a run has shown, as a picture: of each protocol, what arrived, on which path, and what did not.

use std::fmt::Write;

use crate::report::Row;

const LEFT: f64 = 130.0;
const WIDTH: f64 = 420.0;
const ROW: f64 = 30.0;
const TOP: f64 = 70.0;

/// Over the relay, directly, not at all.
const COLOURS: [(&str, &str); 3] = [
    ("#d98032", "over the relay"),
    ("#2f6fb5", "directly"),
    ("#c0392b", "lost"),
];

pub fn svg(rows: &[Row], title: &str) -> String {
    let height = TOP + ROW * rows.len() as f64 + 14.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"940\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut svg, [14.0, 24.0], "font-weight=\"bold\"", title);
    for (number, (colour, what)) in COLOURS.into_iter().enumerate() {
        let x = LEFT + 150.0 * number as f64;
        bar(&mut svg, [x, 40.0], 14.0, colour);
        text(&mut svg, [x + 20.0, 52.0], "", what);
    }
    for (number, row) in rows.iter().enumerate() {
        let y = TOP + ROW * number as f64;
        let (relayed, direct) = (row.written.relayed as f64, row.written.direct as f64);
        let arrived = WIDTH * row.received.min(row.sent) as f64 / row.sent.max(1) as f64;
        let relayed = arrived * relayed / (relayed + direct).max(1.0);
        let mut x = LEFT;
        for ((colour, _), width) in
            COLOURS
                .into_iter()
                .zip([relayed, arrived - relayed, WIDTH - arrived])
        {
            bar(&mut svg, [x, y], width, colour);
            x += width;
        }
        text(&mut svg, [14.0, y + 15.0], "", row.protocol.name());
        let gap = row.longest_gap.as_secs_f64() * 1e3;
        let said = format!(
            "{} of {} {}, longest gap {gap:.0} ms",
            row.received.min(row.sent),
            row.sent,
            row.protocol.unit()
        );
        text(&mut svg, [LEFT + WIDTH + 10.0, y + 15.0], "", &said);
    }
    svg.push_str("</svg>\n");
    svg
}

fn bar(svg: &mut String, [x, y]: [f64; 2], width: f64, colour: &str) {
    let height = if y < TOP { 14.0 } else { 20.0 };
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{colour}\"/>"
    );
}

fn text(svg: &mut String, [x, y]: [f64; 2], style: &str, said: &str) {
    let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" {style}>{said}</text>");
}
