//! Which frames are free, and which are withdrawn: not to be taken, so that their memory can go back to the system.
//!
//! ```text
//!  0                      limit                        end               count
//!  | free, or in use       | withdrawn, or still in use  | withdrawn, all  |
//! ```
//!
//! Frames are withdrawn from the top. Below `limit` they are taken; what is in use above it is collected when it becomes free. Memory
//! goes back in *pieces* (huge pages, where the arena is large), each when all of its frames are collected. Frames that are
//! wanted again come back piece by piece from the limit up.

use super::frame::FrameId;

/// Frames that are free or withdrawn.
#[derive(Debug)]
pub(crate) struct FreeFrames {
    count: u32,
    piece_frames: u32,
    limit: FrameId,
    /// Below the limit.
    free: Vec<FrameId>,
    /// From the limit on, by piece.
    withdrawn: Vec<Piece>,
}

#[derive(Clone, Debug, Default)]
struct Piece {
    frames: Vec<FrameId>,
    /// The system has its memory.
    is_given_back: bool,
}

impl FreeFrames {
    /// `count` free frames, taken in their order.
    pub(crate) fn new(count: u32, piece_frames: u32) -> Self {
        assert!(piece_frames > 0, "pieces have frames");
        Self {
            count,
            piece_frames,
            limit: count,
            free: (0..count).rev().collect(),
            withdrawn: vec![Piece::default(); count.div_ceil(piece_frames) as usize],
        }
    }

    fn piece_of(&self, frame: FrameId) -> usize {
        (frame / self.piece_frames) as usize
    }
    /// The frames of a piece.
    pub(crate) fn frames_of(&self, piece: usize) -> std::ops::Range<FrameId> {
        let first = u32::try_from(piece).expect("counted in 32 bits") * self.piece_frames;
        first..first.saturating_add(self.piece_frames).min(self.count)
    }
    fn is_complete(&self, piece: usize) -> bool {
        self.withdrawn[piece].frames.len() == self.frames_of(piece).len()
    }
    /// The pieces from the limit on.
    fn pieces(&self) -> std::ops::Range<usize> {
        self.limit.div_ceil(self.piece_frames) as usize..self.withdrawn.len()
    }

    /// Frames from here on are withdrawn. A multiple of a piece, or the number of frames.
    pub(crate) fn limit(&self) -> FrameId {
        self.limit
    }
    /// Nothing is in use from here on.
    pub(crate) fn end(&self) -> FrameId {
        let last = self.pieces().rev().find(|piece| !self.is_complete(*piece));
        last.map_or(self.limit, |piece| self.frames_of(piece).end)
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.free.is_empty()
    }
    pub(crate) fn pop(&mut self) -> Option<FrameId> {
        self.free.pop()
    }
    /// A frame has become free. False if it is withdrawn.
    pub(crate) fn push(&mut self, frame: FrameId) -> bool {
        if frame < self.limit {
            self.free.push(frame);
            return true;
        }
        let piece = self.piece_of(frame);
        self.withdrawn[piece].frames.push(frame);
        false
    }

    /// Withdraws frames from about `limit` on, if they are not already. Returns how many of them were free.
    pub(crate) fn lower(&mut self, limit: FrameId) -> usize {
        let limit = limit.next_multiple_of(self.piece_frames);
        if limit >= self.limit {
            return 0;
        }
        self.limit = limit;
        let before = self.free.len();
        let mut free = std::mem::take(&mut self.free);
        free.retain(|&frame| self.push_withdrawn(frame));
        self.free = free;
        before - self.free.len()
    }

    /// Collects a frame if it is withdrawn; true if it is not.
    fn push_withdrawn(&mut self, frame: FrameId) -> bool {
        frame < self.limit || self.push(frame)
    }

    /// Takes back the next piece. Returns how many frames became free, or `None` if there is no more.
    pub(crate) fn raise(&mut self) -> Option<usize> {
        if self.limit >= self.count {
            return None;
        }
        let piece = self.piece_of(self.limit);
        let mut back = std::mem::take(&mut self.withdrawn[piece]).frames;
        self.limit = self.frames_of(piece).end;
        // So that they are taken in their order, after those that are free anyway.
        back.sort_unstable_by(|a, b| b.cmp(a));
        let count = back.len();
        self.free.splice(0..0, back);
        Some(count)
    }

    /// The next piece whose frames are all collected and whose memory is still here.
    pub(crate) fn next_to_give(&self) -> Option<usize> {
        self.pieces().find(|&piece| self.is_complete(piece) && !self.withdrawn[piece].is_given_back)
    }
    /// Its memory was given back.
    pub(crate) fn note_given_back(&mut self, piece: usize) {
        debug_assert!(self.is_complete(piece));
        self.withdrawn[piece].is_given_back = true;
    }
    /// Frames whose memory the system has.
    pub(crate) fn given_back(&self) -> usize {
        let given = self.pieces().filter(|&piece| self.withdrawn[piece].is_given_back);
        given.map(|piece| self.frames_of(piece).len()).sum()
    }
    /// Withdrawn frames that are to be collected still, with some of those that are.
    pub(crate) fn to_collect(&self) -> Vec<std::ops::Range<FrameId>> {
        let left = self.pieces().filter(|&piece| !self.is_complete(piece));
        left.map(|piece| self.frames_of(piece)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(free: &mut FreeFrames, n: usize) -> Vec<FrameId> {
        (0..n).map(|_| free.pop().unwrap()).collect()
    }

    #[test]
    fn what_is_withdrawn_is_collected_and_comes_back() {
        // Four pieces, the last of two frames.
        let mut free = FreeFrames::new(14, 4);
        assert_eq!((free.limit(), free.end(), free.raise()), (14, 14, None));
        let used = take(&mut free, 10);
        assert_eq!(used, (0..10).collect::<Vec<_>>(), "in their order");

        // 5 is no border: all of the second piece may still be taken.
        assert_eq!(free.lower(5), 4, "10 to 13 were free");
        assert_eq!((free.limit(), free.end()), (8, 12), "8 and 9 are in use");
        assert_eq!(free.lower(12), 0, "it only falls");
        assert_eq!(free.pop(), None);
        assert_eq!(free.to_collect(), vec![8..12; 1]);
        assert_eq!(free.next_to_give(), Some(3));
        free.note_given_back(3);
        assert_eq!((free.next_to_give(), free.given_back()), (None, 2));

        assert!(!free.push(9) && !free.push(8) && free.push(7));
        assert_eq!((free.limit(), free.end()), (8, 8));
        assert_eq!(free.next_to_give(), Some(2));
        free.note_given_back(2);
        assert_eq!((free.given_back(), free.to_collect()), (6, vec![]));

        assert_eq!(free.raise(), Some(4));
        assert_eq!((free.limit(), free.end(), free.given_back()), (12, 12, 2));
        assert_eq!(take(&mut free, 5), [7, 8, 9, 10, 11], "in their order");
        assert_eq!(free.raise(), Some(2));
        assert_eq!(take(&mut free, 2), [12, 13]);
        assert_eq!((free.raise(), free.given_back()), (None, 0));
    }

    #[test]
    fn what_was_not_collected_when_its_piece_comes_back_is_in_use_as_before() {
        let mut free = FreeFrames::new(8, 4);
        assert_eq!(take(&mut free, 6).len(), 6);
        assert_eq!(free.lower(4), 2);
        assert!(!free.push(4));
        assert_eq!(free.raise(), Some(3));
        assert!(free.push(5) && free.push(0));
        let mut all = take(&mut free, 5);
        all.sort_unstable();
        assert_eq!(all, [0, 4, 5, 6, 7]);
    }
}
