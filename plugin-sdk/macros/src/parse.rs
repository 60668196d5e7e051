//! What an author writes in attributes, read with the culprit at hand.

use proc_macro2::{Span, TokenStream};
use syn::{
    Attribute, Expr, ExprLit, Ident, Lit, LitStr, Meta, Result,
    ext::IdentExt,
    parse::{ParseStream, Parser},
    spanned::Spanned,
};

/// The attributes of `#[operation(…)]`.
#[derive(Default)]
pub(crate) struct Attributes {
    pub(crate) name: Option<String>,
    pub(crate) domain: Option<String>,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) backoff_ms: Option<u64>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) cpu_ms: Option<u64>,
    pub(crate) open_files: Option<u32>,
    pub(crate) capture: Option<String>,
    pub(crate) level: Option<String>,
    pub(crate) requires: Option<Requirement>,
}

/// The oldest version of the plugin ABI that an operation works with.
pub(crate) struct Requirement {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) span: Span,
}

const KNOWN: &str = "name, domain, timeout, max_attempts, backoff, memory, cpu, files, capture, \
                     level, requires";

impl Attributes {
    pub(crate) fn parse(tokens: TokenStream) -> Result<Self> {
        let mut attributes = Self::default();
        let parser = syn::meta::parser(|meta| {
            let name = meta
                .path
                .get_ident()
                .map(ToString::to_string)
                .unwrap_or_default();
            match name.as_str() {
                "name" => attributes.name = Some(word(&meta.value()?.parse()?)?),
                "domain" => attributes.domain = Some(word(&meta.value()?.parse()?)?),
                "timeout" => attributes.timeout_ms = Some(duration(&meta.value()?.parse()?)?),
                "backoff" => attributes.backoff_ms = Some(duration(&meta.value()?.parse()?)?),
                "memory" => attributes.memory_bytes = Some(size(&meta.value()?.parse()?)?),
                "cpu" => attributes.cpu_ms = Some(duration(&meta.value()?.parse()?)?),
                "files" => attributes.open_files = Some(at_least_one(&name, meta.value()?)?),
                "max_attempts" => {
                    attributes.max_attempts = Some(at_least_one(&name, meta.value()?)?);
                }
                "capture" => {
                    let known = ["all", "logs", "manual", "none"];
                    attributes.capture = Some(one_of(&meta.value()?.parse()?, &known)?);
                }
                "level" => {
                    let known = ["error", "warn", "info", "debug", "trace"];
                    attributes.level = Some(one_of(&meta.value()?.parse()?, &known)?);
                }
                "requires" => attributes.requires = Some(version(&meta.value()?.parse()?)?),
                _ => {
                    let message = format!("unknown attribute `{name}` (known: {KNOWN})");
                    return Err(syn::Error::new(meta.path.span(), message));
                }
            }
            Ok(())
        });
        parser.parse2(tokens)?;
        Ok(attributes)
    }
}

fn at_least_one(name: &str, value: ParseStream<'_>) -> Result<u32> {
    let number: syn::LitInt = value.parse()?;
    match number.base10_parse::<u32>() {
        Ok(count) if count >= 1 => Ok(count),
        _ => fault(number.span(), &format!("{name} is at least 1")),
    }
}

/// Reads a name or a domain: one word, as it is typed in a command line.
fn word(text: &LitStr) -> Result<String> {
    let value = text.value();
    if value.is_empty()
        || value
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || c == '`')
    {
        return Err(syn::Error::new(
            text.span(),
            format!("`{value}` is not one word"),
        ));
    }
    Ok(value)
}

fn one_of(text: &LitStr, known: &[&str]) -> Result<String> {
    let value = text.value();
    if known.contains(&value.as_str()) {
        return Ok(value);
    }
    Err(syn::Error::new(
        text.span(),
        format!("`{value}` is none of: {}", known.join(", ")),
    ))
}

/// Reads a version such as `1.1`.
fn version(text: &LitStr) -> Result<Requirement> {
    let value = text.value();
    let numbers = value
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let Some((major, minor)) = numbers else {
        return Err(syn::Error::new(
            text.span(),
            format!("`{value}` is not a version of the plugin ABI (example: \"1.1\")"),
        ));
    };
    Ok(Requirement {
        major,
        minor,
        span: text.span(),
    })
}

/// Reads `3m`, `1h30m` or an ISO 8601 duration, in milliseconds.
fn duration(text: &LitStr) -> Result<u64> {
    let value = text.value();
    let upper = value.trim().to_ascii_uppercase();
    let seconds = match upper.strip_prefix('P') {
        Some(rest) => {
            let (date, time) = rest.split_once('T').unwrap_or((rest, ""));
            let days = parts(date, &[("D", 86_400.0), ("W", 604_800.0)]);
            let clock = parts(time, &[("H", 3600.0), ("M", 60.0), ("S", 1.0)]);
            match (date, time) {
                ("", _) => clock,
                (_, "") => days,
                _ => days.zip(clock).map(|(days, clock)| days + clock),
            }
        }
        None => parts(
            &upper,
            &[
                ("MS", 0.001),
                ("S", 1.0),
                ("M", 60.0),
                ("H", 3600.0),
                ("D", 86_400.0),
            ],
        ),
    };
    match seconds {
        Some(seconds) if seconds > 0.0 => Ok((seconds * 1000.0).round() as u64),
        _ => Err(syn::Error::new(
            text.span(),
            format!("`{value}` is not a duration (examples: \"30s\", \"3m\", \"1h30m\", \"P1D\")"),
        )),
    }
}

/// Reads a size such as `512MB` or `2GB`, in bytes; units are powers of 1024.
fn size(text: &LitStr) -> Result<u64> {
    let value = text.value();
    let upper = value.trim().to_ascii_uppercase();
    let (kilo, mega, giga) = (1024.0, 1_048_576.0, 1_073_741_824.0);
    let units = [
        ("KB", kilo),
        ("MB", mega),
        ("GB", giga),
        ("KIB", kilo),
        ("MIB", mega),
        ("GIB", giga),
    ];
    match parts(&upper, &units) {
        Some(bytes) if bytes >= 1.0 => Ok(bytes as u64),
        _ => Err(syn::Error::new(
            text.span(),
            format!("`{value}` is not a size (examples: \"512MB\", \"2GB\")"),
        )),
    }
}

/// Adds up numbers that are each followed by a unit.
fn parts(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let mut rest = text.trim();
    let mut total = None;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let end = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
        total = Some(total.unwrap_or(0.0) + number.parse::<f64>().ok()? * factor);
        rest = after.trim_start();
    }
    total
}

/// The text of a doc comment.
pub(crate) fn description(attributes: &[Attribute]) -> String {
    let lines: Vec<String> = attributes
        .iter()
        .filter_map(|attribute| match &attribute.meta {
            Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
                Expr::Lit(ExprLit {
                    lit: Lit::Str(text),
                    ..
                }) => Some(
                    text.value()
                        .strip_prefix(' ')
                        .map_or_else(|| text.value(), str::to_owned),
                ),
                _ => None,
            },
            _ => None,
        })
        .collect();
    lines.join("\n").trim().to_owned()
}

/// An identifier as JSON and people write it, without `r#`.
pub(crate) fn unraw(name: &Ident) -> String {
    name.unraw().to_string()
}

/// The allowed values of a field, and its default.
#[derive(Default)]
pub(crate) struct Limits {
    pub(crate) choices: Option<Vec<Literal>>,
    pub(crate) default: Option<Literal>,
}

impl Limits {
    /// The allowed values as JSON.
    pub(crate) fn choices(&self) -> String {
        let Some(choices) = &self.choices else {
            return "null".to_owned();
        };
        let choices: Vec<&str> = choices.iter().map(|choice| choice.json.as_str()).collect();
        format!("[{}]", choices.join(","))
    }

    /// The default as JSON.
    pub(crate) fn default(&self) -> String {
        self.default
            .as_ref()
            .map_or_else(|| "null".to_owned(), |default| default.json.clone())
    }

    /// All literals: the allowed values and the default.
    pub(crate) fn literals(&self) -> impl Iterator<Item = &Literal> {
        self.choices.iter().flatten().chain(&self.default)
    }

    /// Checks that the default is one of the allowed values.
    pub(crate) fn check(&self) -> Result<()> {
        match (&self.choices, &self.default) {
            (Some(choices), Some(default))
                if !choices.iter().any(|one| one.json == default.json) =>
            {
                fault(
                    default.span,
                    &format!("the default is none of the choices {}", self.choices()),
                )
            }
            _ => Ok(()),
        }
    }
}

/// A literal of an attribute.
pub(crate) struct Literal {
    /// The literal as JSON. Equal numbers are written in one way: `1`, `1.0` and `1.` are the same.
    pub(crate) json: String,
    /// The JSON type: `number`, `boolean` or `string`.
    pub(crate) kind: &'static str,
    pub(crate) span: Span,
}

impl Literal {
    pub(crate) fn read(value: &Expr) -> Result<Self> {
        let span = value.span();
        let (json, kind) = match value {
            Expr::Lit(ExprLit { lit, .. }) => match lit {
                Lit::Str(text) => (json_string(&text.value()), "string"),
                Lit::Bool(flag) => (flag.value.to_string(), "boolean"),
                Lit::Int(_) | Lit::Float(_) => (json_number(lit, "")?, "number"),
                _ => return not_a_literal(span),
            },
            Expr::Unary(syn::ExprUnary {
                op: syn::UnOp::Neg(_),
                expr,
                ..
            }) => match &**expr {
                Expr::Lit(ExprLit { lit, .. }) => (json_number(lit, "-")?, "number"),
                _ => return not_a_literal(span),
            },
            _ => return not_a_literal(span),
        };
        Ok(Self { json, kind, span })
    }
}

fn not_a_literal<T>(span: Span) -> Result<T> {
    fault(span, "expected a number, a boolean or a string")
}

/// A number as JSON, which has no `1.` and no `0x10`.
fn json_number(literal: &Lit, sign: &str) -> Result<String> {
    match literal {
        Lit::Int(number) => Ok(format!("{sign}{}", number.base10_parse::<u64>()?)),
        Lit::Float(number) => {
            let value: f64 = number.base10_parse()?;
            if !value.is_finite() {
                return fault(number.span(), "JSON knows no such number");
            }
            // As an integer, if it is one.
            Ok(if value.fract() == 0.0 && value < 9e15 {
                format!("{sign}{value:.0}")
            } else {
                format!("{sign}{value:?}")
            })
        }
        other => not_a_literal(other.span()),
    }
}

/// A string as JSON.
pub(crate) fn json_string(text: &str) -> String {
    let mut json = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            c if c.is_control() => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

/// An error with the span of what is wrong.
pub(crate) fn fault<T>(span: Span, message: &str) -> Result<T> {
    Err(syn::Error::new(span, message))
}
