//! How many tests run at once: slots handed from test to test.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The slots of a run. A freed slot goes to waiting sub-tests before new top-level tests, so that what has
/// begun (and holds machines) ends first.
#[derive(Debug)]
pub struct Slots(Mutex<Queue>);

#[derive(Debug)]
struct Queue {
    free: usize,
    subtests: VecDeque<oneshot::Sender<Slot>>,
    tests: VecDeque<oneshot::Sender<Slot>>,
}

/// Who asks for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A top-level test.
    Test,
    /// A sub-test, or a test that goes on after its sub-tests.
    Subtest,
}

/// The right to run; dropping it hands it on.
#[derive(Debug)]
pub struct Slot(Option<Arc<Slots>>);

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = self.0.take() {
            slots.hand_on();
        }
    }
}

impl Slots {
    /// `count` slots; 0 means one for each processor.
    pub fn new(count: usize) -> Arc<Self> {
        let free =
            if count > 0 { count } else { std::thread::available_parallelism().map_or(1, usize::from) };
        Arc::new(Self(Mutex::new(Queue { free, subtests: VecDeque::new(), tests: VecDeque::new() })))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a slot; it arrives at the receiver when it is this asker's turn. A receiver may simply be dropped.
    pub fn request(self: &Arc<Self>, class: Class) -> oneshot::Receiver<Slot> {
        let (sender, receiver) = oneshot::channel();
        self.enqueue(class, sender);
        receiver
    }

    /// As [`Slots::request`], for an asker who made the channel.
    pub fn enqueue(self: &Arc<Self>, class: Class, sender: oneshot::Sender<Slot>) {
        let mut queue = self.lock();
        if queue.free == 0 {
            match class {
                Class::Test => queue.tests.push_back(sender),
                Class::Subtest => queue.subtests.push_back(sender),
            }
            return;
        }
        queue.free -= 1;
        drop(queue);
        // A slot that cannot be delivered is dropped here and so becomes free again.
        let _ = sender.send(Slot(Some(Arc::clone(self))));
    }

    fn hand_on(self: &Arc<Self>) {
        let mut slot = Slot(Some(Arc::clone(self)));
        loop {
            let mut queue = self.lock();
            let Some(next) = queue.subtests.pop_front().or_else(|| queue.tests.pop_front()) else {
                queue.free += 1;
                slot.0 = None;
                return;
            };
            drop(queue);
            match next.send(slot) {
                Ok(()) => return,
                Err(back) => slot = back,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtests_go_first_and_the_gone_are_passed_over() {
        let slots = Slots::new(1);
        let first = slots.request(Class::Test).try_recv().unwrap();
        let mut test = slots.request(Class::Test);
        let gone = slots.request(Class::Subtest);
        let mut sub = slots.request(Class::Subtest);
        drop(gone);
        assert!(sub.try_recv().is_err());
        drop(first);
        let second = sub.try_recv().unwrap();
        assert!(test.try_recv().is_err());
        drop(second);
        let third = test.try_recv().unwrap();
        let unread = slots.request(Class::Test);
        drop(third);
        // Delivered but never taken: it comes back.
        drop(unread);
        assert_eq!(slots.lock().free, 1);
    }

    #[test]
    fn zero_means_one_for_each_processor() {
        assert!(Slots::new(0).lock().free >= 1);
    }
}
