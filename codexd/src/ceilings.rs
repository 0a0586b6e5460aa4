//! What callers of this node may ask for at the most: where to work, what to touch, when to ask.

use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use crate::state::Settings;

/// The words for sandboxes, from the least to the most that they allow, as requests and as answers have them.
pub const SANDBOXES: [(&str, &str); 3] = [
    ("read-only", "readOnly"),
    ("workspace-write", "workspaceWrite"),
    ("danger-full-access", "dangerFullAccess"),
];

/// The words for when the agent asks before it acts.
pub const APPROVAL_POLICIES: [&str; 5] = ["untrusted", "on-request", "on-failure", "granular", "never"];

/// The node's ceilings; the default has none.
#[derive(Clone, Debug, Default)]
pub struct Ceilings {
    /// Where sessions may work, links resolved; anywhere if empty.
    pub cwd_roots: Vec<PathBuf>,
    /// The most that a sandbox may allow, as a place in `SANDBOXES`.
    pub sandbox_max: Option<usize>,
    /// The policies that may be asked for; any if empty.
    pub approval_policies: Vec<String>,
}

impl Ceilings {
    /// Whether a folder may be worked in. Pure: links must be resolved.
    ///
    /// # Errors
    /// A sentence without an end.
    pub fn cwd(&self, cwd: &Path) -> Result<(), String> {
        let below = |root: &PathBuf| cwd.starts_with(root);
        if self.cwd_roots.is_empty() || self.cwd_roots.iter().any(below) {
            return Ok(());
        }
        let roots: Vec<_> = self.cwd_roots.iter().map(|root| root.display().to_string()).collect();
        Err(format!("{} is not below --cwd-root {}", cwd.display(), roots.join(", ")))
    }

    /// Whether a sandbox may be had, as a word or as an object with `type`.
    ///
    /// # Errors
    /// A sentence without an end.
    pub fn sandbox(&self, sandbox: &Value) -> Result<(), String> {
        let Some(max) = self.sandbox_max else { return Ok(()) };
        let word = sandbox.as_str().or(sandbox["type"].as_str()).unwrap_or("an unknown sandbox");
        let rank = SANDBOXES.iter().position(|(asked, answered)| word == *asked || word == *answered);
        if rank.is_none_or(|rank| rank > max) {
            return Err(format!("{word} is more than --sandbox-max {}", SANDBOXES[max].0));
        }
        Ok(())
    }

    /// Whether folders may be written to, where links lead. What app-server adds by itself nobody is asked about.
    fn writable(&self, roots: &Value) -> Result<(), String> {
        for root in roots.as_array().into_iter().flatten().filter_map(Value::as_str).map(Path::new) {
            let resolved = root.canonicalize().unwrap_or_else(|_| root.to_path_buf());
            if !self.cwd_roots.is_empty() && resolved.components().any(|part| part == Component::ParentDir) {
                return Err(format!("{} leads who knows where", root.display()));
            }
            self.cwd(&resolved)?;
        }
        Ok(())
    }

    /// Whether a policy may be had, as a word or as an object whose only key is one.
    ///
    /// # Errors
    /// A sentence without an end.
    pub fn approval_policy(&self, policy: &Value) -> Result<(), String> {
        let key = || policy.as_object().and_then(|object| object.keys().next()).map(String::as_str);
        let word = policy.as_str().or_else(key).unwrap_or("an unknown policy");
        let allowed = &self.approval_policies;
        if allowed.is_empty() || allowed.iter().any(|one| one == word) {
            return Ok(());
        }
        Err(format!("{word} is not among --approval-policy-allowed {}", allowed.join(", ")))
    }

    /// Whether what a thread runs with may be had.
    ///
    /// # Errors
    /// The field's name, and a sentence without an end.
    pub fn of_session(&self, settings: &Settings) -> Result<(), (&'static str, String)> {
        if let Some(cwd) = &settings.cwd {
            self.cwd(Path::new(cwd)).map_err(|why| ("cwd", why))?;
        }
        let known = |value: &Value| !value.is_null();
        if known(&settings.sandbox) {
            self.sandbox(&settings.sandbox).map_err(|why| ("sandbox", why))?;
        }
        if known(&settings.approval_policy) {
            self.approval_policy(&settings.approval_policy).map_err(|why| ("approvalPolicy", why))?;
        }
        Ok(())
    }

    /// Whether a caller may ask for these parameters: the field that is beyond them, and why. The folder is looked at
    /// where links can be resolved.
    ///
    /// # Errors
    /// The field's name, and a sentence without an end.
    pub fn asked(&self, params: &Map<String, Value>) -> Result<(), (&'static str, String)> {
        for field in ["sandbox", "sandboxPolicy"] {
            if let Some(sandbox) = params.get(field) {
                self.sandbox(sandbox).map_err(|why| (field, why))?;
                self.writable(&sandbox["writableRoots"]).map_err(|why| (field, why))?;
            }
        }
        if let Some(config) = params.get("config") {
            let nested = &config["sandbox_workspace_write"]["writable_roots"];
            for roots in [nested, &config["sandbox_workspace_write.writable_roots"]] {
                self.writable(roots).map_err(|why| ("config", why))?;
            }
        }
        if let Some(policy) = params.get("approvalPolicy") {
            self.approval_policy(policy).map_err(|why| ("approvalPolicy", why))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn without_ceilings_all_may_be_had_and_with_them_no_more_than_they_say() {
        let none = Ceilings::default();
        assert_eq!(none.sandbox(&json!("danger-full-access")), Ok(()));
        assert_eq!(none.cwd(Path::new("/")), Ok(()));
        let some = Ceilings {
            cwd_roots: vec!["/home/a".into(), "/srv".into()],
            sandbox_max: Some(1),
            approval_policies: vec!["untrusted".into(), "granular".into()],
        };
        let cases: [(Result<(), String>, &str); 10] = [
            (some.cwd(Path::new("/home/a/b")), ""),
            (some.cwd(Path::new("/home/ab")), "/home/ab is not below --cwd-root /home/a, /srv"),
            (some.sandbox(&json!("workspace-write")), ""),
            (some.sandbox(&json!({"type": "readOnly"})), ""),
            (
                some.sandbox(&json!({"type": "dangerFullAccess"})),
                "dangerFullAccess is more than --sandbox-max workspace-write",
            ),
            (
                some.sandbox(&json!({"type": "externalSandbox"})),
                "externalSandbox is more than --sandbox-max workspace-write",
            ),
            (some.approval_policy(&json!("untrusted")), ""),
            (some.approval_policy(&json!({"granular": {}})), ""),
            (
                some.approval_policy(&json!("never")),
                "never is not among --approval-policy-allowed untrusted, granular",
            ),
            (
                some.approval_policy(&json!(7)),
                "an unknown policy is not among --approval-policy-allowed untrusted, granular",
            ),
        ];
        for (index, (found, expected)) in cases.into_iter().enumerate() {
            assert_eq!(found.err().unwrap_or_default(), expected, "case {index}");
        }
        let asked = json!({"sandboxPolicy": {"type": "dangerFullAccess"}});
        assert_eq!(some.asked(asked.as_object().unwrap()).unwrap_err().0, "sandboxPolicy");
        for roots in [json!(["/etc"]), json!(["/home/a/../b"]), json!(["/home/a/x", "y"])] {
            let params = |value: Value| value.as_object().unwrap().clone();
            let policy = json!({"sandboxPolicy": {"type": "workspaceWrite", "writableRoots": roots}});
            assert_eq!(some.asked(&params(policy)).unwrap_err().0, "sandboxPolicy");
            for config in [
                json!({"config": {"sandbox_workspace_write.writable_roots": roots}}),
                json!({"config": {"sandbox_workspace_write": {"writable_roots": roots}}}),
            ] {
                assert_eq!(some.asked(&params(config.clone())).unwrap_err().0, "config");
                assert_eq!(none.asked(&params(config)), Ok(()));
            }
        }
        let fine = json!({"sandboxPolicy": {"type": "workspaceWrite", "writableRoots": ["/home/a/x"]}});
        assert_eq!(some.asked(fine.as_object().unwrap()), Ok(()));
    }
}
