//! `[tls]` and `[[token]]`: access control.

use std::path::{Path, PathBuf};

use super::section::Section;
use crate::security::{Role, Roles, TlsFiles, TokenFile};

/// Most token files.
const TOKENS_MAX: usize = 64;

fn file(s: &mut Section<'_, '_>, path: &Path, key: &'static str, what: &str) -> Option<PathBuf> {
    let (text, _) = s.required_string(key, what)?;
    Some(path.parent().unwrap_or(Path::new("")).join(text))
}

pub(super) fn tls(s: &mut Section<'_, '_>, path: &Path) -> Option<TlsFiles> {
    let cert = file(s, path, "cert", "a PEM file with the server's certificate");
    let key = file(s, path, "key", "a PEM file with the server's key");
    let client_ca = s.string("client_ca").map(|(text, _)| text.to_owned());
    let client_ca = client_ca.map(|text| path.parent().unwrap_or(Path::new("")).join(text));
    Some(TlsFiles { cert: cert?, key: key?, client_ca })
}

pub(super) fn tokens(section: &mut Section<'_, '_>, path: &Path) -> Vec<TokenFile> {
    let mut tokens = Vec::new();
    section.tables("token", 0..=TOKENS_MAX, |s| {
        let found = file(s, path, "file", "a file with a token in each line");
        if let (Some(path), Some(roles)) = (found, roles(s)) {
            tokens.push(TokenFile { path, roles });
        }
    });
    tokens
}

fn roles(s: &mut Section<'_, '_>) -> Option<Roles> {
    let expected = "an array of roles: read, ingest, control";
    let Some(words) = s.strings("roles") else {
        if !s.table.iter().any(|(k, _)| k.get_ref() == "roles") {
            let span = s.span.clone();
            s.fault(span, "roles", format!("expected {expected}, found nothing"));
        }
        return None;
    };
    let mut roles = Vec::new();
    for word in &words {
        match Role::NAMES.iter().find(|n| n.0 == word) {
            Some((_, role)) => roles.push(*role),
            None => {
                let span = s.span.clone();
                s.fault(span, "roles", format!("expected {expected}, found \"{word}\""));
            }
        }
    }
    if words.is_empty() {
        let span = s.span.clone();
        s.fault(span, "roles", format!("expected {expected}, found none of them"));
    }
    Some(Roles(roles))
}
