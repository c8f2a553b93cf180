//! The tables behind a path pattern, and how they are run.
//!
//! Terms: a *consuming* state is an NFA state that reads a byte, or the match state. A *column* is an NFA
//! state that a byte leads to and that does not itself consume, together with that byte as far as assertions
//! care: epsilon moves lead from there to consuming states, in order of priority. A *note* is a state of the
//! reverse DFA: the set of consuming states from which the rest of the haystack matches, together with the
//! byte that follows as far as assertions care.

use alloc::boxed::Box;

/// The two automata. All numbers of notes and of consuming states in the tables are premultiplied: they are
/// the index of the first entry of their row.
#[derive(Debug)]
pub(super) struct Bimachine {
    /// The equivalence class of each byte.
    pub(super) classes: [u8; 256],
    /// Number of byte classes.
    pub(super) class_count: usize,
    /// A row for each note: by byte class, the note one byte earlier; then by column, the move to make.
    pub(super) notes: Box<[u32]>,
    /// The note at the end of the haystack.
    pub(super) end: u32,
    /// A row for each consuming state, by byte class: the next consuming state, or `COLUMN` and the place of
    /// that column within a row of `notes`.
    pub(super) steps: Box<[u32]>,
    /// What the moves marked `SPECIAL` do.
    pub(super) moves: Box<[Move]>,
    /// The group bounds that moves pass.
    pub(super) bounds: Box<[u32]>,
}

/// A move that is more than a change of state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    /// The consuming state it leads to; `None` if no group bound can follow.
    pub(super) next: Option<u32>,
    /// The group bounds that are passed, as a range of `Bimachine::bounds`.
    pub(super) from: u32,
    pub(super) until: u32,
}

/// The note from which nothing matches. It has the first row, and leads to itself.
pub(super) const DEAD: u32 = 0;
/// In a row of notes, the move of a column from which nothing matches.
pub(super) const NO_MOVE: u32 = u32::MAX;
/// Mark of a move that is an index into `Bimachine::moves`.
pub(super) const SPECIAL: u32 = 1 << 31;
/// Mark of a step that leads to a column.
pub(super) const COLUMN: u32 = 1 << 31;
/// The column at which the walk starts.
pub(super) const START: usize = 0;

impl Bimachine {
    /// Whether the whole haystack matches.
    pub(super) fn is_match(&self, haystack: &[u8]) -> bool {
        let mut note = self.end;
        for &byte in haystack.iter().rev() {
            note = self.notes[note as usize + usize::from(self.classes[usize::from(byte)])];
            if note == DEAD {
                return false;
            }
        }
        self.notes[note as usize + self.class_count + START] != NO_MOVE
    }

    /// Whether the whole haystack matches, with the starts and ends of the groups.
    ///
    /// `notes` has one place more than the haystack has bytes. `bounds` has two places for each group, and
    /// those that are not passed keep their value.
    pub(super) fn captures(&self, haystack: &[u8], notes: &mut [u32], bounds: &mut [usize]) -> bool {
        self.look_ahead(haystack, notes) && self.walk(haystack, notes, bounds)
    }

    /// Runs the reverse DFA and notes its state at each position.
    fn look_ahead(&self, haystack: &[u8], notes: &mut [u32]) -> bool {
        let mut at = haystack.len();
        let mut note = self.end;
        notes[at] = note;
        // Most bytes leave the note as it is. The inner loop is bound to one note, so that its iterations do
        // not depend on each other and the processor can overlap them.
        while at > 0 {
            let row = &self.notes[note as usize..][..self.class_count];
            while at > 0 {
                at -= 1;
                let next = row[usize::from(self.classes[usize::from(haystack[at])])];
                notes[at] = next;
                if next != note {
                    note = next;
                    break;
                }
            }
            if note == DEAD {
                return false;
            }
        }
        self.notes[note as usize + self.class_count + START] != NO_MOVE
    }

    /// Walks from the start along the states of highest priority that the notes call alive.
    fn walk(&self, haystack: &[u8], notes: &[u32], bounds: &mut [usize]) -> bool {
        let mut at = 0;
        let mut next = self.notes[notes[0] as usize + self.class_count + START];
        loop {
            let state = if next & SPECIAL == 0 {
                next
            } else {
                // `NO_MOVE` would be beyond the table; it does not occur on the way of a match.
                let Some(special) = self.moves.get((next & !SPECIAL) as usize) else { return false };
                for &bound in &self.bounds[special.from as usize..special.until as usize] {
                    bounds[bound as usize] = at;
                }
                match special.next {
                    Some(state) => state,
                    None => return true,
                }
            };
            let row = &self.steps[state as usize..][..self.class_count];
            // As above: most bytes leave the state as it is.
            loop {
                // Behind the end there is only the match state, after which no group bound can follow.
                let Some(&byte) = haystack.get(at) else { return false };
                at += 1;
                let step = row[usize::from(self.classes[usize::from(byte)])];
                next = if step & COLUMN == 0 {
                    step
                } else {
                    self.notes[notes[at] as usize + (step & !COLUMN) as usize]
                };
                if next != state {
                    break;
                }
            }
        }
    }

    /// Heap memory held by the tables, in bytes.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.notes)
            + size_of_val(&*self.steps)
            + size_of_val(&*self.moves)
            + size_of_val(&*self.bounds)
    }
}
