//! Which operations of an inspected plugin are registered: all of them, or those of one domain, under the
//! declared domains or another one.

use super::{Inspection, OperationNote, PluginError};
use crate::model::plugin::{NewOperation, NewPlugin};
use std::path::Path;

impl Inspection {
    /// The registration of a plugin, which messages call `named`: its operations of `domain` (`None`: all),
    /// under `as_domain` if given.
    pub fn offer(
        &self,
        named: &Path,
        domain: Option<&str>,
        as_domain: Option<&str>,
    ) -> Result<NewPlugin, PluginError> {
        let operations: Vec<NewOperation> = self
            .operations
            .iter()
            .filter(|operation| domain.is_none_or(|domain| operation.domain == domain))
            .map(|operation| new_operation(operation, as_domain))
            .collect();
        if operations.is_empty() {
            let mut domains: Vec<&str> = self
                .operations
                .iter()
                .map(|operation| operation.domain.as_str())
                .collect();
            domains.sort_unstable();
            domains.dedup();
            return Err(PluginError::new(
                named,
                format!(
                    "has no operation in domain `{}`, only in: {}",
                    domain.unwrap_or_default(),
                    domains.join(", ")
                ),
            ));
        }
        // Under one domain, operations that differ only in their declared domain get the same name.
        let twice = operations.iter().enumerate().find_map(|(place, one)| {
            let is_same =
                |other: &&NewOperation| (&other.domain, &other.name) == (&one.domain, &one.name);
            Some((one, operations[..place].iter().find(is_same)?))
        });
        if let Some((one, other)) = twice {
            return Err(PluginError::new(
                named,
                format!(
                    "offers operation `{}` in domains `{}` and `{}`, which cannot both be in domain \
                     `{}`: choose one with --domain",
                    one.name, other.declared_domain, one.declared_domain, one.domain
                ),
            ));
        }
        let note = self.note.clone();
        Ok(NewPlugin {
            hash: self.hash.clone(),
            name: note.name,
            version: note.version,
            sdk: note.sdk,
            abi: note.abi,
            rustc: note.rustc,
            target: note.target,
            panic: note.panic,
            size: self.size as i64,
            operations,
        })
    }
}

fn new_operation(note: &OperationNote, as_domain: Option<&str>) -> NewOperation {
    NewOperation {
        name: note.name.clone(),
        declared_domain: note.domain.clone(),
        domain: as_domain.unwrap_or(&note.domain).to_owned(),
        inputs: note.inputs.clone(),
        outputs: note.outputs.clone(),
        timeout_ms: note.timeout_ms.map(|ms| ms as i64),
        max_attempts: i32::try_from(note.max_attempts).unwrap_or(i32::MAX),
        backoff_ms: note.backoff_ms.map(|ms| ms as i64),
        memory_bytes: note.memory_bytes.map(|bytes| bytes as i64),
        cpu_ms: note.cpu_ms.map(|ms| ms as i64),
        open_files: note
            .open_files
            .map(|files| i32::try_from(files).unwrap_or(i32::MAX)),
        capture: note.capture.clone(),
        log_level: note.level.clone(),
        description: note.description.clone(),
        module: note.module.clone(),
        file: note.file.clone(),
        line: note.line as i32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations_that_one_domain_cannot_hold_are_named() {
        let inspection: Inspection = serde_json::from_value(json!({
            "hash": "", "size": 0, "glibc": null, "sdk": "0.1.0", "abi": "1.0", "crate": "solvers",
            "version": "0.1.0", "rustc": "1.95", "target": "x", "panic": "unwind",
            "operations": [
                { "name": "solve", "domain": "default" },
                { "name": "check", "domain": "slow" },
                { "name": "solve", "domain": "slow" },
            ],
        }))
        .unwrap();
        let offer = |domain, as_domain| {
            let offered = inspection.offer(Path::new("s.so"), domain, as_domain);
            offered.map(|offered| offered.operations.len())
        };
        assert_eq!(offer(None, None).unwrap(), 3);
        assert_eq!(offer(Some("slow"), Some("new")).unwrap(), 2);
        assert_eq!(
            offer(None, Some("new")).unwrap_err().to_string(),
            "s.so offers operation `solve` in domains `default` and `slow`, which cannot both be in \
             domain `new`: choose one with --domain"
        );
    }
}
