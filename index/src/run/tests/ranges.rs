use super::*;
use crate::btree::check_leaf;
use crate::btree::leaf;
use crate::pages::{PageNew, TurnPages};

const PLACES: usize = 60;

fn key(place: usize) -> Vec<u8> {
    format!("key{place:03}").into_bytes()
}

/// Which places are covered, one by one; the last one stands for all that follow.
#[derive(Clone)]
struct Model([bool; PLACES]);

impl Model {
    fn insert(&mut self, low: usize, high: usize) {
        self.0[low.min(high)..high].fill(true);
    }
    fn check(&self, set: &RangeSet) {
        for (place, covered) in self.0.iter().enumerate() {
            for key in [key(place), [key(place), vec![0]].concat()] {
                assert_eq!(set.covers(&key), *covered, "{place}");
                if let Some((low, high)) = set.find(&key) {
                    assert!(low <= &key[..] && high.is_none_or(|high| &key[..] < high));
                }
            }
        }
        assert!(!set.covers(b"a"));
        let starts = (0..PLACES).filter(|i| self.0[*i] && (*i == 0 || !self.0[i - 1])).count();
        assert_eq!(set.len(), starts, "joined: {set:?}");
        let boundaries: Vec<_> = set.boundaries().collect();
        assert!(boundaries.is_sorted_by(|a, b| a.0 < b.0 && a.1 != b.1), "R4");
    }
}

/// Places are covered up to, not including, the second; `PLACES` means without end.
fn any_range(random: &mut Random) -> (usize, usize) {
    let low = random.below(PLACES);
    let high = if random.one_in(30) { PLACES } else { (low + random.below(6)).min(PLACES - 1) };
    (low, high)
}
fn high(place: usize) -> Option<Vec<u8>> {
    (place < PLACES).then(|| key(place))
}

#[test]
fn sets_agree_with_a_model() {
    for seed in 1..200 {
        let mut random = Random(seed);
        let sets: [(RangeSet, Model); 2] = std::array::from_fn(|_| {
            let (mut set, mut model) = (RangeSet::default(), Model([false; PLACES]));
            for _ in 0..random.below(15) {
                let (from, to) = any_range(&mut random);
                set.insert(&key(from), high(to).as_deref());
                model.insert(from, to);
                model.check(&set);
            }
            (set, model)
        });
        let [(a, a_model), (b, b_model)] = sets;
        let both: [bool; PLACES] = std::array::from_fn(|i| a_model.0[i] || b_model.0[i]);
        Model(both).check(&a.union(&b));
        let (from, to) = any_range(&mut random);
        let mut clipped = a_model;
        for (place, covered) in clipped.0.iter_mut().enumerate() {
            *covered &= from <= place && place < to;
        }
        clipped.check(&a.clipped(&key(from), high(to).as_deref()));
        let mut again = RangeSet::default();
        for (key, starts) in a.boundaries() {
            again.push_boundary(key, starts);
        }
        assert_eq!(again, a);
    }
}

#[test]
fn leaves_are_edited_like_sets() {
    for seed in 1..100 {
        let mut random = Random(seed);
        let mock = Mock::new(960);
        let mut page = TurnPages::create(&mock, 0, 0).unwrap();
        leaf::init(page.body_mut(), &[], None);
        let mut body = page.body_mut().to_vec();
        drop(page);
        let mut set = RangeSet::default();
        let pad = |key: Vec<u8>| [key, vec![b'x'; 10]].concat();
        loop {
            let (from, to) = any_range(&mut random);
            let (low, high) = (pad(key(from)), high(to).map(pad));
            let mut wanted = set.clone();
            wanted.insert(&low, high.as_deref());
            let mut new = vec![0xa5; body.len()];
            if !edit_leaf(&body, &low, high.as_deref(), &mut new) {
                let bytes: usize = wanted.boundaries().map(|(key, _)| key.len() + 11).sum();
                assert!(16 + bytes > body.len(), "it would have fitted");
                break;
            }
            (body, set) = (new, wanted);
            check_leaf(&body, false).unwrap();
            assert_eq!(RangeSet::of_leaf(&body), set);
            let mut page = TurnPages::create(&mock, 0, 0).unwrap();
            page.body_mut().copy_from_slice(&body);
            let root = word(mock.publish(page));
            for place in 0..PLACES {
                check_coverage(&mock, &root, &pad(key(place)), &set);
                check_coverage(&mock, &root, &key(place), &set);
            }
            if random.one_in(100) || set.ranges().first().is_some_and(|(_, high)| high.is_none()) {
                break;
            }
        }
    }
}

fn check_coverage(mock: &Mock, root: &ChildWord, key: &[u8], set: &RangeSet) {
    let (found, _) = mock.settle(|| coverage(mock, root, View::Current, key));
    assert_eq!(found.covered, set.covers(key));
    let covers = mock.settle(|| crate::run::ranges::covers(mock, root, View::Current, key));
    assert_eq!(covers.0, found.covered);
    assert!(found.low.as_slice() <= key && found.high.as_ref().is_none_or(|high| key < &high[..]));
    let inside = |at: &[u8]| at > &found.low[..] && found.high.as_ref().is_none_or(|h| at < &h[..]);
    assert!(!set.boundaries().any(|(at, _)| inside(at)), "one state");
}

#[test]
fn trees_of_ranges_are_built_asked_and_loaded() {
    for content_bytes in CONTENT {
        for count in [0, 1, 3, 50, 3000] {
            let mut random = Random(count + 9);
            let mut set = RangeSet::default();
            for _ in 0..count {
                let low = random.bytes(4);
                let high = [&low[..3], &[0xff, 1]].concat();
                set.insert(&low, Some(&high));
            }
            if random.one_in(2) && count > 0 {
                set.insert(&[0xff, 0xfe], None);
            }
            let mock = Mock::new(content_bytes);
            mock.set_reserve(1);
            let mut builder = RangesBuilder::new(content_bytes);
            let run = mock.settle(|| builder.step(&mock, &set));
            assert_eq!(run.is_none(), count == 0);
            let Some(run) = run else { continue };
            check(&mock, &run);
            let root = word(run.tree);
            for _ in 0..500 {
                let n = random.below(6);
                check_coverage(&mock, &root, &random.bytes(n), &set);
            }
            for (key, _) in set.boundaries().take(300) {
                check_coverage(&mock, &root, key, &set);
            }
            mock.evict_all();
            let (mut loader, mut loaded) = (RangeLoader::default(), RangeSet::default());
            let mut step = || loader.step(&mock, &root, View::Current, &mut loaded);
            while !mock.settle(&mut step) {}
            assert_eq!(loaded, set);
        }
    }
}
