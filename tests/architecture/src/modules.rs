//! The modules of one crate as a graph of its files.
//!
//! Contract: an arrow from file to file means that the first names something that the second
//! defines, through however many re-exports. Only the crate's own files are nodes. Names that
//! other crates define, and what type inference alone brings in, are not seen.

use crate::graph::Graph;
use crate::source::{self, Module};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Files of a crate and their dependencies.
#[derive(Debug, Default)]
pub struct Files {
    /// Arrows between the files; names are relative to the crate's `src/`.
    pub graph: Graph,
    /// What each file is for, in its own words.
    pub summary: BTreeMap<String, String>,
    /// `#[path]` attributes that leave the crate.
    pub outside: Vec<String>,
}

/// One module in the tree.
struct Node {
    file: String,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    module: Module,
}

/// A crate root: `lib.rs`, `main.rs` or the file of another program.
#[derive(Clone, Debug)]
pub struct Root {
    /// The file.
    pub path: PathBuf,
    /// The name by which other roots of the package import it, for a library.
    pub library: Option<String>,
}

/// Reads all files that the roots reach by `mod`.
pub fn read(src: &Path, roots: &[Root]) -> std::io::Result<Files> {
    let mut tree = Tree { src: src.into(), ..Tree::default() };
    for root in roots {
        let dir = root.path.parent().unwrap_or(src).to_path_buf();
        let index = tree.file(&root.path, &dir, None)?;
        if let Some(name) = &root.library {
            tree.library = Some((name.clone(), index));
        }
    }
    Ok(tree.finish())
}

#[derive(Default)]
struct Tree {
    src: PathBuf,
    nodes: Vec<Node>,
    library: Option<(String, usize)>,
    files: Files,
}

/// What a path names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Module(usize),
    /// An item that this module defines.
    Item(usize),
}

impl Tree {
    /// Adds a file and everything below it. Its children lie in `dir`.
    fn file(&mut self, path: &Path, dir: &Path, parent: Option<usize>) -> std::io::Result<usize> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| std::io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        let name = path.strip_prefix(&self.src).unwrap_or(path).display().to_string();
        self.files.graph.node(&name);
        self.files.summary.insert(name.clone(), source::summary(&text));
        self.module(source::read(&text), name, path, dir, parent)
    }

    fn module(
        &mut self,
        mut module: Module,
        file: String,
        path: &Path,
        dir: &Path,
        parent: Option<usize>,
    ) -> std::io::Result<usize> {
        let index = self.nodes.len();
        let inline = std::mem::take(&mut module.inline);
        let files = module.files.clone();
        self.nodes.push(Node { file: file.clone(), parent, children: BTreeMap::new(), module });
        for (name, inner) in inline {
            let child = self.module(inner, file.clone(), path, &dir.join(&name), Some(index))?;
            self.nodes[index].children.insert(name, child);
        }
        for (name, attribute) in files {
            let (path, below) = match attribute {
                Some(named) => {
                    let path = path.parent().unwrap_or(dir).join(&named);
                    if !path.canonicalize()?.starts_with(self.src.canonicalize()?) {
                        self.files.outside.push(format!("{file}: #[path = \"{named}\"]"));
                        continue;
                    }
                    (path.clone(), path.with_extension(""))
                }
                None if dir.join(&name).join("mod.rs").exists() => {
                    (dir.join(&name).join("mod.rs"), dir.join(&name))
                }
                None => (dir.join(format!("{name}.rs")), dir.join(&name)),
            };
            let child = self.file(&path, &below, Some(index))?;
            self.nodes[index].children.insert(name, child);
        }
        Ok(index)
    }

    fn finish(mut self) -> Files {
        let mut graph = std::mem::take(&mut self.files.graph);
        for (index, node) in self.nodes.iter().enumerate() {
            for import in &node.module.imports {
                let Some(found) = self.resolve(index, &import.path, 0) else { continue };
                let to = match (found, import.name.as_str()) {
                    (Found::Item(to), _) => to,
                    // Any of its names may be meant.
                    (Found::Module(to), "*") => to,
                    // The paths show what is used of the module.
                    (Found::Module(_), _) => continue,
                };
                let passed_on = import.public
                    && self.is_below(to, index)
                    && !node.module.words.contains(&import.name);
                if !passed_on {
                    graph.arrow(&node.file, &self.nodes[to].file);
                }
            }
            for path in &node.module.paths {
                if let Some(Found::Item(to)) = self.resolve(index, path, 0) {
                    graph.arrow(&node.file, &self.nodes[to].file);
                }
            }
        }
        Files { graph, ..self.files }
    }

    fn is_below(&self, mut node: usize, ancestor: usize) -> bool {
        while let Some(parent) = self.nodes[node].parent {
            if parent == ancestor {
                return true;
            }
            node = parent;
        }
        false
    }

    fn root(&self, mut node: usize) -> usize {
        while let Some(parent) = self.nodes[node].parent {
            node = parent;
        }
        node
    }

    /// Follows a path that stands in module `from`.
    fn resolve(&self, from: usize, path: &[String], depth: usize) -> Option<Found> {
        // Two modules that import everything of each other would lead nowhere.
        if depth > 16 {
            return None;
        }
        let first = path.first()?.as_str();
        let found = match first {
            "crate" => Found::Module(self.root(from)),
            "self" => Found::Module(from),
            "super" => Found::Module(self.nodes[from].parent?),
            _ if self.library.as_ref().is_some_and(|(name, _)| name == first) => {
                Found::Module(self.library.as_ref()?.1)
            }
            _ => self.named(from, first, depth)?,
        };
        path[1..].iter().try_fold(found, |found, segment| match found {
            Found::Item(_) => Some(found),
            Found::Module(module) if segment == "super" => {
                self.nodes[module].parent.map(Found::Module)
            }
            // A name that is nowhere else is made by a macro or imported by a glob: it belongs to
            // the module that was named.
            Found::Module(module) => {
                Some(self.named(module, segment, depth).unwrap_or(Found::Item(module)))
            }
        })
    }

    /// What `name` means in `module`.
    fn named(&self, module: usize, name: &str, depth: usize) -> Option<Found> {
        let node = &self.nodes[module];
        if node.module.defines.contains(name) {
            return Some(Found::Item(module));
        }
        if let Some(child) = node.children.get(name) {
            return Some(Found::Module(*child));
        }
        for import in node.module.imports.iter().filter(|i| i.name == name) {
            // `use name;` would find itself.
            let itself = import.path.len() == 1 && import.path[0] == name;
            if !itself && let Some(found) = self.resolve(module, &import.path, depth + 1) {
                return Some(found);
            }
        }
        node.module.imports.iter().filter(|i| i.name == "*").find_map(|glob| {
            match self.resolve(module, &glob.path, depth + 1)? {
                Found::Module(other) if other != module => self.named(other, name, depth + 1),
                _ => None,
            }
        })
    }
}
