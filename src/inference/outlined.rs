//! Parts of what takes the compiler long, each a function of its own.

use pulp::Simd;

/// Work that is compiled once for a set of vector instructions, and not wherever it is asked for:
/// all of a bin, or of a window, in one function takes the compiler longer than its parts do.
/// A closure would not do: its call is not inlined into the function that has the instructions.
pub(crate) trait Outlined {
    type Output;
    fn run(self) -> Self::Output;
}

/// Does some work in a function of its own that has the vector instructions.
#[inline(always)]
pub(super) fn outlined<S: Simd, O: Outlined>(simd: S, work: O) -> O::Output {
    struct Vectors<O>(O);

    impl<O: Outlined> pulp::NullaryFnOnce for Vectors<O> {
        type Output = O::Output;

        #[inline(always)]
        fn call(self) -> O::Output {
            self.0.run()
        }
    }

    #[inline(never)]
    fn plain<O: Outlined>(work: O) -> O::Output {
        work.run()
    }

    // Without vectors there are no instructions to be had, and `vectorize` is no function.
    if S::F32_LANES == 1 { plain(work) } else { simd.vectorize(Vectors(work)) }
}
