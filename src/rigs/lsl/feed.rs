//! The data connection: headers, two samples of a test pattern, then samples.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::info::{Format, StreamInfo};

/// Longest wait for a connection and its headers.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest header.
const LINE_MAX: usize = 1024;
/// Longest text of a sample, bytes.
const TEXT_MAX: u64 = 1 << 16;
/// Tags before a sample.
const DEDUCED: u8 = 1;
const TRANSMITTED: u8 = 2;

/// A sample of numbers as it goes over the wire; `stamp`: seconds.
pub(crate) fn write_numbers(to: &mut Vec<u8>, stamp: f64, values: &[f32]) {
    to.push(TRANSMITTED);
    to.extend(stamp.to_le_bytes());
    values.iter().for_each(|v| to.extend(v.to_le_bytes()));
}

/// A sample of one text.
pub(crate) fn write_text(to: &mut Vec<u8>, stamp: f64, text: &str) {
    to.push(TRANSMITTED);
    to.extend(stamp.to_le_bytes());
    // The width of the length comes first, bytes.
    match u8::try_from(text.len()) {
        Ok(length) => to.extend([1, length]),
        Err(_) => {
            to.push(4);
            to.extend((text.len() as u32).to_le_bytes());
        }
    }
    to.extend(text.as_bytes());
}

/// The samples that both sides know before the first.
#[must_use]
pub(crate) fn test_pattern(format: Format, channels: usize, offset: usize) -> Vec<f64> {
    let (start, max) = match format {
        Format::Float32 => (0, None),
        Format::Double64 => (16_777_217, None),
        Format::Text => (10 - offset, None),
        Format::Int8 => (1, Some(i8::MAX as usize)),
        Format::Int16 => (257, Some(i16::MAX as usize)),
        Format::Int32 => (65_537, Some(i32::MAX as usize)),
        Format::Int64 => (2_147_483_649, Some(i64::MAX as usize)),
    };
    (0..channels)
        .map(|k| {
            let value = k + offset + start;
            let value = max.map_or(value, |max| value % max) as f64;
            if k % 2 == 0 { value } else { -value }
        })
        .collect()
}

fn broken(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// An open stream.
pub(crate) struct Feed {
    reader: BufReader<TcpStream>,
    format: Format,
    channels: usize,
    big_endian: bool,
    step_s: f64,
    stamp: f64,
    raw: Vec<u8>,
}

impl Feed {
    pub(crate) async fn open(info: &StreamInfo) -> io::Result<Self> {
        tokio::time::timeout(PATIENCE, Self::handshake(info))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn handshake(info: &StreamInfo) -> io::Result<Self> {
        let mut stream = TcpStream::connect((info.address, info.data_port)).await?;
        stream.set_nodelay(true)?;
        let request = format!(
            "LSL:streamfeed/110 {}\r\nNative-Byte-Order: 1234\r\nEndian-Performance: 1\r\n\
             Has-IEEE754-Floats: 1\r\nSupports-Subnormals: 1\r\nValue-Size: {}\r\n\
             Data-Protocol-Version: 110\r\nMax-Buffer-Length: 1000\r\nMax-Chunk-Length: 0\r\n\
             Hostname: \r\nSource-Id: \r\nSession-Id: {}\r\n\r\n",
            info.uid,
            info.format.bytes(),
            info.session_id
        );
        stream.write_all(request.as_bytes()).await?;
        let mut reader = BufReader::new(stream);
        let status = line(&mut reader).await?;
        if !status.starts_with("LSL/") || status.split(' ').nth(1) != Some("200") {
            return Err(broken(format!("expected 'LSL/110 200 OK', found '{status}'")));
        }
        let mut big_endian = false;
        loop {
            let header = line(&mut reader).await?;
            let Some((key, value)) = header.split_once(':') else {
                if header.is_empty() {
                    break;
                }
                return Err(broken(format!("expected a header, found '{header}'")));
            };
            match (key.trim().to_lowercase().as_str(), value.trim()) {
                ("byte-order", order) => big_endian = order == "4321",
                ("data-protocol-version", version) if version != "110" => {
                    return Err(broken(format!("expected protocol 110, found {version}")));
                }
                _ => {}
            }
        }
        let step_s = if info.nominal_srate > 0.0 { 1.0 / info.nominal_srate } else { 0.0 };
        let raw = vec![0; info.channel_count * info.format.bytes()];
        let (format, channels) = (info.format, info.channel_count);
        let mut feed = Self { reader, format, channels, big_endian, step_s, stamp: 0.0, raw };
        // Two samples that both sides know show a wrong width or byte order before any data comes.
        for offset in [4, 2] {
            let (_, values) = feed.next().await?;
            if values != test_pattern(format, channels, offset) {
                return Err(broken("the test pattern is not what it should be"));
            }
        }
        Ok(feed)
    }

    /// The next sample: time stamp, seconds of the sender's clock, and values.
    pub(crate) async fn next(&mut self) -> io::Result<(f64, Vec<f64>)> {
        if self.format == Format::Text {
            // The test pattern alone is numbers, as text.
            let (stamp, texts) = self.next_texts().await?;
            return Ok((stamp, texts.iter().map(|t| t.parse().unwrap_or(f64::NAN)).collect()));
        }
        self.stamp().await?;
        let mut raw = std::mem::take(&mut self.raw);
        self.reader.read_exact(&mut raw).await?;
        let mut values = Vec::with_capacity(self.channels);
        for b in raw.chunks_exact(self.format.bytes()) {
            values.push(self.value(b));
        }
        self.raw = raw;
        Ok((self.stamp, values))
    }

    /// The next sample of a stream of text.
    pub(crate) async fn next_texts(&mut self) -> io::Result<(f64, Vec<String>)> {
        self.stamp().await?;
        let mut texts = Vec::with_capacity(self.channels.min(16));
        for _ in 0..self.channels {
            let length = match self.reader.read_u8().await? {
                1 => u64::from(self.reader.read_u8().await?),
                2 => u64::from(self.bytes(u16::from_le_bytes, u16::from_be_bytes).await?),
                4 => u64::from(self.bytes(u32::from_le_bytes, u32::from_be_bytes).await?),
                8 => self.bytes(u64::from_le_bytes, u64::from_be_bytes).await?,
                width => {
                    return Err(broken(format!("expected the width of a length, found {width}")));
                }
            };
            if length > TEXT_MAX {
                let expected = format!("expected a text of at most {TEXT_MAX} bytes");
                return Err(broken(format!("{expected}, found {length}")));
            }
            let mut text = vec![0; length as usize];
            self.reader.read_exact(&mut text).await?;
            texts.push(String::from_utf8_lossy(&text).into_owned());
        }
        Ok((self.stamp, texts))
    }

    async fn bytes<const N: usize, T>(
        &mut self,
        little: fn([u8; N]) -> T,
        big: fn([u8; N]) -> T,
    ) -> io::Result<T> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).await?;
        Ok(self.of_order(bytes, little, big))
    }

    /// Reads when the next sample was taken.
    async fn stamp(&mut self) -> io::Result<()> {
        match self.reader.read_u8().await? {
            // A sender leaves out stamps that are a nominal step after the last.
            DEDUCED => self.stamp += self.step_s,
            TRANSMITTED => {
                self.stamp = self.bytes(f64::from_le_bytes, f64::from_be_bytes).await?;
            }
            tag => return Err(broken(format!("expected a sample's tag, found {tag}"))),
        }
        Ok(())
    }

    fn of_order<const N: usize, T>(
        &self,
        bytes: [u8; N],
        little: fn([u8; N]) -> T,
        big: fn([u8; N]) -> T,
    ) -> T {
        if self.big_endian { big(bytes) } else { little(bytes) }
    }

    fn value(&self, b: &[u8]) -> f64 {
        let four = || [b[0], b[1], b[2], b[3]];
        let eight = || [b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]];
        match self.format {
            Format::Int8 => f64::from(b[0] as i8),
            Format::Int16 => {
                f64::from(self.of_order([b[0], b[1]], i16::from_le_bytes, i16::from_be_bytes))
            }
            Format::Int32 => {
                f64::from(self.of_order(four(), i32::from_le_bytes, i32::from_be_bytes))
            }
            Format::Float32 => {
                f64::from(self.of_order(four(), f32::from_le_bytes, f32::from_be_bytes))
            }
            Format::Int64 => self.of_order(eight(), i64::from_le_bytes, i64::from_be_bytes) as f64,
            Format::Double64 | Format::Text => {
                self.of_order(eight(), f64::from_le_bytes, f64::from_be_bytes)
            }
        }
    }
}

async fn line(reader: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut limited = reader.take(LINE_MAX as u64);
    limited.read_until(b'\n', &mut bytes).await?;
    if bytes.last() != Some(&b'\n') {
        return Err(broken("expected a line, found its end missing"));
    }
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}
