//! One `.npy` array: header and data of numpy's format 1.0 to 3.0, any integer, float, boolean or
//! string dtype, either byte order, C or Fortran order.

use std::io::{self, Read, Write};

/// An array as read: numbers widened to `f64`, strings as strings, in C order.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Length of each dimension; empty for a scalar.
    pub shape: Vec<usize>,
    /// Values in C order.
    pub values: Values,
}

/// Values of an [`Array`].
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Unsigned bytes, the usual counts: kept small.
    Bytes(Vec<u8>),
    /// Any other number.
    Numbers(Vec<f64>),
    /// numpy's `U` and `S`.
    Strings(Vec<String>),
}

/// Largest number of values taken from one array (2^31 bins times channels)...
const VALUES_MAX: usize = 1 << 31;
/// ...where each becomes a double...
const NUMBERS_MAX: usize = 1 << 29;
/// ...and largest array of strings, bytes.
const STRINGS_BYTES_MAX: usize = 64 << 20;
const HEADER_BYTES_MAX: usize = 1 << 16;

fn bad(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

#[derive(Debug, Clone, Copy)]
struct Dtype {
    kind: u8,
    size: usize,
    big_endian: bool,
}

impl Array {
    /// Number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True without values.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads one array.
    ///
    /// # Errors
    /// On anything that is not numpy's format; names what was expected and found.
    pub fn read(reader: &mut impl Read) -> io::Result<Self> {
        let mut magic = [0u8; 8];
        reader.read_exact(&mut magic)?;
        if &magic[..6] != b"\x93NUMPY" {
            return Err(bad("expected numpy's magic string, found other bytes"));
        }
        let header_len = if magic[6] == 1 {
            let mut len = [0u8; 2];
            reader.read_exact(&mut len)?;
            usize::from(u16::from_le_bytes(len))
        } else {
            let mut len = [0u8; 4];
            reader.read_exact(&mut len)?;
            u32::from_le_bytes(len) as usize
        };
        if header_len > HEADER_BYTES_MAX {
            return Err(bad(format!(
                "expected a header of at most {HEADER_BYTES_MAX} bytes, found {header_len}"
            )));
        }
        let mut header = vec![0u8; header_len];
        reader.read_exact(&mut header)?;
        let header = String::from_utf8_lossy(&header).into_owned();
        let dtype = parse_dtype(&header)?;
        let fortran = entry(&header, "fortran_order")?.starts_with("True");
        let shape = parse_shape(entry(&header, "shape")?)?;
        let values_max = match dtype.kind {
            b'U' | b'S' => STRINGS_BYTES_MAX / dtype.size.max(1),
            b'u' if dtype.size == 1 => VALUES_MAX,
            _ => NUMBERS_MAX,
        };
        let n = shape
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .filter(|&n| n <= values_max)
            .ok_or_else(|| bad(format!("expected at most {values_max} values, found {shape:?}")))?;
        let bytes_len = n
            .checked_mul(dtype.size)
            .ok_or_else(|| bad(format!("shape {shape:?} is too large")))?;
        // The declared size is only trusted as far as bytes arrive.
        let mut bytes = Vec::new();
        reader.take(bytes_len as u64).read_to_end(&mut bytes)?;
        if bytes.len() != bytes_len {
            return Err(bad(format!(
                "expected {bytes_len} bytes for shape {shape:?}, found {}",
                bytes.len()
            )));
        }
        let mut values = decode(&bytes, dtype);
        if fortran && shape.len() > 1 {
            values = match values {
                Values::Bytes(v) => Values::Bytes(from_fortran(&v, &shape)),
                Values::Numbers(v) => Values::Numbers(from_fortran(&v, &shape)),
                Values::Strings(v) => Values::Strings(from_fortran(&v, &shape)),
            };
        }
        Ok(Self { shape, values })
    }
}

/// The text behind `'key':` in a header.
fn entry<'a>(header: &'a str, key: &str) -> io::Result<&'a str> {
    let quoted = [format!("'{key}'"), format!("\"{key}\"")];
    let at = quoted
        .iter()
        .find_map(|q| header.find(q.as_str()).map(|i| i + q.len()))
        .ok_or_else(|| bad(format!("expected '{key}' in the array's header, found none")))?;
    Ok(header[at..].trim_start().trim_start_matches(':').trim_start())
}

fn parse_dtype(header: &str) -> io::Result<Dtype> {
    let text = entry(header, "descr")?;
    let quote = text.chars().next().filter(|c| *c == '\'' || *c == '"');
    let descr = quote.and_then(|q| text[1..].split(q).next()).ok_or_else(|| {
        bad("expected a plain dtype, found a structured one (save each field as its own key)")
    })?;
    let unsupported =
        || bad(format!("expected an integer, float, boolean or string dtype, found '{descr}'"));
    let bytes = descr.as_bytes();
    let (order, kind) = match bytes {
        [o @ (b'<' | b'>' | b'|' | b'='), k, ..] => (*o, *k),
        _ => return Err(unsupported()),
    };
    let count = descr.get(2..).and_then(|count| count.parse::<usize>().ok());
    let count = count.ok_or_else(unsupported)?;
    let size = if kind == b'U' { count.saturating_mul(4) } else { count };
    let known = match kind {
        b'u' | b'i' => matches!(size, 1 | 2 | 4 | 8),
        b'f' => matches!(size, 2 | 4 | 8),
        b'b' => size == 1,
        b'U' | b'S' => size <= 1 << 20,
        _ => false,
    };
    if known { Ok(Dtype { kind, size, big_endian: order == b'>' }) } else { Err(unsupported()) }
}

fn parse_shape(text: &str) -> io::Result<Vec<usize>> {
    let inner = text
        .strip_prefix('(')
        .and_then(|t| t.split(')').next())
        .ok_or_else(|| bad("expected a shape in parentheses, found none"))?;
    inner
        .split(',')
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .map(|s| s.trim_end_matches('L').parse().map_err(|_| bad(format!("bad length '{s}'"))))
        .collect()
}

fn decode(bytes: &[u8], dtype: Dtype) -> Values {
    if dtype.kind == b'u' && dtype.size == 1 {
        return Values::Bytes(bytes.to_vec());
    }
    if dtype.kind == b'U' || dtype.kind == b'S' {
        if dtype.size == 0 {
            return Values::Strings(vec![]);
        }
        return Values::Strings(bytes.chunks_exact(dtype.size).map(|c| text(c, dtype)).collect());
    }
    Values::Numbers(bytes.chunks_exact(dtype.size).map(|c| number(c, dtype)).collect())
}

fn text(chunk: &[u8], dtype: Dtype) -> String {
    if dtype.kind == b'S' {
        return String::from_utf8_lossy(chunk).trim_end_matches('\0').to_owned();
    }
    let word = |c: &[u8]| {
        let b = [c[0], c[1], c[2], c[3]];
        if dtype.big_endian { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) }
    };
    let all: String = chunk
        .chunks_exact(4)
        .map(|c| char::from_u32(word(c)).unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    all.trim_end_matches('\0').to_owned()
}

fn number(chunk: &[u8], dtype: Dtype) -> f64 {
    let mut word = [0u8; 8];
    for (i, b) in chunk.iter().enumerate() {
        word[if dtype.big_endian { chunk.len() - 1 - i } else { i }] = *b;
    }
    let raw = u64::from_le_bytes(word);
    match (dtype.kind, dtype.size) {
        (b'f', 8) => f64::from_bits(raw),
        (b'f', 4) => f64::from(f32::from_bits(raw as u32)),
        (b'f', _) => half_to_f64(raw as u16),
        (b'i', 1) => f64::from(raw as u8 as i8),
        (b'i', 2) => f64::from(raw as u16 as i16),
        (b'i', 4) => f64::from(raw as u32 as i32),
        (b'i', _) => raw as i64 as f64,
        _ => raw as f64,
    }
}

fn half_to_f64(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023) / 1024.0);
    match exponent {
        0 => sign * fraction * 2f64.powi(-14),
        31 if fraction == 0.0 => sign * f64::INFINITY,
        31 => f64::NAN,
        e => sign * (1.0 + fraction) * 2f64.powi(e - 15),
    }
}

fn from_fortran<T: Clone>(values: &[T], shape: &[usize]) -> Vec<T> {
    let mut strides = vec![1usize; shape.len()];
    for i in 1..shape.len() {
        strides[i] = strides[i - 1] * shape[i - 1];
    }
    let mut index = vec![0usize; shape.len()];
    let mut out = Vec::with_capacity(values.len());
    for _ in 0..values.len() {
        let at: usize = index.iter().zip(&strides).map(|(i, s)| i * s).sum();
        out.push(values[at].clone());
        for d in (0..shape.len()).rev() {
            index[d] += 1;
            if index[d] < shape[d] {
                break;
            }
            index[d] = 0;
        }
    }
    out
}

/// Writes a format 1.0 header for `shape` and `descr`.
pub(super) fn write_header(
    writer: &mut impl Write,
    descr: &str,
    shape: &[usize],
) -> io::Result<()> {
    let mut dims: String = shape.iter().map(|d| format!("{d}, ")).collect();
    if shape.len() > 1 {
        dims.truncate(dims.len() - 2);
    }
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", dims.trim_end());
    let pad = 64 - (10 + header.len() + 1) % 64;
    header.push_str(&" ".repeat(pad));
    header.push('\n');
    let len = u16::try_from(header.len()).map_err(|_| bad("header too long"))?;
    writer.write_all(b"\x93NUMPY\x01\x00")?;
    writer.write_all(&len.to_le_bytes())?;
    writer.write_all(header.as_bytes())
}

/// Writes unsigned bytes.
pub(super) fn write_bytes(
    writer: &mut impl Write,
    shape: &[usize],
    values: &[u8],
) -> io::Result<()> {
    write_header(writer, "|u1", shape)?;
    writer.write_all(values)
}

/// Writes unsigned 16-bit integers.
pub(super) fn write_u16(
    writer: &mut impl Write,
    shape: &[usize],
    values: &[u16],
) -> io::Result<()> {
    write_header(writer, "<u2", shape)?;
    values.iter().try_for_each(|v| writer.write_all(&v.to_le_bytes()))
}

/// Writes signed 64-bit integers.
pub(super) fn write_i64(
    writer: &mut impl Write,
    shape: &[usize],
    values: &[i64],
) -> io::Result<()> {
    write_header(writer, "<i8", shape)?;
    values.iter().try_for_each(|v| writer.write_all(&v.to_le_bytes()))
}

/// Writes 32-bit floats.
pub(super) fn write_f32(
    writer: &mut impl Write,
    shape: &[usize],
    values: &[f32],
) -> io::Result<()> {
    write_header(writer, "<f4", shape)?;
    values.iter().try_for_each(|v| writer.write_all(&v.to_le_bytes()))
}

/// Writes 64-bit floats.
pub(super) fn write_f64(
    writer: &mut impl Write,
    shape: &[usize],
    values: &[f64],
) -> io::Result<()> {
    write_header(writer, "<f8", shape)?;
    values.iter().try_for_each(|v| writer.write_all(&v.to_le_bytes()))
}

/// Writes strings as numpy's unicode dtype.
pub(super) fn write_strings(writer: &mut impl Write, values: &[String]) -> io::Result<()> {
    let width = values.iter().map(|s| s.chars().count()).max().unwrap_or(0).max(1);
    write_header(writer, &format!("<U{width}"), &[values.len()])?;
    for s in values {
        let mut chars = s.chars();
        for _ in 0..width {
            writer.write_all(&chars.next().map_or(0, u32::from).to_le_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn raw(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
        let order = if fortran { "True" } else { "False" };
        let header =
            format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend((header.len() as u16).to_le_bytes());
        out.extend(header.as_bytes());
        out.extend(data);
        out
    }

    #[test]
    fn reads_orders_and_widths() {
        let fortran = raw("|u1", true, "(2, 3)", &[1, 4, 2, 5, 3, 6]);
        let array = Array::read(&mut fortran.as_slice()).expect("array");
        assert_eq!(array.values, Values::Bytes(vec![1, 2, 3, 4, 5, 6]));
        let big = raw(">i2", false, "(2,)", &[0xff, 0xfe, 0x01, 0x00]);
        let array = Array::read(&mut big.as_slice()).expect("array");
        assert_eq!(array.values, Values::Numbers(vec![-2.0, 256.0]));
        let half = raw("<f2", false, "(3,)", &[0x00, 0x3c, 0x00, 0xc0, 0x00, 0x7c]);
        let array = Array::read(&mut half.as_slice()).expect("array");
        assert_eq!(array.values, Values::Numbers(vec![1.0, -2.0, f64::INFINITY]));
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        for (descr, shape, data) in
            [("|O", "(1,)", vec![0; 8]), ("<c8", "(1,)", vec![0; 8]), ("<f8", "(2,)", vec![0; 8])]
        {
            let error = Array::read(&mut raw(descr, false, shape, &data).as_slice())
                .expect_err("must refuse");
            assert!(error.to_string().contains("expected"), "{error}");
        }
        let huge = raw("<f8", false, "(4000000000, 4000000000)", &[]);
        assert!(Array::read(&mut huge.as_slice()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_array_or_an_error(bytes in vec(any::<u8>(), 0..300)) {
            let _ = Array::read(&mut bytes.as_slice());
            let mut framed = b"\x93NUMPY\x01\x00".to_vec();
            framed.extend(&bytes);
            let _ = Array::read(&mut framed.as_slice());
        }

        #[test]
        fn strings_and_numbers_come_back(
            words in proptest::collection::vec("[a-zµ☃]{0,6}", 1..6),
            numbers in proptest::collection::vec(any::<i32>(), 1..20),
        ) {
            let mut file = Vec::new();
            write_strings(&mut file, &words).expect("write");
            let found = Array::read(&mut file.as_slice()).expect("read");
            prop_assert_eq!(found.values, Values::Strings(words));
            let mut file = Vec::new();
            let wide: Vec<i64> = numbers.iter().map(|&n| n.into()).collect();
            write_i64(&mut file, &[wide.len()], &wide).expect("write");
            let expected: Vec<f64> = numbers.iter().map(|&n| n.into()).collect();
            let found = Array::read(&mut file.as_slice()).expect("read");
            prop_assert_eq!(found.values, Values::Numbers(expected));
        }
    }
}
