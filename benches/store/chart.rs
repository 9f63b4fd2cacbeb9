//! The days as a picture.

use crate::churn::DayFigures;
use plotters::prelude::*;
use std::error::Error;

/// One panel for each figure, days to the right, as SVG.
pub fn draw_svg(title: &str, days: &[DayFigures]) -> Result<String, Box<dyn Error + Send + Sync>> {
    let mut picture = String::new();
    let area = SVGBackend::with_string(&mut picture, CHART_SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let panels = area.titled(title, (CHART_FONT, 20))?.split_evenly((2, 2));
    for (panel, (name, figure)) in panels.iter().zip(CHART_PANELS) {
        let points = || (1..).zip(days).map(|(number, day)| (number, figure(day)));
        let most = points().map(|(_, value)| value).fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(panel)
            .caption(name, (CHART_FONT, 16))
            .margin(10)
            .x_label_area_size(25)
            .y_label_area_size(50)
            .build_cartesian_2d(1..days.len(), 0.0..most * 1.1)?;
        chart.configure_mesh().light_line_style(TRANSPARENT).draw()?;
        chart.draw_series(LineSeries::new(points(), BLUE.stroke_width(2)))?;
    }
    area.present()?;
    drop(panels);
    drop(area);
    Ok(picture)
}

type ChartPanel = (&'static str, fn(&DayFigures) -> f64);

const CHART_PANELS: [ChartPanel; 4] = [
    ("journal on disk, MiB", |day| day.journal_mib),
    ("ledger on disk, MiB", |day| day.ledger_mib),
    ("RSS, MiB", |day| day.rss_mib),
    ("open, ms", |day| day.open_ms),
];
/// Pixels.
const CHART_SIZE: (u32, u32) = (900, 560);
const CHART_FONT: &str = "sans-serif";
