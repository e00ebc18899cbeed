use super::*;
use crate::run::filter::{FilterBuilder, block_of, key_hash, may_contain};

fn filter(mock: &Mock, hashes: &[u64], bits: u8) -> ChildWord {
    let mut builder = FilterBuilder::new(hashes, bits);
    let before = mock.page_ids().len();
    let root = word(mock.settle(|| builder.finish(mock)));
    assert_eq!(mock.page_ids().len() - before, builder.pages_built());
    assert_eq!(mock.settle(|| check::check_filter(mock, &root, View::Current)), None);
    root
}

/// Wrong answers of a blocked filter: the load of a line is a Poisson variable.
fn wrong_share(bits_per_key: u8) -> f64 {
    let load = 512.0 / f64::from(bits_per_key);
    let probes = i32::from(bits_per_key) * 3 / 5;
    let (mut sum, mut weight) = (0.0, (-load).exp());
    for keys in 0..200 {
        let set = 1.0 - (1.0 - 1.0 / 512.0_f64).powi(keys * probes);
        sum += weight * set.powi(probes);
        weight *= load / f64::from(keys + 1);
    }
    sum
}

#[test]
fn filters_admit_all_keys_and_few_others() {
    for content_bytes in CONTENT {
        for bits in [10, 16] {
            let mock = Mock::new(content_bytes);
            mock.set_reserve(1);
            let keys: Vec<u64> = (0..30_000u64).map(|i| key_hash(&i.to_le_bytes())).collect();
            let root = filter(&mock, &keys, bits);
            let contains = |hash| mock.settle(|| may_contain(&mock, &root, View::Current, hash));
            assert!(keys.iter().all(|hash| contains(*hash)));
            let asked = 200_000;
            let others = (30_000..30_000 + asked).map(|i: u64| key_hash(&i.to_le_bytes()));
            let wrong = others.filter(|hash| contains(*hash)).count();
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let share = wrong as f64 / asked as f64;
            assert!(share < wrong_share(bits) * 1.5, "{share} {}", wrong_share(bits));
        }
    }
}

#[test]
fn filters_of_many_levels_and_of_one_key() {
    // 15 lines in a block, 119 children: 1785 lines in a root.
    let mock = Mock::new(960);
    mock.set_reserve(1);
    for count in [1, 2, 700, 45_000, 46_000, 95_000] {
        let keys: Vec<u64> = (0..count).map(|i: u64| key_hash(&i.to_le_bytes())).collect();
        let root = filter(&mock, &keys, 20);
        let level = mock.page(root.page()).level();
        assert_eq!(level, if count > 45_690 { 67 } else { 66 });
        mock.evict_all();
        for hash in &keys {
            assert!(mock.settle(|| may_contain(&mock, &root, View::Current, *hash)));
            let block = mock.settle(|| block_of(&mock, &root, View::Current, *hash));
            assert_eq!(mock.page(block).level(), FILTER_BLOCK_LEVEL);
        }
    }
}

#[test]
fn damaged_filters_are_refused_and_never_panic() {
    let mut random = Random(3);
    for _ in 0..20_000 {
        let level = 60 + u8::try_from(random.below(14)).unwrap();
        let (words, bytes) = (random.below(6), random.below(1000));
        let mut body = random.bytes(bytes);
        if random.one_in(2) {
            body.iter_mut().skip(random.below(3)).for_each(|byte| *byte = 0);
        }
        drop(check_filter_page(level, words, &body));
        assert!(filter_hole(&body).end == body.len());
    }
    let mock = Mock::new(960);
    let keys: Vec<u64> = (0..5000u64).map(|i| key_hash(&i.to_le_bytes())).collect();
    let root = filter(&mock, &keys, 16);
    let reads = |mock: &Mock| {
        keys.iter().all(|hash| may_contain(mock, &root, View::Current, *hash).is_ok())
    };
    assert!(reads(&mock));
    // More lines than there are blocks for.
    mock.damage(root.page(), |body| body[..4].copy_from_slice(&9000u32.to_le_bytes()));
    let wrong = mock.settle(|| check::check_filter(&mock, &root, View::Current));
    assert!(wrong.is_some());
    assert!(!reads(&mock));
}
