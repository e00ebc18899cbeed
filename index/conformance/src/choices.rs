//! Where scripts get their choices from: a seed, or the bytes of a fuzzer.

/// A source of choices.
pub trait Choices {
    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: u64) -> u64;

    /// True once in `n` times.
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// True if there is nothing left to draw from.
    fn is_exhausted(&self) -> bool {
        false
    }
}

/// Choices from a seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// From the beginning.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed ^ 0x6573_6b65_725f_7369))
    }

    /// The next number.
    #[allow(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

impl Choices for Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Scrambles a number.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Choices from bytes: as few of them as the bound needs, then zeroes.
#[derive(Clone, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Choices for Bytes<'_> {
    fn below(&mut self, bound: u64) -> u64 {
        let mut number = 0;
        let mut most = bound - 1;
        while most > 0 {
            let Some((first, rest)) = self.0.split_first() else { break };
            self.0 = rest;
            number = number << 8 | u64::from(*first);
            most >>= 8;
        }
        number % bound
    }

    fn is_exhausted(&self) -> bool {
        self.0.is_empty()
    }
}
