//! Which pages there are.

use super::{Images, Inner, decode_map_node};
use crate::store::image::Address;
use crate::store::map::NodeId;
use crate::store::map_fan;
use esker_base::{PageId, Result};
use esker_io::Disk;

/// What the map says of the pages from one on.
enum Mapped {
    /// There is none before this one, which may have an image.
    Page(PageId),
    /// It cannot be read before `end`.
    Unknown { end: PageId },
}

impl Images<'_> {
    /// All pages that may have an image, as the map says; where it cannot be read, as the segments say.
    pub(in crate::repair) fn ids(&self) -> Result<Vec<PageId>> {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let next = PageId(self.next.unwrap_or(u64::MAX));
        let (mut ids, mut from) = (Vec::new(), PageId(1));
        while from < next {
            match inner.mapped(self.disk, self.page_bytes, from) {
                Mapped::Page(page) => {
                    if page == from {
                        ids.push(page);
                    }
                    from = PageId(page.0 + u64::from(page == from));
                }
                Mapped::Unknown { end } => {
                    let end = end.min(next);
                    let scan = inner.scan(self.disk, self.limit)?;
                    ids.extend(scan.newest.range(from..end).map(|(page, _)| *page));
                    from = end;
                }
            }
        }
        Ok(ids)
    }
}

impl Inner {
    fn mapped(&mut self, disk: &dyn Disk, page_bytes: usize, from: PageId) -> Mapped {
        let Some(mut map) = self.map.take() else {
            return Mapped::Unknown { end: PageId(u64::MAX) };
        };
        let load = &mut |node: NodeId, at: Address| {
            let image = self.read(disk, at)?;
            decode_map_node(&mut self.codec, &image, node, at, map_fan(page_bytes))
        };
        let mapped = match map.skip_empty(from, load) {
            Ok(page) => Ok(page),
            // What cannot be read for another reason is asked for page by page.
            Err(error) => {
                Err((map.skip_unreadable(from, load).unwrap_or(PageId(from.0 + 1)), error))
            }
        };
        self.map = Some(map);
        match mapped {
            Ok(page) => Mapped::Page(page),
            Err((end, error)) => {
                self.note(&error);
                Mapped::Unknown { end }
            }
        }
    }
}
