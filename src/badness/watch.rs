//! The console of a machine that runs, looked at again and again.

use super::{Finding, Flag, Scanner, Source};

/// So much of the end of what was seen is compared, to notice a console that starts anew or shows its end only.
const OVERLAP: usize = 256;

/// Follows a console that grows: each look goes on where the last one ended.
#[derive(Debug)]
pub struct Watch {
    flags: Vec<Flag>,
    scanner: Scanner,
    /// How much of the console has been seen.
    seen: usize,
    /// The last of that.
    end: Vec<u8>,
    /// The first finding after which nothing more is to be expected of the machine.
    fatal: Option<Finding>,
}

impl Watch {
    /// A watch without the checks that a flag turns off.
    pub fn new(flags: &[Flag]) -> Self {
        Self {
            flags: flags.to_vec(),
            scanner: Scanner::new(Source::Console, flags),
            seen: 0,
            end: Vec::new(),
            fatal: None,
        }
    }

    /// How much of the console has been seen, in bytes: where a reader may go on for [`Watch::push`].
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// Looks at what a console says now, all of it; costs no more than what is new. A console that is not the one
    /// before with something after it (some clouds show only its end) is looked at from its beginning.
    pub fn see(&mut self, console: &[u8]) {
        let known = console.get(..self.seen).is_some_and(|old| old.ends_with(&self.end));
        if !known {
            self.scanner = Scanner::new(Source::Console, &self.flags);
            self.seen = 0;
            self.end.clear();
        }
        self.push(&console[self.seen..]);
    }

    /// Looks at what a console says after what was seen.
    pub fn push(&mut self, more: &[u8]) {
        self.scanner.push(more);
        self.seen += more.len();
        self.end.extend_from_slice(&more[more.len().saturating_sub(OVERLAP)..]);
        let old = self.end.len().saturating_sub(OVERLAP);
        self.end.drain(..old);
        // The lines around it may have become complete.
        if let Some(finding) = self.scanner.findings().iter().find(|f| f.fatal)
            && self.fatal.as_ref().is_none_or(|known| known.label == finding.label)
        {
            self.fatal = Some(finding.clone());
        }
    }

    /// What ended the machine's life, once something did. Stays.
    pub fn fatal(&self) -> Option<&Finding> {
        self.fatal.as_ref()
    }

    /// All findings in the console as it is now, in the order of the text.
    pub fn findings(&self) -> &[Finding] {
        self.scanner.findings()
    }
}
