//! A walk over a whole table that checks every page and how they hang together.

use super::Hasher;
use super::branch::{Locals, bits_of, check_branch, front_of};
use super::bucket::{Bucket, handles};
use super::bucket_check::check_bucket;
use super::front::{self, shown};
use super::way::{Place, Route, Taken, ToKey, behind, bits_max};
use crate::kind::{CheckStep, Checker, Handle};
use crate::pages::{ChildWord, PageRead, Pages, Step, View};
use esker_base::PageId;

/// A child that the walk went to: the word, the bits of the branch, the local depth of the child.
type Went = (usize, u32, u32);

/// How far a walk has come. One step checks one bucket and the way to it.
#[derive(Debug)]
pub struct Check {
    hash: Hasher,
    root: PageId,
    /// Where the next bucket begins; `None` at the end.
    next: Option<Vec<u16>>,
    /// What comes after the page that was last looked at.
    behind: Option<Vec<u16>>,
    /// The table's buckets were all met, and now those of its front are.
    in_front: bool,
}

impl Check {
    pub(crate) fn new(hash: Hasher, root: PageId) -> Self {
        Self { hash, root, next: Some(Vec::new()), behind: None, in_front: false }
    }
}

impl Checker for Check {
    fn step<P: Pages>(
        &mut self,
        pages: &P,
        root: &ChildWord,
        view: View,
        visit: &mut dyn FnMut(Handle),
    ) -> Step<CheckStep> {
        if self.next.is_none() && !self.in_front {
            self.in_front = true;
            self.next = Some(Vec::new());
        }
        let Some(next) = self.next.clone() else { return Ok(CheckStep::Done) };
        self.behind = None;
        let wrong = |page: PageId, what: &str| Ok(CheckStep::Wrong(format!("{page:?}: {what}")));
        if root.page() != self.root {
            return wrong(root.page(), &format!("the root was {:?}", self.root));
        }
        let bits_max = bits_max(pages.content_bytes());
        let mut word = ChildWord::new(root.page(), ChildWord::hint_of(root.load()));
        if self.in_front {
            let Some(front) = front::word(pages, root, view)? else {
                self.next = None;
                return Ok(CheckStep::Done);
            };
            word = front;
        }
        let start = if self.in_front { Place::FRONT } else { Place::ROOT };
        let mut trail: Vec<Went> = Vec::new();
        // The level of the branch above, and whether it has a branch here.
        let mut above: Option<(u8, bool)> = None;
        loop {
            let page = pages.read(&word, view)?;
            let is_level = page.level();
            if is_level == 0 && !above.is_some_and(|(_, branch)| branch) {
                if let Err(what) = check_bucket(self.hash, page.words().len(), page.body()) {
                    return wrong(page.id(), &what);
                }
                let bucket = Bucket::new(page.body());
                if let Some(what) = wrong_in_bucket(self.hash, bucket, start, &trail) {
                    return wrong(page.id(), &what);
                }
                handles(page.body(), visit);
                self.next = self.behind.take();
                let rows = (0..bucket.len()).filter(|i| shown(bucket.row(*i).1).is_some());
                return Ok(CheckStep::Page { rows: rows.count() });
            }
            if above.is_some_and(|(level, branch)| !branch || is_level == 0 || is_level >= level) {
                return wrong(page.id(), &format!("level {is_level} below {above:?}"));
            }
            let (words, body) = (page.words(), page.body());
            if let Err(what) = check_branch(is_level, words.len(), body) {
                return wrong(page.id(), &what);
            }
            if front_of(words).is_some() && (self.in_front || above.is_some()) {
                return wrong(page.id(), "a front that does not hang from the root");
            }
            let (bits, locals) = (bits_of(words), Locals::new(body));
            if let Some(slot) = split_run(words, locals) {
                return wrong(page.id(), &format!("child {slot} is not named by its words alone"));
            }
            let digit = next.get(trail.len()).copied().unwrap_or(0);
            let slot = usize::from(digit) >> (bits_max - bits);
            let taken = |&(slot, bits, local): &Went| Taken::new(slot, bits, local, bits_max);
            let went = (slot, bits, locals.local(slot));
            let before: Vec<Taken> = trail.iter().map(taken).collect();
            self.behind = behind(&before, taken(&went), bits_max);
            above = Some((is_level, locals.is_branch(slot)));
            trail.push(went);
            let bits = words[slot].load();
            word = ChildWord::new(ChildWord::page_of(bits), ChildWord::hint_of(bits));
        }
    }

    fn skip(&mut self) {
        self.next = self.behind.take();
    }
}

/// The first word of a run whose words do not all name one page, which no other run names.
fn split_run(words: &[ChildWord], locals: Locals<'_>) -> Option<usize> {
    let mut seen = std::collections::BTreeSet::new();
    locals.children_from(0).find(|slot| {
        let page = words[*slot].page();
        words[locals.run(*slot)].iter().any(|word| word.page() != page) || !seen.insert(page)
    })
}

fn wrong_in_bucket(
    hash: Hasher,
    bucket: Bucket<'_>,
    start: Place,
    trail: &[Went],
) -> Option<String> {
    let taken = trail.iter().map(|(slot, bits, local)| (slot >> (bits - local), *local));
    let place = Place::along(start, taken);
    if bucket.place() != place {
        return Some(format!("{:?}, its parent says {place:?}", bucket.place()));
    }
    let mut keys: Vec<&[u8]> = Vec::with_capacity(bucket.len());
    for i in 0..bucket.len() {
        let mut route = ToKey::new(hash, bucket.key(i));
        let leads_here = trail.iter().all(|&(slot, bits, local)| {
            let leads_there = (route.slot(bits) ^ slot) >> (bits - local) == 0;
            route.go_down(slot, bits, local);
            leads_there
        });
        if !leads_here {
            return Some(format!("row {i} belongs elsewhere"));
        }
        keys.push(bucket.key(i));
    }
    keys.sort_unstable();
    keys.windows(2).any(|pair| pair[0] == pair[1]).then(|| "a key twice".to_owned())
}
