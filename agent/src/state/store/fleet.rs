//! What the store remembers of the fleet's bucket besides what is in force.

use super::{Read, StoreError, Write};
use redb::{ReadableTable as _, TableDefinition, TableError};
use std::collections::BTreeSet;
use validator_core::Day;

/// What each part of a day's list held when it was applied, so that the next one can be compared with it alone.
pub(super) const PARTS: TableDefinition<'_, (u32, u8), &[u8]> = TableDefinition::new("fleet_parts");

const REVISION: &str = "fleet";
const BUCKET: &str = "fleet.bucket";

impl Read {
    /// Which revision of the fleet's bucket was applied last.
    pub(crate) fn fleet_revision(&self) -> Result<u64, StoreError> {
        Ok(self.number(REVISION)?.unwrap_or(0))
    }

    /// The bucket that it is a revision of; `None`: all of the bucket has to be read.
    pub(crate) fn fleet_bucket(&self) -> Result<Option<String>, StoreError> {
        Ok(self.meta(BUCKET)?.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok()))
    }

    /// The parts that hold something.
    pub(crate) fn fleet_parts(&self) -> Result<Vec<(Day, u8)>, StoreError> {
        let table = match self.transaction.open_table(PARTS) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(self.failed(error)),
        };
        let mut found = Vec::new();
        for entry in table.iter().map_err(|error| self.failed(error))? {
            let (key, _) = entry.map_err(|error| self.failed(error))?;
            let (day, part) = key.value();
            found.push((Day::from_number(day), part));
        }
        Ok(found)
    }
}

impl Write<'_> {
    /// Says which revision of the fleet's bucket was applied last.
    pub(crate) fn set_fleet_revision(&self, revision: u64) -> Result<(), StoreError> {
        self.set_number(REVISION, revision)
    }

    /// Says which bucket it is a revision of.
    pub(crate) fn set_fleet_bucket(&self, bucket: Option<&str>) -> Result<(), StoreError> {
        self.set_meta(BUCKET, bucket.map(str::as_bytes))
    }

    /// What a part held when it was applied.
    pub(crate) fn fleet_part(&self, day: Day, part: u8) -> Result<BTreeSet<Box<str>>, StoreError> {
        let table = self.transaction.open_table(PARTS).map_err(|error| self.failed(error))?;
        let text = table.get((day.number(), part)).map_err(|error| self.failed(error))?;
        let Some(text) = text else { return Ok(BTreeSet::new()) };
        let text = std::str::from_utf8(text.value()).map_err(|_| StoreError::Corrupt {
            path: self.path.to_owned(),
            detail: "a part of the fleet's list is no text".to_owned(),
        })?;
        Ok(text.lines().map(Box::from).collect())
    }

    /// Remembers what a part holds.
    pub(crate) fn set_fleet_part(
        &self,
        day: Day,
        part: u8,
        sids: &BTreeSet<Box<str>>,
    ) -> Result<(), StoreError> {
        let mut table = self.transaction.open_table(PARTS).map_err(|error| self.failed(error))?;
        let key = (day.number(), part);
        let done = if sids.is_empty() {
            table.remove(key).map(drop)
        } else {
            let mut text = String::new();
            for sid in sids {
                text.push_str(sid);
                text.push('\n');
            }
            table.insert(key, text.as_bytes()).map(drop)
        };
        done.map_err(|error| self.failed(error))
    }

    /// Forgets the parts of all days before one.
    pub(crate) fn forget_fleet_before(&self, first: Day) -> Result<(), StoreError> {
        let mut table = self.transaction.open_table(PARTS).map_err(|error| self.failed(error))?;
        let done = table.retain_in(..(first.number(), 0), |_, _| false);
        done.map_err(|error| self.failed(error))
    }
}
