//! Reading one row, or some: where the value is copied to, and where it is looked for besides pages.

use crate::catalog::TableState;
use crate::engine::Engine;
use crate::store::pages::Session;
use crate::table::{HeldCut, check_open};
use crate::value::{self, Handle};
use esker_base::sync::Arc;
use esker_base::{Result, TableId};
use esker_index::kind::{Look, Value};
use esker_index::pages::{Step, View};

/// A value as a leaf gave it: copied out, or the handle of a large one.
pub(crate) enum Found {
    Inline(Vec<u8>),
    Large(Handle),
}

/// Longest inline value that is copied to the stack on its way to a closure.
const STACK_BYTES: usize = 2048;

/// Where [`get_with`] has put a value: `Stack` is what [`Copy::take`] has copied.
enum Got {
    Nothing,
    Stack(usize),
    Heap(Vec<u8>),
    Large,
}

pub(crate) fn get_with<R>(
    engine: &Arc<Engine>,
    table: &TableState,
    key: &[u8],
    f: impl FnOnce(&[u8]) -> R,
) -> Result<Option<R>> {
    check_open(engine, table)?;
    // The value is copied out under the latch and given to `f` after it, so that `f` may take its
    // time and call the database.
    let mut copy = Copy::new();
    let look = |copy: &mut Copy, session: &Session<'_>| {
        table.index.get(session, &table.root, View::Current, key, |value, _| match value {
            None | Some(Value::Tombstone) => Got::Nothing,
            Some(Value::Inline(value)) => copy.take(value),
            Some(Value::Overflow(_)) => Got::Large,
        })
    };
    let got = if engine.row_cache.is_on() {
        look_in_cache(engine, table.id, key, &mut copy, look)?
    } else {
        engine.read(table.id, View::Current, |session| look(&mut copy, session))?
    };
    match got {
        Got::Nothing => Ok(None),
        Got::Stack(bytes) => Ok(Some(f(copy.stack(bytes)))),
        Got::Heap(value) => Ok(Some(f(&value))),
        Got::Large => {
            // Its pages may be freed at any moment unless a cut holds them.
            let cut = HeldCut::take(engine);
            match find(engine, table, View::Cut(cut.commit), key)? {
                None => Ok(None),
                Some(Found::Inline(value)) => Ok(Some(f(&value))),
                Some(Found::Large(handle)) => Ok(Some(f(&large(engine, handle)?))),
            }
        }
    }
}

/// As a read of the row, by way of the row cache where a page is missing.
#[cold]
fn look_in_cache(
    engine: &Engine,
    table: TableId,
    key: &[u8],
    copy: &mut Copy,
    look: impl Fn(&mut Copy, &Session<'_>) -> Step<Got>,
) -> Result<Got> {
    let Some(hash) = engine.row_cache.hash_of(table, key) else {
        return engine.read(table, View::Current, |session| look(copy, session));
    };
    if let Some(got) = engine.read_in_memory(table, |session| look(copy, session)) {
        return Ok(got);
    }
    let ticket = match engine.row_cache.find(hash, table, key, |value| copy.take(value)) {
        Ok(got) => return Ok(got),
        Err(ticket) => ticket,
    };
    let got = engine.read(table, View::Current, |session| look(copy, session))?;
    match &got {
        Got::Stack(bytes) => engine.row_cache.put(ticket, table, key, copy.stack(*bytes)),
        Got::Heap(value) => engine.row_cache.put(ticket, table, key, value),
        Got::Nothing | Got::Large => {}
    }
    Ok(got)
}

/// A value that was copied out of a page.
struct Copy([std::mem::MaybeUninit<u8>; STACK_BYTES]);

impl Copy {
    #[inline]
    fn new() -> Self {
        Self([std::mem::MaybeUninit::uninit(); STACK_BYTES])
    }
    #[inline]
    fn take(&mut self, value: &[u8]) -> Got {
        if value.len() > STACK_BYTES {
            return Got::Heap(value.to_vec());
        }
        for (slot, byte) in self.0.iter_mut().zip(value) {
            slot.write(*byte);
        }
        Got::Stack(value.len())
    }
    /// What [`Self::take`] has copied last, which were so many bytes.
    #[allow(unsafe_code, reason = "zeroing 2 KiB would cost a get 30 ns")]
    fn stack(&self, bytes: usize) -> &[u8] {
        let bytes = &self.0[..bytes];
        // SAFETY: `Got::Stack` says how many bytes were written, and `MaybeUninit<u8>` has the layout of `u8`.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<u8>(), bytes.len()) }
    }
}

/// Looks a key up at a view.
pub(crate) fn find(
    engine: &Engine,
    table: &TableState,
    view: View,
    key: &[u8],
) -> Result<Option<Found>> {
    engine.read(table.id, view, |session| {
        table.index.get(session, &table.root, view, key, |value, _| match value? {
            Value::Inline(value) => Some(Found::Inline(value.to_vec())),
            Value::Overflow(handle) => Some(Found::Large(Handle::decode(&handle))),
            Value::Tombstone => None,
        })
    })
}

/// Looks a key up at a view, and whole.
pub(crate) fn find_whole(
    engine: &Engine,
    table: &TableState,
    view: View,
    key: &[u8],
) -> Result<Option<Vec<u8>>> {
    Ok(match find(engine, table, view, key)? {
        None => None,
        Some(Found::Inline(value)) => Some(value),
        Some(Found::Large(handle)) => Some(large(engine, handle)?),
    })
}

/// Reads a large value. A cut holds its pages.
pub(crate) fn large(engine: &Engine, handle: Handle) -> Result<Vec<u8>> {
    value::read(&engine.store, handle)
}

/// Reads the leaves of many keys in batches, as far as a quarter of memory goes.
pub(crate) fn prefetch<K: AsRef<[u8]>>(
    engine: &Engine,
    table: &TableState,
    view: View,
    keys: &[K],
) -> Result<()> {
    /// Reads in one batch: the depth at which devices are at their best.
    const BATCH: usize = 32;
    let limit = engine.store.frames.limit() as usize / 4;
    let mut missing = Vec::new();
    let mut loaded = 0;
    for key in keys {
        let leaf = engine.read(table.id, view, |session| {
            table.index.page_of(session, &table.root, view, key.as_ref(), Look::Existing)
        })?;
        let Some(leaf) = leaf else { continue };
        if engine.store.resident.get(leaf).is_none() && !missing.contains(&leaf) {
            missing.push(leaf);
            if missing.len() == BATCH {
                loaded += missing.len();
                // What fails here is met again, with its error, by the read itself.
                let _ignored = engine.store.load_many(&missing, view).is_err();
                missing.clear();
                if loaded >= limit {
                    return Ok(());
                }
            }
        }
    }
    if !missing.is_empty() {
        let _ignored = engine.store.load_many(&missing, view).is_err();
    }
    Ok(())
}
