//! Rows that wait.

use super::bench::{Model, Rest};
use super::*;
use crate::kind::{Existing, GroupWrite, PreparedGroup, Work};

/// A table of some hundred buckets, none of which is in memory. `seed`: see [`Bench::new`] for what front it gets.
fn away(seed: u64) -> Bench {
    let mut bench = Bench::new(Hash::default(), TINY, 3000, seed);
    for _ in 0..60 {
        let writes = bench.writes(60, 0);
        bench.write_many(&writes);
    }
    bench.drain();
    bench.mock.load_all();
    assert!(!bench.hash.front.may_have_rows());
    bench.mock.evict_leaves();
    bench
}

/// Puts or deletes blindly; false if that would have to read something.
fn put_blind(bench: &mut Bench, key: &[u8], value: Option<&Owned>) -> bool {
    bench.mock.begin();
    let (hash, mock, root) = (&bench.hash, &bench.mock, &bench.root);
    let lent = value.map(Owned::lend);
    let mut prepared = match hash.prepare(mock, root, key, lent.as_ref(), Look::Blind) {
        Err(Stop::Missing(_)) => return false,
        prepared => prepared.unwrap(),
    };
    bench.large -= i64::from(prepared.replaced().is_some());
    bench.rows += match lent {
        Some(value) => prepared.put(value),
        None => prepared.delete(),
    };
    drop(prepared);
    bench.note(key, value);
    true
}

#[test]
fn blind_writes_read_nothing() {
    let mut bench = away(3);
    for n in 0..600 {
        let key = bench.key();
        let value = (n % 3 > 0).then(|| bench.value());
        assert!(put_blind(&mut bench, &key, value.as_ref()), "put {n}");
    }
    assert!(bench.hash.front.may_have_rows());
    bench.check();
    let rows = bench.rest(&mut HashCursor::new(bench.hash.hasher()), View::Current);
    assert_eq!(rows, bench.model);
    bench.drain();
    assert!(!bench.hash.front.may_exist(), "it goes once it is empty");
    bench.check();
}

#[test]
fn a_batch_asks_for_its_buckets_but_those_of_what_waits() {
    let mut bench = away(3);
    let writes = bench.writes(100, 30);
    {
        let (hash, mock, root) = (&bench.hash, &bench.mock, &bench.root);
        let key = writes[0].0.clone();
        let write = [GroupWrite { key: &key, value: None }];
        let stop = hash.prepare_group(mock, root, &Rest(&write)).expect_err("its bucket is away");
        let bucket = hash.page_of(mock, root, View::Current, &key, Look::Blind).unwrap();
        assert!(matches!(stop, Stop::Missing(page) if Some(page) == bucket));
    }
    for (key, value) in &writes {
        assert!(put_blind(&mut bench, key, value.as_ref()));
    }
    let lent: Vec<_> = writes
        .iter()
        .map(|(key, value)| GroupWrite { key, value: value.as_ref().map(Owned::lend) })
        .collect();
    let (hash, mock, root) = (&bench.hash, &bench.mock, &bench.root);
    let (mut groups, mut done) = (Vec::new(), 0);
    while done < lent.len() {
        let group = hash.prepare_group(mock, root, &Rest(&lent[done..])).expect("nothing is read");
        done += group.len();
        groups.push(group);
    }
    assert!(groups.len() < 20, "{} pages for {} rows", groups.len(), lent.len());
}

#[test]
fn what_waits_is_known_to_who_must_know_it() {
    let mut bench = away(3);
    for n in 0..200 {
        let key = bench.key();
        let value = (n % 3 > 0).then(|| bench.value());
        assert!(put_blind(&mut bench, &key, value.as_ref()));
        let (hash, mock, root) = (&bench.hash, &bench.mock, &bench.root);
        let prepared = hash.prepare(mock, root, &key, None, Look::Existing).expect("it waits");
        let existing = match prepared.existing() {
            Existing::Present(value) => Some(Owned::of(value)),
            existing => {
                assert_eq!(existing, Existing::Absent);
                None
            }
        };
        assert_eq!(existing, value);
        drop(prepared);
        bench.get(&key);
    }
}

#[test]
fn who_holds_a_cut_sees_what_waited_then() {
    for seed in [3, 4] {
        let mut bench = away(seed);
        for _ in 0..150 {
            let (key, value) = (bench.key(), bench.value());
            bench.write_one(&key, Some(&value));
            bench.mock.evict_leaves();
        }
        let (view, model) = (bench.mock.cut(), bench.model.clone());
        bench.drain();
        for _ in 0..150 {
            let key = bench.key();
            bench.write_one(&key, None);
            let (hash, mock, root) = (&bench.hash, &bench.mock, &bench.root);
            let owned = |value: Option<Value<'_>>, _| value.map(Owned::of);
            let found = mock.settle(|| hash.get(mock, root, view, &key, owned));
            assert_eq!(found.as_ref(), model.get(&key));
        }
        bench.delete_all();
        for key in model.keys().take(200) {
            let (hash, mock, root) = (&bench.hash, &bench.mock, &bench.root);
            let owned = |value: Option<Value<'_>>, _| value.map(Owned::of);
            let found = mock.settle(|| hash.get(mock, root, view, key, owned));
            assert_eq!(found.as_ref(), model.get(key));
        }
    }
}

#[test]
fn a_front_that_is_full_takes_only_what_waits_and_said_so_before() {
    let mut bench = away(4);
    let mut waiting = Vec::new();
    let is_full = (0..5000).any(|_| {
        let (key, value) = (bench.key(), Owned::Inline(vec![b'f'; 40]));
        if put_blind(&mut bench, &key, Some(&value)) {
            waiting.push(key);
            return false;
        }
        true
    });
    assert!(is_full && waiting.len() > 50, "{} rows wait", waiting.len());
    let (debt_bytes, max) = (bench.hash.debt_bytes(), bench.hash.front.memory.fronts_bytes_max);
    assert!(
        debt_bytes >= max as u64 / 2,
        "{debt_bytes} bytes beyond {max}: who waits for them never comes here"
    );
    for key in &waiting {
        assert!(put_blind(&mut bench, key, Some(&Owned::Inline(vec![b'g'; 40]))));
    }
    while bench.work(false) {}
    assert!(bench.hash.front.has_room(), "work makes room");
    assert!(bench.hash.front.may_have_rows(), "and no more than that");
    bench.check();
}

#[test]
fn a_front_that_was_there_is_counted_and_then_works_as_before() {
    let mut bench = away(3);
    for _ in 0..400 {
        let (key, value) = (bench.key(), bench.value());
        assert!(put_blind(&mut bench, &key, Some(&value)));
    }
    bench.reopen();
    bench.mock.evict_leaves();
    for _ in 0..100 {
        let key = bench.key();
        bench.get(&key);
        // Some of them wait.
        let value = bench.value();
        bench.write_one(&key, Some(&value));
    }
    let (hash, mock, root) = (Rc::clone(&bench.hash), &bench.mock, &bench.root);
    assert!(hash.front.is_uncounted());
    while hash.front.is_uncounted() {
        assert_eq!(mock.settle(|| hash.work(mock, root, false)), Work::Finish);
        mock.settle(|| hash.finish_work(mock, root, &mut |_| {}));
    }
    bench.check();
    bench.drain();
    assert!(!bench.hash.front.may_exist());
    bench.check();
}

#[test]
fn a_turn_of_work_touches_few_pages() {
    let mut bench = away(3);
    for _ in 0..1500 {
        let (key, value) = (bench.key(), bench.value());
        assert!(put_blind(&mut bench, &key, Some(&value)));
    }
    bench.mock.load_all();
    let mut most = 0;
    loop {
        let before = bench.mock.counts();
        if !(bench.work(true) && bench.hash.front.may_exist()) {
            break;
        }
        let after = bench.mock.counts();
        most = most.max(after.written - before.written);
        bench.mock.load_all();
    }
    assert!((5..40).contains(&most), "{most}");
}

#[test]
fn an_iteration_with_a_front_asks_for_pages_ahead() {
    let mut bench = away(3);
    for _ in 0..300 {
        let (key, value) = (bench.key(), bench.value());
        assert!(put_blind(&mut bench, &key, Some(&value)));
    }
    bench.mock.evict_leaves();
    let mut cursor = HashCursor::new(bench.hash.hasher());
    let (mut rows, mut loads) = (Model::new(), 0);
    loop {
        match cursor.next(&bench.mock, &bench.root, View::Current) {
            Ok(false) => break,
            Ok(true) => {
                let (key, value) = cursor.row();
                assert_eq!(rows.insert(key.to_vec(), Owned::of(value)), None);
            }
            Err(Stop::Missing(page)) => {
                let mut upcoming = Vec::new();
                bench.mock.settle(|| {
                    cursor.upcoming(&bench.mock, &bench.root, View::Current, &mut upcoming)
                });
                loads += 1;
                upcoming.push(page);
                for page in upcoming {
                    bench.mock.load(page);
                }
            }
            Err(stop) => panic!("{stop:?}"),
        }
    }
    assert_eq!(rows, bench.model);
    assert!(loads * 3 < bench.mock.page_ids().len(), "{loads} loads");
}
