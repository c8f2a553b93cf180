//! Blacklisted sessions, listed by day.

use alloc::string::String;
use alloc::sync::Arc;
use core::hash::BuildHasher as _;
use core::iter;
use hashbrown::DefaultHashBuilder;
use hashbrown::hash_table::{Entry as TableEntry, HashTable};

/// A day of the calendar (UTC), as days since 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(u32);

impl Day {
    /// Reads a list's name, `YYYYMMDD`. Dates that do not exist are refused, and so are years before 1970.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        if name.len() != 8 || !name.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let number = |range| name.get(range).and_then(|digits: &str| digits.parse::<u32>().ok());
        let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            _ => return None,
        };
        if year < 1970 || day == 0 || day > length {
            return None;
        }
        // Count from March, so that the leap day is the last of its year.
        let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let since_year_0 = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
        since_year_0.checked_sub(719_468).map(Self)
    }

    /// Year, month and day.
    fn civil(self) -> (u32, u32, u32) {
        // The reverse of `from_name`, by eras of 400 years that start in March.
        let day = self.0.saturating_add(719_468);
        let (era, day) = (day / 146_097, day % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let of_year = day - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
        (era * 400 + year, month, day)
    }

    /// The day that is so many days after 1970-01-01.
    #[must_use]
    pub const fn from_number(days: u32) -> Self {
        Self(days)
    }

    /// Days since 1970.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The day of an instant in unix seconds.
    #[must_use]
    pub fn of(unix: u64) -> Self {
        Self(u32::try_from(unix / 86_400).unwrap_or(u32::MAX))
    }
}

/// The name of the day's list.
impl core::fmt::Display for Day {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (year, month, day) = self.civil();
        write!(f, "{year:04}{month:02}{day:02}")
    }
}

/// Parts that the sessions are divided into. A changed copy shares all but the parts that it changed, so one of them should
/// be small, and the list of them too. The table of a part doubles when it has seven for each eight of a power of two: with
/// this many parts that is not before a million sessions, nor half a million.
const SHARDS: usize = 1280;

/// The sessions of all day lists. Which lists still count is decided at each look-up, so a list ends at midnight
/// without anybody touching it.
///
/// A clone shares everything; what is changed in it afterwards costs a part of 1/1280. So a snapshot with one more session
/// is made in the same time whether there are ten or a million.
#[derive(Clone)]
pub struct Sessions {
    shards: Arc<[Arc<Shard>]>,
    hasher: DefaultHashBuilder,
    len: usize,
    retain_days: u32,
}

/// Some of the sessions: one text of all their names, and where in it each is.
#[derive(Clone, Default)]
struct Shard {
    entries: HashTable<Entry>,
    names: String,
    /// Bytes of `names` that nothing points to any more.
    unused: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    start: u32,
    length: u32,
    newest: Day,
}

impl Sessions {
    /// No sessions; lists count while they are at most `retain_days` days old.
    #[must_use]
    pub fn new(retain_days: u32) -> Self {
        let empty = Arc::new(Shard::default());
        Self {
            shards: iter::repeat_n(empty, SHARDS).collect(),
            hasher: DefaultHashBuilder::default(),
            len: 0,
            retain_days,
        }
    }

    /// Adds a session to the list of a day. A session may stand in many lists. True: the day is its newest now, and was not.
    pub fn add(&mut self, day: Day, sid: &str) -> bool {
        self.change(sid, |newest| Some(newest.map_or(day, |newest| newest.max(day))))
    }

    /// Sets the newest day in whose list a session stands; `None`: it stands in none.
    pub fn set(&mut self, sid: &str, newest: Option<Day>) {
        self.change(sid, |_| newest);
    }

    /// Whether there is another newest day now.
    fn change(&mut self, sid: &str, newest: impl FnOnce(Option<Day>) -> Option<Day>) -> bool {
        let hash = self.hasher.hash_one(sid);
        let Some(shard) = Arc::make_mut(&mut self.shards).get_mut(place(hash)) else { return false };
        let shard = Arc::make_mut(shard);
        let before = shard.entries.len();
        let changed = shard.change(hash, sid, newest, &self.hasher);
        self.len = self.len + shard.entries.len() - before;
        changed
    }

    /// The newest day in whose list a session stands, retained or not.
    #[must_use]
    pub fn newest(&self, sid: &str) -> Option<Day> {
        let hash = self.hasher.hash_one(sid);
        self.shards.get(place(hash))?.find(hash, sid).map(|entry| entry.newest)
    }

    /// Whether the session is in any retained list.
    #[must_use]
    pub fn contains(&self, sid: &str, now: u64) -> bool {
        self.newest(sid).is_some_and(|day| self.is_retained(day, now))
    }

    /// Whether the list of this day still counts.
    #[must_use]
    pub fn is_retained(&self, day: Day, now: u64) -> bool {
        self.last_day(day) >= Day::of(now).0
    }

    /// The last day on which the list of `day` counts, in days since 1970.
    #[must_use]
    pub fn last_day(&self, day: Day) -> u32 {
        day.0.saturating_add(self.retain_days)
    }

    /// For how many days a list counts after its own.
    #[must_use]
    pub fn retain_days(&self) -> u32 {
        self.retain_days
    }

    /// All sessions, each with the last day on which it counts, in days since 1970.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.shards.iter().flat_map(move |shard| {
            let session =
                |entry: &Entry| (shard.name(entry.start, entry.length), self.last_day(entry.newest));
            shard.entries.iter().map(session)
        })
    }

    /// Distinct sessions in all lists, retained or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no session is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Without the sessions, which can be a million.
impl core::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Sessions")
            .field("len", &self.len)
            .field("retain_days", &self.retain_days)
            .finish_non_exhaustive()
    }
}

/// Which shard a hash belongs to. The table within uses the lowest and the highest bits.
fn place(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}

impl Shard {
    fn name(&self, start: u32, length: u32) -> &str {
        let (start, length) = (start as usize, length as usize);
        self.names.get(start..start.saturating_add(length)).unwrap_or_default()
    }

    fn find(&self, hash: u64, sid: &str) -> Option<&Entry> {
        self.entries.find(hash, |entry| self.name(entry.start, entry.length) == sid)
    }

    fn change(
        &mut self,
        hash: u64,
        sid: &str,
        newest: impl FnOnce(Option<Day>) -> Option<Day>,
        hasher: &DefaultHashBuilder,
    ) -> bool {
        let Self { entries, names, unused } = self;
        let name = |entry: &Entry| {
            let start = entry.start as usize;
            names.get(start..start.saturating_add(entry.length as usize)).unwrap_or_default()
        };
        match entries.entry(hash, |entry| name(entry) == sid, |entry| hasher.hash_one(name(entry))) {
            TableEntry::Occupied(mut place) => {
                let old = place.get().newest;
                let new = newest(Some(old));
                if let Some(new) = new {
                    place.get_mut().newest = new;
                } else {
                    *unused += place.remove().0.length as usize;
                    if *unused > 256 && *unused > names.len() / 2 {
                        self.compact();
                    }
                }
                new != Some(old)
            }
            TableEntry::Vacant(place) => {
                let Some(newest) = newest(None) else { return false };
                // A shard holds less than 4 GiB of names, or the process has long run out of memory.
                let (Ok(start), Ok(length)) = (u32::try_from(names.len()), u32::try_from(sid.len())) else {
                    return false;
                };
                place.insert(Entry { start, length, newest });
                if names.capacity() - names.len() < sid.len() {
                    // An eighth at a time: doubling would leave a third of all memory unused.
                    names.reserve_exact(sid.len() + names.len() / 8);
                }
                names.push_str(sid);
                true
            }
        }
    }

    /// Leaves out names that are not used any more.
    fn compact(&mut self) {
        let mut names = String::with_capacity(self.names.len().saturating_sub(self.unused));
        for entry in &mut self.entries {
            let start = entry.start as usize;
            let name = self.names.get(start..start.saturating_add(entry.length as usize)).unwrap_or_default();
            entry.start = u32::try_from(names.len()).unwrap_or(u32::MAX);
            names.push_str(name);
        }
        self.names = names;
        self.unused = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn day_names() {
        assert_eq!(Day::from_name("19700101"), Some(Day(0)));
        assert_eq!(Day::from_name("20251228"), Some(Day::of(1_766_880_000)));
        assert_eq!(Day::from_name("20000229"), Some(Day(11_016)));
        for bad in [
            "20250229",
            "21000229",
            "20251301",
            "20250001",
            "20250100",
            "2025-1-1",
            "19691231",
            "",
            "202512280",
        ] {
            assert_eq!(Day::from_name(bad), None, "{bad}");
        }
        assert_eq!(Day::of(86_399), Day(0));
        assert_eq!(Day::of(86_400), Day(1));
    }

    #[test]
    fn names_read_back() {
        for day in (0..80_000).chain([2_932_896]) {
            let name = Day(day).to_string();
            assert_eq!(Day::from_name(&name), Some(Day(day)), "{name}");
        }
        assert_eq!(Day::of(1_766_880_000).to_string(), "20251228");
    }

    #[test]
    fn lists_end_at_midnight() {
        let mut sessions = Sessions::new(31);
        let day = Day::from_name("20251228").unwrap();
        sessions.add(day, "session123");
        sessions.add(Day::from_name("20251201").unwrap(), "session123");
        let last_second = 1_766_880_000 + 32 * 86_400 - 1;
        assert!(sessions.contains("session123", last_second));
        assert!(!sessions.contains("session123", last_second + 1));
        assert!(!sessions.contains("Session123", last_second));
        assert!(sessions.contains("session123", 0), "a list of a day to come counts");
        assert_eq!(sessions.len(), 1);
    }

    #[test]
    fn a_changed_copy_leaves_the_original_alone() {
        let day = Day::from_name("20251228").unwrap();
        let mut sessions = Sessions::new(31);
        for number in 0..5_000 {
            sessions.add(day, &alloc::format!("session-{number}"));
        }
        let before = sessions.clone();
        sessions.add(day, "one more");
        sessions.set("session-7", None);
        sessions.set("never listed", None);
        assert_eq!((before.len(), sessions.len()), (5_000, 5_000));
        assert_eq!((before.newest("one more"), before.newest("session-7")), (None, Some(day)));
        assert_eq!((sessions.newest("one more"), sessions.newest("session-7")), (Some(day), None));
        let shared = before.shards.iter().zip(sessions.shards.iter()).filter(|(a, b)| Arc::ptr_eq(a, b));
        assert!(shared.count() >= SHARDS - 3, "only what changed is copied");
    }

    /// Sets and removals in any order leave what a plain map holds.
    #[test]
    fn agrees_with_a_map() {
        let mut sessions = Sessions::new(31);
        let mut expected = hashbrown::HashMap::new();
        let mut random = 1_u32;
        for step in 0..60_000_u32 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let sid =
                alloc::format!("{:0>width$}", (random >> 8) % 700, width = (random >> 20) as usize % 40);
            let newest = (step % 3 > 0).then_some(Day(step % 50));
            sessions.set(&sid, newest);
            match newest {
                Some(day) => expected.insert(sid, day),
                None => expected.remove(&sid),
            };
        }
        assert_eq!(sessions.len(), expected.len());
        assert_eq!(sessions.iter().count(), expected.len());
        for (sid, last) in sessions.iter() {
            assert_eq!(expected.get(sid).map(|day| day.0 + 31), Some(last), "{sid}");
        }
        let names: usize = sessions.shards.iter().map(|shard| shard.names.len()).sum();
        let used: usize = expected.keys().map(String::len).sum();
        assert!(names <= 3 * used + SHARDS * 256, "{names} bytes for {used}");
        for sid in expected.keys() {
            sessions.set(sid, None);
        }
        assert!(sessions.is_empty() && sessions.iter().next().is_none());
    }
}
