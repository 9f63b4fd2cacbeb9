//! No crate has an import cycle between its modules.
//!
//! A module is a file. It depends on the modules that define the items which its paths name (`crate::`, `super::`,
//! `self::` and imported names); re-exports are followed and are no dependency themselves, so that `mod.rs` may be a
//! table of contents. Code under `#[cfg(test)]` does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use syn::visit::Visit;
use syn::{Attribute, Item, UseTree, Visibility};

/// Segments of a module's path; the crate root is empty.
type Module = Vec<String>;
type Graph = BTreeMap<Module, BTreeSet<Module>>;

/// Crates that still have cycles: modules in cycles at most.
const KNOWN_CYCLES: [(&str, usize); 2] = [("crates/net", 15), ("crates/sandbox", 32)];
const MAX_REEXPORT_DEPTH: usize = 8;

#[derive(Default)]
struct Source {
    /// Names that the module defines.
    items: BTreeSet<String>,
    children: BTreeSet<String>,
    /// Imported and re-exported names with their paths.
    imports: BTreeMap<String, Vec<String>>,
    /// Paths in the code, re-exports excluded.
    paths: Vec<Vec<String>>,
}

struct Crate(BTreeMap<Module, Source>);

impl Crate {
    fn read(folder: &Path) -> Self {
        let mut modules = Self(BTreeMap::new());
        modules.read_file(&folder.join("lib.rs"), folder, Vec::new());
        modules
    }

    fn read_file(&mut self, file: &Path, folder: &Path, module: Module) {
        let text = std::fs::read_to_string(file).unwrap();
        self.read_items(&syn::parse_file(&text).unwrap().items, folder, module);
    }

    fn read_items(&mut self, items: &[Item], folder: &Path, module: Module) {
        let mut source = Source::default();
        for item in items {
            match item {
                Item::Mod(child) if !is_test(&child.attrs) => {
                    let name = child.ident.to_string();
                    let path = [module.clone(), vec![name.clone()]].concat();
                    let (file, below) = (folder.join(format!("{name}.rs")), folder.join(&name));
                    match &child.content {
                        Some((_, items)) => self.read_items(items, &below, path),
                        None if file.exists() => self.read_file(&file, &below, path),
                        None => self.read_file(&below.join("mod.rs"), &below, path),
                    }
                    source.children.insert(name);
                }
                Item::Use(import) if !is_test(&import.attrs) => source.add_import(import),
                Item::Fn(item) if is_test(&item.attrs) => {}
                Item::Impl(item) if is_test(&item.attrs) => {}
                Item::Mod(_) | Item::Use(_) => {}
                item => {
                    source.items.extend(defined_name(item));
                    PathCollector(&mut source.paths).visit_item(item);
                }
            }
        }
        self.0.insert(module, source);
    }

    /// The module that defines the item which `path` names in `from`.
    fn resolve(&self, from: &Module, path: &[String], depth: usize) -> Option<Module> {
        let (first, mut rest) = path.split_first()?;
        let mut module = from.clone();
        match first.as_str() {
            "crate" => module.clear(),
            "self" => {}
            "super" => {
                module.pop()?;
                while rest.first().is_some_and(|segment| segment == "super") {
                    module.pop()?;
                    rest = &rest[1..];
                }
            }
            _ => rest = path,
        }
        for (index, name) in rest.iter().enumerate() {
            let source = self.0.get(&module)?;
            if source.children.contains(name) {
                module.push(name.clone());
            } else if source.items.contains(name) {
                return Some(module);
            } else if let Some(target) = source.imports.get(name).filter(|_| depth < MAX_REEXPORT_DEPTH) {
                // A path of one name that is imported counts at its import.
                if rest.len() == path.len() && path.len() == 1 {
                    return None;
                }
                let target = [target, &rest[index + 1..]].concat();
                return self.resolve(&module, &target, depth + 1);
            } else {
                return (rest.len() < path.len() || index > 0).then_some(module);
            }
        }
        Some(module)
    }

    fn dependencies(&self) -> Graph {
        let targets = |module: &Module, source: &Source| {
            let paths = source.paths.iter();
            paths.filter_map(|path| self.resolve(module, path, 0)).filter(|target| target != module).collect()
        };
        self.0.iter().map(|(module, source)| (module.clone(), targets(module, source))).collect()
    }
}

impl Source {
    fn add_import(&mut self, import: &syn::ItemUse) {
        let mut leaves = Vec::new();
        collect_leaves(&import.tree, &mut Vec::new(), &mut leaves);
        for (path, name) in leaves {
            self.imports.insert(name, path.clone());
            if matches!(import.vis, Visibility::Inherited) {
                self.paths.push(path);
            }
        }
    }
}

fn collect_leaves(tree: &UseTree, prefix: &mut Vec<String>, leaves: &mut Vec<(Vec<String>, String)>) {
    match tree {
        UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            collect_leaves(&path.tree, prefix, leaves);
            prefix.pop();
        }
        UseTree::Group(group) => group.items.iter().for_each(|tree| collect_leaves(tree, prefix, leaves)),
        UseTree::Name(name) if name.ident == "self" => {
            leaves.extend(prefix.last().map(|name| (prefix.clone(), name.clone())));
        }
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            leaves.push(([prefix.clone(), vec![name.clone()]].concat(), name));
        }
        UseTree::Rename(rename) => {
            let path = [prefix.clone(), vec![rename.ident.to_string()]].concat();
            leaves.push((path, rename.rename.to_string()));
        }
        UseTree::Glob(_) => leaves.push((prefix.clone(), "*".to_owned())),
    }
}

/// Collects the paths in an item, those in the arguments of macros included.
struct PathCollector<'a>(&'a mut Vec<Vec<String>>);

impl<'ast> Visit<'ast> for PathCollector<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let text = call.tokens.to_string().replace(" :: ", "::");
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
        self.0.extend(
            words.filter(|word| word.contains("::")).map(|word| {
                word.split("::").filter(|segment| !segment.is_empty()).map(str::to_owned).collect()
            }),
        );
    }

    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}

fn defined_name(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}

/// The modules that reach themselves.
fn modules_in_cycles(graph: &Graph) -> Vec<String> {
    let reaches_itself = |start: &&Module| {
        let (mut seen, mut pending) = (BTreeSet::new(), vec![*start]);
        while let Some(module) = pending.pop() {
            pending.extend(graph.get(module).into_iter().flatten().filter(|next| seen.insert(*next)));
        }
        seen.contains(*start)
    };
    graph.keys().filter(reaches_itself).map(|module| module.join("::")).collect()
}

#[test]
fn no_crate_has_import_cycles() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(root.join("crates")).unwrap().map(|entry| entry.unwrap().file_name());
    let crates = entries.map(|name| format!("crates/{}", name.to_str().unwrap())).chain([".".to_owned()]);
    for name in crates {
        let folder = root.join(&name).join("src");
        let found = modules_in_cycles(&Crate::read(&folder).dependencies());
        let known = KNOWN_CYCLES.iter().find(|(known, _)| *known == name).map_or(0, |(_, most)| *most);
        assert!(found.len() <= known, "{name}: {found:#?}");
    }
}

#[test]
fn finds_seeded_cycle_through_re_export() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("lib.rs", "mod a; mod b; mod c; pub use b::B;");
    write("a.rs", "use crate::B; pub struct A(B);");
    write("b.rs", "pub struct B; #[cfg(test)] mod tests { use crate::a::A; }");
    write("c.rs", "fn c() { println!(\"{}\", crate::a::size()) }");
    assert_eq!(modules_in_cycles(&Crate::read(folder.path()).dependencies()), [""; 0]);
    write("b.rs", "pub struct B; fn b() -> usize { assert!(super::a::A::SIZE > 0); 1 }");
    assert_eq!(modules_in_cycles(&Crate::read(folder.path()).dependencies()), ["a", "b"]);
}
