//! Figures with their bounds, printed as one table at the end.

/// What a figure must be.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    /// This much or more.
    AtLeast(f64),
    /// This much or less.
    AtMost(f64),
    /// It is only told.
    None,
}

#[derive(Debug)]
struct Figure {
    name: String,
    value: String,
    bound: String,
    holds: bool,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
}

impl Report {
    /// Adds a figure.
    pub fn figure(&mut self, name: &str, value: f64, unit: &str, bound: Bound) {
        let (text, holds) = match bound {
            Bound::AtLeast(least) => (format!("at least {least}"), value >= least),
            Bound::AtMost(most) => (format!("at most {most}"), value <= most),
            Bound::None => (String::new(), true),
        };
        let value = format!("{value:.3} {unit}");
        eprintln!("   {name}: {value}");
        self.figures.push(Figure { name: name.into(), value: value.trim_end().into(), bound: text, holds });
    }

    /// A benchmark that could not be run does not hold.
    pub fn failed(&mut self, name: &str, message: &str) {
        self.figures.push(Figure { name: name.into(), value: "-".into(), bound: message.into(), holds: false });
    }

    /// Whether every figure is within its bound.
    pub fn holds(&self) -> bool {
        self.figures.iter().all(|figure| figure.holds)
    }

    /// The table.
    pub fn print(&self) {
        for figure in &self.figures {
            let verdict = if figure.holds { "" } else { "  FALLS SHORT" };
            println!("{:<48} {:>18}   {}{verdict}", figure.name, figure.value, figure.bound);
        }
    }
}
