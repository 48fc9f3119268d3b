//! Notes that people and programs make on a session's time.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::sync::locked;
use crate::wire::Annotation;

/// Annotations held in memory; the journal keeps all.
const HELD: usize = 256;
/// Longest text, bytes.
const TEXT_BYTES_MAX: usize = 1000;
/// Longest source, bytes.
const SOURCE_BYTES_MAX: usize = 64;

/// A note that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnnotationError {
    /// Its text is empty or too long.
    #[error("text: expected 1 to {TEXT_BYTES_MAX} bytes, found {0}")]
    Text(usize),
    /// Its source is too long.
    #[error("source: expected at most {SOURCE_BYTES_MAX} bytes, found {0}")]
    Source(usize),
}

/// A session's newest annotations.
#[derive(Debug, Default)]
pub(crate) struct Annotations(Mutex<VecDeque<Annotation>>);

impl Annotations {
    /// Whether it can be noted.
    ///
    /// # Errors
    /// A text that is empty or too long, a source that is too long.
    pub(crate) fn check(text: &str, source: &str) -> Result<(), AnnotationError> {
        if text.trim().is_empty() || text.len() > TEXT_BYTES_MAX {
            return Err(AnnotationError::Text(text.len()));
        }
        if source.len() > SOURCE_BYTES_MAX {
            return Err(AnnotationError::Source(source.len()));
        }
        Ok(())
    }

    /// Adds one; the oldest goes where there are too many.
    pub(crate) fn add(&self, annotation: Annotation) {
        let mut held = locked(&self.0);
        if held.len() == HELD {
            held.pop_front();
        }
        held.push_back(annotation);
    }

    /// When the newest was made, ns since the Unix epoch; 0: none is held.
    pub(crate) fn newest_ns(&self) -> i64 {
        locked(&self.0).back().map_or(0, |a| a.time_ns)
    }

    /// All that are held, oldest first.
    pub(crate) fn held(&self) -> Vec<Annotation> {
        locked(&self.0).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_held_and_texts_have_a_length() {
        let annotations = Annotations::default();
        for i in 0..HELD as i64 + 3 {
            annotations.add(Annotation { time_ns: i, ..Annotation::default() });
        }
        let held = annotations.held();
        assert_eq!((held.len(), held[0].time_ns), (HELD, 3));
        assert_eq!(Annotations::check("  ", ""), Err(AnnotationError::Text(2)));
        assert_eq!(Annotations::check(&"x".repeat(1001), ""), Err(AnnotationError::Text(1001)));
        assert_eq!(Annotations::check("x", &"y".repeat(65)), Err(AnnotationError::Source(65)));
        assert_eq!(Annotations::check("juice", "page"), Ok(()));
    }
}
