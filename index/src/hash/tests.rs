mod bench;
mod directory;
mod front;

use super::*;
use crate::kind::{
    CheckStep, Checker, Cursor, PreparedWrite, max_inline_value_bytes, max_key_bytes,
};
use crate::mock::MockRead;
use crate::pages::Stop;
use bench::{Bench, Owned, Random, TINY, USUAL};
use std::cell::RefCell;
use std::rc::Rc;

#[test]
fn it_holds_what_a_map_holds() {
    for (content_bytes, keys, steps) in [(TINY, 3000, 6000), (TINY, 60, 2000), (USUAL, 6000, 4000)]
    {
        for seed in 1..4 {
            let mut bench = Bench::new(Hash::default(), content_bytes, keys, seed);
            bench.mock.set_reserve(if seed == 1 { usize::MAX } else { 4 });
            bench.run(steps);
            assert!((seed == 2) == (bench.waited == 0), "{} writes waited", bench.waited);
        }
    }
}

#[test]
fn weak_hashes_cost_time_and_nothing_else() {
    for (mask, keys) in [(3 << 62, 400), (1 << 63, 150), (0x8000_0000_0000_0081, 200), (0xff, 300)]
    {
        for seed in 1..3 {
            let mut bench = Bench::new(Hash::weak(mask), TINY, keys, seed);
            bench.mock.set_reserve(4);
            bench.run(1500);
        }
    }
}

/// A reader to whom something happens between any two pages.
struct Racing<'b>(RefCell<&'b mut Bench>);

impl Pages for Racing<'_> {
    type Read<'a>
        = MockRead
    where
        Self: 'a;

    fn read(&self, word: &ChildWord, view: View) -> Step<MockRead> {
        let mut bench = self.0.borrow_mut();
        if bench.random.one_in(3) {
            let (n, deletes) = (1 + bench.random.below(40), bench.random.below(100));
            let writes = bench.writes(n, deletes);
            bench.write_many(&writes);
        }
        if bench.random.one_in(5) {
            bench.mock.evict_leaves();
        }
        if bench.random.one_in(6) {
            let rest = bench.random.one_in(2);
            bench.work(rest);
        }
        bench.mock.read(word, view)
    }
    fn is_current(&self, branch: &MockRead) -> bool {
        self.0.borrow().mock.is_current(branch)
    }
    fn content_bytes(&self) -> usize {
        self.0.borrow().mock.content_bytes()
    }
}

#[test]
fn readers_notice_what_happens_on_their_way() {
    let mut moved = 0;
    let tables = [
        (Hash::default(), 700, 11),
        (Hash::weak(3 << 62), 60, 11),
        (Hash::default(), 700, 9),
        (Hash::default(), 2000, 10),
        (Hash::weak(3 << 62), 60, 9),
    ];
    for (hash, keys, seed) in tables {
        let mut bench = Bench::new(hash, TINY, keys, seed);
        let root = ChildWord::new(bench.root.page(), ChildWord::NO_HINT);
        for _ in 0..4000 {
            let key = bench.key();
            bench.watched.clone_from(&key);
            bench.seen = vec![bench.model.get(&key).cloned()];
            let hash = Rc::clone(&bench.hash);
            let racing = Racing(RefCell::new(&mut bench));
            let owned = |value: Option<Value<'_>>, _| value.map(Owned::of);
            let found = loop {
                match hash.get(&racing, &root, View::Current, &key, owned) {
                    Ok(found) => break found,
                    Err(Stop::Moved) => moved += 1,
                    Err(Stop::Missing(page)) => racing.0.borrow().mock.load(page),
                    Err(stop) => panic!("{stop:?}"),
                }
            };
            assert!(bench.seen.contains(&found), "{found:?} was there before, or never");
        }
        bench.check();
    }
    assert!(moved > 500, "{moved} times");
}

#[test]
fn keys_that_no_seed_tells_apart_are_an_error() {
    let mut bench = Bench::new(Hash::weak(0), TINY, 100, 1);
    let stop = loop {
        let (key, value) = (bench.key(), Value::Inline(&[7; 100]));
        let look = Look::Existing;
        let root = &bench.root;
        match bench.hash.prepare(&bench.mock, root, &key, Some(&value), look) {
            Ok(mut prepared) => prepared.put(value),
            Err(stop) => break stop,
        };
    };
    assert!(matches!(stop, Stop::Corrupt { .. }), "{stop:?}");
}

#[test]
fn two_of_the_largest_rows_fit_a_bucket() {
    for content_bytes in [512 - 64, TINY, USUAL, 32768 - 64] {
        let mut body = vec![0; content_bytes];
        bucket::init(&mut body, way::Place::ROOT);
        let value = vec![1; max_inline_value_bytes(content_bytes)];
        for byte in [1, 2] {
            let key = vec![byte; max_key_bytes(content_bytes)];
            let mut growth = bucket::Growth::default();
            growth.put(Bucket::new(&body), None, &key, &Value::Inline(&value));
            assert!(Bucket::new(&body).has_room(growth), "H4");
            let mark = mark_of(Hash::default().hash(&key, 0));
            bucket::insert(&mut body, mark, &key, &Value::Inline(&value));
        }
        assert_eq!(Hash::default().check_page(0, 0, &body), Ok(()));
    }
}

/// Bytes of a bucket that belong to no row, nor to marks and slots, are zero; and a bucket comes back from its fold.
fn assert_gaps_are_zero(body: &[u8]) {
    let bucket = Bucket::new(body);
    let record = |i| {
        let (key, value) = bucket.row(i);
        let bytes = bucket::RECORD_HEADER_BYTES + key.len() + value.stored_bytes();
        bucket.slot(i)..bucket.slot(i) + bytes
    };
    let behind = body.len()..body.len();
    let mut records: Vec<_> = (0..bucket.len()).map(record).chain([behind]).collect();
    records.sort_by_key(|record| record.start);
    let mut end = bucket::front_bytes(bucket.len());
    for record in records {
        assert!(body[end..record.start].iter().all(|byte| *byte == 0), "before {record:?}");
        end = record.end;
    }
    let (mut folded, mut again) = (Vec::new(), vec![0xa5; body.len()]);
    assert_eq!(bucket::fold(body, &mut folded), bucket.used_bytes());
    bucket::unfold(&folded, &mut again).unwrap();
    let unfolded = Bucket::new(&again);
    assert_eq!(unfolded.place(), bucket.place());
    assert_eq!(unfolded.marks(), bucket.marks());
    assert!((0..bucket.len()).all(|i| unfolded.row(i) == bucket.row(i)), "rows come back");
    for cut in (0..folded.len()).step_by(7) {
        assert!(bucket::unfold(&folded[..cut], &mut again).is_err(), "cut after {cut} bytes");
    }
}

#[test]
fn rows_change_with_zeroes_between_them() {
    for (content_bytes, seed) in [(TINY, 1), (TINY, 2), (USUAL, 3), (USUAL, 4)] {
        let (hash, mut random) = (Hash::default(), Random(seed));
        let mut body = vec![0xa5; content_bytes];
        bucket::init(&mut body, way::Place::ROOT);
        let mut model = std::collections::BTreeMap::new();
        for _ in 0..4000 {
            let key = random.below(150).to_string().into_bytes();
            let most = if random.one_in(9) { content_bytes / 8 } else { 30 };
            let value = vec![b'v'; random.below(most)];
            let mark = mark_of(hash.hash(&key, 0));
            let at = Bucket::new(&body).find(mark, &key);
            let mut growth = bucket::Growth::default();
            growth.put(Bucket::new(&body), at, &key, &Value::Inline(&value));
            match at {
                Some(i) if random.one_in(2) => {
                    bucket::remove(&mut body, i);
                    model.remove(&key);
                }
                _ if !Bucket::new(&body).has_room(growth) => continue,
                Some(i) => {
                    let i = bucket::replace(&mut body, i, &key, &Value::Inline(&value));
                    assert_eq!(Bucket::new(&body).key(i), key);
                    model.insert(key, value);
                }
                None => {
                    let i = bucket::insert(&mut body, mark, &key, &Value::Inline(&value));
                    assert_eq!(Bucket::new(&body).key(i), key);
                    model.insert(key, value);
                }
            }
            if random.one_in(100) {
                // As it was before buckets knew their longest record.
                body[bucket::LONGEST_AT..][..2].fill(0);
            }
            assert_eq!(hash.check_page(0, 0, &body), Ok(()));
            assert_gaps_are_zero(&body);
        }
        assert!(!model.is_empty());
        for (key, value) in &model {
            let i = Bucket::new(&body).find(mark_of(hash.hash(key, 0)), key).unwrap();
            assert_eq!(Bucket::new(&body).row(i), (&key[..], Value::Inline(value)));
        }
        assert_eq!(Bucket::new(&body).len(), model.len());
    }
}

/// A bucket of so many rows of one length.
fn bucket_of(rows: u32, random: &mut Random) -> Vec<u8> {
    let mut body = vec![0; USUAL];
    bucket::init(&mut body, way::Place::ROOT);
    for _ in 0..rows {
        let key = random.next().to_le_bytes();
        let mark = mark_of(Hash::default().hash(&key, 0));
        bucket::insert(&mut body, mark, &key, &Value::Inline(&[7; 100]));
    }
    body
}

#[test]
fn an_insert_moves_no_other_record() {
    let mut random = Random(8);
    for rows in 1..40 {
        let mut body = bucket_of(rows, &mut random);
        let slots: Vec<usize> = Bucket::new(&body).slots().collect();
        let key = random.next().to_le_bytes();
        let mark = mark_of(Hash::default().hash(&key, 0));
        let i = bucket::insert(&mut body, mark, &key, &Value::Inline(&[8; 100]));
        let mut after: Vec<usize> = Bucket::new(&body).slots().collect();
        after.remove(i);
        assert_eq!(after, slots, "{rows} rows");
    }
}

#[test]
fn rows_that_overlap_are_refused() {
    let (hash, body) = (Hash::default(), bucket_of(20, &mut Random(9)));
    assert_eq!(hash.check_page(0, 0, &body), Ok(()));
    let slot_at = bucket::front_bytes(20) - bucket::SLOT_BYTES;
    for (at, value) in [
        // The last row where the one before is, or in its middle; outside; a longest record that is none.
        (slot_at, Bucket::new(&body).slot(18)),
        (slot_at, Bucket::new(&body).slot(18) + 60),
        (slot_at, bucket::front_bytes(20) - 1),
        (slot_at, USUAL - 50),
        (bucket::LONGEST_AT, 111),
    ] {
        let mut damaged = body.clone();
        set_u16(&mut damaged, at, value);
        assert!(hash.check_page(0, 0, &damaged).is_err(), "{value} at {at}");
    }
}

/// Rows of a bucket of which a get would find all bytes among those that it asks for ahead, in percent.
fn percent_near_home(rows: u32, seed: u64) -> usize {
    let (hash, mut random) = (Hash::default(), Random(seed));
    let mut near = 0;
    let buckets = 50;
    for _ in 0..buckets {
        let body = bucket_of(rows, &mut random);
        let bucket = Bucket::new(&body);
        for i in 0..bucket.len() {
            let (key, value) = bucket.row(i);
            let bytes = bucket::RECORD_HEADER_BYTES + key.len() + value.stored_bytes();
            let record = bucket.slot(i)..bucket.slot(i) + bytes;
            let ahead = bucket::around_home(hash.hash(key, 0), USUAL);
            near += usize::from(ahead.start / 64 * 64 <= record.start && record.end <= ahead.end);
        }
    }
    near * 100 / (buckets * rows as usize)
}

#[test]
fn most_records_lie_near_their_homes() {
    // Two thirds full, and nine tenths.
    let (usual, crowded) = (percent_near_home(46, 5), percent_near_home(62, 6));
    assert!(usual >= 80, "{usual} %");
    assert!(crowded >= 42, "{crowded} %");
}

/// Gets that found their bucket missing, of 1,000 of keys that have no row.
fn missing_of_absent(bench: &Bench, round: u32) -> usize {
    let mut missing = 0;
    for n in 0..1000 {
        let key = format!("absent {round} {n}").into_bytes();
        bench.mock.evict_leaves();
        loop {
            let view = View::Current;
            match bench.hash.get(&bench.mock, &bench.root, view, &key, |value, _| value.is_some()) {
                Ok(found) => break assert!(!found),
                Err(Stop::Missing(page)) => bench.mock.load(page),
                Err(stop) => panic!("{stop:?}"),
            }
            missing += 1;
        }
    }
    missing
}

#[test]
fn absent_keys_read_nothing_once_their_bucket_was_read() {
    let mut bench = Bench::new(Hash::default(), USUAL, 3000, 2);
    for _ in 0..60 {
        let writes = bench.writes(60, 0);
        bench.write_many(&writes);
    }
    let (hash, buckets) = (Rc::clone(&bench.hash), bench.mock.page_ids().len());
    assert_eq!(hash.filters.bytes(), 0, "all was in memory");
    let first = missing_of_absent(&bench, 0);
    let then = missing_of_absent(&bench, 1);
    assert!((buckets * 9 / 10..buckets * 3).contains(&first), "{first} of {buckets}");
    assert!(then <= 30, "{then} of 1000");
    assert!(hash.filters.bytes() < buckets * 200, "{}", hash.filters.bytes());

    // What is known holds from a commit on.
    let key = bench.model.keys().next().unwrap().clone();
    bench.write_one(b"absent 1 1", Some(&Owned::Inline(b"v".to_vec())));
    bench.mock.evict_leaves();
    bench.get(b"absent 1 1");
    let cut = bench.mock.cut();
    let model = bench.model.clone();
    bench.write_one(&key, None);
    bench.mock.evict_leaves();
    bench.get(&key);
    bench.mock.evict_leaves();
    bench.get(&key);
    let found = bench.mock.settle(|| {
        let owned = |value: Option<Value<'_>>, _| value.map(Owned::of);
        hash.get(&bench.mock, &bench.root, cut, &key, owned)
    });
    assert_eq!(found.as_ref(), model.get(&key), "the cut still has it");

    hash.retire();
    assert_eq!(hash.filters.bytes(), 0);
}

#[test]
fn nothing_false_is_known_after_splits_and_merges() {
    let mut bench = Bench::new(Hash::default(), TINY, 600, 2);
    for _ in 0..30 {
        let writes = bench.writes(40, 0);
        bench.write_many(&writes);
        bench.mock.evict_leaves();
        let key = bench.key();
        bench.get(&key);
    }
    missing_of_absent(&bench, 0);
    let keys: Vec<Vec<u8>> = bench.model.keys().cloned().collect();
    let (buckets, known) = (bench.mock.page_ids().len(), bench.hash.filters.bytes());
    for key in keys.iter().filter(|key| key.last() > Some(&b'1')) {
        bench.write_one(key, None);
    }
    let left = bench.mock.page_ids().len();
    assert!(left < buckets * 19 / 20, "{left} of {buckets}");
    assert!(0 < bench.hash.filters.bytes() && bench.hash.filters.bytes() < known);
    for key in &keys {
        bench.mock.evict_leaves();
        bench.get(key);
    }
}

#[test]
fn filters_keep_to_their_memory() {
    let mut bench = Bench::new(Hash::default(), TINY, 3000, 1);
    for _ in 0..60 {
        let writes = bench.writes(60, 0);
        bench.write_many(&writes);
        bench.mock.evict_leaves();
        let (bytes, key) = (bench.hash.filters.bytes(), bench.key());
        assert!(bytes <= 1 << 14, "{bytes}");
        bench.get(&key);
    }
    let bytes = bench.hash.filters.bytes();
    assert!(bytes > 1 << 13, "{bytes}");
}

#[test]
fn upcoming_pages_are_those_that_come() {
    let mut bench = Bench::new(Hash::default(), TINY, 3000, 5);
    for _ in 0..40 {
        let writes = bench.writes(60, 0);
        bench.write_many(&writes);
    }
    bench.mock.evict_all();
    let (mut cursor, mut loads, mut rows) = (HashCursor::new(bench.hash.hasher()), 0, 0);
    loop {
        match cursor.next(&bench.mock, &bench.root, View::Current) {
            Ok(true) => rows += 1,
            Ok(false) => break,
            Err(Stop::Missing(page)) => {
                let mut pages = Vec::new();
                let (mock, root) = (&bench.mock, &bench.root);
                match cursor.upcoming(mock, root, View::Current, &mut pages) {
                    Ok(()) => assert_eq!(pages[0], page, "the next one first"),
                    // The root.
                    Err(_) => pages.push(page),
                }
                loads += 1;
                for page in pages {
                    bench.mock.load(page);
                }
            }
            Err(stop) => panic!("{stop:?}"),
        }
    }
    assert_eq!(rows, bench.model.len());
    let pages = bench.mock.page_ids().len();
    assert!(loads * 4 < pages, "{loads} reads for {pages} pages");
}

/// Whatever a damaged page does that was accepted, it is no panic.
#[test]
fn damage_is_no_panic() {
    let mut random = Random(9);
    let mut accepted = 0;
    for round in 0..3000 {
        let seed = random.next();
        let mut bench = Bench::new(Hash::weak(3 << 62 | 0xff), TINY, 60, seed);
        for _ in 0..2 {
            let writes = bench.writes(40, 20);
            bench.write_many(&writes);
        }
        let pages = bench.mock.page_ids();
        let id = pages[random.below(pages.len())];
        let page = bench.mock.page(id);
        let (level, words, mut body) = (page.level(), page.words().len(), page.body().to_vec());
        drop(page);
        for _ in 0..=random.below(3) {
            let near = if round % 2 == 0 { 24 } else { body.len() };
            let at = random.below(near);
            body[at] = match random.below(3) {
                0 => body[at] ^ 1 << random.below(8),
                1 => body[random.below(body.len())],
                _ => random.next().to_le_bytes()[0],
            };
        }
        if bench.hash.check_page(level, words, &body).is_err() {
            continue;
        }
        accepted += 1;
        bench.hash.handles(level, &body, &mut |_| {});
        match bench.hash.fold(level) {
            None => assert!(bench.hash.hole(level, &body).end <= body.len()),
            Some(fold) => {
                let (mut folded, mut again) = (Vec::new(), vec![0; body.len()]);
                fold.fold(&body, &mut folded);
                fold.unfold(&folded, &mut again).unwrap();
                bench.hash.check_page(level, words, &again).unwrap();
            }
        }
        bench.mock.damage(id, |old| old.copy_from_slice(&body));
        use_everything(&mut bench);
    }
    assert!(accepted > 100, "{accepted} accepted");
}

fn use_everything(bench: &mut Bench) {
    let mut cursor = HashCursor::new(bench.hash.hasher());
    while let Ok(true) = cursor.next(&bench.mock, &bench.root, View::Current) {
        cursor.row();
    }
    let mut check = bench.hash.check(bench.root.page());
    loop {
        match check.step(&bench.mock, &bench.root, View::Current, &mut |_| {}) {
            Ok(CheckStep::Done) => break,
            Ok(CheckStep::Page { .. }) => {}
            _ => check.skip(),
        }
    }
    for n in 0..60 {
        bench.keys = 60;
        let (key, value) = (bench.key(), bench.value());
        let (hash, mock, root) = (&bench.hash, &bench.mock, &bench.root);
        drop(hash.get(mock, root, View::Current, &key, |value, _| value.is_some()));
        let value = (n % 3 > 0).then(|| value.lend());
        if let Ok(mut prepared) = hash.prepare(mock, root, &key, value.as_ref(), Look::Blind) {
            match value {
                Some(value) => prepared.put(value),
                None => prepared.delete(),
            };
        }
        drop(hash.tidy(mock, root, &key));
    }
}
