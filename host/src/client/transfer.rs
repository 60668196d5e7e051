//! Schedules as a file, for backups and for moving them: `export-scheduled` and `import-scheduled`. The
//! format is described in `docs/schedules.md`.

use super::{
    Client,
    error::{ClientError, Result},
};
use crate::{
    model::number::check_numbers,
    store::{NewSchedule, ScheduleRequest, ScheduleRow},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const FORMAT: &str = "rework schedules";
const VERSION: u64 = 1;

/// A document that holds schedules.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleFile {
    /// Always `rework schedules`.
    format: String,
    /// The version of the format: 1.
    version: u64,
    schedules: Vec<Entry>,
}

/// One schedule of the document.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    operation: String,
    domain: String,
    rule: String,
    #[serde(default = "utc")]
    timezone: String,
    #[serde(default = "skip")]
    catch_up: String,
    #[serde(default)]
    every_second: bool,
    #[serde(default)]
    paused: bool,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    metadata: Option<Value>,
    /// The input as it was given.
    #[serde(default)]
    input: Option<Value>,
    /// The input as base64, if it is raw bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw_input: Option<String>,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn skip() -> String {
    "skip".to_owned()
}

impl ScheduleFile {
    /// How many schedules the document holds.
    pub fn len(&self) -> usize {
        self.schedules.len()
    }

    /// Whether the document holds no schedules.
    pub fn is_empty(&self) -> bool {
        self.schedules.is_empty()
    }

    /// Reads a document from its JSON text.
    ///
    /// # Errors
    ///
    /// If the text is not such a document, or its format is of a later version.
    pub fn parse(text: &str) -> Result<Self, String> {
        // Some editors write a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        check_numbers(text).map_err(|fault| format!("cannot be read: {fault}"))?;
        let document: Value = serde_json::from_str(text)
            .map_err(|error| format!("is no file of schedules: it is not JSON: {error}"))?;
        if document["format"] != FORMAT {
            return Err(format!(
                "is no file of schedules: it has no \"format\": \"{FORMAT}\""
            ));
        }
        match &document["version"] {
            version
                if version
                    .as_u64()
                    .is_some_and(|it| (1..=VERSION).contains(&it)) => {}
            Value::Null => return Err("names no version of the format".to_owned()),
            version => {
                return Err(format!(
                    "has version {version} of the format; this rework knows {VERSION}"
                ));
            }
        }
        serde_json::from_str(text).map_err(|error| format!("cannot be read: {error}"))
    }
}

impl Client {
    /// Every schedule of the installation.
    pub async fn export_schedules(&self) -> Result<ScheduleFile> {
        let rows = self.store().sched_list(&[]).await?;
        Ok(ScheduleFile {
            format: FORMAT.to_owned(),
            version: VERSION,
            schedules: rows.into_iter().map(exported).collect(),
        })
    }

    /// Stores every schedule of a document, or none if one is refused; identical ones are replaced. Returns
    /// how many were stored.
    pub async fn import_schedules(&self, file: ScheduleFile) -> Result<usize> {
        let count = file.schedules.len();
        let entries = file.schedules.into_iter().enumerate();
        let schedules: Vec<NewSchedule> = entries
            .map(|(place, entry)| {
                let title = format!("schedule {} of {count} (`{}`)", place + 1, entry.operation);
                match imported(entry) {
                    Ok(schedule) => Ok(NewSchedule {
                        title: Some(title),
                        ..schedule
                    }),
                    Err(fault) => Err(ClientError::Input(format!("{title}: {fault}"))),
                }
            })
            .collect::<Result<_>>()?;
        Ok(self.store().sched_prepare(&schedules).await?.len())
    }
}

fn exported(row: ScheduleRow) -> Entry {
    Entry {
        operation: row.operation,
        domain: row.domain,
        rule: row.rule,
        timezone: row.timezone,
        catch_up: row.catch_up,
        every_second: row.every_second,
        paused: row.paused,
        host: row.host,
        metadata: row.metadata,
        input: row.input.map(|document| document.0),
        raw_input: row.input_raw.map(|raw| STANDARD.encode(raw)),
    }
}

fn imported(entry: Entry) -> Result<NewSchedule, String> {
    let input_raw = match &entry.raw_input {
        Some(text) => Some(
            STANDARD
                .decode(text)
                .map_err(|error| format!("its raw_input is not base64: {error}"))?,
        ),
        None => None,
    };
    Ok(NewSchedule {
        catch_up: entry.catch_up.parse()?,
        rule: entry.rule,
        timezone: entry.timezone,
        every_second: entry.every_second,
        paused: entry.paused,
        title: None,
        request: ScheduleRequest {
            operation: entry.operation,
            domain: Some(entry.domain),
            host: entry.host,
            metadata: entry.metadata,
            input: entry.input,
            input_raw,
            ..ScheduleRequest::default()
        },
    })
}
