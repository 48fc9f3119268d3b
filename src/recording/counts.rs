//! Counts of a stream, in memory or in a file from which windows are read.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use ndarray::Array2;

use crate::model::values;
use crate::platform;

/// Bins read at a time where a stream is gone through.
const CHUNK_BINS: usize = 4096;

/// Counts of consecutive bins, `[bins, channels]`.
#[derive(Debug, Clone)]
pub struct Counts {
    channels: usize,
    bins: usize,
    kept: Kept,
}

#[derive(Debug, Clone)]
enum Kept {
    /// From a place in the values on.
    Memory(Arc<Vec<u16>>, usize),
    /// Little-endian, from a place in a file on.
    File(Arc<File>, u64),
}

/// What windows of counts are read into, one after the other.
#[derive(Debug, Default)]
pub(crate) struct CountsBuffer {
    /// As they are in a file.
    bytes: Vec<u8>,
    /// `[bins, channels]`.
    counts: Vec<f32>,
}

impl CountsBuffer {
    pub(crate) fn clear(&mut self) {
        self.counts.clear();
    }

    /// What was read since, `[bins, channels]`.
    pub(crate) fn counts(&mut self) -> &mut Vec<f32> {
        &mut self.counts
    }
}

impl Counts {
    /// In memory; `counts` is `[bins, channels]`.
    #[must_use]
    pub fn in_memory(counts: Array2<u16>) -> Self {
        let (bins, channels) = counts.dim();
        let kept = if counts.is_standard_layout() {
            counts.into_raw_vec_and_offset().0
        } else {
            counts.iter().copied().collect()
        };
        Self { channels, bins, kept: Kept::Memory(Arc::new(kept), 0) }
    }

    /// Number of bins.
    #[must_use]
    pub fn bins(&self) -> usize {
        self.bins
    }

    /// Drops everything after the first `bins` bins.
    pub fn truncate(&mut self, bins: usize) {
        self.bins = self.bins.min(bins);
    }

    /// The bins of a range, which are kept once for both.
    ///
    /// # Panics
    /// Where the stream has fewer bins.
    #[must_use]
    pub(crate) fn slice(&self, bins: Range<usize>) -> Self {
        assert!(bins.start <= bins.end && bins.end <= self.bins, "{bins:?} of {}", self.bins);
        let before = bins.start * self.channels;
        let kept = match &self.kept {
            Kept::Memory(values, from) => Kept::Memory(values.clone(), from + before),
            Kept::File(file, at) => Kept::File(file.clone(), at + 2 * before as u64),
        };
        Self { channels: self.channels, bins: bins.len(), kept }
    }

    /// `bins` bins from bin `from` on, `[bins, channels]`.
    ///
    /// # Errors
    /// Where the file cannot be read.
    ///
    /// # Panics
    /// Where the stream has fewer bins.
    pub fn read(&self, from: usize, bins: usize) -> io::Result<Vec<f32>> {
        let mut buffer = CountsBuffer::default();
        self.append_to(from, bins, &mut buffer)?;
        Ok(buffer.counts)
    }

    /// The same, behind what is in a buffer.
    ///
    /// # Errors
    /// Where the file cannot be read.
    ///
    /// # Panics
    /// Where the stream has fewer bins.
    pub(crate) fn append_to(
        &self,
        from: usize,
        bins: usize,
        buffer: &mut CountsBuffer,
    ) -> io::Result<()> {
        assert!(from + bins <= self.bins, "bins {from} to {} of {}", from + bins, self.bins);
        let range = from * self.channels..(from + bins) * self.channels;
        let CountsBuffer { bytes, counts } = buffer;
        match &self.kept {
            Kept::Memory(kept, at) => {
                let range = at + range.start..at + range.end;
                counts.extend(kept[range].iter().map(|&c| f32::from(c)));
            }
            Kept::File(file, at) => {
                bytes.resize(2 * range.len(), 0);
                platform::read_at(file, bytes, at + 2 * range.start as u64)?;
                let pairs = bytes.chunks_exact(2);
                counts.extend(pairs.map(|b| f32::from(u16::from_le_bytes([b[0], b[1]]))));
            }
        }
        Ok(())
    }

    /// Goes through the first `bins` bins in order.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn each(&self, bins: usize, mut take: impl FnMut(&[f32])) -> io::Result<()> {
        let bins = bins.min(self.bins);
        let mut buffer = CountsBuffer::default();
        for from in (0..bins).step_by(CHUNK_BINS) {
            buffer.clear();
            self.append_to(from, CHUNK_BINS.min(bins - from), &mut buffer)?;
            buffer.counts.chunks_exact(self.channels).for_each(&mut take);
        }
        Ok(())
    }
}

/// A file that counts are put into, one stream behind the other; it is gone with the last of them.
#[derive(Debug)]
pub struct Spool {
    file: Arc<File>,
    end: u64,
}

impl Spool {
    /// A file without a name in a folder.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn in_folder(folder: &Path) -> io::Result<Self> {
        let path = folder.join(format!(".counts-{}", std::process::id()));
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        // Whatever ends the program, nothing is left behind.
        std::fs::remove_file(&path)?;
        Ok(Self { file: Arc::new(file), end: 0 })
    }

    /// Appends counts `[bins, channels]`.
    ///
    /// # Errors
    /// Where they cannot be written, a full disk above all.
    pub fn keep(&mut self, counts: &Array2<u16>) -> io::Result<Counts> {
        let at = self.end;
        let (bins, channels) = counts.dim();
        for part in values(counts).chunks(CHUNK_BINS * channels.max(1)) {
            let bytes: Vec<u8> = part.iter().flat_map(|c| c.to_le_bytes()).collect();
            platform::write_at(&self.file, &bytes, self.end)?;
            self.end += bytes.len() as u64;
        }
        Ok(Counts { channels, bins, kept: Kept::File(self.file.clone(), at) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_gives_back_what_was_put_in_and_leaves_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = Spool::in_folder(folder.path()).expect("a spool");
        let streams: Vec<Array2<u16>> = [5_000usize, 3, 9_001]
            .iter()
            .map(|&bins| {
                Array2::from_shape_fn((bins, 3), |(b, c)| ((b * 3 + c) * 7 % 65_536) as u16)
            })
            .collect();
        let kept: Vec<Counts> = streams.iter().map(|s| spool.keep(s).expect("written")).collect();
        drop(spool);
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
        for (counts, stream) in kept.iter().zip(&streams) {
            let memory = Counts::in_memory(stream.clone());
            assert_eq!(counts.bins(), memory.bins());
            for (from, bins) in [(0, 1), (1, 2), (counts.bins() - 2, 2)] {
                let (a, b) = (counts.read(from, bins), memory.read(from, bins));
                assert_eq!(a.expect("read"), b.expect("in memory"));
            }
            let (middle, same) = (counts.slice(1..counts.bins()), memory.slice(1..memory.bins()));
            let (a, b) = (middle.read(1, 1), same.read(1, 1));
            assert_eq!(a.expect("read"), b.expect("in memory"));
            assert_eq!(middle.read(0, 1).expect("read"), counts.read(1, 1).expect("read"));
            let mut all = Vec::new();
            counts.each(usize::MAX, |bin| all.extend(bin.iter().map(|&c| c as u16))).expect("read");
            assert_eq!(all, values(stream));
        }
    }
}
