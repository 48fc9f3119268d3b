//! A session's state as words, written while it runs and restored by another session of the same
//! model.

/// Words in a fixed order. What takes part lists its numbers once, in one function, for both ways.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tape {
    words: Vec<u32>,
    /// Where it is read; `None` while it is written.
    at: Option<usize>,
}

impl Tape {
    /// Empty, to be written; keeps its room.
    pub fn begin(&mut self) {
        self.words.clear();
        self.at = None;
    }

    /// To be read from its beginning.
    #[must_use]
    pub fn of(words: Vec<u32>) -> Self {
        Self { words, at: Some(0) }
    }

    /// The words in the order in which they were written.
    #[must_use]
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Takes one down, or up. Behind the end nothing changes.
    pub fn word(&mut self, word: &mut u32) {
        match &mut self.at {
            None => self.words.push(*word),
            Some(at) => {
                if let Some(next) = self.words.get(*at) {
                    *word = *next;
                    *at += 1;
                }
            }
        }
    }

    /// A number of two words.
    pub fn long(&mut self, value: &mut u64) {
        let (mut low, mut high) = (*value as u32, (*value >> 32) as u32);
        self.word(&mut low);
        self.word(&mut high);
        *value = u64::from(high) << 32 | u64::from(low);
    }

    /// A float, bit for bit.
    pub(crate) fn float(&mut self, value: &mut f32) {
        let mut bits = value.to_bits();
        self.word(&mut bits);
        *value = f32::from_bits(bits);
    }

    /// Floats, bit for bit.
    pub fn floats(&mut self, values: &mut [f32]) {
        values.iter_mut().for_each(|v| self.float(v));
    }
}
