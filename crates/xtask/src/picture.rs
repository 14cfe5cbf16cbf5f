//! `cargo xtask picture`: runs the demo and draws what it prints, as a terminal would show it, into docs/demo.svg.

use anyhow::{Result, ensure};

use crate::{run, workspace};

/// Size of a character cell in pixels.
const CELL: (usize, usize) = (8, 18);
const MARGIN: usize = 16;
/// Lines of live numbers that are left out of the middle, so that the picture fits a page.
const LIVE_LINES_MAX: usize = 6;

/// Runs the demo for a release build and draws it.
pub fn run() -> Result<bool> {
    let mut lines = Vec::new();
    let mut demo = run::cargo();
    demo.env("NO_COLOR", "1").args(["run", "--release", "--quiet", "--", "demo"]);
    let succeeded = run::watched(&mut demo, |line| lines.push(line.trim_end().to_owned()))?;
    ensure!(succeeded, "the demo failed");
    lines.insert(0, "$ cargo run --release -- demo".to_owned());
    std::fs::write(workspace::root().join("docs/demo.svg"), draw(&shortened(lines)))?;
    Ok(true)
}

/// Keeps the first few of many live lines that follow each other.
fn shortened(lines: Vec<String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut live = 0;
    for line in lines {
        live = if line.starts_with("epoch") { live + 1 } else { 0 };
        match live {
            0..=LIVE_LINES_MAX => kept.push(line),
            _ if kept.last().is_some_and(|last| last == "...") => {}
            _ => kept.push("...".to_owned()),
        }
    }
    kept
}

fn draw(lines: &[String]) -> String {
    let columns = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let (width, height) = (columns * CELL.0 + 2 * MARGIN, lines.len() * CELL.1 + 2 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         role=\"img\" aria-label=\"The demo in a terminal\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#10151c\"/>\n\
         <g font-family=\"ui-monospace, Menlo, Consolas, monospace\" font-size=\"13\" fill=\"#d5dde6\" xml:space=\"preserve\">\n"
    );
    for (index, line) in lines.iter().enumerate() {
        let y = MARGIN + (index + 1) * CELL.1 - 5;
        let colour = match line {
            line if line.starts_with('$') => " fill=\"#8fd0ff\"",
            line if line.contains("kill -9") => " fill=\"#ff9a7a\"",
            line if line.contains("equal") => " fill=\"#8fe3a2\"",
            _ => "",
        };
        let text = line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        svg.push_str(&format!("<text x=\"{MARGIN}\" y=\"{y}\"{colour}>{text}</text>\n"));
    }
    svg + "</g>\n</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_live_lines_are_shortened_and_markup_is_escaped() {
        let mut lines: Vec<String> = (0..20).map(|index| format!("epoch {index}")).collect();
        lines.push("a > b".into());
        let kept = shortened(lines);
        assert_eq!(kept.len(), LIVE_LINES_MAX + 2);
        assert!(draw(&kept).contains("a &gt; b"));
    }
}
