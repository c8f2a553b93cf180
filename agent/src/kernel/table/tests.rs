use super::*;
use ebpf_abi::{session_buckets, session_capacity, session_key};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

type Words = Arc<[AtomicU64]>;

const TODAY: u32 = 20_000;
const GENERATION: u32 = 5;

fn words(buckets: u32) -> Words {
    (0..buckets as usize * WORDS).map(|_| AtomicU64::new(0)).collect()
}

fn table(buckets: u32) -> SessionTable<Words> {
    SessionTable::new(words(buckets))
}

fn key(number: u64) -> SessionKey {
    session_key(format!("session-{number}").as_bytes()).unwrap()
}

fn in_force() -> Session {
    Session { last_day: TODAY + 31, generation: GENERATION }
}

/// What the program does with a key.
fn refused(words: &[AtomicU64], key: SessionKey) -> bool {
    let buckets = u32::try_from(words.len() / WORDS).unwrap();
    key.buckets(buckets).into_iter().any(|bucket| {
        let word = |index: usize| words[bucket as usize * WORDS + index].load(Ordering::Relaxed);
        key.counts_in(word, GENERATION, TODAY)
    })
}

/// What stands in the table is this and nothing else, each once.
fn assert_holds(table: &SessionTable<Words>, expected: &HashMap<SessionKey, Session>) {
    for (&key, &session) in expected {
        assert_eq!(table.get(key), Some(session), "{key:x?}");
        let counts = session.generation <= GENERATION && session.last_day >= TODAY;
        assert_eq!(refused(&table.words, key), counts, "{key:x?}");
    }
    let found: Vec<(u64, u64)> = table.iter().collect();
    assert_eq!(found.len(), expected.len());
    let wanted: HashSet<_> = expected.iter().map(|(key, &session)| (key.tag(), key.state(session))).collect();
    assert_eq!(found.into_iter().collect::<HashSet<_>>(), wanted);
}

/// At capacity, and under changes there, every session finds its place, whatever the size.
#[test]
fn there_is_room_for_as_many_as_promised() {
    let capacities = (1..120).chain([160, 500, 1000, 3000, 10_000, 40_000, 200_000]);
    for capacity in capacities {
        let mut table = table(session_buckets(capacity));
        assert!(session_capacity(table.buckets()) >= capacity);
        let capacity = u64::from(capacity);
        let numbers = capacity << 32..(capacity << 32) + 3 * capacity;
        for number in numbers {
            let place = table.set(key(number), in_force());
            assert_eq!(place, Ok(()), "the {number:x}th session");
            if number & 0xffff_ffff >= capacity {
                table.remove(key(number - capacity));
            }
        }
        assert_eq!(table.iter().count() as u64, capacity);
        let last = (capacity << 32) + 2 * capacity;
        assert!((last..last + capacity).all(|number| refused(&table.words, key(number))));
    }
}

/// Beyond capacity there is room up to more than nine tenths of the slots. Then it is an error, and nothing is lost.
#[test]
fn a_full_table_is_an_error_and_not_a_forgotten_session() {
    for buckets in [64, 1000, 20_000] {
        let mut table = table(buckets);
        let mut expected = HashMap::new();
        let mut number = 0;
        let full = loop {
            match table.set(key(number), in_force()) {
                Ok(()) => drop(expected.insert(key(number), in_force())),
                Err(TableFull) => break number,
            }
            number += 1;
        };
        let slots = u64::from(buckets) * SESSION_SLOTS as u64;
        assert!(full * 100 >= slots * 93, "full with {full} of {slots}");
        assert_holds(&table, &expected);
        // What is there can still be changed, and what leaves makes room.
        let other = Session { last_day: TODAY, generation: 9 };
        assert_eq!(table.set(key(1), other), Ok(()));
        expected.insert(key(1), other);
        while table.set(key(full), in_force()).is_err() {
            let &gone = expected.keys().next().unwrap();
            expected.remove(&gone);
            table.remove(gone);
        }
        expected.insert(key(full), in_force());
        assert_holds(&table, &expected);
    }
}

/// Keys that all belong into the same two buckets, found by trying.
fn keys_of(buckets: u32, pair: [u32; 2]) -> impl Iterator<Item = SessionKey> {
    (0..).map(key).filter(move |key| key.buckets(buckets) == pair)
}

#[test]
fn sessions_make_room_for_each_other() {
    let mut table = table(5);
    let mut expected = HashMap::new();
    let mut set = |table: &mut SessionTable<Words>, key| {
        table.set(key, in_force())?;
        expected.insert(key, in_force());
        Ok(())
    };
    // Eight fill two buckets, and none of them can leave.
    let mut pair: Vec<SessionKey> = keys_of(5, [0, 1]).take(9).collect();
    let ninth = pair.pop().unwrap();
    pair.iter().for_each(|&key| set(&mut table, key).unwrap());
    assert_eq!(set(&mut table, ninth), Err(TableFull));
    // The third bucket is full, of sessions that belong into the fourth as well; that one then, of the fifth.
    keys_of(5, [2, 3]).take(4).for_each(|key| set(&mut table, key).unwrap());
    keys_of(5, [3, 4]).take(4).for_each(|key| set(&mut table, key).unwrap());
    let in_bucket = |table: &SessionTable<Words>, bucket| {
        places_of(bucket).filter(|&place| table.state(place) != 0).count()
    };
    assert_eq!([0, 1, 2, 3, 4].map(|bucket| in_bucket(&table, bucket)), [4, 4, 4, 4, 0]);
    // One that could stand in the third or the fourth moves one of the fourth on.
    let another = keys_of(5, [2, 3]).nth(4).unwrap();
    set(&mut table, another).unwrap();
    assert_eq!([0, 1, 2, 3, 4].map(|bucket| in_bucket(&table, bucket)), [4, 4, 4, 4, 1]);
    // And one that could stand in the first or the third moves one of the third, and that one of the fourth.
    let through = keys_of(5, [0, 2]).next().unwrap();
    set(&mut table, through).unwrap();
    assert_eq!([0, 1, 2, 3, 4].map(|bucket| in_bucket(&table, bucket)), [4, 4, 4, 4, 2]);
    assert_holds(&table, &expected);
    // A place that was left is taken again.
    table.remove(pair[3]);
    expected.remove(&pair[3]);
    assert_eq!(table.set(ninth, in_force()), Ok(()));
    expected.insert(ninth, in_force());
    assert_holds(&table, &expected);
}

/// What a crash may leave, and what another agent may have left, is made what is wanted.
#[test]
fn whatever_was_left_is_made_right() {
    let buckets = session_buckets(100);
    let mut table = table(buckets);
    let last_day = TODAY + 31;
    let session = |generation| Session { last_day, generation };
    let mut expected = HashMap::new();
    for number in 0..60 {
        table.set(key(number), session(3)).unwrap();
        expected.insert(key(number), session(3));
    }
    // Not wanted; of a generation that was not put in force; with another day.
    (60..70).for_each(|number| table.set(key(number), session(3)).unwrap());
    table.set(key(1), session(4)).unwrap();
    expected.insert(key(1), session(4));
    table.set(key(2), session(5)).unwrap();
    expected.insert(key(2), session(4));
    table.set(key(3), Session { last_day: last_day + 1, generation: 3 }).unwrap();
    expected.insert(key(3), session(4));
    // Wanted and missing.
    table.remove(key(4));
    expected.insert(key(4), session(4));
    // In both its places, as one that was moving.
    let twice = key(5);
    let place = table.find(twice).unwrap();
    let bucket = u32::try_from(place.0 / WORDS).unwrap();
    let other = table.empty_in(other_bucket(twice.tag(), bucket, buckets)).unwrap();
    table.fill(other, twice.tag(), table.state(place));
    assert_eq!(table.iter().count(), 70);
    // Half written.
    let half = table.empty_in(key(99).buckets(buckets)[0]).unwrap();
    table.words[half.0].store(key(99).tag(), Ordering::Relaxed);
    assert!(!refused(&table.words, key(99)));

    let wanted = || (0..60).map(|number| (key(number), last_day));
    assert_eq!(table.sync(wanted, 4), Ok(60));
    assert_holds(&table, &expected);
    // Nothing is left to be done, and nothing is done.
    let before: Vec<u64> = table.words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
    assert_eq!(table.sync(wanted, 5), Ok(60));
    assert!(table.words.iter().zip(&before).all(|(word, before)| word.load(Ordering::Relaxed) == *before));
    // When generations begin anew, all that is there is of a later one.
    assert_eq!(table.sync(wanted, 0), Ok(60));
    assert_holds(
        &table,
        &wanted().map(|(key, last_day)| (key, Session { last_day, generation: 0 })).collect(),
    );
    assert_eq!(table.sync(std::iter::empty, 1), Ok(0));
    assert_holds(&table, &HashMap::new());
    // From nothing.
    assert_eq!(table.sync(wanted, 7), Ok(60));
    assert_holds(&table, &wanted().map(|(key, _)| (key, session(7))).collect());
}

/// As many others in place of as many as there is room for.
#[test]
fn a_full_list_is_replaced_by_another() {
    let capacity = 5000;
    let mut table = table(session_buckets(capacity));
    for round in 0..3 {
        let from = u64::from(capacity) * round;
        let wanted = || (from..from + u64::from(capacity)).map(|number| (key(number), TODAY));
        assert_eq!(table.sync(wanted, 1), Ok(capacity as usize));
        let session = Session { last_day: TODAY, generation: 1 };
        assert_holds(&table, &wanted().map(|(key, _)| (key, session)).collect());
    }
    let too_many = || (0..u64::from(capacity) * 2).map(|number| (key(number), TODAY));
    assert_eq!(table.sync(too_many, 2), Err(TableFull));
}

/// While one thread adds, changes and removes sessions, others look at those that stay, and at some that never were.
#[test]
fn readers_and_a_writer() {
    // With room for all, and so full that sessions move all the time.
    for (buckets, moves) in [(4096, false), (560, true)] {
        let words = words(buckets);
        let mut table = SessionTable::new(Arc::clone(&words));
        let steady: Vec<SessionKey> = (0..500).map(key).collect();
        steady.iter().for_each(|&key| table.set(key, in_force()).unwrap());
        let never: Vec<SessionKey> = (1 << 40..(1 << 40) + 500).map(key).collect();
        let done = AtomicBool::new(false);
        let (looks, missed) = thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let (mut looks, mut missed) = (0_u64, 0_u64);
                        while !done.load(Ordering::Relaxed) {
                            for (&there, &never) in steady.iter().zip(&never) {
                                looks += 1;
                                if !refused(&words, there) {
                                    missed += 1;
                                    // It had moved; it cannot do so each time.
                                    assert!((0..100).any(|_| refused(&words, there)), "{there:x?} is lost");
                                }
                                assert!(!refused(&words, never));
                            }
                        }
                        (looks, missed)
                    })
                })
                .collect();
            let volatile = |number: u32| key(1000 + u64::from(number));
            let window = 1600;
            for number in 0..60_000_u32 {
                // Not in force, or over: no reader may find it.
                let session = match number % 3 {
                    0 => in_force(),
                    1 => Session { last_day: TODAY + 31, generation: GENERATION + 1 },
                    _ => Session { last_day: TODAY - 1, generation: GENERATION },
                };
                table.set(volatile(number), session).unwrap();
                assert_eq!(refused(&words, volatile(number)), number % 3 == 0);
                if number >= window {
                    table.remove(volatile(number - window));
                    assert!(!refused(&words, volatile(number - window)));
                }
                // Those that stay are changed, and count before and after.
                let changed = Session { last_day: TODAY + number % 40, generation: number % 6 };
                table.set(steady[(number % 500) as usize], changed).unwrap();
            }
            done.store(true, Ordering::Relaxed);
            let counts = readers.into_iter().map(|reader| reader.join().unwrap());
            counts.fold((0, 0), |(looks, missed), (a, b)| (looks + a, missed + b))
        });
        assert!(looks > 0);
        assert!(moves || missed == 0, "{missed} of {looks} missed, and nothing had to move");
        println!("{buckets} buckets: {missed} of {looks} looks missed");
        assert_eq!(table.iter().count(), 500 + 1600);
    }
}

/// A session comes with its second word and goes with it: in between no reader can be wrong.
#[test]
fn a_slot_changes_hands_by_its_words() {
    let table = table(64);
    let (one, other) = (key(1), key(2));
    let place = Place::new(one.buckets(64)[0], 0);
    let [tag, state] = [place.0, place.0 + SESSION_SLOTS].map(|index| &table.words[index]);
    table.fill(place, one.tag(), one.state(in_force()));
    assert!(refused(&table.words, one));
    // The tag of another, and the state of the one before: seen by a reader who reads in the other order.
    tag.store(other.tag(), Ordering::Relaxed);
    assert!(!refused(&table.words, one) && !refused(&table.words, other));
    // The tag of the one before, and the state of another.
    tag.store(one.tag(), Ordering::Relaxed);
    state.store(other.state(in_force()), Ordering::Relaxed);
    assert!(!refused(&table.words, one) && table.find(one).is_none());
    // What is left of the one before.
    state.store(0, Ordering::Relaxed);
    assert!(!refused(&table.words, one) && table.find(one).is_none() && table.iter().next().is_none());
}

#[derive(Debug, Clone)]
enum Step {
    Set(u64, u32, u32),
    Remove(u64),
    Sync(Vec<(u64, u32)>, u32),
}

fn step() -> impl Strategy<Value = Step> {
    let number = 0..250_u64;
    let session = (number.clone(), TODAY - 2..TODAY + 3, GENERATION - 2..GENERATION + 3);
    prop_oneof![
        20 => session.prop_map(|(number, day, generation)| Step::Set(number, day, generation)),
        8 => number.clone().prop_map(Step::Remove),
        1 => (prop::collection::vec((number, TODAY - 2..TODAY + 3), 0..200), 0..9_u32)
            .prop_map(|(wanted, generation)| Step::Sync(wanted, generation)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any changes leave what a plain map holds; a full table leaves it, too.
    #[test]
    fn agrees_with_a_map(buckets in 1..70_u32, steps in prop::collection::vec(step(), 0..400)) {
        let mut table = table(buckets);
        let mut expected = HashMap::new();
        for step in steps {
            match step {
                Step::Set(number, last_day, generation) => {
                    let session = Session { last_day, generation };
                    match table.set(key(number), session) {
                        Ok(()) => drop(expected.insert(key(number), session)),
                        Err(TableFull) => prop_assert!(expected.len() >= SESSION_SLOTS),
                    }
                }
                Step::Remove(number) => {
                    table.remove(key(number));
                    expected.remove(&key(number));
                }
                Step::Sync(wanted, generation) => {
                    let wanted: HashMap<SessionKey, u32> =
                        wanted.into_iter().map(|(number, day)| (key(number), day)).collect();
                    if wanted.len() > buckets as usize * 3 {
                        continue;
                    }
                    if table.sync(|| wanted.iter().map(|(&key, &day)| (key, day)), generation).is_err() {
                        // Some are there; the next sync begins with them.
                        expected = table_contents(&table, &wanted);
                        continue;
                    }
                    let kept = |key: &SessionKey, day| {
                        let old: Option<&Session> = expected.get(key);
                        old.filter(|old| old.last_day == day && old.generation < generation).copied()
                    };
                    expected = wanted
                        .iter()
                        .map(|(key, &last_day)| {
                            let new = Session { last_day, generation };
                            (*key, kept(key, last_day).unwrap_or(new))
                        })
                        .collect();
                }
            }
        }
        assert_holds(&table, &expected);
    }
}

/// What there is of these keys.
fn table_contents(
    table: &SessionTable<Words>,
    wanted: &HashMap<SessionKey, u32>,
) -> HashMap<SessionKey, Session> {
    wanted.keys().filter_map(|&key| Some((key, table.get(key)?))).collect()
}
