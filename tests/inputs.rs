//! One set of rules for inputs, by whatever way a task is queued: the command line, the client, SQL, and
//! the SDK's `testing`. `inputs.json` holds declarations, inputs, and what is stored of them or the whole
//! message; `moments.json` holds expressions. What the tables lack, two seeded generators look for.

use crate::harness::{Database, Rework};
use rework::{
    Client,
    internals::{here, model::moment::Now, zones::Zone},
};
use rework_plugin::{prelude::*, spec::Spec, testing};
use std::collections::BTreeMap;

/// As `shape` in `inputs.json`.
#[derive(Inputs)]
#[expect(dead_code, reason = "the operation gives back its whole input")]
struct Shape {
    n: f64,
    #[input(choices = ["small", "large"], default = "small")]
    size: String,
    #[input(choices = [1, 2.5])]
    level: Option<f64>,
    whole: Option<u64>,
    flag: Option<bool>,
    text: Option<String>,
    file: Option<File>,
    time: Option<DateTime>,
    moment: Option<Moment>,
}

/// As `dated` in `inputs.json`.
#[derive(Inputs)]
#[expect(dead_code, reason = "the operation gives back its whole input")]
struct Dated {
    #[input(default = "(date \"2023-5-20\")")]
    day: Moment,
}

/// As `today` in `inputs.json`.
#[derive(Inputs)]
#[expect(dead_code, reason = "the operation gives back its whole input")]
struct Today {
    #[input(default = "(today)")]
    day: Moment,
}

#[operation]
fn shape(task: &mut Task, _given: Shape) -> Result<Value> {
    task.input()
}

#[operation]
fn dated(task: &mut Task, _given: Dated) -> Result<Value> {
    task.input()
}

#[operation]
fn today(task: &mut Task, _given: Today) -> Result<Value> {
    task.input()
}

/// What is stored of an input, or the whole message of its refusal.
type Told = std::result::Result<Value, String>;

fn table(text: &str) -> Value {
    serde_json::from_str(text).expect("a table")
}

/// Deploys operations with these declarations on this host.
fn declare(database: &Database, declarations: &Value) {
    database.psql(&format!(
        "insert into rework.plugin (hash, name, version, sdk, abi, rustc, target, panic, size)
         values (repeat('ab', 32), 'inputs', '1', '1', '1', '1', '1', 'unwind', 1);
         insert into rework.operation (domain, name)
         select 'inputs', key from jsonb_object_keys($doc${declarations}$doc$) key;
         insert into rework.plugin_operation (plugin, name, domain, inputs)
         select g.id, d.key, 'inputs', nullif(d.value, 'null')
           from rework.plugin g, jsonb_each($doc${declarations}$doc$) d;
         insert into rework.deployment (operation, host, plugin_operation, path)
         select o.id, 'testhost', p.id, '/nowhere'
           from rework.operation o join rework.plugin_operation p on p.name = o.name"
    ));
}

/// What SQL says of inputs, given as `text` or `jsonb`, in one session whose time zone is this one.
fn by_sql(
    database: &Database,
    zone: &str,
    given_as: &str,
    cases: &[(String, Option<String>)],
) -> Vec<Told> {
    let mut told = Vec::new();
    // An argument of a process has 128 KiB at most.
    for part in cases.chunks(100) {
        let calls: Vec<String> = part
            .iter()
            .map(|(operation, input)| match input {
                Some(input) => format!("('{operation}', $case${input}$case$)"),
                None => format!("('{operation}', null)"),
            })
            .collect();
        let answers = database.psql(&format!(
            "set timezone = '{zone}';
             create function pg_temp.told(operation text, input text) returns jsonb language plpgsql as $$
             declare
                 task bigint;
             begin
                 task := rework.schedule(operation, input::{given_as});
                 return (select jsonb_build_object('Ok', t.input) from rework.task t where t.id = task);
             exception when others then
                 return jsonb_build_object('Err', sqlerrm);
             end $$;
             select pg_temp.told(operation, input) from (values {}) c (operation, input)",
            calls.join(", ")
        ));
        told.extend(answers.lines().map(|line| {
            serde_json::from_str::<Told>(line).unwrap_or_else(|error| panic!("{error}: {line}"))
        }));
    }
    assert_eq!(told.len(), cases.len());
    told
}

/// What is stored of tasks.
fn stored(database: &Database, ids: &[String]) -> BTreeMap<String, Value> {
    let all = database.psql(&format!(
        "select coalesce(jsonb_object_agg(id, input), '{{}}') from rework.task where id in ({})",
        ids.join(", ")
    ));
    serde_json::from_str(&all).expect("an object")
}

/// What the client says of inputs.
fn by_client(database: &Database, cases: &[(String, Option<String>)]) -> Vec<Told> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let queued: Vec<std::result::Result<String, String>> = runtime.block_on(async {
        let client = Client::connect(&database.url()).await.expect("a client");
        let mut queued = Vec::new();
        for (operation, input) in cases {
            let mut task = client.schedule(operation);
            if let Some(input) = input {
                task = task.input(table(input));
            }
            let answer = task.await.map(|task| task.id().to_string());
            queued.push(answer.map_err(|error| error.to_string()));
        }
        queued
    });
    let mut ids: Vec<String> = queued.iter().flatten().cloned().collect();
    ids.push("0".to_owned());
    let stored = stored(database, &ids);
    queued
        .into_iter()
        .map(|answer| answer.map(|id| stored.get(&id).cloned().unwrap_or_default()))
        .collect()
}

/// What the command line says of an input.
fn by_command_line(rework: &Rework, operation: &str, input: Option<&str>) -> Told {
    let mut arguments = vec!["schedule", operation];
    if let Some(input) = input {
        arguments.extend(["--input", input]);
    }
    let mut command = rework.command(&arguments);
    let output = command.env("TZ", "UTC").output().expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    if output.status.success() {
        let id = text(output.stdout).trim().to_owned();
        let stored = stored(&rework.database, std::slice::from_ref(&id));
        return Ok(stored.get(&id).cloned().unwrap_or_default());
    }
    let stderr = text(output.stderr);
    let message = stderr.lines().next().unwrap_or_default();
    Err(message
        .strip_prefix("error: ")
        .expect("an error line")
        .to_owned())
}

/// What the SDK's `testing` says of an input.
fn by_testing(operation: &str, input: Option<&str>) -> Told {
    let mut task = testing::task(operation);
    if let Some(input) = input {
        task = task.input(table(input));
    }
    let outcome = task.run();
    match outcome.failure {
        Some(failure) => Err(failure.message),
        None => Ok(outcome.output.unwrap_or_default()),
    }
}

/// Makes comparable what one way stores: numbers by their value, and times within ten minutes of now.
fn comparable(value: &Value) -> Value {
    let now = chrono::Utc::now();
    match value {
        Value::String(text) => match rework_plugin::spec::parse_datetime(text) {
            Some(time) if (time - now).abs() < chrono::TimeDelta::minutes(10) => json!("now"),
            _ => value.clone(),
        },
        Value::Number(number) => match number.as_f64() {
            Some(double) if number.is_f64() && double.fract() == 0.0 && double.abs() < 9e15 => {
                json!(double as i64)
            }
            _ => value.clone(),
        },
        Value::Array(items) => items.iter().map(comparable).collect(),
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(name, value)| (name.clone(), comparable(value)))
                .collect(),
        ),
        _ => value.clone(),
    }
}

/// As `testing` shows it: nothing but the size stands for a file there.
fn without_digests(value: &Value) -> Value {
    let mut value = value.clone();
    for field in value
        .as_object_mut()
        .into_iter()
        .flat_map(|o| o.values_mut())
    {
        if let Some(file) = field.as_object_mut() {
            file.remove("sha256");
        }
    }
    value
}

#[test]
fn every_way_stores_or_says_the_same() {
    let rework = Rework::new();
    let table = table(include_str!("inputs.json"));
    declare(&rework.database, &table["declarations"]);
    let cases = table["cases"].as_array().expect("a list");
    let given: Vec<(String, Option<String>)> = cases
        .iter()
        .map(|case| {
            let operation = case["operation"].as_str().expect("a name").to_owned();
            let input = Some(&case["input"]).filter(|input| !input.is_null());
            (operation, input.map(Value::to_string))
        })
        .collect();
    let sql = by_sql(&rework.database, "UTC", "jsonb", &given);
    let sql_text = by_sql(&rework.database, "UTC", "text", &given);
    let client = by_client(&rework.database, &given);
    let offered = ["shape", "dated", "today"];
    let mut wrong = Vec::new();
    for (place, case) in cases.iter().enumerate() {
        let (operation, input) = &given[place];
        let wanted = |way: &str| match case["ways"][way].as_str().or(case["refused"].as_str()) {
            Some(message) => Err(message.to_owned()),
            None => Ok(case["stored"].clone()),
        };
        let input = input.as_deref();
        let mut ways = vec![
            ("sql", sql[place].clone()),
            ("sql text", sql_text[place].clone()),
            ("client", client[place].clone()),
            ("command line", by_command_line(&rework, operation, input)),
        ];
        if offered.contains(&operation.as_str()) {
            ways.push(("testing", by_testing(operation, input)));
        }
        for (way, told) in ways {
            let mut wanted = wanted(way);
            if way == "testing" {
                wanted = wanted.map(|value| without_digests(&value));
            }
            if told.as_ref().map(comparable) != wanted.as_ref().map(comparable) {
                wrong.push(format!(
                    "{operation} {input:?} by {way}: {told:?}, not {wanted:?}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The operations of this file declare what the table says.
#[test]
fn the_table_declares_what_its_operations_declare() {
    let table = table(include_str!("inputs.json"));
    for registered in rework_plugin::export::OPERATIONS.iter() {
        let declared = &table["declarations"][registered.name];
        if !declared.is_null() {
            let of_macro: Vec<Spec> = serde_json::from_str(registered.inputs).expect("specs");
            let of_table: Vec<Spec> = serde_json::from_value(declared.clone()).expect("specs");
            assert_eq!(of_macro, of_table, "{}", registered.name);
        }
    }
}

/// What SQL says of expressions, each at a time in a zone.
fn moments_by_sql(database: &Database, cases: &[(String, String, String)]) -> Vec<Told> {
    let calls: Vec<String> = cases
        .iter()
        .map(|(zone, now, expression)| format!("('{zone}', '{now}', $case${expression}$case$)"))
        .collect();
    let answers = database.psql(&format!(
        "select case when m.fault is null then jsonb_build_object('Ok', rework.rfc3339(m.instant))
                     else jsonb_build_object('Err', m.fault) end
           from (values {}) c (zone, now, expression),
                lateral rework.moment(c.expression, c.now::timestamptz, c.zone) m",
        calls.join(", ")
    ));
    let told = |line: &str| serde_json::from_str(line).expect("an answer");
    let told: Vec<Told> = answers.lines().map(told).collect();
    assert_eq!(told.len(), cases.len());
    told
}

/// What programs say of an expression.
fn moment_by_program((zone, now, expression): &(String, String, String)) -> Told {
    let now = Now {
        time: now.parse().expect("a time"),
        zone: Zone::find(zone).expect("a zone"),
    };
    let time = rework::internals::model::moment::resolve(expression, &now)?;
    Ok(json!(rework::internals::model::time::rfc3339(time)))
}

#[test]
fn a_moment_is_the_same_time_in_sql_and_in_programs() {
    let table = table(include_str!("moments.json"));
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let (mut cases, mut wanted) = (Vec::new(), Vec::new());
    for case in table.as_array().expect("a list") {
        cases.push((
            text(&case["zone"]),
            text(&case["now"]),
            text(&case["expression"]),
        ));
        wanted.push(match case["fault"].as_str() {
            Some(fault) => Err(fault.to_owned()),
            None => Ok(case["is"].clone()),
        });
    }
    let database = Database::with_schema();
    let sql = moments_by_sql(&database, &cases);
    for ((case, wanted), sql) in cases.iter().zip(&wanted).zip(&sql) {
        assert_eq!(&moment_by_program(case), wanted, "{case:?}");
        assert_eq!(sql, wanted, "{case:?} in SQL");
    }
}

/// Pseudo-random choices: the same for the same seed (xorshift).
struct Dice(u64);

impl Dice {
    /// By `REWORK_TEST_SEED`, else always the same; printed for a test that fails.
    fn new() -> Self {
        let seed = std::env::var("REWORK_TEST_SEED").ok();
        let seed = seed
            .and_then(|seed| seed.parse().ok())
            .unwrap_or(20_261_128);
        println!("REWORK_TEST_SEED={seed}");
        // A state of 0 would stay 0.
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % limit
    }

    fn one<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// An expression that may have a mistake.
    fn expression(&mut self, bases: &[&str]) -> String {
        let mut expression = (*self.one(bases)).to_owned();
        for _ in 0..self.below(4) {
            let word = *self.one(&[
                "monthstart",
                "monthend",
                "yearstart",
                "yearend",
                "shifted",
                "shifted",
            ]);
            let mut shifts = String::new();
            for _ in 0..if word == "shifted" {
                1 + self.below(3)
            } else {
                0
            } {
                let unit = *self.one(&[
                    "years", "months", "weeks", "days", "hours", "minutes", "seconds", "year",
                    "month", "day", "hour", "minute", "second",
                ]);
                let number = match self.below(12) {
                    0 => "2147483647".to_owned(),
                    1 => "-2147483648".to_owned(),
                    2 => self.below(12_000).to_string(),
                    3 => format!("-{}", self.below(12_000)),
                    _ => self.below(32).to_string(),
                };
                shifts += &format!(" #:{unit} {number}");
            }
            expression = format!("({word} {expression}{shifts})");
        }
        if self.below(10) == 0 {
            // Without one of its characters.
            let mut characters: Vec<char> = expression.chars().collect();
            characters.remove(self.below(characters.len()));
            expression = characters.into_iter().collect();
        }
        expression
    }

    /// A value that may fit a type.
    fn value(&mut self, kind: &str) -> Value {
        let kind = match self.below(8) {
            0 => *self.one(&["number", "boolean", "string", "file", "null", "array"]),
            _ => kind,
        };
        match kind {
            "number" => self
                .one(&[
                    json!(0),
                    json!(1),
                    json!(-7),
                    json!(2.5),
                    json!(9_007_199_254_740_993_u64),
                    json!(u64::MAX),
                    json!(i64::MIN),
                    json!(0.1),
                    json!(-123.456),
                ])
                .clone(),
            "boolean" => json!(self.below(2) == 0),
            "string" => json!(*self.one(&[
                "a",
                "b",
                "",
                "hé",
                "2026-01-01",
                "\"\\\n\u{7f}\u{1}",
                "(today)"
            ])),
            "file" => self
                .one(&[
                    json!("abc"),
                    json!(""),
                    json!({"base64": "YWJj"}),
                    json!({"base64": "YWJ"}),
                    json!({"base64": 1}),
                    json!({"bytes": 3, "sha256": "ab"}),
                    json!({}),
                    json!({"base64": "YWJj", "more": 1}),
                    json!({"base64": "YR=="}),
                ])
                .clone(),
            "datetime" => json!(*self.one(&[
                "2026-5-1",
                "2026-05-01 09:00",
                "2026-05-01T09:00:00.5+02:00",
                "2026-02-29",
                "now",
                "2026-05-01t9:0z",
                "\u{a0}2026-05-01 ",
                "0001-01-01T00:00+01:00",
                "24:00",
            ])),
            "moment" => match self.below(2) {
                0 => self.value("datetime"),
                _ => {
                    let bases = [
                        "(date \"2026-3-29 02:30\")",
                        "(date \"2024-2-29 12:00:00.25\")",
                    ];
                    json!(self.expression(&bases))
                }
            },
            "array" => json!([1, {"a": null}]),
            _ => Value::Null,
        }
    }

    /// What an operation may declare.
    fn specs(&mut self) -> Vec<Spec> {
        loop {
            let mut specs = Vec::new();
            for name in ["a", "bb", "C", "é"].iter().take(self.below(5)) {
                let kind =
                    *self.one(&["number", "boolean", "string", "file", "datetime", "moment"]);
                let choices = match (kind, self.below(3)) {
                    ("number" | "string", 0) => json!([self.value(kind), self.value(kind)]),
                    _ => Value::Null,
                };
                let default = match (kind, self.below(3)) {
                    ("file", _) | (_, 0 | 1) => Value::Null,
                    _ => self.value(kind),
                };
                let required = default.is_null() && self.below(2) == 0;
                specs.push(json!({
                    "name": name, "type": kind, "required": required, "choices": choices, "default": default,
                }));
            }
            let specs: Vec<Spec> = serde_json::from_value(json!(specs)).expect("specs");
            if rework_plugin::spec::check_specs(&specs).is_ok() {
                return specs;
            }
        }
    }

    /// An input that may fit.
    fn input(&mut self, specs: &[Spec]) -> Value {
        let mut fields = serde_json::Map::new();
        for spec in specs {
            if self.below(4) > 0 {
                let kind = serde_json::to_value(spec.r#type).expect("a word");
                let value = match &spec.choices {
                    Some(choices) if self.below(3) > 0 => self.one(choices).clone(),
                    _ => self.value(kind.as_str().expect("a word")),
                };
                fields.insert(spec.name.clone(), value);
            }
        }
        for unknown in ["zz", "b", "Z"] {
            if self.below(20) == 0 {
                fields.insert(unknown.to_owned(), json!(1));
            }
        }
        Value::Object(fields)
    }
}

#[test]
fn sql_the_client_and_the_sdk_agree_on_what_nobody_thought_of() {
    let mut dice = Dice::new();
    let mut declarations = BTreeMap::new();
    let mut cases = Vec::new();
    for number in 0..50 {
        let (operation, specs) = (format!("op{number}"), dice.specs());
        for _ in 0..8 {
            cases.push((operation.clone(), Some(dice.input(&specs).to_string())));
        }
        declarations.insert(operation, specs);
    }
    let rework = Rework::new();
    declare(&rework.database, &json!(declarations));
    let zone = here::zone();
    let sql = by_sql(&rework.database, zone.name(), "text", &cases);
    let client = by_client(&rework.database, &cases);
    let now = chrono::Utc::now();
    let accepted = client.iter().filter(|told| told.is_ok()).count();
    assert!(
        (50..350).contains(&accepted),
        "{accepted} of {}",
        cases.len()
    );
    for (place, (operation, input)) in cases.iter().enumerate() {
        let given = rework_plugin::input::Given {
            fields: input.as_deref().map(table),
            ..Default::default()
        };
        let sdk = rework_plugin::input::complete(
            operation,
            Some(&declarations[operation]),
            given,
            &|text| rework_plugin::moment::resolve(text, now, &zone),
        );
        let sdk = sdk.map(|complete| complete.fields.unwrap_or_default());
        let case = format!("{operation} {input:?} of {:?}", declarations[operation]);
        let compared = |told: &Told| told.as_ref().map(comparable).map_err(Clone::clone);
        assert_eq!(
            compared(&sql[place]),
            compared(&client[place]),
            "SQL, client: {case}"
        );
        let client = client[place]
            .as_ref()
            .map(without_digests)
            .map_err(Clone::clone);
        assert_eq!(compared(&sdk), compared(&client), "SDK, client: {case}");
    }
}

#[test]
fn sql_and_programs_agree_on_expressions_that_nobody_thought_of() {
    let mut dice = Dice::new();
    let bases = [
        "(today)",
        "(today)",
        "(date \"2026-3-29 02:30\")",
        "(date \"2026-10-25 02:30\")",
        "(date \"2024-2-29\")",
        "(date \"9999-12-31 23:30\")",
        "(date \"0001-01-01T00:30Z\")",
        "(date \"2026-07-01T09:30:00.5-05:30\")",
    ];
    let cases: Vec<(String, String, String)> = (0..600)
        .map(|_| {
            let zone = *dice.one(&["UTC", "Europe/Paris", "America/New_York", "Asia/Tokyo"]);
            let now = *dice.one(&[
                "2026-02-15T10:30:00.123456Z",
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:30:00Z",
                "2024-02-29T23:59:59Z",
            ]);
            (zone.to_owned(), now.to_owned(), dice.expression(&bases))
        })
        .collect();
    let database = Database::with_schema();
    let sql = moments_by_sql(&database, &cases);
    for (case, sql) in cases.iter().zip(sql) {
        assert_eq!(moment_by_program(case), sql, "{case:?}");
    }
}
