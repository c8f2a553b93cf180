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
    /// The notes from which no plain byte leads away.
    pub(super) settled: Box<[u32]>,
}

/// A move that is more than a change of state.
pub(super) struct Move {
    /// The consuming state it leads to; `None` if no group bound can follow.
    pub(super) next: Option<u32>,
    /// The group bounds that are passed, as a range of `Bimachine::bounds`.
    pub(super) from: u32,
    pub(super) until: u32,
}

/// The greatest number of byte classes.
pub(super) const MAX_CLASSES: usize = 256;

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
        let mut bytes = haystack.iter().rev();
        while note != DEAD {
            let Some(row) = row(&self.notes, note) else { return false };
            match bytes.find(|&&byte| row[self.class(byte)] != note) {
                Some(&byte) => note = row[self.class(byte)],
                None => return self.notes[note as usize + self.class_count + START] != NO_MOVE,
            }
        }
        false
    }

    /// Likewise for a haystack of plain bytes, of which most need not be read.
    pub(super) fn is_plain_match(&self, haystack: &[u8]) -> bool {
        let mut note = self.end;
        for &byte in haystack.iter().rev() {
            let Some(row) = row(&self.notes, note) else { return false };
            let next = row[self.class(byte)];
            // A settled note leads to itself, so only those that do need to be looked for.
            if next == note && self.settled.contains(&note) {
                break;
            }
            note = next;
        }
        note != DEAD && self.notes[note as usize + self.class_count + START] != NO_MOVE
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
        let Some((last, notes)) = notes.split_last_mut() else { return false };
        let mut note = self.end;
        *last = note;
        let mut places = haystack.iter().zip(notes).rev();
        // Most bytes leave the note as it is. The inner loop is bound to one note, so that its iterations do
        // not depend on each other and the processor can overlap them.
        while note != DEAD {
            let Some(row) = row(&self.notes, note) else { return false };
            loop {
                let Some((&byte, place)) = places.next() else {
                    return self.notes[note as usize + self.class_count + START] != NO_MOVE;
                };
                let next = row[self.class(byte)];
                *place = next;
                if next != note {
                    note = next;
                    break;
                }
            }
        }
        false
    }

    /// Walks from the start along the states of highest priority that the notes call alive.
    fn walk(&self, haystack: &[u8], notes: &[u32], bounds: &mut [usize]) -> bool {
        let Some((&first, notes)) = notes.split_first() else { return false };
        let mut next = self.notes[first as usize + self.class_count + START];
        // A byte, and the note behind it.
        let mut places = haystack.iter().zip(notes).enumerate();
        let mut at = 0;
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
            let Some(row) = row(&self.steps, state) else { return false };
            // As above: most bytes leave the state as it is.
            loop {
                // Behind the end there is only the match state, after which no bound can follow.
                let Some((before, (&byte, &note))) = places.next() else { return false };
                let step = row[self.class(byte)];
                next = if step & COLUMN == 0 { step } else { self.notes[(note + (step & !COLUMN)) as usize] };
                if next != state {
                    at = before + 1;
                    break;
                }
            }
        }
    }

    fn class(&self, byte: u8) -> usize {
        usize::from(self.classes[usize::from(byte)])
    }

    /// Heap memory held by the tables, in bytes.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.notes)
            + size_of_val(&*self.steps)
            + size_of_val(&*self.moves)
            + size_of_val(&*self.bounds)
            + size_of_val(&*self.settled)
    }
}

/// The row that starts at an index, and what follows up to the greatest length of a row: of a fixed length,
/// it is read without a check for each byte. The tables are padded for that, so there always is one.
fn row(table: &[u32], start: u32) -> Option<&[u32; MAX_CLASSES]> {
    table.get(start as usize..)?.first_chunk()
}
