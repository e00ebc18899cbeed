//! The page map: page id → address of its newest image.
//!
//! A radix tree of nodes with `fan` addresses each: level 0 nodes hold addresses of pages, higher ones
//! addresses of nodes below. Nodes are written as images like pages; they are loaded when needed and clean ones may be
//! dropped. Only the root's address stands outside, in the checkpoint.
//!
//! Each node has two images ([`Copies`]) in segments apart: one that rots would take all pages behind it along, hundreds or
//! more, of all tables. So a node above level 0 has half as many children as it has addresses. The second image is read
//! when the first is damaged; the node is then written anew with the next checkpoint.

use super::image::Address;
use esker_base::{Error, PageId, Result};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// Names a map node: its level and its index within the level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeId {
    pub(crate) level: u8,
    pub(crate) index: u64,
}

impl NodeId {
    /// The id under which a node's images are written; only images of kind `MAP` use it.
    pub(crate) fn page(self) -> PageId {
        PageId(u64::from(self.level) << 36 | self.index)
    }
    pub(crate) fn of_page(page: PageId) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "page ids have 40 bits")]
        let level = (page.0 >> 36) as u8;
        Self { level, index: page.0 & ((1 << 36) - 1) }
    }
}

/// Where the two images of a node lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copies {
    pub(crate) first: Address,
    pub(crate) second: Address,
}

impl Copies {
    /// No images.
    pub(crate) const NONE: Self = Self { first: Address::NONE, second: Address::NONE };
    /// The addresses of a node's image in its parent.
    const COUNT: usize = 2;

    pub(crate) fn is_none(self) -> bool {
        self.first.is_none()
    }
    pub(crate) fn each(self) -> [Address; Self::COUNT] {
        [self.first, self.second]
    }
    /// These, with one moved.
    fn moved(self, from: Address, to: Address) -> Self {
        let place = |at: Address| if at == from { to } else { at };
        Self { first: place(self.first), second: place(self.second) }
    }
}

#[derive(Debug)]
struct Node {
    entries: Box<[Address]>,
    dirty: bool,
    used: bool,
}

/// Reads a node's entries from its image.
pub(crate) type LoadNode<'a> = &'a mut dyn FnMut(NodeId, Address) -> Result<Box<[Address]>>;

/// The map.
#[derive(Debug)]
pub(crate) struct Map {
    /// Addresses in a node.
    fan: u64,
    /// Levels; the root is node 0 of level `height - 1`.
    height: u8,
    root: Copies,
    nodes: BTreeMap<NodeId, Node>,
    /// Where dropping clean nodes goes on.
    hand: Option<NodeId>,
}

impl Map {
    /// An empty map. `fan` is a power of two, 4 at least.
    pub(crate) fn new(fan: usize) -> Self {
        Self::open(fan, 1, Copies::NONE)
    }
    /// A map whose root lies at `root`.
    pub(crate) fn open(fan: usize, height: u8, root: Copies) -> Self {
        Self { fan: fan as u64, height, root, nodes: BTreeMap::new(), hand: None }
    }
    pub(crate) fn height(&self) -> u8 {
        self.height
    }
    pub(crate) fn root(&self) -> Copies {
        self.root
    }
    /// Nodes in memory.
    #[cfg(test)]
    pub(crate) fn resident(&self) -> usize {
        self.nodes.len()
    }
    fn top(&self) -> NodeId {
        NodeId { level: self.height - 1, index: 0 }
    }
    /// Children of a node above level 0.
    fn children(&self) -> u64 {
        self.fan / Copies::COUNT as u64
    }
    /// The parent of a node, and where the addresses of its images begin there.
    #[expect(clippy::cast_possible_truncation, reason = "below fan")]
    fn parent(&self, node: NodeId) -> (NodeId, usize) {
        let children = self.children();
        let parent = NodeId { level: node.level + 1, index: node.index / children };
        (parent, (node.index % children) as usize * Copies::COUNT)
    }
    /// Pages below a node of this level; `None` beyond all that there can be.
    fn span(&self, level: u8) -> Option<u64> {
        self.fan.checked_mul(self.children().checked_pow(u32::from(level))?)
    }

    /// Brings a node in; one that never had an image starts empty.
    fn node(&mut self, id: NodeId, load: LoadNode<'_>) -> Result<&mut Node> {
        if !self.nodes.contains_key(&id) {
            let copies = self.copies(id, load)?;
            let mut dirty = false;
            let entries = if copies.is_none() {
                vec![Address::NONE; usize::try_from(self.fan).expect("fan is small")].into()
            } else {
                load(id, copies.first).or_else(|error| {
                    // Written anew with the next checkpoint, so that there are two again.
                    dirty = true;
                    let second = load(id, copies.second).map_err(|_also| error)?;
                    esker_base::mark::MAP_SECOND_IMAGE.hit();
                    Ok(second)
                })?
            };
            self.nodes.insert(id, Node { entries, dirty, used: true });
        }
        let node = self.nodes.get_mut(&id).expect("just inserted");
        node.used = true;
        Ok(node)
    }

    /// Where the newest images of a node lie.
    pub(crate) fn copies(&mut self, id: NodeId, load: LoadNode<'_>) -> Result<Copies> {
        if id == self.top() {
            return Ok(self.root);
        }
        if id.level >= self.height {
            return Ok(Copies::NONE);
        }
        let (parent, slot) = self.parent(id);
        let entries = &self.node(parent, load)?.entries;
        Ok(Copies { first: entries[slot], second: entries[slot + 1] })
    }

    #[expect(clippy::cast_possible_truncation, reason = "below fan")]
    fn leaf_of(&self, page: PageId) -> (NodeId, usize) {
        (NodeId { level: 0, index: page.0 / self.fan }, (page.0 % self.fan) as usize)
    }

    fn covers(&self, page: PageId) -> bool {
        self.span(self.height - 1).is_none_or(|pages| page.0 < pages)
    }

    /// Where the newest image of a page lies; `NONE` if it has none.
    pub(crate) fn get(&mut self, page: PageId, load: LoadNode<'_>) -> Result<Address> {
        if !self.covers(page) {
            return Ok(Address::NONE);
        }
        let (leaf, slot) = self.leaf_of(page);
        Ok(self.node(leaf, load)?.entries[slot])
    }

    /// The first page from `page` on that may have an image: steps over the rest of a node without any.
    pub(crate) fn skip_empty(&mut self, page: PageId, load: LoadNode<'_>) -> Result<PageId> {
        if !self.covers(page) {
            return Ok(PageId(u64::MAX));
        }
        let mut node = self.top();
        while node.level > 0 {
            let span = self.span(node.level - 1).unwrap_or(u64::MAX);
            let child = NodeId { level: node.level - 1, index: page.0 / span };
            if self.copies(child, load)?.is_none() && !self.has_any_of(child) {
                return Ok(PageId((child.index + 1).saturating_mul(span)));
            }
            node = child;
        }
        let (leaf, slot) = self.leaf_of(page);
        let entries = &self.node(leaf, load)?.entries[slot..];
        let empty = entries.iter().position(|address| !address.is_none()).unwrap_or(entries.len());
        Ok(PageId(page.0 + empty as u64))
    }

    /// True if a node, or one below it, is in memory.
    fn has_any_of(&self, node: NodeId) -> bool {
        (0..=node.level).rev().any(|level| {
            let below = self.children().saturating_pow(u32::from(node.level - level));
            let (begin, end) = (node.index * below, (node.index + 1).saturating_mul(below));
            let nodes = NodeId { level, index: begin }..NodeId { level, index: end };
            self.nodes.range(nodes).next().is_some()
        })
    }

    /// The first page behind those that lie below the highest damaged node above `page`, or the one behind it if there is no
    /// such node. Both images of the node are meant.
    pub(crate) fn skip_unreadable(&mut self, page: PageId, load: LoadNode<'_>) -> Result<PageId> {
        for level in (0..self.height).rev() {
            let span = self.span(level).unwrap_or(u64::MAX);
            let id = NodeId { level, index: page.0 / span };
            match self.node(id, load) {
                Ok(_) => {}
                Err(Error::Corrupt { .. }) => {
                    return Ok(PageId((id.index + 1).saturating_mul(span)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(PageId(page.0 + 1))
    }

    /// Changes an entry and returns what was there.
    pub(crate) fn set(
        &mut self,
        page: PageId,
        address: Address,
        load: LoadNode<'_>,
    ) -> Result<Address> {
        while !self.covers(page) {
            // A new root above the old one, whose address becomes its first entry.
            let mut entries = vec![Address::NONE; usize::try_from(self.fan).expect("fan is small")];
            entries[..Copies::COUNT].copy_from_slice(&self.root.each());
            let id = NodeId { level: self.height, index: 0 };
            self.nodes.insert(id, Node { entries: entries.into(), dirty: true, used: true });
            self.height += 1;
            self.root = Copies::NONE;
        }
        let (leaf, slot) = self.leaf_of(page);
        let node = self.node(leaf, load)?;
        node.dirty = true;
        Ok(std::mem::replace(&mut node.entries[slot], address))
    }

    /// Has a node written anew with the next checkpoint: one of its images is damaged.
    pub(crate) fn write_again(&mut self, id: NodeId, load: LoadNode<'_>) -> Result<()> {
        self.node(id, load)?.dirty = true;
        Ok(())
    }

    /// The dirty nodes of a level, in order.
    pub(crate) fn dirty(&self, level: u8) -> Vec<NodeId> {
        let from = NodeId { level, index: 0 };
        let to = NodeId { level: level + 1, index: 0 };
        self.nodes.range(from..to).filter(|(_, node)| node.dirty).map(|(id, _)| *id).collect()
    }

    /// The entries of a node in memory.
    pub(crate) fn entries(&self, id: NodeId) -> &[Address] {
        &self.nodes[&id].entries
    }

    /// A node's images were written; returns where the former ones lie.
    pub(crate) fn written(
        &mut self,
        id: NodeId,
        copies: Copies,
        load: LoadNode<'_>,
    ) -> Result<Copies> {
        let old = self.copies(id, load)?;
        self.set_copies(id, copies, load)?;
        if let Some(node) = self.nodes.get_mut(&id) {
            node.dirty = false;
        }
        Ok(old)
    }

    /// One of a node's images was moved; false if neither lies there any more.
    pub(crate) fn moved(
        &mut self,
        id: NodeId,
        from: Address,
        to: Address,
        load: LoadNode<'_>,
    ) -> Result<bool> {
        let old = self.copies(id, load)?;
        let new = old.moved(from, to);
        if new != old {
            self.set_copies(id, new, load)?;
        }
        Ok(new != old)
    }

    fn set_copies(&mut self, id: NodeId, copies: Copies, load: LoadNode<'_>) -> Result<()> {
        if id == self.top() {
            self.root = copies;
            return Ok(());
        }
        let (parent, slot) = self.parent(id);
        let node = self.node(parent, load)?;
        node.dirty = true;
        node.entries[slot..slot + Copies::COUNT].copy_from_slice(&copies.each());
        Ok(())
    }

    /// Calls `visit` with every node that has images, for pages below `next`. What lies below a node neither of whose images
    /// can be read is passed over.
    pub(crate) fn each_node(
        &mut self,
        load: LoadNode<'_>,
        visit: &mut dyn FnMut(NodeId, Copies),
    ) -> Result<()> {
        let mut todo = VecDeque::from([(self.top(), self.root)]);
        while let Some((id, copies)) = todo.pop_front() {
            if !copies.is_none() {
                visit(id, copies);
            }
            if id.level == 0 || copies.is_none() && !self.has_any_of(id) {
                continue;
            }
            let children = self.children();
            let entries = match self.node(id, load) {
                Ok(node) => &node.entries,
                Err(Error::Corrupt { .. }) => continue,
                Err(error) => return Err(error),
            };
            let images = entries.chunks_exact(Copies::COUNT);
            todo.extend(images.zip(id.index * children..).map(|(images, index)| {
                let copies = Copies { first: images[0], second: images[1] };
                (NodeId { level: id.level - 1, index }, copies)
            }));
        }
        Ok(())
    }

    /// Drops clean nodes that were not used lately until at most `keep` are left, or no more can go.
    pub(crate) fn shrink(&mut self, keep: usize) {
        let mut tries = self.nodes.len() * 2;
        while self.nodes.len() > keep && tries > 0 {
            tries -= 1;
            let from = self.hand.map_or(Bound::Unbounded, Bound::Excluded);
            let Some((&id, node)) = self.nodes.range_mut((from, Bound::Unbounded)).next() else {
                self.hand = None;
                continue;
            };
            self.hand = Some(id);
            if node.used {
                node.used = false;
            } else if !node.dirty {
                self.nodes.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use esker_base::SegmentId;

    fn address(n: u64) -> Address {
        Address { segment: SegmentId(1), offset: 0, number: n, bytes: 9 }
    }

    type Images = BTreeMap<(NodeId, u64), Box<[Address]>>;

    fn read(images: &Images, id: NodeId, at: Address) -> Result<Box<[Address]>> {
        let lost = || Error::corrupt("page image", "seg", 0, "lost");
        images.get(&(id, at.number)).cloned().ok_or_else(lost)
    }

    const PAGES: [u64; 6] = [1, 3, 5, 17, 70, 300];

    /// A map of `PAGES` whose nodes were all written out, and their images.
    fn written() -> (Map, Images) {
        let mut images = Images::new();
        let mut map = Map::new(4);
        let mut numbers = 1000;
        for page in PAGES {
            let load = &mut |id, at| read(&images, id, at);
            let old = map.set(PageId(page), address(page), load).unwrap();
            assert_eq!(old, Address::NONE);
            for level in 0..map.height() {
                for id in map.dirty(level) {
                    numbers += 2;
                    for number in [numbers, numbers + 1] {
                        images.insert((id, number), map.entries(id).into());
                    }
                    let copies = Copies { first: address(numbers), second: address(numbers + 1) };
                    map.written(id, copies, &mut |id, at| read(&images, id, at)).unwrap();
                }
            }
            map.shrink(0);
            map.shrink(0);
        }
        assert_eq!(map.resident(), 0, "everything was clean");
        (Map::open(4, map.height(), map.root()), images)
    }

    fn check_all(map: &mut Map, images: &Images) {
        for page in 0..400 {
            let found = map.get(PageId(page), &mut |id, at| read(images, id, at)).unwrap();
            let wanted = if PAGES.contains(&page) { address(page) } else { Address::NONE };
            assert_eq!(found, wanted, "page {page}");
        }
    }

    #[test]
    fn grows_writes_out_drops_and_loads_again() {
        let (mut map, images) = written();
        check_all(&mut map, &images);
        let mut nodes = 0;
        let visit = &mut |_, copies: Copies| {
            assert_ne!(copies.first, copies.second);
            nodes += 1;
        };
        map.each_node(&mut |id, at| read(&images, id, at), visit).unwrap();
        assert!(nodes > 10, "{nodes} nodes");
    }

    /// Whoever goes through all pages does so by what is there: their numbers may be as large as a file says.
    #[test]
    fn what_is_empty_or_lost_is_stepped_over_at_once() {
        let (mut map, mut images) = written();
        let far = 1 << 39;
        map.set(PageId(far), address(far), &mut |id, at| read(&images, id, at)).unwrap();
        let pages = |map: &mut Map, images: &Images| {
            let load = &mut |id, at| read(images, id, at);
            let (mut found, mut steps, mut page) = (Vec::new(), 0, PageId(0));
            while page.0 <= far {
                steps += 1;
                page = match map.skip_empty(page, load) {
                    Ok(next) if next == page => {
                        found.push(page.0);
                        PageId(page.0 + 1)
                    }
                    Ok(next) => next,
                    Err(_) => map.skip_unreadable(page, load).unwrap(),
                };
            }
            assert!(steps < 400, "{steps} steps");
            found
        };
        let all: Vec<u64> = PAGES.into_iter().chain([far]).collect();
        // From disk, and with all of it in memory.
        for _ in 0..2 {
            assert_eq!(pages(&mut map, &images), all);
            check_all(&mut map, &images);
        }
        // A page whose nodes are in memory only.
        map.set(PageId(1 << 20), address(7), &mut |id, at| read(&images, id, at)).unwrap();
        let more: Vec<u64> = PAGES.into_iter().chain([1 << 20, far]).collect();
        assert_eq!(pages(&mut map, &images), more);
        let mut nodes = Vec::new();
        let load = &mut |id, at| read(&images, id, at);
        map.each_node(load, &mut |id, _| nodes.push(id)).unwrap();
        assert!(nodes.is_sorted_by_key(|id| (std::cmp::Reverse(id.level), id.index)));

        // Without the node above pages 64 to 127.
        let (mut map, _) = written();
        let lost = NodeId { level: 4, index: 1 };
        assert_eq!(map.span(lost.level), Some(64));
        let all = nodes.len();
        images.retain(|(id, _), _| *id != lost);
        let load = &mut |id, at| read(&images, id, at);
        assert_eq!(map.skip_unreadable(PageId(70), load).unwrap(), PageId(128));
        assert_eq!(map.skip_unreadable(PageId(300), load).unwrap(), PageId(301));
        assert_eq!(pages(&mut map, &images), [1, 3, 5, 17, 300]);
        let mut nodes = 0;
        let load = &mut |id, at| read(&images, id, at);
        map.each_node(load, &mut |_, _| nodes += 1).unwrap();
        assert!(nodes < all);
    }

    #[test]
    fn one_of_two_images_of_each_node_is_enough_and_is_doubled_again() {
        for lost in 0..2 {
            let (mut map, mut images) = written();
            // The second of a pair has the odd number.
            images.retain(|(_, number), _| number % 2 != lost);
            check_all(&mut map, &images);
            let dirty: usize = (0..map.height()).map(|level| map.dirty(level).len()).sum();
            assert_eq!(dirty > 0, lost == 0, "nodes whose first image was lost are written again");
        }
    }

    #[test]
    fn without_both_images_of_a_node_the_others_are_found() {
        let (mut map, mut images) = written();
        let load = &mut |id, at| read(&images, id, at);
        let node = NodeId { level: 0, index: 300 / 4 };
        let copies = map.copies(node, load).unwrap();
        images.retain(|(id, number), _| {
            *id != node || copies.each().iter().all(|copy| copy.number != *number)
        });
        let mut map = Map::open(4, map.height(), map.root());
        let load = &mut |id, at| read(&images, id, at);
        assert!(map.get(PageId(300), load).is_err());
        assert_eq!(map.get(PageId(70), load).unwrap(), address(70));
    }

    #[test]
    fn an_image_that_moves_leaves_the_other_where_it_is() {
        let (mut map, mut images) = written();
        let node = NodeId { level: 0, index: 0 };
        let load = &mut |id, at| read(&images, id, at);
        let old = map.copies(node, load).unwrap();
        assert!(map.moved(node, old.second, address(7), load).unwrap());
        assert!(!map.moved(node, old.second, address(8), load).unwrap(), "not there any more");
        let new = map.copies(node, load).unwrap();
        assert_eq!(new, Copies { first: old.first, second: address(7) });
        let entries = read(&images, node, old.second).unwrap();
        images.insert((node, 7), entries);
        check_all(&mut map, &images);
    }
}
