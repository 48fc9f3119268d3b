//! A TOML table that is read key by key, every fault noted with its place.

use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::Fault;

/// Longest path of a Unix socket that every system takes.
const SOCKET_PATH_MAX: usize = 100;

/// What it takes to listen beyond the machine.
#[derive(Debug, Clone, Copy)]
pub(super) enum Beyond {
    Guarded {
        tls: bool,
        tokens: bool,
    },
    /// Somebody's word for it: nothing can be encrypted there.
    Plaintext(bool),
}

impl Beyond {
    fn is_allowed(self) -> bool {
        match self {
            Self::Guarded { tls, tokens } => tls && tokens,
            Self::Plaintext(allowed) => allowed,
        }
    }

    fn needed(self) -> &'static str {
        match self {
            Self::Guarded { .. } => {
                "a loopback address, or [tls] with cert and key and at least one [[token]] with \
                 file and roles as well (docs/security.md)"
            }
            Self::Plaintext(_) => {
                "a loopback address: this protocol is neither encrypted nor authenticated (tunnel \
                 it, use gRPC with \
                 TLS, or say allow_plaintext = true on a network of your own)"
            }
        }
    }
}

pub(super) struct Faults<'a> {
    pub(super) text: &'a str,
    pub(super) list: Vec<Fault>,
}

impl Faults<'_> {
    pub(super) fn add(
        &mut self,
        span: Range<usize>,
        key: impl Into<String>,
        problem: impl Into<String>,
    ) {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        self.list.push(Fault { line, key: key.into(), problem: problem.into() });
    }
}

/// A table that is read key by key; unread keys are faults at the end.
pub(super) struct Section<'a, 'b> {
    pub(super) table: &'a DeTable<'a>,
    pub(super) span: Range<usize>,
    pub(super) prefix: String,
    pub(super) known: Vec<&'static str>,
    pub(super) faults: &'b mut Faults<'a>,
}

impl<'a> Section<'a, '_> {
    pub(super) fn value(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.push(key);
        self.table.iter().find(|(k, _)| k.get_ref() == key).map(|(_, v)| v)
    }

    pub(super) fn fault(&mut self, span: Range<usize>, key: &str, problem: impl Into<String>) {
        let key = format!("{}{key}", self.prefix);
        self.faults.add(span, key, problem);
    }

    pub(super) fn wrong(&mut self, at: &Spanned<DeValue<'_>>, key: &str, expected: &str) {
        let problem = format!("expected {expected}, found {}", shown(at.get_ref()));
        self.fault(at.span(), key, problem);
    }

    pub(super) fn string(&mut self, key: &'static str) -> Option<(&'a str, Range<usize>)> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(s) => Some((s.as_ref(), value.span())),
            _ => {
                self.wrong(value, key, "a string");
                None
            }
        }
    }

    pub(super) fn required_string(
        &mut self,
        key: &'static str,
        expected: &str,
    ) -> Option<(&'a str, Range<usize>)> {
        if self.table.iter().any(|(k, _)| k.get_ref() == key) {
            return self.string(key);
        }
        self.known.push(key);
        let span = self.span.clone();
        self.fault(span, key, format!("expected {expected}, found nothing"));
        None
    }

    pub(super) fn number(
        &mut self,
        key: &'static str,
        range: Range<f64>,
        what: &str,
    ) -> Option<f64> {
        let value = self.value(key)?;
        let number = match value.get_ref() {
            DeValue::Integer(i) => i.as_str().parse::<f64>().ok(),
            DeValue::Float(f) => f.as_str().parse::<f64>().ok(),
            _ => None,
        };
        match number {
            Some(x) if range.contains(&x) => Some(x),
            _ => {
                self.wrong(value, key, what);
                None
            }
        }
    }

    pub(super) fn whole(&mut self, key: &'static str, min: usize, max: usize) -> Option<usize> {
        let value = self.value(key)?;
        let number = match value.get_ref() {
            DeValue::Integer(i) => {
                usize::from_str_radix(&i.as_str().replace('_', ""), i.radix()).ok()
            }
            _ => None,
        };
        match number {
            Some(n) if (min..=max).contains(&n) => Some(n),
            _ => {
                self.wrong(value, key, &format!("a whole number from {min} to {max}"));
                None
            }
        }
    }

    /// A time in milliseconds.
    pub(super) fn milliseconds(&mut self, key: &'static str, max: f64) -> Option<Duration> {
        let ms = self.number(key, 0.0..max, &format!("milliseconds from 0 and below {max}"))?;
        Some(Duration::from_secs_f64(ms * 1e-3))
    }

    /// A text that begins as one of `schemes` does.
    pub(super) fn endpoint(&mut self, key: &'static str, schemes: &[&str]) -> Option<String> {
        let (text, span) = self.string(key)?;
        if schemes.iter().any(|s| text.len() > s.len() && text.starts_with(s)) {
            return Some(text.to_owned());
        }
        let problem = format!("expected {}..., found \"{text}\"", schemes.join("... or "));
        self.fault(span, key, problem);
        None
    }

    /// One of several words.
    pub(super) fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let (text, span) = self.string(key)?;
        let found = words.iter().find(|w| w.0 == text).map(|w| w.1);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|w| w.0).collect();
            let problem = format!("expected one of {}, found \"{text}\"", known.join(", "));
            self.fault(span, key, problem);
        }
        found
    }

    /// An array of strings.
    pub(super) fn strings(&mut self, key: &'static str) -> Option<Vec<String>> {
        let value = self.value(key)?;
        let DeValue::Array(list) = value.get_ref() else {
            self.wrong(value, key, "an array of strings");
            return None;
        };
        let mut all = Vec::new();
        for item in list {
            match item.get_ref() {
                DeValue::String(s) => all.push(s.to_string()),
                _ => self.wrong(item, key, "strings"),
            }
        }
        Some(all)
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        if let DeValue::Boolean(b) = value.get_ref() {
            return Some(*b);
        }
        self.wrong(value, key, "true or false");
        None
    }

    /// Whether a table or array of that name is there.
    pub(super) fn known_table(&self, key: &str) -> bool {
        self.table.iter().any(|(k, _)| k.get_ref() == key)
    }

    /// An address, or `""` for off.
    pub(super) fn address(
        &mut self,
        key: &'static str,
        beyond: Beyond,
    ) -> Option<Option<SocketAddr>> {
        let (text, span) = self.string(key)?;
        if text.is_empty() {
            return Some(None);
        }
        let bare = text.strip_prefix("tcp://").unwrap_or(text);
        let Ok(address) = bare.parse::<SocketAddr>() else {
            let problem = format!(
                "expected an address such as \"127.0.0.1:7733\" (\"\" is off), found \"{text}\""
            );
            self.fault(span, key, problem);
            return None;
        };
        if !address.ip().is_loopback() && !beyond.is_allowed() {
            let problem = format!("expected {}, found {address}", beyond.needed());
            self.fault(span, key, problem);
            return None;
        }
        Some(Some(address))
    }

    /// Path of a Unix socket; `""` is off.
    pub(super) fn socket_path(&mut self, key: &'static str) -> Option<PathBuf> {
        let (text, span) = self.string(key)?;
        let bare = ["ipc://", "unix://", "unix:"].iter().find_map(|s| text.strip_prefix(s));
        let path = bare.unwrap_or(text);
        if path.is_empty() {
            return None;
        }
        if path.len() > SOCKET_PATH_MAX || !path.starts_with('/') {
            let problem = format!(
                "expected an absolute path of at most {SOCKET_PATH_MAX} bytes, such as \
                 \"/run/regimed/in.sock\", found \"{path}\""
            );
            self.fault(span, key, problem);
            return None;
        }
        Some(path.into())
    }

    /// Reads a table, where there is one.
    pub(super) fn section<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'a, '_>) -> T,
    ) -> Option<T> {
        let value = self.value(key)?;
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong(value, key, "a table");
            return None;
        };
        let mut inner = Section {
            table,
            span: value.span(),
            prefix: format!("{}{key}.", self.prefix),
            known: Vec::new(),
            faults: self.faults,
        };
        let read = read(&mut inner);
        inner.finish();
        Some(read)
    }

    /// Reads an array of tables, one by one; other numbers of them than `many` are a fault.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        many: RangeInclusive<usize>,
        mut read: impl FnMut(&mut Section<'a, '_>),
    ) {
        let Some(value) = self.value(key) else { return };
        let DeValue::Array(list) = value.get_ref() else {
            self.wrong(value, key, &format!("[[{}{key}]] tables", self.prefix));
            return;
        };
        if !many.contains(&list.len()) {
            let (least, most) = (many.start(), many.end());
            let problem = format!("expected {least} to {most} tables, found {}", list.len());
            self.fault(value.span(), key, problem);
        }
        for (i, item) in list.iter().enumerate() {
            let DeValue::Table(table) = item.get_ref() else {
                self.wrong(item, key, "a table");
                continue;
            };
            let mut one = Section {
                table,
                span: item.span(),
                prefix: format!("{}{key}[{i}].", self.prefix),
                known: Vec::new(),
                faults: self.faults,
            };
            read(&mut one);
            one.finish();
        }
    }

    pub(super) fn finish(self) {
        for key in self.table.keys() {
            if !self.known.contains(&key.get_ref().as_ref()) {
                let name = format!("{}{}", self.prefix, key.get_ref());
                let problem = format!("unknown key; expected one of {}", self.known.join(", "));
                self.faults.add(key.span(), name, problem);
            }
        }
    }
}

/// Puts a value where one was given.
pub(super) fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

pub(super) fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(s) => format!("\"{s}\""),
        DeValue::Integer(i) => i.as_str().to_owned(),
        DeValue::Float(f) => f.as_str().to_owned(),
        DeValue::Boolean(b) => b.to_string(),
        DeValue::Datetime(d) => d.to_string(),
        DeValue::Array(_) => "an array".into(),
        DeValue::Table(_) => "a table".into(),
    }
}
