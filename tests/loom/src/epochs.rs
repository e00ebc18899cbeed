//! Memory that is pinned is not used again, and memory that is not can be.

use crate::epoch::Epochs;
use crate::run;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

/// A frame of which the engine's rules are: the content does not change after `page` was set; `page` is cleared before
/// the frame is retired; it is reused when every epoch of that time has ended.
struct Frame {
    epochs: Epochs,
    page: AtomicU64,
    content: UnsafeCell<u64>,
}

impl Frame {
    fn new() -> Arc<Self> {
        let (page, content) = (AtomicU64::new(7), UnsafeCell::new(7));
        Arc::new(Self { epochs: Epochs::new(), page, content })
    }

    /// Reads the page, if it is there, as a reader does on the way down.
    fn read(&self) {
        let pin = self.epochs.pin();
        let page = self.page.load(Ordering::Acquire);
        if page != 0 {
            // SAFETY: loom reports a write at the same time.
            self.content.with(|content| assert_eq!(page, unsafe { *content }));
            // Still: what was found stays while the pin lasts.
            self.content.with(|content| assert_eq!(page, unsafe { *content }));
        }
        drop(pin);
    }

    /// Takes the page out of reach and fills the frame with another one, unless somebody may be looking.
    fn reuse(&self, page: u64) -> bool {
        self.page.store(0, Ordering::Release);
        let epoch = self.epochs.retire();
        let free = epoch < self.epochs.oldest_pinned();
        if free {
            // SAFETY: loom reports an access at the same time.
            self.content.with_mut(|content| unsafe { *content = page });
            self.page.store(page, Ordering::Release);
        }
        free
    }
}

#[test]
fn a_frame_is_not_filled_under_its_reader() {
    run(4, || {
        let frame = Frame::new();
        let other = Arc::clone(&frame);
        let reader = thread::spawn(move || other.read());
        frame.reuse(8);
        reader.join().unwrap();
        assert!(frame.reuse(9), "nobody is pinned");
    });
}

#[test]
fn nor_under_one_of_two() {
    run(3, || {
        let frame = Frame::new();
        let readers = [(); 2].map(|()| {
            let frame = Arc::clone(&frame);
            thread::spawn(move || frame.read())
        });
        frame.reuse(8);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

/// A reader that comes after the frame was filled anew finds the new page, whole.
#[test]
fn twice_in_a_row() {
    run(3, || {
        let frame = Frame::new();
        let other = Arc::clone(&frame);
        let reader = thread::spawn(move || {
            other.read();
            other.read();
        });
        frame.reuse(8);
        frame.reuse(9);
        reader.join().unwrap();
    });
}
