//! How the tables of a [`Bimachine`] are made from an NFA.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use hashbrown::HashMap;
use regex_automata::nfa::thompson::{NFA, State};
use regex_automata::util::look::Look;
use regex_automata::util::primitives::StateID;

use super::bimachine::{Bimachine, COLUMN, DEAD, MAX_CLASSES, Move, NO_MOVE, SPECIAL};
use super::segments::PLAIN;
use super::{Limits, PatternError};

/// Makes the tables. `groups` has, for each group of the NFA, its index among the named ones.
pub(super) fn bimachine(
    nfa: &NFA,
    groups: &[Option<usize>],
    limits: &Limits,
) -> Result<Bimachine, PatternError> {
    let mut budget = Budget { left: limits.table_bytes, limit: limits.table_bytes };
    let graph = Graph::new(nfa, groups, &mut budget)?;
    let mut bounds = BoundLists::default();
    let ways = ways(nfa, groups, &graph, &mut bounds, &mut budget)?;

    let class_count = graph.representatives.len();
    // Only the columns that the walk meets before it stops go into the table.
    let width = class_count + graph.walk_columns;
    let mut moves = Moves::default();
    let mut notes = Notes { list: Vec::new(), numbers: HashMap::new(), limit: limits.states };
    let mut table: Vec<u32> = Vec::new();
    let nothing: Box<[u64]> = vec![0; graph.consuming.len().div_ceil(64)].into();
    notes.number((nothing.clone(), NO_BYTE), &mut budget)?;
    let end = notes.number((graph.matches(nothing.clone()), NO_BYTE), &mut budget)?;
    let mut done = 0;
    while let Some((alive, following)) = notes.list.get(done).cloned() {
        let first_ways: Vec<Option<Way>> = (ways.iter())
            .map(|ways| ways[following].iter().copied().find(|way| contains(&alive, way.to)))
            .collect();
        budget.take(width * size_of::<u32>())?;
        for (edges, &byte) in graph.edges.iter().zip(&graph.representatives) {
            let mut before = nothing.clone();
            for &(from, target) in edges {
                let lives = match target {
                    Target::State(state) => contains(&alive, state),
                    Target::Column(column) => first_ways[column as usize].is_some(),
                };
                if lives {
                    insert(&mut before, from);
                }
            }
            let following = if before == nothing { NO_BYTE } else { graph.assertions.kind(byte) };
            let note = notes.number((before, following), &mut budget)?;
            table.push(scaled(note, width)?);
        }
        for way in &first_ways[..graph.walk_columns] {
            table.push(match way {
                Some(way) => moves.number(way, &graph, &mut budget)?,
                None => NO_MOVE,
            });
        }
        done += 1;
    }

    let class_of = |byte: u8| usize::from(graph.classes[usize::from(byte)]);
    let settled = (table.chunks_exact(width).zip((0_u32..).step_by(width)))
        .filter(|(row, note)| PLAIN.into_iter().all(|byte| row[class_of(byte)] == *note))
        .map(|(_, note)| note)
        .collect();

    // Rows are read at full length.
    table.extend([DEAD; MAX_CLASSES]);
    Ok(Bimachine {
        classes: graph.classes,
        class_count,
        notes: table.into(),
        end: scaled(end, width)?,
        steps: graph.steps(&mut budget)?,
        moves: moves.list.into(),
        bounds: bounds.all.into(),
        settled,
    })
}

/// A set of consuming states, and the kind of the byte that follows.
type Note = (Box<[u64]>, usize);

/// The notes found so far, in the order of their rows.
struct Notes {
    list: Vec<Note>,
    numbers: HashMap<Note, u32>,
    limit: usize,
}

impl Notes {
    fn number(&mut self, note: Note, budget: &mut Budget) -> Result<u32, PatternError> {
        if let Some(&number) = self.numbers.get(&note) {
            return Ok(number);
        }
        if self.list.len() >= self.limit {
            return Err(PatternError::TooLarge { what: "states", limit: self.limit });
        }
        budget.take(2 * (size_of_val(&*note.0) + size_of::<Note>()))?;
        let number = number(self.list.len())?;
        self.list.push(note.clone());
        self.numbers.insert(note, number);
        Ok(number)
    }
}

/// The moves that are more than a change of state.
#[derive(Default)]
struct Moves {
    list: Vec<Move>,
    numbers: HashMap<Way, u32>,
}

impl Moves {
    fn number(&mut self, way: &Way, graph: &Graph, budget: &mut Budget) -> Result<u32, PatternError> {
        let next = if (way.to as usize) < graph.walk_states {
            Some(scaled(way.to, graph.representatives.len())?)
        } else {
            None
        };
        if let (Some(next), true) = (next, way.from == way.until) {
            return Ok(next);
        }
        if let Some(&number) = self.numbers.get(way) {
            return Ok(number);
        }
        budget.take(size_of::<Move>() + size_of::<(Way, u32)>())?;
        let number = number(self.list.len())? | SPECIAL;
        self.list.push(Move { next, from: way.from, until: way.until });
        self.numbers.insert(*way, number);
        Ok(number)
    }
}

/// One way from a column to a consuming state.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Way {
    to: u32,
    /// The group bounds that are passed, as a range of [`BoundLists::all`].
    from: u32,
    until: u32,
}

/// Lists of group bounds, one behind the other.
#[derive(Default)]
struct BoundLists {
    all: Vec<u32>,
    ranges: HashMap<Box<[u32]>, (u32, u32)>,
}

impl BoundLists {
    fn range(&mut self, list: &[u32], budget: &mut Budget) -> Result<(u32, u32), PatternError> {
        if list.is_empty() {
            return Ok((0, 0));
        }
        if let Some(&range) = self.ranges.get(list) {
            return Ok(range);
        }
        budget.take(2 * size_of_val(list) + size_of::<(Box<[u32]>, (u32, u32))>())?;
        let from = number(self.all.len())?;
        self.all.extend_from_slice(list);
        let range = (from, number(self.all.len())?);
        self.ranges.insert(list.into(), range);
        Ok(range)
    }
}

/// The ways from each column and for each kind of following byte, the highest priority first.
///
/// As in a PikeVM, a state that was visited already is not visited again: a path that comes back to it is of
/// lower priority, or it is a loop that consumes nothing.
fn ways(
    nfa: &NFA,
    groups: &[Option<usize>],
    graph: &Graph,
    bounds: &mut BoundLists,
    budget: &mut Budget,
) -> Result<Vec<Vec<Vec<Way>>>, PatternError> {
    enum Frame {
        Visit(StateID),
        /// Forgets the bounds passed since there were this many.
        Forget(usize),
    }
    let mut visited = vec![0_usize; nfa.states().len()];
    let mut visit = 0;
    let mut stack = Vec::new();
    let mut passed: Vec<u32> = Vec::new();
    let mut all = Vec::with_capacity(graph.columns.len());
    for &(column, preceding) in &graph.columns {
        let mut of_column = Vec::new();
        for following in 0..graph.assertions.kinds() {
            let mut found = Vec::new();
            visit += 1;
            stack.push(Frame::Visit(column));
            while let Some(frame) = stack.pop() {
                let id = match frame {
                    Frame::Forget(count) => {
                        passed.truncate(count);
                        continue;
                    }
                    Frame::Visit(id) => id,
                };
                if core::mem::replace(&mut visited[id.as_usize()], visit) == visit {
                    continue;
                }
                match *nfa.state(id) {
                    State::ByteRange { .. } | State::Sparse(_) | State::Dense(_) | State::Match { .. } => {
                        budget.take(size_of::<Way>())?;
                        let (from, until) = bounds.range(&passed, budget)?;
                        found.push(Way { to: graph.numbers[id.as_usize()], from, until });
                    }
                    State::Fail => {}
                    State::Look { look, next } => {
                        if graph.assertions.hold(look, preceding, following) {
                            stack.push(Frame::Visit(next));
                        }
                    }
                    State::Union { ref alternates } => {
                        stack.extend(alternates.iter().rev().map(|&id| Frame::Visit(id)));
                    }
                    State::BinaryUnion { alt1, alt2 } => {
                        stack.extend([Frame::Visit(alt2), Frame::Visit(alt1)]);
                    }
                    State::Capture { next, .. } => {
                        if let Some(bound) = bound(nfa.state(id), groups) {
                            stack.push(Frame::Forget(passed.len()));
                            passed.push(number(bound)?);
                        }
                        stack.push(Frame::Visit(next));
                    }
                }
            }
            of_column.push(found);
        }
        all.push(of_column);
    }
    Ok(all)
}

/// The NFA, seen as consuming states, and columns between them.
struct Graph {
    assertions: Assertions,
    /// The equivalence class of each byte.
    classes: [u8; 256],
    /// One byte of each class.
    representatives: Vec<u8>,
    /// The consuming states. First come those from which a named group's bound can follow; the walk leaves
    /// from these only.
    consuming: Vec<StateID>,
    /// How many consuming states the walk leaves from.
    walk_states: usize,
    /// For each NFA state, its number among the consuming ones.
    numbers: Vec<u32>,
    match_states: Vec<u32>,
    /// NFA states, and the kind of the byte that led there. First comes that of the start, then those which
    /// the walk meets.
    columns: Vec<(StateID, usize)>,
    /// How many columns the walk meets.
    walk_columns: usize,
    /// For each byte class, where it leads to from the consuming states.
    edges: Vec<Vec<(u32, Target)>>,
}

#[derive(Clone, Copy)]
enum Target {
    State(u32),
    Column(u32),
}

impl Graph {
    fn new(nfa: &NFA, groups: &[Option<usize>], budget: &mut Budget) -> Result<Graph, PatternError> {
        let assertions = Assertions::new(nfa);
        let mut classes = [0; 256];
        let mut representatives = Vec::new();
        for byte in 0..=u8::MAX {
            let class = nfa.byte_classes().get(byte);
            classes[usize::from(byte)] = class;
            if usize::from(class) == representatives.len() {
                representatives.push(byte);
            }
        }

        let open = leads_to_bound(nfa, groups);
        let is_consuming = |id: StateID| !nfa.state(id).is_epsilon() && *nfa.state(id) != State::Fail;
        let mut consuming = reachable(nfa);
        consuming.retain(|&id| is_consuming(id));
        consuming.sort_by_key(|id| (!open[id.as_usize()], *id));
        let walk_states = consuming.partition_point(|id| open[id.as_usize()]);
        let mut numbers = vec![u32::MAX; nfa.states().len()];
        let mut match_states = Vec::new();
        for (index, id) in consuming.iter().enumerate() {
            numbers[id.as_usize()] = number(index)?;
            if let State::Match { .. } = nfa.state(*id) {
                match_states.push(number(index)?);
            }
        }

        let start = (nfa.start_anchored(), NO_BYTE);
        let mut columns = vec![start];
        let mut column_numbers: HashMap<(StateID, usize), usize> = HashMap::from([(start, 0)]);
        let mut walk_columns = columns.len();
        let mut edges = vec![Vec::new(); representatives.len()];
        for (from, id) in consuming.iter().enumerate() {
            for (edges, &byte) in edges.iter_mut().zip(&representatives) {
                let Some(next) = step(nfa.state(*id), byte) else { continue };
                // A step of the walk that ends it has to be a move, and thus a column.
                let stays = !open[id.as_usize()] || open[next.as_usize()];
                let target = if is_consuming(next) && stays {
                    Target::State(numbers[next.as_usize()])
                } else {
                    let column = (next, assertions.kind(byte));
                    let index = *column_numbers.entry(column).or_insert_with(|| {
                        columns.push(column);
                        columns.len() - 1
                    });
                    Target::Column(number(index)?)
                };
                budget.take(size_of::<(u32, Target)>())?;
                edges.push((number(from)?, target));
            }
            if from < walk_states {
                walk_columns = columns.len();
            }
        }
        Ok(Graph {
            assertions,
            classes,
            representatives,
            consuming,
            walk_states,
            numbers,
            match_states,
            columns,
            walk_columns,
            edges,
        })
    }

    /// Adds the match states to a set.
    fn matches(&self, mut set: Box<[u64]>) -> Box<[u64]> {
        for &state in &self.match_states {
            insert(&mut set, state);
        }
        set
    }

    /// The table of where the walk's states lead to.
    fn steps(&self, budget: &mut Budget) -> Result<Box<[u32]>, PatternError> {
        let class_count = self.representatives.len();
        budget.take(self.walk_states * class_count * size_of::<u32>())?;
        // A step that is not overwritten is not on the way of any match.
        let mut steps = vec![0; self.walk_states * class_count + MAX_CLASSES];
        for (class, edges) in self.edges.iter().enumerate() {
            for &(from, target) in edges.iter().take_while(|(from, _)| (*from as usize) < self.walk_states) {
                steps[from as usize * class_count + class] = match target {
                    Target::State(state) => scaled(state, class_count)?,
                    Target::Column(column) => number(class_count + column as usize)? | COLUMN,
                };
            }
        }
        Ok(steps.into())
    }
}

/// The states that are reachable from the start; a pattern's NFA has others, for searches.
fn reachable(nfa: &NFA) -> Vec<StateID> {
    let mut found = vec![false; nfa.states().len()];
    let mut list = vec![nfa.start_anchored()];
    found[nfa.start_anchored().as_usize()] = true;
    let mut done = 0;
    while let Some(&id) = list.get(done) {
        for_successors(nfa.state(id), |next| {
            if !core::mem::replace(&mut found[next.as_usize()], true) {
                list.push(next);
            }
        });
        done += 1;
    }
    list
}

/// For each NFA state, whether the bound of a named group lies on a path from it.
fn leads_to_bound(nfa: &NFA, groups: &[Option<usize>]) -> Vec<bool> {
    let mut predecessors: Vec<Vec<StateID>> = vec![Vec::new(); nfa.states().len()];
    let mut leads = vec![false; nfa.states().len()];
    let mut pending = Vec::new();
    for id in reachable(nfa) {
        for_successors(nfa.state(id), |next| predecessors[next.as_usize()].push(id));
        if bound(nfa.state(id), groups).is_some() {
            leads[id.as_usize()] = true;
            pending.push(id);
        }
    }
    while let Some(id) = pending.pop() {
        for &before in &predecessors[id.as_usize()] {
            if !core::mem::replace(&mut leads[before.as_usize()], true) {
                pending.push(before);
            }
        }
    }
    leads
}

fn for_successors(state: &State, mut visit: impl FnMut(StateID)) {
    match *state {
        State::ByteRange { ref trans } => visit(trans.next),
        State::Sparse(ref sparse) => sparse.transitions.iter().for_each(|trans| visit(trans.next)),
        State::Dense(ref dense) => dense.transitions.iter().for_each(|&next| visit(next)),
        State::Look { next, .. } | State::Capture { next, .. } => visit(next),
        State::Union { ref alternates } => alternates.iter().for_each(|&next| visit(next)),
        State::BinaryUnion { alt1, alt2 } => [alt1, alt2].into_iter().for_each(visit),
        State::Fail | State::Match { .. } => {}
    }
}

/// The bound of a named group that a state passes: twice the group's index for its start, one more for its
/// end.
fn bound(state: &State, groups: &[Option<usize>]) -> Option<usize> {
    let State::Capture { group_index, slot, .. } = state else { return None };
    let group = (*groups.get(group_index.as_usize())?)?;
    Some(2 * group + slot.as_usize() % 2)
}

/// Where a byte leads from a consuming state.
fn step(state: &State, byte: u8) -> Option<StateID> {
    match state {
        State::ByteRange { trans } => trans.matches_byte(byte).then_some(trans.next),
        State::Sparse(sparse) => sparse.matches_byte(byte),
        State::Dense(dense) => dense.matches_byte(byte),
        _ => None,
    }
}

/// The kind of byte that stands for none: the place before the haystack or behind it.
const NO_BYTE: usize = 0;

/// One byte of each kind that assertions tell apart.
const KINDS: [Option<u8>; 5] = [None, Some(b'/'), Some(b'\n'), Some(b'\r'), Some(b'0')];

/// What the assertions of a pattern look at: the bytes on both sides, as far as they care. Without
/// assertions, all bytes and the ends of the haystack are of one kind.
struct Assertions {
    nfa: NFA,
    any: bool,
    lines: bool,
    words: bool,
}

impl Assertions {
    fn new(nfa: &NFA) -> Assertions {
        let looks = nfa.look_set_any();
        Assertions {
            any: !looks.is_empty(),
            lines: looks.contains_anchor_line(),
            words: looks.contains_word(),
            nfa: nfa.clone(),
        }
    }

    fn kinds(&self) -> usize {
        if self.any { KINDS.len() } else { 1 }
    }

    fn kind(&self, byte: u8) -> usize {
        match byte {
            _ if !self.any => NO_BYTE,
            b'\n' if self.lines => 2,
            b'\r' if self.lines => 3,
            b'0'..=b'9' | b'A'..=b'Z' | b'_' | b'a'..=b'z' if self.words => 4,
            _ => 1,
        }
    }

    /// Whether an assertion holds between two bytes of these kinds.
    fn hold(&self, look: Look, preceding: usize, following: usize) -> bool {
        let haystack: Vec<u8> = KINDS[preceding].into_iter().chain(KINDS[following]).collect();
        let at = usize::from(KINDS[preceding].is_some());
        self.nfa.look_matcher().matches(look, &haystack, at)
    }
}

/// What is left of [`Limits::table_bytes`].
struct Budget {
    left: usize,
    limit: usize,
}

impl Budget {
    fn take(&mut self, bytes: usize) -> Result<(), PatternError> {
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => return Err(too_many_bytes(self.limit)),
        }
        Ok(())
    }
}

fn too_many_bytes(limit: usize) -> PatternError {
    PatternError::TooLarge { what: "bytes of tables", limit }
}

/// A number as it goes into a table, with the topmost bit free for a mark.
fn number(index: usize) -> Result<u32, PatternError> {
    match u32::try_from(index) {
        Ok(number) if number < SPECIAL - 1 => Ok(number),
        _ => Err(too_many_bytes(4 * SPECIAL as usize)),
    }
}

/// The index of the first entry of a row.
fn scaled(row: u32, width: usize) -> Result<u32, PatternError> {
    number((row as usize).saturating_mul(width))
}

fn contains(set: &[u64], state: u32) -> bool {
    set[state as usize / 64] >> (state % 64) & 1 == 1
}

fn insert(set: &mut [u64], state: u32) {
    set[state as usize / 64] |= 1 << (state % 64);
}
