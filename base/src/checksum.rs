//! The one checksum of the on-disk formats: CRC-32 (IEEE 802.3), seeded with identity.
//!
//! A seed binds bytes to the place and owner they were written for, so that a lost or misdirected
//! write does not pass for the right one.

/// CRC-32 of `seed` (as eight little-endian bytes each) followed by `parts`.
pub fn seeded(seed: &[u64], parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for word in seed {
        hasher.update(&word.to_le_bytes());
    }
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// Goes on where a checksum has ended: that of what `before` is of, followed by `parts`. Few long parts are cheaper than many
/// short ones.
pub fn continued(before: u32, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(before);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_and_content_both_count() {
        let a = seeded(&[1, 2], &[b"abc"]);
        assert_eq!(a, seeded(&[1, 2], &[b"a", b"bc"]));
        assert_ne!(a, seeded(&[2, 1], &[b"abc"]));
        assert_ne!(a, seeded(&[1, 2], &[b"abd"]));
    }

    #[test]
    fn a_checksum_goes_on_where_one_has_ended() {
        let before = seeded(&[1, 2], &[b"a"]);
        assert_eq!(continued(before, &[b"b", b"c"]), seeded(&[1, 2], &[b"abc"]));
        assert_eq!(continued(before, &[]), before);
    }
}
