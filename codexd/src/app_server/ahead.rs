//! How far a reader of the child may be ahead of the loop, in bytes: its queue is bounded in lines, and a line may bring
//! what it holds cut whole.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crate::core::FromChild;
use crate::cut::{MAX_WHOLE_BYTES, Whole};

/// What may be under way whole: one that the loop works on, and the next.
pub const AHEAD_BYTES: usize = 2 * MAX_WHOLE_BYTES;
/// How often it is looked whether the loop is done with some; only while there is too much.
const LOOK: Duration = Duration::from_millis(2);

/// What is under way.
#[derive(Default)]
pub struct Ahead(Vec<(Weak<Whole>, usize)>);

impl Ahead {
    /// Waits until there is room for what an event brings whole.
    pub fn wait(&mut self, event: &FromChild) {
        let FromChild::Notice(notice) = event else { return };
        let Some(whole) = &notice.whole else { return };
        while !self.has_room(whole.text.len()) {
            thread::sleep(LOOK);
        }
        self.0.push((Arc::downgrade(whole), whole.text.len()));
    }

    fn has_room(&mut self, bytes: usize) -> bool {
        self.0.retain(|(whole, _)| whole.strong_count() > 0);
        self.0.iter().map(|(_, bytes)| bytes).sum::<usize>() + bytes <= AHEAD_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Notice;

    #[test]
    fn a_reader_waits_for_the_loop_to_be_done_with_what_is_whole() {
        let whole = || Arc::new(Whole { sha1: String::new(), text: vec![0; MAX_WHOLE_BYTES] });
        let event = |whole: &Arc<Whole>| {
            FromChild::Notice(Box::new(Notice { whole: Some(whole.clone()), ..Notice::default() }))
        };
        let (one, two) = (whole(), whole());
        let mut ahead = Ahead::default();
        ahead.wait(&event(&one));
        ahead.wait(&event(&two));
        assert!(!ahead.has_room(1));
        let reader = thread::spawn(move || ahead.wait(&event(&whole())));
        thread::sleep(10 * LOOK);
        assert!(!reader.is_finished(), "there is no room");
        drop(one);
        reader.join().unwrap();
    }
}
