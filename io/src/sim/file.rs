//! Open files and windows of a simulated disk.

use super::inode::Change;
use super::names::InodeNo;
use super::pages::{PAGE_BYTES, pages_of, usize_of};
use super::{OpKind, SimDisk};
use crate::name::{self, check_writable, end_of};
use crate::{File, OpenMode, Residence, Window};
use esker_base::Result;
use esker_base::sync::{Arc, Mutex};

#[derive(Debug)]
pub(super) struct SimFile {
    disk: SimDisk,
    name: String,
    inode: InodeNo,
    mode: OpenMode,
}

/// Keeps the file open, as a mapping does.
#[derive(Debug)]
struct SimWindow {
    file: SimFile,
    offset: u64,
    bytes: u64,
    /// One flag per page: a store elsewhere could be a signal on a real disk, so it panics here.
    populated: Mutex<Vec<bool>>,
}

impl SimFile {
    /// The caller has counted the handle.
    pub(super) fn new(disk: SimDisk, name: String, inode: InodeNo, mode: OpenMode) -> Self {
        Self { disk, name, inode, mode }
    }

    fn write(&self, kind: OpKind, op: &'static str, change: Change) -> Result<()> {
        let (offset, bytes) = change.range().expect("a change of data");
        let number = self.disk.begin(op, &self.name, [offset, bytes], Some((self.inode, &change)));
        let mut state = self.disk.state();
        state.in_flight.remove(&number);
        if let Err(error) = state.fault(kind, op, &self.name) {
            state.change_in_part(self.inode, &change);
            return Err(error);
        }
        state.change(self.inode, op, &self.name, change)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        state.inode(self.inode).handles -= 1;
        state.reap();
    }
}

impl File for SimFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = end_of(&self.name, "read", offset, buf.len() as u64)?;
        let mut state = self.disk.state();
        state.note("read", &self.name, [offset, buf.len() as u64], &[]);
        state.fault(OpKind::Read, "read", &self.name)?;
        let live = &state.inode(self.inode).live;
        if end > live.len {
            return Err(name::unexpected_eof(&self.name, offset));
        }
        live.pages.read(offset, buf);
        Ok(())
    }

    fn residence(&self, _offset: u64, _bytes: usize) -> Residence {
        self.disk.state().answering.next()
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        check_writable(self.mode, "write", self)?;
        end_of(&self.name, "write", offset, data.len() as u64)?;
        self.write(OpKind::Write, "write", Change::Write { offset, data: data.into() })
    }

    fn sync(&self) -> Result<()> {
        self.disk.begin("sync", &self.name, [0, 0], None);
        let mut state = self.disk.state();
        let fault = state.fault(OpKind::Sync, "sync", &self.name);
        let inode = state.inode(self.inode);
        if fault.is_err() {
            inode.fail_sync();
        } else {
            inode.sync();
        }
        fault
    }

    fn start_write_out(&self, offset: u64, bytes: u64) -> Result<()> {
        self.disk.state().note("write out", &self.name, [offset, bytes], &[]);
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        Ok(self.disk.state().inode(self.inode).live.len)
    }

    fn set_len(&self, bytes: u64) -> Result<()> {
        check_writable(self.mode, "set length", self)?;
        end_of(&self.name, "set length", bytes, 0)?;
        self.disk.begin("set length", &self.name, [bytes, 0], None);
        let mut state = self.disk.state();
        state.fault(OpKind::Write, "set length", &self.name)?;
        let from = state.inode(self.inode).live.len;
        if from == bytes {
            return Ok(());
        }
        state.change(self.inode, "set length", &self.name, Change::Length { from, to: bytes })
    }

    fn preallocate(&self, bytes: u64) -> Result<()> {
        check_writable(self.mode, "preallocate", self)?;
        end_of(&self.name, "preallocate", bytes, 0)?;
        let offset = self.len()?;
        let bytes = bytes.saturating_sub(offset);
        self.write(OpKind::Allocate, "preallocate", Change::Zero { offset, bytes })
    }

    fn window(&self, offset: u64, bytes: u64) -> Result<Arc<dyn Window>> {
        check_writable(self.mode, "map", self)?;
        let mut state = self.disk.state();
        state.note("window", &self.name, [offset, bytes], &[]);
        state.fault(OpKind::Allocate, "map", &self.name)?;
        let inode = state.inode(self.inode);
        name::check_window(&self.name, offset, bytes, inode.live.len)?;
        inode.handles += 1;
        drop(state);
        let file = Self::new(self.disk.clone(), self.name.clone(), self.inode, self.mode);
        let pages = usize_of(bytes.div_ceil(PAGE_BYTES as u64));
        Ok(Arc::new(SimWindow { file, offset, bytes, populated: Mutex::new(vec![false; pages]) }))
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Window for SimWindow {
    fn store(&self, offset: u64, data: &[u8]) {
        name::assert_inside_window(offset, data.len() as u64, self.bytes);
        let file = &self.file;
        let at = self.offset + offset;
        let pages = pages_of(offset, data.len() as u64);
        assert!(
            pages.clone().all(|page| self.populated.lock()[usize_of(page)]),
            "a store of {} bytes at {at} of {} to a page that was not populated",
            data.len(),
            file.name
        );
        let change = Change::Write { offset: at, data: data.into() };
        let numbers = [at, data.len() as u64];
        let number = file.disk.begin("store", &file.name, numbers, Some((file.inode, &change)));
        let mut state = file.disk.state();
        state.in_flight.remove(&number);
        let len = state.inode(file.inode).live.len;
        assert!(at + data.len() as u64 <= len, "{} was cut under its window", file.name);
        let stored = state.change(file.inode, "store", &file.name, change);
        drop(state);
        stored.expect("populated pages have their blocks");
    }

    fn populate(&self, offset: u64, bytes: u64) -> Result<()> {
        name::assert_inside_window(offset, bytes, self.bytes);
        let file = &self.file;
        file.disk.begin("populate", &file.name, [self.offset + offset, bytes], None);
        let mut state = file.disk.state();
        state.fault(OpKind::Allocate, "populate", &file.name)?;
        let missing: Vec<u64> = pages_of(self.offset + offset, bytes)
            .filter(|&page| state.inode(file.inode).live.pages.page(page).is_none())
            .collect();
        for page in missing {
            let offset = page * PAGE_BYTES as u64;
            let len = state.inode(file.inode).live.len;
            let bytes = (PAGE_BYTES as u64).min(len.saturating_sub(offset));
            state.change(file.inode, "populate", &file.name, Change::Zero { offset, bytes })?;
        }
        drop(state);
        for page in pages_of(offset, bytes) {
            self.populated.lock()[usize_of(page)] = true;
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}
