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
    let built: BTreeSet<String> = TARGETS.iter().flat_map(|target| rows_of(target)).collect();
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

/// `| name | version | build script | brought by | why |` as `name version build`.
fn row_of_document(line: &str) -> Option<String> {
    let cells: Vec<_> = line.strip_prefix("| ")?.split(" | ").map(str::trim).collect();
    let [name, version, build, _, why] = cells[..] else { return None };
    let is_row = version.starts_with(|c: char| c.is_ascii_digit()) && why.len() > 10;
    is_row.then(|| format!("{} {version} {build}", name.trim_matches('`')))
}

/// What is built for a target, normal and build dependencies of the workspace, as `name version build`.
fn rows_of(target: &str) -> BTreeSet<String> {
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
    let (mut reached, mut ahead) = (BTreeSet::new(), members.clone());
    while let Some(id) = ahead.pop() {
        for dependency in nodes[&id]["deps"].as_array().unwrap() {
            let mut kinds = dependency["dep_kinds"].as_array().unwrap().iter();
            let id = dependency["pkg"].as_str().unwrap().to_owned();
            if kinds.any(|kind| kind["kind"] != "dev") && reached.insert(id.clone()) {
                ahead.push(id);
            }
        }
    }
    reached.iter().filter(|id| !members.contains(id)).map(|id| row(&packages[id])).collect()
}

fn row(package: &Value) -> String {
    let builds = package["targets"].as_array().unwrap().iter();
    let has_script = builds.flat_map(|target| strings(&target["kind"])).any(|kind| kind == "custom-build");
    let text = |key: &str| package[key].as_str().unwrap().to_owned();
    format!("{} {} {}", text("name"), text("version"), if has_script { "yes" } else { "no" })
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
