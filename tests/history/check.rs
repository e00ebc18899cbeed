//! Checks a history of appends and reads: no aborted, intermediate or incompatible reads, nothing
//! lost, and no cycle of dependencies (Adya; Elle, VLDB 2020).
//!
//! The longest list that anybody read of a key is the order of its versions. From it follow, between
//! transactions, *ww* (appended right before), *wr* (read what the other appended last) and *rw* (read
//! what the other then appended to); *time* is ended before the other started. Serializable: no cycle.
//! Snapshot isolation: no cycle in which no two rw follow each other (Cerone and Gotsman, 2018), so
//! none in (ww ∪ wr ∪ time) ; rw?.

use std::collections::{BTreeMap, BTreeSet};

/// One step of a transaction.
#[derive(Clone, Debug)]
pub(super) enum Micro {
    Append(u8, u32),
    Read(u8, Vec<u32>),
}

/// A transaction as its thread saw it.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) process: u64,
    /// Before it began and after it ended, by one clock.
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) committed: bool,
    pub(super) micros: Vec<Micro>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Serializable,
    Snapshot,
}

/// Checks a history; the error says what is wrong with it.
pub(super) fn check(events: &[Event], level: Level) -> Result<(), String> {
    let orders = orders(events)?;
    let mut writers = BTreeMap::new();
    for (i, event) in events.iter().enumerate() {
        for micro in &event.micros {
            if let Micro::Append(key, element) = micro {
                writers.insert((*key, *element), i);
            }
        }
    }
    check_reads(events, &orders, &writers)?;
    let graph = Graph::of(events, &orders, &writers);
    let edges = match level {
        Level::Serializable => graph.all(),
        Level::Snapshot => graph.composed(),
    };
    match cycle(&edges) {
        None => Ok(()),
        Some(nodes) => {
            let parts: Vec<_> = nodes
                .iter()
                .filter_map(|node| events.get(*node))
                .map(|event| format!("  thread {}: {:?}", event.process, event.micros))
                .take(6)
                .collect();
            Err(format!("transactions that depend on each other:\n{}", parts.join("\n")))
        }
    }
}

type Orders = BTreeMap<u8, Vec<u32>>;

/// The longest list read of each key, which all other reads must be prefixes of.
fn orders(events: &[Event]) -> Result<Orders, String> {
    let mut orders = Orders::new();
    let reads = events.iter().filter(|event| event.committed).flat_map(|event| &event.micros);
    for micro in reads.clone() {
        if let Micro::Read(key, list) = micro {
            let longest = orders.entry(*key).or_default();
            if list.len() > longest.len() {
                longest.clone_from(list);
            }
        }
    }
    for micro in reads {
        match micro {
            Micro::Read(key, list) if !orders[key].starts_with(list) => {
                let longest = &orders[key];
                return Err(format!("key {key}: read {list:?}, and also {longest:?}"));
            }
            // The last read is of everything: what is not in it was lost.
            Micro::Append(key, element)
                if !orders.get(key).is_some_and(|order| order.contains(element)) =>
            {
                return Err(format!("key {key}: {element} was appended, and lost"));
            }
            _ => {}
        }
    }
    for (key, order) in &orders {
        if order.iter().collect::<BTreeSet<_>>().len() < order.len() {
            return Err(format!("key {key}: an element comes twice in {order:?}"));
        }
    }
    Ok(orders)
}

type Writers = BTreeMap<(u8, u32), usize>;

fn check_reads(events: &[Event], orders: &Orders, writers: &Writers) -> Result<(), String> {
    for (key, order) in orders {
        for element in order {
            match writers.get(&(*key, *element)) {
                None => return Err(format!("key {key}: nobody appended {element}")),
                Some(writer) if !events[*writer].committed => {
                    return Err(format!("key {key}: {element} is of an aborted transaction"));
                }
                Some(_) => {}
            }
        }
    }
    for (i, event) in events.iter().enumerate() {
        for micro in &event.micros {
            let Micro::Read(key, list) = micro else { continue };
            let Some(last) = list.last() else { continue };
            let Some(&writer) = writers.get(&(*key, *last)) else {
                return Err(format!("key {key}: {last} was read, and nobody appended it"));
            };
            if writer == i {
                continue;
            }
            if !events[writer].committed {
                return Err(format!("key {key}: {last} was read, of an aborted transaction"));
            }
            let newest = events[writer].micros.iter().rev().find_map(|micro| match micro {
                Micro::Append(other, element) if other == key => Some(*element),
                _ => None,
            });
            if newest != Some(*last) {
                return Err(format!("key {key}: {last} was read in the middle of a transaction"));
            }
        }
    }
    Ok(())
}

type Edges = Vec<BTreeSet<usize>>;

/// Nodes are the events, then one point in time after the end of each.
struct Graph {
    /// ww, wr and time.
    forward: Edges,
    rw: Edges,
}

impl Graph {
    fn of(events: &[Event], orders: &Orders, writers: &Writers) -> Self {
        let nodes = events.len() * 2;
        let mut graph =
            Self { forward: vec![BTreeSet::new(); nodes], rw: vec![BTreeSet::new(); nodes] };
        let writer = |key: u8, element: u32| writers[&(key, element)];
        for (key, order) in orders {
            for pair in order.windows(2) {
                let (a, b) = (writer(*key, pair[0]), writer(*key, pair[1]));
                if a != b {
                    graph.forward[a].insert(b);
                }
            }
        }
        for (i, event) in events.iter().enumerate().filter(|(_, event)| event.committed) {
            for micro in &event.micros {
                let Micro::Read(key, list) = micro else { continue };
                if let Some(last) = list.last()
                    && writer(*key, *last) != i
                {
                    graph.forward[writer(*key, *last)].insert(i);
                }
                if let Some(next) = orders[key].get(list.len())
                    && writer(*key, *next) != i
                {
                    graph.rw[i].insert(writer(*key, *next));
                }
            }
        }
        graph.add_time(events);
        graph
    }

    /// A chain of the ends, which each event leads to and which leads to those that start later.
    fn add_time(&mut self, events: &[Event]) {
        let committed = |event: &&(usize, &Event)| event.1.committed;
        let all: Vec<_> = events.iter().enumerate().collect();
        let mut ends: Vec<_> = all.iter().filter(committed).map(|(i, e)| (e.end, *i)).collect();
        ends.sort_unstable();
        let point = |n: usize| events.len() + n;
        for (n, (_, event)) in ends.iter().enumerate() {
            self.forward[*event].insert(point(n));
            if n > 0 {
                self.forward[point(n - 1)].insert(point(n));
            }
        }
        for (i, event) in all.iter().filter(committed) {
            let earlier = ends.partition_point(|(end, _)| *end < event.start);
            if earlier > 0 {
                self.forward[point(earlier - 1)].insert(*i);
            }
        }
    }

    fn all(&self) -> Edges {
        self.forward.iter().zip(&self.rw).map(|(a, b)| a.union(b).copied().collect()).collect()
    }

    /// Forward edges, each also with one rw after it.
    fn composed(&self) -> Edges {
        self.forward
            .iter()
            .map(|to| {
                let further = to.iter().flat_map(|middle| &self.rw[*middle]);
                to.iter().chain(further).copied().collect()
            })
            .collect()
    }
}

/// Nodes of a cycle, if there is one: depth first, with a stack of its own.
fn cycle(edges: &Edges) -> Option<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; edges.len()];
    for root in 0..edges.len() {
        if marks[root] != Mark::New {
            continue;
        }
        marks[root] = Mark::Open;
        let mut path = vec![(root, edges[root].iter())];
        while let Some((node, next)) = path.last_mut() {
            match next.next() {
                None => {
                    marks[*node] = Mark::Done;
                    path.pop();
                }
                Some(&to) => match marks[to] {
                    Mark::New => {
                        marks[to] = Mark::Open;
                        path.push((to, edges[to].iter()));
                    }
                    Mark::Open => {
                        let nodes = path.iter().map(|(node, _)| *node);
                        return Some(nodes.skip_while(|node| *node != to).collect());
                    }
                    Mark::Done => {}
                },
            }
        }
    }
    None
}

/// Turns reads of registers into reads of lists. Each write has read what it replaced; so each value
/// has one before it, and two with the same one before are a lost update.
pub(super) fn registers_to_lists(events: &mut [Event]) -> Result<(), String> {
    // What a value replaced: what its transaction read or wrote of the key right before.
    let mut before: BTreeMap<(u8, u32), Option<u32>> = BTreeMap::new();
    let mut replaced = BTreeMap::new();
    for event in events.iter() {
        let mut seen = BTreeMap::new();
        for micro in &event.micros {
            match micro {
                Micro::Read(key, list) => {
                    seen.insert(*key, list.last().copied());
                }
                Micro::Append(key, value) => {
                    let old = seen.insert(*key, Some(*value)).flatten();
                    before.insert((*key, *value), old);
                    if event.committed
                        && let Some(other) = replaced.insert((*key, old), *value)
                    {
                        return Err(format!(
                            "key {key}: {other} and {value} both replaced {old:?}"
                        ));
                    }
                }
            }
        }
    }
    let list_of = |key: u8, value: Option<u32>| {
        let mut list = Vec::new();
        let mut at = value;
        while let Some(value) = at {
            list.push(value);
            at = before.get(&(key, value)).copied().flatten();
        }
        list.reverse();
        list
    };
    let mut lists: Vec<Vec<Micro>> = Vec::new();
    for event in events.iter() {
        let micros = event.micros.iter().map(|micro| match micro {
            Micro::Read(key, list) => Micro::Read(*key, list_of(*key, list.last().copied())),
            append @ Micro::Append(..) => append.clone(),
        });
        lists.push(micros.collect());
    }
    for (event, micros) in events.iter_mut().zip(lists) {
        event.micros = micros;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u64, start: u64, end: u64, micros: &[Micro]) -> Event {
        Event { process: n, start, end, committed: true, micros: micros.to_vec() }
    }

    fn append(key: u8, element: u32) -> Micro {
        Micro::Append(key, element)
    }

    fn read(key: u8, list: &[u32]) -> Micro {
        Micro::Read(key, list.to_vec())
    }

    /// Accepted as serializable, and as snapshot isolation.
    fn verdict(events: &[Event]) -> (bool, bool) {
        let of = |level| check(events, level).is_ok();
        (of(Level::Serializable), of(Level::Snapshot))
    }

    #[test]
    fn a_serial_history_passes() {
        let events = [
            event(0, 0, 1, &[read(1, &[]), append(1, 10)]),
            event(1, 2, 3, &[read(1, &[10]), append(1, 11), append(2, 20)]),
            event(0, 4, 5, &[read(1, &[10, 11]), read(2, &[20])]),
        ];
        assert_eq!(verdict(&events), (true, true));
    }

    #[test]
    fn anomalies_are_told_apart() {
        let last = event(9, 90, 91, &[read(1, &[10]), read(2, &[20])]);
        let aborted = |mut event: Event| {
            event.committed = false;
            event
        };
        let cases: [(&str, Vec<Event>, (bool, bool)); 8] = [
            (
                "aborted read",
                vec![aborted(event(0, 0, 9, &[append(1, 10)])), event(1, 0, 9, &[read(1, &[10])])],
                (false, false),
            ),
            (
                "intermediate read",
                vec![
                    event(0, 0, 9, &[append(1, 10), append(1, 11)]),
                    event(1, 0, 9, &[read(1, &[10])]),
                    event(2, 10, 11, &[read(1, &[10, 11])]),
                ],
                (false, false),
            ),
            (
                "lost update",
                vec![
                    event(0, 0, 9, &[read(1, &[]), append(1, 10)]),
                    event(1, 0, 9, &[read(1, &[]), append(1, 11)]),
                    event(2, 10, 11, &[read(1, &[11])]),
                ],
                (false, false),
            ),
            (
                "circular information flow",
                vec![
                    event(0, 0, 9, &[append(1, 10), read(2, &[20])]),
                    event(1, 0, 9, &[append(2, 20), read(1, &[10])]),
                    last.clone(),
                ],
                (false, false),
            ),
            (
                "read skew",
                vec![
                    event(0, 0, 9, &[append(1, 10), append(2, 20)]),
                    event(1, 0, 9, &[read(1, &[]), read(2, &[20])]),
                    last.clone(),
                ],
                (false, false),
            ),
            (
                "write skew",
                vec![
                    event(0, 0, 9, &[read(2, &[]), append(1, 10)]),
                    event(1, 0, 9, &[read(1, &[]), append(2, 20)]),
                    last.clone(),
                ],
                (false, true),
            ),
            (
                "stale read",
                vec![
                    event(0, 0, 1, &[append(1, 10), append(2, 20)]),
                    event(1, 2, 3, &[read(1, &[])]),
                    last.clone(),
                ],
                (false, false),
            ),
            (
                "long fork",
                vec![
                    event(0, 0, 9, &[append(1, 10)]),
                    event(1, 0, 9, &[append(2, 20)]),
                    event(2, 0, 9, &[read(1, &[10]), read(2, &[])]),
                    event(3, 0, 9, &[read(1, &[]), read(2, &[20])]),
                    last,
                ],
                (false, false),
            ),
        ];
        for (name, events, wanted) in cases {
            assert_eq!(verdict(&events), wanted, "{name}");
        }
    }
}
