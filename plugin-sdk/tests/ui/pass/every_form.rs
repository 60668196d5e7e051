use rework_plugin::prelude::*;

/// Nothing in, nothing out.
#[operation]
fn nothing() {}

/// With the task.
#[operation(name = "renamed", domain = "other", timeout = "1h30m", backoff = "PT10S")]
fn with_task(task: &mut Task) -> Result<()> {
    task.save_output(&1)
}

/// Typed, with a result of its own kind of error.
#[operation(memory = "512MB", cpu = "10s", files = 64, capture = "logs", level = "debug", max_attempts = 3, requires = "1.1")]
fn typed(a: i64, b: Option<String>, c: DateTime) -> Result<String, std::fmt::Error> {
    Ok(format!("{a} {b:?} {c}"))
}

#[derive(Inputs)]
struct Things {
    #[input(name = "myfile.txt")]
    my_file: File,
    name: String,
    #[input(choices = ["foo", "bar"])]
    option: Option<String>,
    #[input(default = 42)]
    weight: f64,
    birthdate: Option<DateTime>,
    horizon: Option<Moment>,
    r#type: Option<String>,
    #[input(choices = [1., 0x10, -2.5], default = 1)]
    factor: f64,
}

#[derive(Outputs)]
struct Report {
    message: String,
}

/// Both.
#[operation]
fn compute_things(task: &mut Task, things: Things) -> Result<Report> {
    task.progress(0.5, "half");
    let Things { my_file, name, option, weight, birthdate, horizon, r#type, factor } = things;
    let message = format!(
        "{name} {option:?} {weight} {birthdate:?} {horizon:?} {type:?} {factor} {}",
        my_file.len()
    );
    Ok(Report { message })
}

#[derive(Outputs)]
struct SearchResult {
    r#type: String,
    content: File,
}

type Found = std::result::Result<SearchResult, String>;

/// A name that ends in `Result` is a name.
#[operation]
fn search() -> SearchResult {
    SearchResult { r#type: "all".into(), content: File::new("x") }
}

/// A result under another name.
#[operation]
fn find() -> Found {
    Err("nothing".into())
}

/// The raw bytes of a file.
#[operation]
fn fetch() -> Result<File> {
    Ok(File::new("x"))
}

rework_plugin::export!();

fn main() {}
