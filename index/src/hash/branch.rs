//! Branch pages: 2^k words, and how deep each child lies.
//!
//! ```text
//!  0   1      8
//! | k | zero | locals: 2^k × u8 |
//! ```
//!
//! The next k bits of a hash choose a word. A child whose *local depth* is l is named by the 2^(k-l) words that share
//! the first l bits: a *run*. Bit 7 of a local says that the child is a branch, which then goes on behind these l bits.
//! Some child has local depth k, or the branch would have fewer words. A branch is written once and never changed.
//!
//! One more word behind the 2^k names the table's *front*, if it has one (`front`): in its root only.

use super::way::{LOWEST_LEVEL, bits_max};
use crate::pages::ChildWord;
use std::ops::Range;

const BITS_AT: usize = 0;
const ZERO_AT: usize = 1;
pub(crate) const HEADER_BYTES: usize = 8;
/// Bytes of the body per child.
pub(crate) const LOCAL_BYTES: usize = 1;
const BRANCH_BIT: u8 = 1 << 7;

/// Bits that a branch with this many words takes.
#[inline]
pub(crate) fn bits_of(words: &[ChildWord]) -> u32 {
    words.len().ilog2()
}

/// The word that names the front, in a root that has one.
#[inline]
pub(crate) fn front_of(words: &[ChildWord]) -> Option<&ChildWord> {
    if words.len().is_power_of_two() { None } else { words.last() }
}

/// How deep the children of a branch lie, to read: the locals of a body that [`check_branch`] has accepted, or that
/// this module has made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Locals<'a>(&'a [u8]);

impl<'a> Locals<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self(&body[HEADER_BYTES..HEADER_BYTES + (1 << body[BITS_AT])])
    }
    /// True if the child is a branch.
    #[inline]
    pub(crate) fn is_branch(self, slot: usize) -> bool {
        self.0[slot] & BRANCH_BIT != 0
    }
    /// The local depth of the child.
    pub(crate) fn local(self, slot: usize) -> u32 {
        u32::from(self.0[slot] & !BRANCH_BIT)
    }
    /// Bits of the branch.
    pub(crate) fn bits(self) -> u32 {
        self.0.len().trailing_zeros()
    }
    /// The words that name the same child.
    pub(crate) fn run(self, slot: usize) -> Range<usize> {
        let width = self.bits() - self.local(slot);
        let start = slot >> width << width;
        start..start + (1 << width)
    }
    /// A word of each child, from that of `slot` on.
    pub(crate) fn children_from(self, slot: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(slot), move |slot| {
            Some(self.run(*slot).end).filter(|next| *next < self.0.len())
        })
    }
}

/// What a run of words names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Child {
    pub(crate) word: u64,
    pub(crate) is_branch: bool,
}

impl Child {
    pub(crate) fn bucket(word: u64) -> Self {
        Self { word, is_branch: false }
    }
    pub(crate) fn branch(word: u64) -> Self {
        Self { word, is_branch: true }
    }
}

/// Half of a branch.
#[derive(Clone, Debug)]
pub(crate) enum Half {
    Branch(List),
    /// It has one child.
    Child(Child),
}

/// A branch in the making.
#[derive(Clone, Debug)]
pub(crate) struct List {
    words: Vec<u64>,
    locals: Vec<u8>,
    /// Names the front.
    pub(crate) front: Option<u64>,
}

impl List {
    /// Two children.
    pub(crate) fn pair(children: [Child; 2]) -> Self {
        let mut list = Self { words: vec![0; 2], locals: vec![1; 2], front: None };
        for (slot, child) in children.into_iter().enumerate() {
            list.set(slot..slot + 1, child);
        }
        list
    }
    /// All of a branch.
    pub(crate) fn of(words: &[ChildWord], body: &[u8]) -> Self {
        let front = front_of(words).map(ChildWord::load);
        let words = words[..1 << bits_of(words)].iter().map(ChildWord::load).collect();
        Self { words, locals: Locals::new(body).0.to_vec(), front }
    }
    pub(crate) fn locals(&self) -> Locals<'_> {
        Locals(&self.locals)
    }
    /// Words that name children.
    pub(crate) fn len(&self) -> usize {
        self.words.len()
    }
    /// All its words.
    pub(crate) fn area(&self) -> usize {
        self.words.len() + usize::from(self.front.is_some())
    }
    /// True if the largest branch in pages with this much content has room for one more word.
    pub(crate) fn has_room_for_front(content_bytes: usize) -> bool {
        let words = 1 << bits_max(content_bytes);
        HEADER_BYTES + words * (LOCAL_BYTES + size_of::<u64>()) + size_of::<u64>() <= content_bytes
    }
    pub(crate) fn word(&self, slot: usize) -> u64 {
        self.words[slot]
    }
    /// Takes one more bit.
    pub(crate) fn double(&mut self) {
        self.words = self.words.iter().flat_map(|word| [*word, *word]).collect();
        self.locals = self.locals.iter().flat_map(|local| [*local, *local]).collect();
    }
    /// Takes no more bits than the deepest child.
    pub(crate) fn halve(&mut self) {
        let deepest = self.locals.iter().map(|local| local & !BRANCH_BIT).max().unwrap_or(0);
        while self.locals().bits() > u32::from(deepest) {
            self.words = self.words.iter().copied().step_by(2).collect();
            self.locals = self.locals.iter().copied().step_by(2).collect();
        }
    }
    /// Lets the words of a run, or of half of one, or of two that become one, name a child.
    pub(crate) fn set(&mut self, run: Range<usize>, child: Child) {
        let local = self.locals().bits() - run.len().trailing_zeros();
        let local = u8::try_from(local).expect("bits of a branch");
        self.words[run.clone()].fill(child.word);
        self.locals[run].fill(if child.is_branch { local | BRANCH_BIT } else { local });
    }
    /// Makes one child two, which one more bit tells apart. There is room for it.
    pub(crate) fn split(&mut self, slot: usize, halves: [Child; 2]) {
        let mut slot = slot;
        if self.locals().run(slot).len() == 1 {
            self.double();
            slot *= 2;
        }
        let run = self.locals().run(slot);
        let middle = run.start + run.len() / 2;
        let [lower, upper] = halves;
        self.set(run.start..middle, lower);
        self.set(middle..run.end, upper);
    }
    /// What a bit less leaves of a branch: its lower or upper half.
    pub(crate) fn half(&self, upper: bool) -> Half {
        let middle = self.words.len() / 2;
        let half = if upper { middle..self.words.len() } else { 0..middle };
        let words = self.words[half.clone()].to_vec();
        // The local depth of each is one at least, or the branch would have one child.
        let locals = self.locals[half].iter().map(|local| local - 1).collect();
        let mut list = Self { words, locals, front: None };
        list.halve();
        match list.words[..] {
            [word] => Half::Child(Child { word, is_branch: list.locals().is_branch(0) }),
            _ => Half::Branch(list),
        }
    }
    /// How many children it has.
    pub(crate) fn children(&self) -> usize {
        self.locals().children_from(0).count()
    }
    /// The level of a page with this list, if those above and below it allow for `level`.
    pub(crate) fn level(&self, level: u8) -> u8 {
        let has_branches = self.locals.iter().any(|local| local & BRANCH_BIT != 0);
        if has_branches { level } else { LOWEST_LEVEL }
    }
    /// Fills a page.
    pub(crate) fn build(&self, (words, body): (&mut [u64], &mut [u8])) {
        let (children, front) = words.split_at_mut(self.words.len());
        children.copy_from_slice(&self.words);
        if let (Some(word), Some(front)) = (front.first_mut(), self.front) {
            *word = front;
        }
        body[BITS_AT] = u8::try_from(self.locals().bits()).expect("bits of a branch");
        body[ZERO_AT..HEADER_BYTES].fill(0);
        body[HEADER_BYTES..HEADER_BYTES + self.locals.len()].copy_from_slice(&self.locals);
    }
}

/// The part of a branch that need not be kept on disk: what comes after the locals.
pub(crate) fn hole(body: &[u8]) -> Range<usize> {
    HEADER_BYTES + Locals::new(body).0.len()..body.len()
}

/// Checks a branch that came from disk, so that everything else here may rely on it. What it cannot see: whether
/// the words of a run name the same page.
///
/// # Errors
/// What is wrong.
pub(crate) fn check_branch(level: u8, words: usize, body: &[u8]) -> Result<(), String> {
    let most = bits_max(words * 8 + body.len());
    let bits = body.first().copied().map_or(0, u32::from);
    let children = 1_usize << bits.min(most);
    let is_one_more = words == children + 1;
    if level < LOWEST_LEVEL || !(1..=most).contains(&bits) || !(words == children || is_one_more) {
        return Err(format!("level {level}, {words} children, {bits} bits"));
    }
    let words = children;
    if body.len() < HEADER_BYTES + words || body[ZERO_AT..HEADER_BYTES] != [0; 7] {
        return Err(format!("{} bytes with {words} children", body.len()));
    }
    let locals = Locals::new(body);
    let (mut deepest, mut has_branches) = (0, false);
    let mut slot = 0;
    while slot < words {
        let local = locals.local(slot);
        if local > bits {
            return Err(format!("child {slot} has local depth {local} of {bits}"));
        }
        let run = locals.run(slot);
        if run.start != slot || locals.0[run.clone()].iter().any(|other| *other != locals.0[slot]) {
            return Err(format!("child {slot} has local depth {local}, its neighbours differ"));
        }
        if locals.is_branch(slot) && (local == 0 || level == LOWEST_LEVEL) {
            return Err(format!("a branch at child {slot}, of local depth {local}"));
        }
        has_branches |= locals.is_branch(slot);
        deepest = deepest.max(local);
        slot = run.end;
    }
    if deepest != bits {
        return Err(format!("{bits} bits, no child deeper than {deepest}"));
    }
    if has_branches != (level > LOWEST_LEVEL) {
        return Err(format!("level {level}, and no branch below it"));
    }
    Ok(())
}
