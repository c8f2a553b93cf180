//! Blacklisted sessions, listed by day.

use alloc::boxed::Box;
use hashbrown::HashMap;

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

/// The sessions of all day lists. Which lists still count is decided at each look-up, so a list ends at midnight
/// without anybody touching it.
#[derive(Debug, Clone)]
pub struct Sessions {
    newest_day: HashMap<Box<str>, Day>,
    retain_days: u32,
}

impl Sessions {
    /// No sessions; lists count while they are at most `retain_days` days old.
    #[must_use]
    pub fn new(retain_days: u32) -> Self {
        Self { newest_day: HashMap::new(), retain_days }
    }

    /// Adds a session to the list of a day. A session may stand in many lists.
    pub fn add(&mut self, day: Day, sid: &str) {
        match self.newest_day.get_mut(sid) {
            Some(newest) => *newest = day.max(*newest),
            None => {
                self.newest_day.insert(sid.into(), day);
            }
        }
    }

    /// Whether the session is in any retained list.
    #[must_use]
    pub fn contains(&self, sid: &str, now: u64) -> bool {
        self.newest_day.get(sid).is_some_and(|&day| self.is_retained(day, now))
    }

    /// Whether the list of this day still counts.
    #[must_use]
    pub fn is_retained(&self, day: Day, now: u64) -> bool {
        day.0.saturating_add(self.retain_days) >= Day::of(now).0
    }

    /// All sessions, each with the last day on which it counts, in days since 1970.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.newest_day.iter().map(|(sid, day)| (&**sid, day.0.saturating_add(self.retain_days)))
    }

    /// Distinct sessions in all lists, retained or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.newest_day.len()
    }

    /// Whether no session is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.newest_day.is_empty()
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
}
