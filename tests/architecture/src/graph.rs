//! A small directed graph of names: circles, layers, and the arrows that are not redundant.

use std::collections::{BTreeMap, BTreeSet};

/// Nodes and what each depends on.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    arrows: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// Adds a node.
    pub fn node(&mut self, name: &str) {
        self.arrows.entry(name.into()).or_default();
    }

    /// Adds an arrow: `from` depends on `to`. A node does not depend on itself.
    pub fn arrow(&mut self, from: &str, to: &str) {
        self.node(from);
        self.node(to);
        if from != to {
            self.arrows.get_mut(from).expect("added above").insert(to.into());
        }
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.arrows.keys().map(String::as_str)
    }

    /// What `node` depends on.
    pub fn uses(&self, node: &str) -> impl Iterator<Item = &str> {
        self.arrows.get(node).into_iter().flatten().map(String::as_str)
    }

    /// The same graph with nodes merged by `name`.
    pub fn merged(&self, name: impl Fn(&str) -> String) -> Self {
        let mut merged = Self::default();
        for (from, to) in &self.arrows {
            merged.node(&name(from));
            for to in to {
                merged.arrow(&name(from), &name(to));
            }
        }
        merged
    }

    /// Everything that can be reached from `node` by one or more arrows.
    fn reach(&self, node: &str) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&str> = self.uses(node).collect();
        while let Some(node) = next.pop() {
            if seen.insert(node) {
                next.extend(self.uses(node));
            }
        }
        seen
    }

    /// Each set of two or more nodes that all depend on each other.
    pub fn circles(&self) -> Vec<Vec<String>> {
        let reach: BTreeMap<&str, BTreeSet<&str>> =
            self.nodes().map(|n| (n, self.reach(n))).collect();
        let mut circles: Vec<Vec<String>> = Vec::new();
        for node in self.nodes().filter(|n| reach[n].contains(n)) {
            if circles.iter().any(|c| c.iter().any(|n| n == node)) {
                continue;
            }
            let mutual =
                self.nodes().filter(|n| reach[node].contains(n) && reach[n].contains(node));
            circles.push(mutual.map(String::from).collect());
        }
        circles
    }

    /// Layer of each node: 0 depends on nothing, every arrow goes to a lower layer. Nodes of a
    /// circle have one layer in common.
    pub fn layers(&self) -> BTreeMap<String, usize> {
        let circles = self.circles();
        let circle =
            |n: &str| circles.iter().find(|c| c.iter().any(|m| m == n)).map(|c| c[0].clone());
        let plain = self.merged(|n| circle(n).unwrap_or_else(|| n.into()));
        let mut layers: BTreeMap<&str, usize> = BTreeMap::new();
        // Without circles each round settles the nodes above those of the round before.
        while layers.len() < plain.arrows.len() {
            for node in plain.nodes() {
                let below: Option<Vec<usize>> =
                    plain.uses(node).map(|to| layers.get(to).copied()).collect();
                if let Some(below) = below {
                    layers.insert(node, below.iter().max().map_or(0, |l| l + 1));
                }
            }
        }
        let layer = |n: &str| layers[circle(n).as_deref().unwrap_or(n)];
        self.nodes().map(|n| (n.to_string(), layer(n))).collect()
    }

    /// The graph without the arrows that a longer path implies (transitive reduction), for a
    /// drawing.
    pub fn reduced(&self) -> Self {
        let mut reduced = Self::default();
        for from in self.nodes() {
            reduced.node(from);
            for to in self.uses(from) {
                let around = self.uses(from).any(|by| by != to && self.reach(by).contains(to));
                if !around {
                    reduced.arrow(from, to);
                }
            }
        }
        reduced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(arrows: &[(&str, &str)]) -> Graph {
        let mut graph = Graph::default();
        for (from, to) in arrows {
            graph.arrow(from, to);
        }
        graph
    }

    #[test]
    fn circles_are_found_whatever_their_length() {
        assert!(graph(&[("a", "b"), ("b", "c"), ("a", "c"), ("a", "a")]).circles().is_empty());
        let two = graph(&[("a", "b"), ("b", "a"), ("c", "d"), ("d", "e"), ("e", "c"), ("a", "c")]);
        assert_eq!(two.circles(), [vec!["a", "b"], vec!["c", "d", "e"]]);
    }

    #[test]
    fn arrows_go_to_lower_layers() {
        let layers = graph(&[("a", "b"), ("b", "c"), ("a", "c"), ("d", "c")]).layers();
        assert_eq!([layers["a"], layers["b"], layers["c"], layers["d"]], [2, 1, 0, 1]);
        let circle = graph(&[("a", "b"), ("b", "a"), ("b", "c")]).layers();
        assert_eq!([circle["a"], circle["b"], circle["c"]], [1, 1, 0]);
    }

    #[test]
    fn explained_arrows_are_left_out() {
        let reduced = graph(&[("a", "b"), ("b", "c"), ("a", "c")]).reduced();
        assert_eq!(reduced.uses("a").collect::<Vec<_>>(), ["b"]);
    }
}
