//! Times in seconds to bins, by whole nanoseconds: divided as floating-point numbers, every eighth
//! edge of 10 ms bins falls into the bin before the one it begins.

/// Bins of one width, from 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    /// Width, ns, where that is whole; else seconds.
    width_ns: Option<i128>,
    width_s: f64,
}

impl Grid {
    /// Of bins `width_s` wide.
    pub(super) fn new(width_s: f64) -> Self {
        let ns = width_s * 1e9;
        let whole = ns.round();
        let width_ns =
            (whole >= 1.0 && (ns - whole).abs() < 1e-6 * whole.max(1.0)).then_some(whole as i128);
        Self { width_ns, width_s }
    }

    /// The bin that holds a time: one at an edge is in the bin that it begins.
    pub(super) fn bin(self, time_s: f64) -> i64 {
        let bin = match self.width_ns {
            Some(width) => nanoseconds(time_s).div_euclid(width),
            None => (time_s / self.width_s).floor() as i128,
        };
        clamped(bin)
    }

    /// The last bin that begins before a time.
    pub(super) fn last(self, time_s: f64) -> i64 {
        match self.width_ns {
            Some(width) => clamped(-(-nanoseconds(time_s)).div_euclid(width) - 1),
            None => clamped((time_s / self.width_s).ceil() as i128 - 1),
        }
    }

    /// The first bin whose middle is not before a time.
    pub(super) fn first_middle(self, time_s: f64) -> i64 {
        let bin = match self.width_ns {
            // ceil((2 t - w) / 2 w)
            Some(width) => {
                let twice = 2 * nanoseconds(time_s) - width;
                -(-twice).div_euclid(2 * width)
            }
            None => (time_s / self.width_s - 0.5).ceil() as i128,
        };
        clamped(bin)
    }

    /// The first bin that begins at `from_s` or later, and the first that ends after `to_s`: the
    /// bins from the one to before the other lie whole between the two times.
    pub(super) fn whole(self, from_s: f64, to_s: f64) -> (i64, i64) {
        let from = match self.width_ns {
            Some(width) => clamped(-(-(nanoseconds(from_s))).div_euclid(width)),
            None => clamped((from_s / self.width_s).ceil() as i128),
        };
        (from, self.bin(to_s))
    }
}

/// A time in whole nanoseconds, clamped so that it can be doubled.
fn nanoseconds(time_s: f64) -> i128 {
    const MOST: i128 = 1 << 100;
    ((time_s * 1e9).round() as i128).clamp(-MOST, MOST)
}

fn clamped(bin: i128) -> i64 {
    bin.clamp(i128::from(i64::MIN / 4), i128::from(i64::MAX / 4)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edge_falls_into_the_bin_that_it_begins() {
        for (width_ms, decimals) in [(10.0, 2), (1.0, 3), (20.0, 2), (5.0, 3), (100.0, 1), (0.5, 4)]
        {
            let grid = Grid::new(width_ms / 1e3);
            let mut divided_wrong = 0;
            for i in 0..1000i64 {
                // As a file has it: rounded to a number of decimals.
                let edge: f64 =
                    format!("{:.decimals$}", i as f64 * width_ms / 1e3).parse().expect("a number");
                assert_eq!(grid.bin(edge), i, "{edge} s in bins of {width_ms} ms");
                assert_eq!(grid.bin(edge - 1e-6), i - 1);
                divided_wrong += i64::from((edge / (width_ms / 1e3)).floor() as i64 != i);
            }
            if width_ms == 10.0 {
                assert!(divided_wrong > 100, "the plain way is wrong in {divided_wrong} of 1000");
            }
        }
    }

    #[test]
    fn middles_and_whole_bins() {
        let grid = Grid::new(0.01);
        assert_eq!(
            [0.0, 0.005, 0.006, 0.015, 0.0151].map(|t| grid.first_middle(t)),
            [0, 0, 1, 1, 2]
        );
        assert_eq!(grid.whole(0.29, 0.57), (29, 57));
        assert_eq!(grid.whole(0.2901, 0.5699), (30, 56));
        assert_eq!([0.29, 0.2901, 0.3].map(|t| grid.last(t)), [28, 29, 29]);
        assert_eq!(grid.bin(-0.001), -1);
        assert_eq!(grid.first_middle(-0.006), -1);
        assert_eq!(Grid::new(1.0 / 3.0).bin(1.0), 3);
        assert_eq!(grid.bin(f64::INFINITY), i64::MAX / 4);
    }
}
