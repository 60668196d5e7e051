//! A real job on a real file: how often each word occurs in a text. It shows a file as input and
//! as output, a default, progress, and logs through `tracing`.

use rework_plugin::prelude::*;
use std::collections::HashMap;

/// What to count.
#[derive(Inputs)]
struct Order {
    /// The text, in UTF-8.
    text: File,
    /// How many words to name.
    #[input(default = 10)]
    top: usize,
}

/// What was counted.
#[derive(Outputs)]
struct Report {
    words: usize,
    distinct: usize,
    most_frequent: String,
    #[output(name = "frequencies.csv")]
    frequencies: File,
}

/// Counts the words of a text.
#[operation(domain = "reports", timeout = "10m")]
fn word_frequencies(task: &mut Task, order: Order) -> Result<Report> {
    let text = std::str::from_utf8(&order.text)?;
    tracing::info!(bytes = text.len(), "counting words");
    let counts = count_words(text, task);
    let mut ranking: Vec<(String, usize)> = counts.into_iter().collect();
    // The most frequent first, and of equals in the order of the alphabet.
    ranking.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    if ranking.is_empty() {
        tracing::warn!("the text has no words");
    }
    let report = Report {
        words: ranking.iter().map(|(_, count)| count).sum(),
        distinct: ranking.len(),
        most_frequent: summary(&ranking, order.top),
        frequencies: csv(&ranking).into_bytes().into(),
    };
    println!(
        "{} words, {} of them distinct",
        report.words, report.distinct
    );
    Ok(report)
}

fn count_words(text: &str, task: &mut Task) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    let lines = text.lines().count();
    for (number, line) in text.lines().enumerate() {
        let words = line
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty());
        for word in words {
            *counts.entry(word.to_lowercase()).or_insert(0) += 1;
        }
        task.progress(
            (number + 1) as f64 / lines as f64,
            format!("line {} of {lines}", number + 1),
        );
    }
    counts
}

fn summary(ranking: &[(String, usize)], top: usize) -> String {
    let named: Vec<String> = ranking
        .iter()
        .take(top)
        .map(|(word, count)| format!("{word} {count}"))
        .collect();
    named.join(", ")
}

fn csv(ranking: &[(String, usize)]) -> String {
    ranking
        .iter()
        .fold("word,count\n".to_owned(), |mut csv, (word, count)| {
            csv.push_str(&format!("{word},{count}\n"));
            csv
        })
}

rework_plugin::export!();

#[cfg(test)]
mod tests {
    use rework_plugin::{prelude::json, testing};

    #[test]
    fn counts_logs_and_reports_progress() {
        let outcome = testing::task("word_frequencies")
            .file("text", "The cat.\nthe dog, THE bird")
            .input(json!({"top": 1}))
            .run();
        let output = outcome.output.expect("a report");
        assert_eq!(output["words"], 6);
        assert_eq!(output["distinct"], 4);
        assert_eq!(output["most_frequent"], "the 3");
        let csv = String::from_utf8(outcome.files["frequencies.csv"].clone()).unwrap();
        assert_eq!(csv, "word,count\nthe,3\nbird,1\ncat,1\ndog,1\n");
        assert_eq!(
            outcome.progress.last(),
            Some(&(1.0, "line 2 of 2".to_owned()))
        );
        assert!(
            outcome.logs[0].message.starts_with("counting words"),
            "{:?}",
            outcome.logs
        );
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let failure = testing::task("word_frequencies")
            .file("text", [0xff, 0xfe])
            .run()
            .failure;
        assert!(failure.unwrap().message.starts_with("invalid utf-8"));
        let failure = testing::task("word_frequencies").run().failure;
        assert_eq!(
            failure.unwrap().message,
            "missing required input `text` of `word_frequencies`"
        );
    }
}
