//! The one directory of a simulated disk: names as programs see them, as the device has them, and
//! the changes between the two.

use std::collections::BTreeMap;

pub(super) type InodeNo = u64;
type Map = BTreeMap<String, InodeNo>;

#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Link { name: String, inode: InodeNo },
    Unlink { name: String, inode: InodeNo },
    Rename { to: String, inode: InodeNo },
}

#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) live: Map,
    pub(super) durable: Map,
    /// With the number that orders them among all pending changes of the disk.
    pub(super) pending: Vec<(u64, NameChange)>,
}

impl Names {
    pub(super) fn change(&mut self, seq: &mut u64, change: NameChange) {
        apply(&mut self.live, &change);
        self.pending.push((*seq, change));
        *seq += 1;
    }

    pub(super) fn sync(&mut self) {
        self.pending.clear();
        self.durable = self.live.clone();
    }

    /// True if some state of the directory that is still possible has this file.
    pub(super) fn refer_to(&self, inode: InodeNo) -> bool {
        self.live.values().chain(self.durable.values()).any(|&other| other == inode)
            || self.pending.iter().any(|(_, change)| change.inode() == inode)
    }
}

impl NameChange {
    fn inode(&self) -> InodeNo {
        match self {
            Self::Link { inode, .. } | Self::Unlink { inode, .. } | Self::Rename { inode, .. } => {
                *inode
            }
        }
    }
}

/// Does a change to a directory in which any of the changes before it may be missing.
pub(super) fn apply(names: &mut Map, change: &NameChange) {
    match change {
        NameChange::Link { name, inode } => {
            names.insert(name.clone(), *inode);
        }
        NameChange::Unlink { name, inode } => {
            // The name may belong to another file if the change that gave it away is missing.
            if names.get(name) == Some(inode) {
                names.remove(name);
            }
        }
        NameChange::Rename { to, inode } => {
            // All or nothing: whatever the file was called before, it is called so no more.
            names.retain(|_, other| other != inode);
            names.insert(to.clone(), *inode);
        }
    }
}
