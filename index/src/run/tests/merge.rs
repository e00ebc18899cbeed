use super::*;
use std::sync::Arc;

struct Layer {
    rows: Rows,
    ranges: RangeSet,
    run: Option<RunRef>,
}

/// Sources, newest first, whose keys often meet.
fn layers(random: &mut Random, mock: &Mock, content_bytes: usize) -> Vec<Layer> {
    let count = [1, 2, 3, 5, 12, 24][random.below(6)];
    let style = random.below(3);
    let key = |random: &mut Random| match style {
        0 => random.key(content_bytes),
        1 => format!("user{:010}", random.below(3000)).into_bytes(),
        _ => random.bytes(2),
    };
    (0..count)
        .map(|_| {
            let target = [0, 1, 30, 300, 1500][random.below(5)];
            let rows: Rows =
                (0..target).map(|_| (key(random), random.value(content_bytes))).collect();
            let mut ranges = RangeSet::default();
            for _ in 0..[0, 0, 1, 5, 40][random.below(5)] {
                let (low, high) = (key(random), key(random));
                ranges.insert(&low, if random.one_in(30) { None } else { Some(&high) });
            }
            let run = build(mock, content_bytes, &rows, 0);
            Layer { rows, ranges, run }
        })
        .collect()
}

#[derive(Debug, Default, PartialEq)]
struct Outcome {
    rows: Vec<(Vec<u8>, Owned)>,
    large: Vec<u64>,
}

fn model(layers: &[Layer], (low, high): (&[u8], Option<&[u8]>), config: MergeConfig) -> Outcome {
    let inside = |key: &Vec<u8>| &key[..] >= low && high.is_none_or(|high| &key[..] < high);
    let keys: BTreeSet<&Vec<u8>> =
        layers.iter().flat_map(|layer| layer.rows.keys()).filter(|key| inside(key)).collect();
    let mut outcome = Outcome::default();
    for key in keys {
        let mut winner = None;
        for layer in layers {
            winner = layer.rows.get(key);
            if winner.is_some() || layer.ranges.covers(key) {
                break;
            }
        }
        let rows = layers.iter().filter_map(|layer| layer.rows.get(key));
        let large: BTreeSet<u64> = rows
            .filter(|row| Some(*row) != winner)
            .filter_map(|row| if let Owned::Large(n) = row { Some(*n) } else { None })
            .collect();
        outcome.large.extend(large);
        if let Some(winner) = winner
            && (config.keep_tombstones || *winner != Owned::Tombstone)
        {
            outcome.rows.push((key.clone(), winner.clone()));
        }
    }
    if config.direction == Direction::Backward {
        outcome.rows.reverse();
    }
    outcome.large.sort_unstable();
    outcome
}

fn merged(
    mock: &Mock,
    layers: &[Layer],
    (low, high): (&[u8], Option<&[u8]>),
    config: MergeConfig,
    random: &mut Random,
) -> Outcome {
    // Layers without rows still delete: an empty tree stands for them.
    let empty = mock.settle(|| crate::btree::create(mock));
    let sources = layers.iter().map(|layer| {
        let ranges = Some(Arc::new(layer.ranges.clone()));
        match &layer.run {
            Some(run) => MergeSource::of_run(run, ranges),
            None => MergeSource {
                tree: ChildWord::pack(empty, ChildWord::NO_HINT),
                ranges,
                has_large: false,
                is_counted: false,
                has_tombstones: false,
            },
        }
    });
    let mut merge = Merge::new(sources.collect(), low, high, config);
    let view = mock.cut();
    let mut outcome = Outcome::default();
    let evict_one_in = [5, 100][random.below(2)];
    loop {
        if random.one_in(evict_one_in) {
            mock.evict_all();
        }
        let next = merge.next_in_memory().unwrap_or_else(|| {
            let mut pages = Vec::new();
            mock.settle(|| merge.upcoming(mock, view, &mut pages));
            assert!(pages.iter().all(|page| mock.page_ids().contains(page)));
            let next = mock.settle(|| merge.next(mock, view));
            let mut pages = Vec::new();
            mock.settle(|| merge.further(mock, view, &mut pages));
            assert!(pages.iter().all(|page| mock.page_ids().contains(page)));
            next
        });
        if !next {
            break;
        }
        let (key, value) = merge.row();
        outcome.rows.push((key.to_vec(), Owned::of(value)));
    }
    assert!(!mock.settle(|| merge.next(mock, view)), "the end stays");
    assert!(merge.counts().is_balanced(), "{:?}", merge.counts());
    assert_eq!(merge.counts().rows_out, outcome.rows.len() as u64);
    let large = merge.shadowed_large().iter();
    outcome.large = large.map(|h| u64::from_le_bytes(*h.first_chunk().unwrap())).collect();
    outcome.large.sort_unstable();
    outcome
}

#[test]
fn merges_agree_with_a_model() {
    for content_bytes in CONTENT {
        for seed in 1..=if content_bytes == 960 { 150 } else { 60 } {
            let mut random = Random(seed);
            let mock = Mock::new(content_bytes);
            let layers = layers(&mut random, &mock, content_bytes);
            for round in 0..6 {
                let mut bound = || {
                    let layer = &layers[random.below(layers.len())];
                    let n = layer.rows.len().max(1);
                    layer.rows.keys().nth(random.below(n)).cloned().unwrap_or_default()
                };
                let (mut low, mut high) = (Vec::new(), None);
                if round >= 2 {
                    let bounds = [bound(), bound()];
                    let [a, b] = &bounds;
                    (low, high) = (a.min(b).clone(), Some(a.max(b).clone()));
                }
                let config = MergeConfig {
                    direction: [Direction::Forward, Direction::Backward][random.below(2)],
                    keep_tombstones: random.one_in(2),
                    report_large: random.one_in(2),
                };
                let bounds = (&low[..], high.as_deref());
                let mut wanted = model(&layers, bounds, config);
                if !config.report_large {
                    wanted.large.clear();
                }
                let found = merged(&mock, &layers, bounds, config, &mut random);
                assert!(found == wanted, "seed {seed}, round {round}: {config:?}");
            }
        }
    }
}

#[test]
fn pages_inside_a_newer_range_are_not_read() {
    let mock = Mock::new(960);
    let number = |i: usize| format!("{i:08}").into_bytes();
    let rows: Rows = (0..10_000).map(|i| (number(i), Owned::Inline(vec![0; 50]))).collect();
    let old = build(&mock, 960, &rows, 0).unwrap();
    let new = build(&mock, 960, &Rows::from([(number(5000), Owned::Tombstone)]), 0).unwrap();
    let mut ranges = RangeSet::default();
    ranges.insert(&number(100), Some(&number(9900)));
    for direction in [Direction::Forward, Direction::Backward] {
        let config = MergeConfig { direction, keep_tombstones: false, report_large: true };
        let sources = vec![
            MergeSource::of_run(&new, Some(Arc::new(ranges.clone()))),
            MergeSource::of_run(&old, None),
        ];
        let mut merge = Merge::new(sources, &[], None, config);
        mock.evict_leaves();
        let mut count = 0;
        let mut reads = 0;
        loop {
            match merge.next(&mock, View::Current) {
                Ok(false) => break,
                Ok(true) => count += 1,
                Err(Stop::Missing(page)) => {
                    reads += 1;
                    mock.load(page);
                }
                Err(stop) => panic!("{stop:?}"),
            }
        }
        assert_eq!(count, 200);
        assert!(reads < 60, "{reads} of {}", old.pages);
    }
}
