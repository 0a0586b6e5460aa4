//! The dependency tree is what DEPENDENCIES.md says, crate by crate, and no larger than it may be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// People audit this tree. One crate more needs a reason, and this number with it.
const MAX_CRATES: usize = 48;
const TARGETS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-apple-darwin"];

#[test]
fn the_tree_is_the_one_that_is_explained() {
    let mut brought: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, by) in TARGETS.iter().flat_map(|target| brought_for(target)) {
        brought.entry(name).or_default().extend(by);
    }
    let row = |(name, by): (&String, &BTreeSet<String>)| {
        format!("{name}: {}", by.iter().cloned().collect::<Vec<_>>().join(", "))
    };
    let built: BTreeSet<String> = brought.iter().map(row).collect();
    let text = std::fs::read_to_string(root().join("DEPENDENCIES.md")).unwrap();
    let explained: BTreeSet<String> = text.lines().filter_map(row_of_document).collect();
    let missing: Vec<_> = built.difference(&explained).collect();
    let gone: Vec<_> = explained.difference(&built).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "built, not explained: {missing:#?}\nexplained, not built: {gone:#?}"
    );
    let crates: BTreeSet<_> = built.iter().filter_map(|row| row.split(' ').next()).collect();
    assert!(crates.len() <= MAX_CRATES, "{} crates", crates.len());
    assert_eq!(crates.len(), built.len(), "one version of each");
}

/// `| name | version | build script | unsafe | brought by | why |` as `name version build unsafe: brought by`.
fn row_of_document(line: &str) -> Option<String> {
    let cells: Vec<_> = line.strip_prefix("| ")?.split(" | ").map(str::trim).collect();
    let [name, version, build, has_unsafe, by, why] = cells[..] else { return None };
    let is_row = version.starts_with(|c: char| c.is_ascii_digit()) && why.len() > 10;
    is_row.then(|| format!("{} {version} {build} {has_unsafe}: {by}", name.trim_matches('`')))
}

/// What is built for a target, normal and build dependencies of the workspace: `name version build unsafe`, and by whom
/// each is brought.
fn brought_for(target: &str) -> Vec<(String, BTreeSet<String>)> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", target])
        .current_dir(root());
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let by_id = |list: &Value| -> BTreeMap<String, Value> {
        let items = list.as_array().unwrap().iter();
        items.map(|item| (item["id"].as_str().unwrap().to_owned(), item.clone())).collect()
    };
    let (packages, nodes) = (by_id(&metadata["packages"]), by_id(&metadata["resolve"]["nodes"]));
    let members: Vec<_> = strings(&metadata["workspace_members"]);
    let mut brought: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut ahead = members.clone();
    while let Some(by) = ahead.pop() {
        for dependency in nodes[&by]["deps"].as_array().unwrap() {
            let mut kinds = dependency["dep_kinds"].as_array().unwrap().iter();
            let id = dependency["pkg"].as_str().unwrap().to_owned();
            if kinds.any(|kind| kind["kind"] != "dev") {
                if !brought.contains_key(&id) {
                    ahead.push(id.clone());
                }
                brought.entry(id).or_default().insert(text(&packages[&by], "name"));
            }
        }
    }
    let foreign = brought.into_iter().filter(|(id, _)| !members.contains(id));
    foreign.map(|(id, by)| (facts(&packages[&id]), by)).collect()
}

fn facts(package: &Value) -> String {
    let targets = package["targets"].as_array().unwrap();
    let is = |target: &Value, wanted: &str| strings(&target["kind"]).iter().any(|kind| kind == wanted);
    let has_script = targets.iter().any(|target| is(target, "custom-build"));
    let library = targets.iter().find(|target| is(target, "lib") || is(target, "proc-macro")).unwrap();
    let has_unsafe = has_unsafe(Path::new(&text(library, "src_path")));
    let build = if has_script { "yes" } else { "no" };
    format!("{} {} {build} {has_unsafe}", text(package, "name"), text(package, "version"))
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap().to_owned()
}

/// `forbidden` where the crate's root has `#![forbid(unsafe_code)]`, else whether any of its files has unsafe code, for any
/// platform and feature, its own tests included.
fn has_unsafe(root: &Path) -> &'static str {
    let text = std::fs::read_to_string(root).unwrap();
    if text.lines().any(|line| line.starts_with("#![forbid(") && line.contains("unsafe_code")) {
        return "forbidden";
    }
    if unsafe_below(root.parent().unwrap()) { "yes" } else { "no" }
}

fn unsafe_below(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return unsafe_below(&path);
        }
        path.extension().is_some_and(|kind| kind == "rs")
            && is_unsafe(&std::fs::read_to_string(path).unwrap())
    })
}

/// Whether the keyword opens a block, an item or an attribute outside of line comments.
fn is_unsafe(source: &str) -> bool {
    let code: Vec<_> = source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    code.match_indices("unsafe").any(|(at, word)| {
        let after = code[at + word.len()..].trim_start();
        let opens = ["{", "(", "fn ", "impl", "trait ", "extern "].iter().any(|next| after.starts_with(next));
        opens && !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
    })
}

#[test]
fn unsafe_code_is_seen() {
    for source in ["let x = unsafe { y };", "pub unsafe fn f() {}", "unsafe\n{ f() }", "#[unsafe(no_mangle)]"]
    {
        assert!(is_unsafe(source), "{source}");
    }
    for source in ["// unsafe { y }", "Token![unsafe]", "not_unsafe { }", "unsafety()", "deny(unsafe_code)"] {
        assert!(!is_unsafe(source), "{source}");
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
