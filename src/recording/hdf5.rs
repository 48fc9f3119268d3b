//! HDF5 as NWB files use it: datasets as numbers or text, columns of tables, and what cannot be
//! read, with the reason.

use std::path::Path;
use std::sync::Arc;

use hdf5_reader::error::Error;
use hdf5_reader::group::Group;
use hdf5_reader::messages::datatype::{Datatype, StringPadding, StringSize, VarLenKind};
use hdf5_reader::storage::DynStorage;
use hdf5_reader::{Dataset, ExternalFileResolver, ExternalLinkResolver, Hdf5File, OpenOptions};

use super::RecordingError;

/// Largest array read from a file, bytes, stored or as doubles.
const READ_BYTES_MAX: usize = 1 << 30;
/// Text of one column at most, bytes.
const TEXT_BYTES_MAX: usize = 64 << 20;
/// Most that compression makes of a byte (deflate's 1032, and some)...
const EXPANSION_MAX: u64 = 1040;
/// ...in addition to what a short file may declare: the fill value of an array that stores nothing.
const FILL_BYTES_MAX: u64 = 16 << 20;
/// Layout of a dataset that is put together from others.
const VIRTUAL_LAYOUT: u8 = 3;

/// A file that is read.
pub(super) struct File<'a> {
    pub(super) path: &'a Path,
    pub(super) file: Hdf5File,
    /// Length, bytes.
    pub(super) length: u64,
}

/// What names another file is not followed: a recording reads no file but itself.
struct Refuse;

fn elsewhere<T>(filename: &str) -> hdf5_reader::error::Result<T> {
    let name: String = filename.chars().take(128).collect();
    Err(Error::UnsupportedEncoding(format!("what is in another file, '{name}'")))
}

impl ExternalLinkResolver for Refuse {
    fn resolve_external_link(&self, name: &str) -> hdf5_reader::error::Result<Option<Hdf5File>> {
        elsewhere(name)
    }
}

impl ExternalFileResolver for Refuse {
    fn resolve_external_file(&self, name: &str) -> hdf5_reader::error::Result<Option<DynStorage>> {
        elsewhere(name)
    }
}

fn options() -> OpenOptions {
    OpenOptions { max_read_bytes: READ_BYTES_MAX, ..OpenOptions::default() }
        .with_external_link_resolver(Arc::new(Refuse))
        .with_external_file_resolver(Arc::new(Refuse))
}

/// The innermost error.
fn cause(e: &Error) -> &Error {
    match e {
        Error::Context { source, .. } => cause(source),
        e => e,
    }
}

/// Why something cannot be read, and what to do; `None` where it is merely not there.
fn reason(e: &Error) -> Option<String> {
    Some(match cause(e) {
        Error::DatasetNotFound(_) | Error::GroupNotFound(_) => return None,
        Error::UnsupportedFilter(what) => format!(
            "values compressed in a way that is not known here ({what}): `h5repack -f GZIP=4 IN \
             OUT` writes a file that \
             can be read"
        ),
        Error::UnsupportedEncoding(what) if what.starts_with("what is in another file") => {
            format!("{what}: write a file that holds it itself (in Python, pynwb's `export`)")
        }
        Error::UnsupportedLayoutClass(VIRTUAL_LAYOUT) => {
            "a virtual dataset, whose values are in other files: write a file that holds them \
             itself \
             (`h5repack -l CONTI IN OUT`, or in Python pynwb's `export`)"
                .into()
        }
        e => format!("unreadable: {e}"),
    })
}

/// A type's name, to show.
fn kind(of: &Datatype) -> String {
    match of {
        Datatype::FixedPoint { size, signed, .. } => {
            format!("{}whole numbers of {size} bytes", if *signed { "" } else { "unsigned " })
        }
        Datatype::FloatingPoint { size, .. } => format!("floating-point numbers of {size} bytes"),
        Datatype::String { .. } => "text".into(),
        Datatype::Enum { .. } => "enumerated values".into(),
        Datatype::VarLen { .. } => "values of varying length".into(),
        Datatype::Compound { .. } => "compound values".into(),
        _ => "values of another kind".into(),
    }
}

impl<'a> File<'a> {
    /// Opens a file.
    ///
    /// # Errors
    /// Errors of the system, and a file that is not HDF5.
    pub(super) fn open(path: &'a Path) -> Result<Self, RecordingError> {
        let io = |reason| RecordingError::Io { path: path.to_owned(), reason };
        if super::is_zarr(path) {
            return Err(super::zarr(path));
        }
        let length = crate::files::open(path).and_then(|f| f.metadata()).map_err(io)?.len();
        let file = Hdf5File::open_with_options(path, options()).map_err(|e| no_hdf5(path, &e))?;
        Self { path, file, length }.whole()
    }

    /// Takes a file's bytes; `path` is for messages.
    ///
    /// # Errors
    /// The bytes are not HDF5.
    pub(super) fn of(bytes: &[u8], path: &'a Path) -> Result<Self, RecordingError> {
        let file =
            Hdf5File::from_bytes_with_options(bytes, options()).map_err(|e| no_hdf5(path, &e))?;
        Self { path, file, length: bytes.len() as u64 }.whole()
    }

    fn whole(self) -> Result<Self, RecordingError> {
        let end = self.file.superblock().eof_address;
        if self.length < end {
            let found = format!("{}: cut short", self.length);
            return Err(self.wrong("file", format!("{end} bytes"), found));
        }
        Ok(self)
    }

    pub(super) fn wrong(
        &self,
        key: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> RecordingError {
        RecordingError::key(self.path, key, expected, found)
    }

    /// Whether something is at a place, readable or not.
    pub(super) fn has(&self, key: &str) -> bool {
        match self.file.dataset(key) {
            Ok(_) => true,
            Err(e) => reason(&e).is_some(),
        }
    }

    /// A group, or why there is none.
    pub(super) fn group(&self, key: &str, expected: &str) -> Result<Option<Group>, RecordingError> {
        match self.file.group(key) {
            Ok(group) => Ok(Some(group)),
            Err(e) => match reason(&e) {
                None => Ok(None),
                Some(why) => Err(self.wrong(key, expected, why)),
            },
        }
    }

    pub(super) fn dataset(&self, key: &str, expected: &str) -> Result<Dataset, RecordingError> {
        let dataset = self.file.dataset(key).map_err(|e| {
            self.wrong(key, expected, reason(&e).unwrap_or_else(|| "no such dataset".into()))
        })?;
        // A declared length is believed as far as the file can hold it; values become doubles.
        let held = self.length.saturating_mul(EXPANSION_MAX).max(FILL_BYTES_MAX);
        let most = held.min(READ_BYTES_MAX as u64) / 8;
        // Lengths of 0 count as 1: the other lengths must be plausible as well.
        let declared = dataset.shape().iter().fold(1u64, |n, &d| n.saturating_mul(d.max(1)));
        if declared > most {
            let expected = format!("at most {most} values in this file");
            return Err(self.wrong(key, expected, declared.to_string()));
        }
        Ok(dataset)
    }

    fn unreadable(&self, key: &str, expected: &str, e: &Error) -> RecordingError {
        self.wrong(key, expected, reason(e).unwrap_or_else(|| format!("unreadable: {e}")))
    }

    /// Any numbers as `f64`.
    pub(super) fn numbers(&self, key: &str, expected: &str) -> Result<Vec<f64>, RecordingError> {
        let dataset = self.dataset(key, expected)?;
        macro_rules! read {
            ($kind:ty) => {
                dataset
                    .read_array::<$kind>()
                    .map_err(|e| self.unreadable(key, expected, &e))?
                    .iter()
                    .map(|&x| num_traits::cast(x).unwrap_or(f64::NAN))
                    .collect()
            };
        }
        let found: Vec<f64> = match dataset.dtype() {
            Datatype::FloatingPoint { size: 4, .. } => read!(f32),
            Datatype::FloatingPoint { size: 8, .. } => read!(f64),
            Datatype::FixedPoint { size: 1, signed: true, .. } => read!(i8),
            Datatype::FixedPoint { size: 2, signed: true, .. } => read!(i16),
            Datatype::FixedPoint { size: 4, signed: true, .. } => read!(i32),
            Datatype::FixedPoint { size: 8, signed: true, .. } => read!(i64),
            Datatype::FixedPoint { size: 1, signed: false, .. } => read!(u8),
            Datatype::FixedPoint { size: 2, signed: false, .. } => read!(u16),
            Datatype::FixedPoint { size: 4, signed: false, .. } => read!(u32),
            Datatype::FixedPoint { size: 8, signed: false, .. } => read!(u64),
            other => return Err(self.wrong(key, expected, kind(other))),
        };
        Ok(found)
    }

    /// Where each row of a ragged column ends, from the column's index: it rises, and never beyond
    /// `values`.
    pub(super) fn ends(&self, key: &str, values: usize) -> Result<Vec<usize>, RecordingError> {
        let found = self.numbers(key, "where each row's values end")?;
        let mut before = 0;
        let mut ends = Vec::with_capacity(found.len());
        for end in found {
            let to = end as usize;
            if to < before || to > values || end.fract() != 0.0 {
                let expected = format!("ends that rise to at most {values}");
                return Err(self.wrong(key, expected, end.to_string()));
            }
            ends.push(to);
            before = to;
        }
        Ok(ends)
    }

    /// A table's column as text, a value for each row: numbers as they print, enumerated values by
    /// their names, several values of one row joined by `+`, and `None` where there is none.
    pub(super) fn column(
        &self,
        table: &str,
        column: &str,
    ) -> Result<Vec<Option<String>>, RecordingError> {
        let key = format!("{table}/{column}");
        let values = match self.elements(table, column)? {
            Some(names) => self.named(&key, &names)?,
            None => self.texts(&key)?,
        };
        let index = format!("{key}_index");
        if !self.has(&index) {
            return Ok(values.into_iter().map(labelled).collect());
        }
        if self.has(&format!("{index}_index")) {
            return Err(self.wrong(&key, "one list of values for each row", "lists of lists"));
        }
        let mut from = 0;
        let rows = self.ends(&index, values.len())?.into_iter().map(|to| {
            let row = values[from..to].iter().cloned().filter_map(labelled);
            from = to;
            let row: Vec<String> = row.collect();
            (!row.is_empty()).then(|| row.join("+"))
        });
        Ok(rows.collect())
    }

    /// Names of an enumerated column (hdmf's `EnumData`), from the dataset that its attribute
    /// refers to.
    fn elements(&self, table: &str, column: &str) -> Result<Option<Vec<String>>, RecordingError> {
        let key = format!("{table}/{column}");
        let dataset = self.dataset(&key, "a column")?;
        let Ok(reference) = dataset.attribute("elements") else { return Ok(None) };
        let Some(group) = self.group(table, "a table")? else { return Ok(None) };
        let address = hdf5_reader::reference::resolve_object_reference(
            &reference.raw_data,
            group.offset_size(),
        );
        let name = address.and_then(|address| group.child_name_by_address(address));
        let name = name.ok().flatten().unwrap_or_else(|| format!("{column}_elements"));
        self.texts(&format!("{table}/{name}")).map(Some)
    }

    /// Indices by the names that they are of.
    fn named(&self, key: &str, names: &[String]) -> Result<Vec<String>, RecordingError> {
        let expected = format!("indices below {}", names.len());
        let indices = self.numbers(key, &expected)?;
        let name = |i: f64| {
            let found = (i.fract() == 0.0 && i >= 0.0).then(|| names.get(i as usize)).flatten();
            found.cloned().ok_or_else(|| self.wrong(key, expected.clone(), i.to_string()))
        };
        indices.into_iter().map(name).collect()
    }

    /// A dataset's values as text, numbers as they print.
    fn texts(&self, key: &str) -> Result<Vec<String>, RecordingError> {
        let expected = "a column of text, numbers or truth values";
        let dataset = self.dataset(key, expected)?;
        match dataset.dtype() {
            Datatype::FixedPoint { .. } | Datatype::FloatingPoint { .. } => {
                Ok(self.numbers(key, expected)?.iter().map(ToString::to_string).collect())
            }
            Datatype::Enum { members, .. } => {
                let bytes =
                    dataset.read_raw_bytes().map_err(|e| self.unreadable(key, expected, &e))?;
                let size = members.first().map_or(1, |m| m.value.len()).max(1);
                let name = |value: &[u8]| {
                    let member = members.iter().find(|m| m.value == value);
                    member.map(|m| m.name.to_lowercase()).ok_or_else(|| {
                        self.wrong(key, "values that have names", "one that has none")
                    })
                };
                bytes.chunks_exact(size).map(name).collect()
            }
            _ => self.strings(key, &dataset),
        }
    }

    /// Texts, one after another: many may point to the same long one, so that a small file holds
    /// more than memory does.
    fn strings(&self, key: &str, dataset: &Dataset) -> Result<Vec<String>, RecordingError> {
        let unreadable = |e| self.unreadable(key, "a column of text", &e);
        let padding = match dataset.dtype() {
            Datatype::String { size: StringSize::Variable, padding, .. }
            | Datatype::VarLen { kind: VarLenKind::String, padding, .. } => *padding,
            _ => return dataset.read_strings().map_err(unreadable),
        };
        let raw = dataset.read_raw_bytes().map_err(unreadable)?;
        let mut texts = Vec::new();
        let mut bytes = 0;
        for reference in raw.chunks_exact(dataset.vlen_reference_size()) {
            let text = dataset.resolve_vlen_reference_bytes(reference, 1).map_err(unreadable)?;
            bytes += text.len();
            if bytes > TEXT_BYTES_MAX {
                let expected = format!("at most {TEXT_BYTES_MAX} bytes of text");
                return Err(self.wrong(key, expected, "more"));
            }
            let text = match padding {
                StringPadding::NullTerminate => text.split(|b| *b == 0).next().unwrap_or_default(),
                StringPadding::NullPad => without_end(&text, 0),
                StringPadding::SpacePad => without_end(&text, b' '),
            };
            let text = std::str::from_utf8(text)
                .map_err(|_| self.wrong(key, "text in UTF-8", "other bytes"))?;
            texts.push(text.to_owned());
        }
        Ok(texts)
    }

    /// A text, where there is one.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.dataset(key, "a name").ok()?.read_string().ok()
    }
}

/// Bytes without those at the end that only fill.
fn without_end(bytes: &[u8], fill: u8) -> &[u8] {
    let end = bytes.iter().rposition(|b| *b != fill).map_or(0, |last| last + 1);
    &bytes[..end]
}

/// A label; `None` for the usual spellings of no label.
pub(super) fn labelled(text: String) -> Option<String> {
    let plain = text.trim();
    let none =
        ["", "nan", "n/a", "na", "none", "null"].iter().any(|n| plain.eq_ignore_ascii_case(n));
    (!none).then_some(text)
}

fn no_hdf5(path: &Path, e: &Error) -> RecordingError {
    RecordingError::key(path, "file", "an NWB file (HDF5)", e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_told_with_a_cure() {
        let nested = |e: Error| e.with_context("/units").with_context("/units/spike_times");
        for (e, words) in [
            (Error::UnsupportedFilter("filter id 32015".into()), ["filter id 32015", "h5repack"]),
            (Error::UnsupportedLayoutClass(3), ["virtual", "export"]),
            (elsewhere::<()>("a.h5").expect_err("refused"), ["'a.h5'", "export"]),
            (Error::InvalidMagic, ["unreadable", "magic"]),
        ] {
            let error = reason(&nested(e)).expect("a reason");
            assert!(words.iter().all(|w| error.contains(w)), "{error}");
        }
        assert_eq!(reason(&nested(Error::DatasetNotFound("x".into()))), None);
    }

    #[test]
    fn ways_to_say_that_there_is_no_label() {
        for none in ["", "  ", "NaN", "n/a", "N/A", "None", "null", "NA"] {
            assert_eq!(labelled(none.into()), None, "{none}");
        }
        assert_eq!(labelled("rest".into()).as_deref(), Some("rest"));
    }
}
