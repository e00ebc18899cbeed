//! The page map: page id → address of its newest image.
//!
//! A radix tree of nodes with `fan` addresses each: level 0 nodes hold addresses of pages, higher ones
//! addresses of nodes below. Nodes are written as images like pages; they are loaded when needed and clean ones may be
//! dropped. Only the root's address stands outside, in the checkpoint.

use super::image::Address;
use esker_base::{PageId, Result};
use std::collections::BTreeMap;
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
    fan: u64,
    /// Levels; the root is node 0 of level `height - 1`.
    height: u8,
    root: Address,
    nodes: BTreeMap<NodeId, Node>,
    /// Where dropping clean nodes goes on.
    hand: Option<NodeId>,
}

impl Map {
    /// An empty map. `fan` is a power of two.
    pub(crate) fn new(fan: usize) -> Self {
        Self::open(fan, 1, Address::NONE)
    }
    /// A map whose root lies at `root`.
    pub(crate) fn open(fan: usize, height: u8, root: Address) -> Self {
        Self { fan: fan as u64, height, root, nodes: BTreeMap::new(), hand: None }
    }
    pub(crate) fn height(&self) -> u8 {
        self.height
    }
    pub(crate) fn root(&self) -> Address {
        self.root
    }
    pub(crate) fn set_root(&mut self, root: Address) -> Address {
        std::mem::replace(&mut self.root, root)
    }
    /// Nodes in memory.
    #[cfg(test)]
    pub(crate) fn resident(&self) -> usize {
        self.nodes.len()
    }
    fn top(&self) -> NodeId {
        NodeId { level: self.height - 1, index: 0 }
    }
    fn parent(&self, node: NodeId) -> (NodeId, usize) {
        let parent = NodeId { level: node.level + 1, index: node.index / self.fan };
        (parent, self.slot(node.index))
    }
    #[expect(clippy::cast_possible_truncation, reason = "below fan")]
    fn slot(&self, index: u64) -> usize {
        (index % self.fan) as usize
    }

    /// Brings a node in; one that never had an image starts empty.
    fn node(&mut self, id: NodeId, load: LoadNode<'_>) -> Result<&mut Node> {
        if !self.nodes.contains_key(&id) {
            let address = self.node_address(id, load)?;
            let entries = if address.is_none() {
                vec![Address::NONE; usize::try_from(self.fan).expect("fan is small")].into()
            } else {
                load(id, address)?
            };
            self.nodes.insert(id, Node { entries, dirty: false, used: true });
        }
        let node = self.nodes.get_mut(&id).expect("just inserted");
        node.used = true;
        Ok(node)
    }

    /// Where the newest image of a node lies.
    pub(crate) fn node_address(&mut self, id: NodeId, load: LoadNode<'_>) -> Result<Address> {
        if id == self.top() {
            return Ok(self.root);
        }
        if id.level >= self.height {
            return Ok(Address::NONE);
        }
        let (parent, slot) = self.parent(id);
        Ok(self.node(parent, load)?.entries[slot])
    }

    fn leaf_of(&self, page: PageId) -> (NodeId, usize) {
        (NodeId { level: 0, index: page.0 / self.fan }, self.slot(page.0))
    }

    fn covers(&self, page: PageId) -> bool {
        self.fan.checked_pow(u32::from(self.height)).is_none_or(|pages| page.0 < pages)
    }

    /// Where the newest image of a page lies; `NONE` if it has none.
    pub(crate) fn get(&mut self, page: PageId, load: LoadNode<'_>) -> Result<Address> {
        if !self.covers(page) {
            return Ok(Address::NONE);
        }
        let (leaf, slot) = self.leaf_of(page);
        Ok(self.node(leaf, load)?.entries[slot])
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
            entries[0] = self.root;
            let id = NodeId { level: self.height, index: 0 };
            self.nodes.insert(id, Node { entries: entries.into(), dirty: true, used: true });
            self.height += 1;
            self.root = Address::NONE;
        }
        let (leaf, slot) = self.leaf_of(page);
        let node = self.node(leaf, load)?;
        node.dirty = true;
        Ok(std::mem::replace(&mut node.entries[slot], address))
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

    /// A node's image was written at `address`; returns where its former one lies.
    pub(crate) fn written(
        &mut self,
        id: NodeId,
        address: Address,
        load: LoadNode<'_>,
    ) -> Result<Address> {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.dirty = false;
        }
        self.moved(id, address, load)
    }

    /// A node's image was moved to `address`; returns where it was.
    pub(crate) fn moved(
        &mut self,
        id: NodeId,
        address: Address,
        load: LoadNode<'_>,
    ) -> Result<Address> {
        if id == self.top() {
            return Ok(self.set_root(address));
        }
        let (parent, slot) = self.parent(id);
        let node = self.node(parent, load)?;
        node.dirty = true;
        Ok(std::mem::replace(&mut node.entries[slot], address))
    }

    /// Calls `visit` with the address of every node's image, for pages below `next`.
    pub(crate) fn each_node(
        &mut self,
        next: u64,
        load: LoadNode<'_>,
        visit: &mut dyn FnMut(Address),
    ) -> Result<()> {
        let mut span = 1u64;
        for level in 0..self.height {
            span = span.saturating_mul(self.fan);
            for index in 0..next.div_ceil(span) {
                let address = self.node_address(NodeId { level, index }, load)?;
                if !address.is_none() {
                    visit(address);
                }
            }
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

    #[test]
    fn grows_writes_out_drops_and_loads_again() {
        let mut images: BTreeMap<(NodeId, u64), Box<[Address]>> = BTreeMap::new();
        let mut map = Map::new(4);
        let mut numbers = 1000;
        for page in [1u64, 3, 5, 17, 70, 300] {
            let old =
                map.set(PageId(page), address(page), &mut |id, at| {
                    Ok(images[&(id, at.number)].clone())
                })
                .unwrap();
            assert_eq!(old, Address::NONE);
            for level in 0..map.height() {
                for id in map.dirty(level) {
                    numbers += 1;
                    images.insert((id, numbers), map.entries(id).into());
                    let mut load = |id, at: Address| Ok(images[&(id, at.number)].clone());
                    map.written(id, address(numbers), &mut load).unwrap();
                }
            }
            map.shrink(0);
        }
        assert_eq!(map.resident(), 0, "everything was clean");
        let mut map = Map::open(4, map.height(), map.root());
        let mut load = |id, at: Address| Ok(images[&(id, at.number)].clone());
        for page in 0..400 {
            let found = map.get(PageId(page), &mut load).unwrap();
            let wanted =
                if [1, 3, 5, 17, 70, 300].contains(&page) { address(page) } else { Address::NONE };
            assert_eq!(found, wanted, "page {page}");
        }
    }
}
