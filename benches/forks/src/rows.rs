//! The rows of the trees: 16-byte keys and 100-byte values, all functions of a number.

pub(crate) const KEY_BYTES: usize = 16;
pub(crate) const VALUE_BYTES: usize = 100;
pub(crate) type Key = [u8; KEY_BYTES];
pub(crate) type Value = [u8; VALUE_BYTES];

/// `SplitMix64`'s finalizer: a bijection that looks random.
#[inline]
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Number `n` of a random sequence below `bound`.
#[inline]
pub(crate) fn random(n: u64, bound: u64) -> u64 {
    ((u128::from(mix(n)) * u128::from(bound)) >> 64) as u64
}

/// The key of row `id`. Keys of ascending ids are in random order.
#[inline]
pub(crate) fn key_of(id: u64) -> Key {
    (u128::from(mix(id)) << 64 | u128::from(mix(!id))).to_be_bytes()
}

/// The value of row `id`: half of it random, then the same again.
pub(crate) fn value_of(id: u64) -> Value {
    const HALF: usize = VALUE_BYTES / 2;
    let mut value = [0; VALUE_BYTES];
    for (i, chunk) in (0u64..).zip(value[..HALF].chunks_mut(8)) {
        chunk.copy_from_slice(&mix(mix(id).wrapping_add(i)).to_le_bytes()[..chunk.len()]);
    }
    value.copy_within(..HALF, HALF);
    value
}

/// True if `value` begins like that of row `id`.
#[inline]
pub(crate) fn is_value_of(value: &Value, id: u64) -> bool {
    value[..8] == mix(mix(id)).to_le_bytes()
}
