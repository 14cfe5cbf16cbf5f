//! Lineage: what feeds what, as text, DOT or SVG.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::Project;

/// What a node of the graph is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeKind {
    /// Something that delivers records.
    Input,
    /// A source.
    Source,
    /// A model.
    Model,
    /// A sink.
    Sink,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Its name; inputs are named as `beacon site`.
    pub name: String,
}

/// The lineage of a project.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Graph {
    /// Inputs, sources, models in order of dependency, sinks.
    pub nodes: Vec<Node>,
    /// Indices of what feeds and what is fed.
    pub edges: Vec<(usize, usize)>,
}

impl Project {
    /// What feeds what.
    pub fn graph(&self) -> Graph {
        let mut graph = Graph::default();
        let mut inputs: BTreeMap<String, usize> = BTreeMap::new();
        let mut relations: BTreeMap<&str, usize> = BTreeMap::new();
        for source in &self.sources {
            let name = format!("{} {}", source.kind.name(), source.input);
            inputs.entry(name.clone()).or_insert_with(|| graph.add(NodeKind::Input, name));
        }
        for source in &self.sources {
            let node = graph.add(NodeKind::Source, source.name.to_string());
            relations.insert(&source.name, node);
            let input = format!("{} {}", source.kind.name(), source.input);
            graph.edges.extend(inputs.get(&input).map(|&input| (input, node)));
        }
        for model in &self.models {
            let node = graph.add(NodeKind::Model, model.name.to_string());
            relations.insert(&model.name, node);
            graph.edges.extend(model.reads.iter().filter_map(|read| Some((*relations.get(&**read)?, node))));
        }
        for sink in &self.sinks {
            let node = graph.add(NodeKind::Sink, format!("{} {}", sink.kind.name(), sink.name));
            graph.edges.extend(relations.get(&*sink.from).map(|&from| (from, node)));
        }
        graph
    }
}

impl Graph {
    fn add(&mut self, kind: NodeKind, name: String) -> usize {
        self.nodes.push(Node { kind, name });
        self.nodes.len() - 1
    }

    /// A line an edge, in order of flow.
    pub fn text(&self) -> String {
        let width = self.nodes.iter().map(|node| node.name.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for &(from, to) in &self.edges {
            let (from, to) = (&self.nodes[from].name, &self.nodes[to].name);
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{from:width$} -> {to}");
        }
        for (index, node) in self.nodes.iter().enumerate() {
            if !self.edges.iter().any(|&(from, to)| from == index || to == index) {
                let _ = writeln!(text, "{}", node.name);
            }
        }
        text
    }

    /// For Graphviz.
    pub fn dot(&self) -> String {
        let mut dot = String::from("digraph weir {\n  rankdir = LR;\n  node [fontname = \"sans-serif\"];\n");
        for (index, node) in self.nodes.iter().enumerate() {
            let shape = match node.kind {
                NodeKind::Input => "ellipse",
                NodeKind::Source => "box",
                NodeKind::Model => "box, style = rounded",
                NodeKind::Sink => "cylinder",
            };
            let name = node.name.replace('\\', "\\\\").replace('"', "\\\"");
            let _ = writeln!(dot, "  n{index} [label = \"{name}\", shape = {shape}];");
        }
        for (from, to) in &self.edges {
            let _ = writeln!(dot, "  n{from} -> n{to};");
        }
        dot.push_str("}\n");
        dot
    }

    /// A picture: layers from left to right, each node behind all that feeds it.
    pub fn svg(&self) -> String {
        const NODE_HEIGHT: usize = 28;
        const ROW_HEIGHT: usize = 44;
        const GAP: usize = 70;
        let layers = self.layers();
        let node_width = |node: &Node| node.name.chars().count() * 8 + 24;
        let mut places: BTreeMap<usize, (usize, usize, usize)> = BTreeMap::new();
        let mut x = 20;
        let rows_max = layers.iter().map(Vec::len).max().unwrap_or(0);
        for layer in &layers {
            let width = layer.iter().map(|&index| node_width(&self.nodes[index])).max().unwrap_or(0);
            let top = 20 + (rows_max - layer.len()) * ROW_HEIGHT / 2;
            for (row, &index) in layer.iter().enumerate() {
                places.insert(index, (x, top + row * ROW_HEIGHT, node_width(&self.nodes[index])));
            }
            x += width + GAP;
        }
        let (width, height) = (x.saturating_sub(GAP) + 20, rows_max * ROW_HEIGHT + 24);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"ui-monospace, monospace\" font-size=\"13\">\n"
        );
        for (from, to) in &self.edges {
            let (from_x, from_y, from_width) = places[from];
            let (to_x, to_y, _) = places[to];
            let (x1, y1) = (from_x + from_width, from_y + NODE_HEIGHT / 2);
            let (x2, y2) = (to_x, to_y + NODE_HEIGHT / 2);
            let middle = (x1 + x2) / 2;
            let _ = writeln!(
                svg,
                "  <path d=\"M{x1},{y1} C{middle},{y1} {middle},{y2} {x2},{y2}\" fill=\"none\" stroke=\"#8a94a0\"/>"
            );
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let (x, y, width) = places[&index];
            let (fill, radius) = match node.kind {
                NodeKind::Input => ("#f3f4f6", 14),
                NodeKind::Source => ("#dbeafe", 2),
                NodeKind::Model => ("#dcfce7", 8),
                NodeKind::Sink => ("#fef3c7", 2),
            };
            let (text_x, text_y) = (x + width / 2, y + NODE_HEIGHT / 2 + 4);
            let name = node.name.replace('&', "&amp;").replace('<', "&lt;");
            let _ = writeln!(
                svg,
                "  <rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{NODE_HEIGHT}\" rx=\"{radius}\" \
                 fill=\"{fill}\" stroke=\"#4b5563\"/>\n  \
                 <text x=\"{text_x}\" y=\"{text_y}\" text-anchor=\"middle\" fill=\"#111827\">{name}</text>"
            );
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// Indices by layer; within a layer ordered by the mean row of what feeds them, which saves most crossings.
    fn layers(&self) -> Vec<Vec<usize>> {
        let mut depth = vec![0usize; self.nodes.len()];
        // Every edge leads to a later node, so one pass in order finds the longest paths.
        for index in 0..self.nodes.len() {
            let feeders = self.edges.iter().filter(|(_, to)| *to == index);
            depth[index] = feeders.map(|(from, _)| depth[*from] + 1).max().unwrap_or(0);
        }
        let mut layers = vec![Vec::new(); depth.iter().max().map_or(0, |deepest| deepest + 1)];
        for (index, &layer) in depth.iter().enumerate() {
            layers[layer].push(index);
        }
        let mut row = vec![0f64; self.nodes.len()];
        for layer in &mut layers {
            let mut placed: Vec<(f64, usize)> = layer
                .iter()
                .map(|&index| {
                    let feeders: Vec<f64> =
                        self.edges.iter().filter(|(_, to)| *to == index).map(|(from, _)| row[*from]).collect();
                    let mean = feeders.iter().sum::<f64>() / feeders.len().max(1) as f64;
                    (if feeders.is_empty() { index as f64 } else { mean }, index)
                })
                .collect();
            placed.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            *layer = placed.into_iter().map(|(_, index)| index).collect();
            for (at, &index) in layer.iter().enumerate() {
                row[index] = at as f64;
            }
        }
        layers
    }
}
