//! A fault of a model, before the file that holds it is known.

/// Part, expected, found.
pub(super) type Fault = (String, String, String);

#[allow(clippy::needless_pass_by_value)] // words and numbers alike, given where they stand
pub(super) fn fault<T>(
    what: impl Into<String>,
    expected: impl ToString,
    found: impl ToString,
) -> Result<T, Fault> {
    Err((what.into(), expected.to_string(), found.to_string()))
}
