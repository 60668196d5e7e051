//! What changes when another version of a plugin is registered, in words.

use super::duration::human;
use rework_plugin::spec::Spec;
use serde::Serialize;
use serde_json::Value;
use std::{fmt, time::Duration};

/// What a version declares of an operation, as far as callers can notice it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Declared {
    /// The declared inputs.
    pub inputs: Option<Value>,
    /// The declared outputs.
    pub outputs: Option<Value>,
    /// The timeout of an attempt.
    pub timeout_ms: Option<i64>,
    /// How many attempts a task may take.
    pub max_attempts: i32,
    /// The pause before the second attempt.
    pub backoff_ms: Option<i64>,
    /// The memory limit of an attempt.
    pub memory_bytes: Option<i64>,
    /// The limit on processor time of an attempt.
    pub cpu_ms: Option<i64>,
    /// The limit on open files of a worker that runs it.
    pub open_files: Option<i32>,
}

/// One consequence of a registration for an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The name of the operation.
    pub operation: String,
    /// The domain of the operation.
    pub domain: String,
    /// What changes.
    #[serde(flatten)]
    pub kind: ChangeKind,
}

/// What a registration changes for an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum ChangeKind {
    /// The operation is new.
    Added,
    /// The operation's declaration changes.
    Changed {
        /// What differs, in a few words.
        what: String,
    },
    /// The new inputs would refuse tasks or schedules that wait.
    Refuses {
        /// How many queued tasks the new inputs would refuse.
        tasks: i64,
        /// How many queued tasks were checked, if not all were.
        looked_at: Option<i64>,
        /// How many schedules queue tasks that the new inputs would refuse.
        schedules: i64,
    },
    /// The plugin no longer offers the operation.
    Removed {
        /// How many tasks wait for the operation.
        tasks: i64,
        /// How many schedules the operation has.
        schedules: i64,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, domain) = (&self.operation, &self.domain);
        match &self.kind {
            ChangeKind::Added => write!(f, "added {name} {domain}"),
            ChangeKind::Changed { what } => write!(f, "changed {name} {domain}: {what}"),
            ChangeKind::Refuses {
                tasks,
                looked_at,
                schedules,
            } => {
                let tasks = tasks_in_words(*tasks);
                let schedules = schedules_in_words(*schedules);
                write!(
                    f,
                    "the new inputs of {name} {domain} would refuse {tasks} and {schedules}"
                )?;
                match looked_at {
                    Some(count) => write!(f, " (of the first {count} tasks; there are more)"),
                    None => Ok(()),
                }
            }
            ChangeKind::Removed { tasks, schedules } => {
                let tasks = tasks_in_words(*tasks);
                let schedules = schedules_in_words(*schedules);
                write!(
                    f,
                    "removed {name} {domain}: it is retired here; {tasks} and {schedules} stay"
                )
            }
        }
    }
}

fn tasks_in_words(count: i64) -> String {
    match count {
        1 => "1 queued task".to_owned(),
        count => format!("{count} queued tasks"),
    }
}

fn schedules_in_words(count: i64) -> String {
    match count {
        1 => "1 schedule".to_owned(),
        count => format!("{count} schedules"),
    }
}

/// The differences between two versions of an operation, a few words each.
pub fn between(before: &Declared, after: &Declared) -> Vec<String> {
    let mut differences = Vec::new();
    specs(
        "input",
        before.inputs.as_ref(),
        after.inputs.as_ref(),
        &mut differences,
    );
    specs(
        "output",
        before.outputs.as_ref(),
        after.outputs.as_ref(),
        &mut differences,
    );
    let milliseconds =
        |ms: i64| human(Duration::from_millis(u64::try_from(ms).unwrap_or_default()));
    let optional = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    let mut value = |what: &str, before: String, after: String| {
        if before != after {
            differences.push(format!("{what} is now {after}, was {before}"));
        }
    };
    value(
        "timeout",
        optional(before.timeout_ms.map(milliseconds)),
        optional(after.timeout_ms.map(milliseconds)),
    );
    value(
        "max_attempts",
        before.max_attempts.to_string(),
        after.max_attempts.to_string(),
    );
    value(
        "backoff",
        optional(before.backoff_ms.map(milliseconds)),
        optional(after.backoff_ms.map(milliseconds)),
    );
    let bytes = |bytes: i64| format!("{bytes} bytes");
    value(
        "memory",
        optional(before.memory_bytes.map(bytes)),
        optional(after.memory_bytes.map(bytes)),
    );
    value(
        "cpu",
        optional(before.cpu_ms.map(milliseconds)),
        optional(after.cpu_ms.map(milliseconds)),
    );
    let files = |files: i32| files.to_string();
    value(
        "open files",
        optional(before.open_files.map(files)),
        optional(after.open_files.map(files)),
    );
    differences
}

fn specs(what: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<String>) {
    let read = |specs: &Value| serde_json::from_value::<Vec<Spec>>(specs.clone()).ok();
    let (before, after) = match (before.map(read), after.map(read)) {
        (None, None) => return,
        (Some(Some(before)), Some(Some(after))) => (before, after),
        (None, Some(_)) => return found.push(format!("it now declares its {what}s")),
        (Some(_), None) => return found.push(format!("it no longer declares its {what}s")),
        _ => return found.push(format!("its {what}s are recorded badly")),
    };
    for new in &after {
        let name = &new.name;
        match before.iter().find(|old| old.name == *name) {
            None if new.required && new.default.is_none() => {
                found.push(format!("{what} `{name}` is new and required"));
            }
            None => found.push(format!("{what} `{name}` is new")),
            Some(old) => one_spec(what, old, new, found),
        }
    }
    for old in &before {
        if after.iter().all(|new| new.name != old.name) {
            found.push(format!("{what} `{}` is gone", old.name));
        }
    }
}

fn one_spec(what: &str, old: &Spec, new: &Spec, found: &mut Vec<String>) {
    let name = &new.name;
    if old.r#type != new.r#type {
        found.push(format!(
            "{what} `{name}` is now a {}, was a {}",
            word(&new.r#type),
            word(&old.r#type)
        ));
    }
    if old.required != new.required {
        let now = if new.required { "required" } else { "optional" };
        found.push(format!("{what} `{name}` is now {now}"));
    }
    let text = |value: Option<Value>| value.map_or_else(|| "none".to_owned(), |v| v.to_string());
    let choices = |spec: &Spec| text(spec.choices.clone().map(Value::Array));
    for (part, before, after) in [
        ("choices", choices(old), choices(new)),
        (
            "default",
            text(old.default.clone()),
            text(new.default.clone()),
        ),
    ] {
        if before != after {
            found.push(format!(
                "{part} of {what} `{name}`: now {after}, was {before}"
            ));
        }
    }
}

/// A type as it is written in a declaration.
fn word(kind: &impl Serialize) -> String {
    match serde_json::to_value(kind) {
        Ok(Value::String(word)) => word,
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn declared(inputs: Value) -> Declared {
        Declared {
            inputs: Some(inputs),
            max_attempts: 1,
            ..Declared::default()
        }
    }

    fn spec(name: &str, kind: &str, required: bool) -> Value {
        json!({"name": name, "type": kind, "required": required, "choices": null, "default": null})
    }

    #[test]
    fn each_difference_is_named() {
        let before = declared(json!([
            spec("a", "number", true),
            spec("b", "string", false),
            spec("d", "number", false)
        ]));
        let mut after = declared(json!([
            spec("a", "string", true),
            spec("c", "file", true),
            spec("d", "number", true)
        ]));
        after.timeout_ms = Some(180_000);
        after.backoff_ms = Some(500);
        after.cpu_ms = Some(2_000);
        after.open_files = Some(64);
        assert_eq!(between(&before, &before), Vec::<String>::new());
        assert_eq!(
            between(&before, &after),
            [
                "input `a` is now a string, was a number",
                "input `c` is new and required",
                "input `d` is now required",
                "input `b` is gone",
                "timeout is now 3m, was none",
                "backoff is now 0.5s, was none",
                "cpu is now 2s, was none",
                "open files is now 64, was none",
            ]
        );
        let none = Declared {
            inputs: None,
            ..before.clone()
        };
        assert_eq!(between(&none, &before), ["it now declares its inputs"]);
    }
}
