//! What was pushed, on disk.
//!
//! One file with a transaction for each group of changes. Every page of it has a checksum, and all of them are compared when
//! it is opened: a blacklist with silently changed entries would be worse than none.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | name | `schema`, `revision`, `config`, `fleet` (u64, little-endian); `config.pushed`, `config.fleet` (TOML); `fleet.bucket` |
//! | `sessions` | day (days since 1970), session | flags |
//! | `lists` | list, network | flags |
//! | `secrets` | kid, slot, origin | until, any size, key |
//! | `fleet_parts` | day, part | the fleet's sessions, one per line |

mod fleet;

use super::{Flags, List, Origin};
use crate::private;
use redb::{
    Builder, CommitError, Database, DatabaseError, ReadOnlyDatabase, ReadTransaction, ReadableDatabase as _,
    ReadableTable, StorageError, TableDefinition, TableError, TransactionError, WriteTransaction,
};
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;
use validator_core::Day;
use zeroize::Zeroizing;

/// The layout of the tables. A later one knows how to get here from each earlier one.
const SCHEMA: u64 = 1;

/// The file within `state_dir`.
const FILE: &str = "state.redb";

/// Memory for pages of the file. The state is read once and then only written.
const CACHE: usize = 8 * 1024 * 1024;

/// How long to wait for another process that may be about to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(20);

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const SESSIONS: TableDefinition<'_, (u32, &str), u8> = TableDefinition::new("sessions");
const LISTS: TableDefinition<'_, (u8, &str), u8> = TableDefinition::new("lists");
const SECRETS: TableDefinition<'_, (&str, u64, u8), &[u8]> = TableDefinition::new("secrets");

const META_SCHEMA: &str = "schema";
const META_REVISION: &str = "revision";
const META_CONFIG: &str = "config";

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Its folder cannot be made or entered.
    #[error("state_dir {}: {error}; make it a folder that the agent's user alone may write, or name another in state_dir", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Another process has it open.
    #[error("{}: another agent runs with this state_dir; stop it, or give each its own", .0.display())]
    InUse(PathBuf),
    /// It is damaged.
    #[error(
        "{}: the store is damaged ({detail}). Nothing was changed. Restore the file from a backup, or move it away and push its \
         blacklists, lists and secrets again; without them the configuration file alone would hold", path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// It was not closed, and cannot be repaired where it is.
    #[error(
        "{}: the store was not closed properly and lies where it cannot be repaired (is the file system read-only?); \
         make it writable, or copy it and name the copy in state_dir", .0.display()
    )]
    NeedsRepair(PathBuf),
    /// A later version wrote it.
    #[error("{}: the store has schema {found}, this version knows up to {SCHEMA}; run the version that wrote it", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u64,
    },
    /// It could only be opened for reading.
    #[error("{}: the store is read-only; make its file system writable and restart the agent", .0.display())]
    ReadOnly(PathBuf),
    /// Reading or writing failed.
    #[error("{}: {detail}; nothing was stored", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
}

/// The store.
pub(crate) struct Store {
    path: PathBuf,
    handle: Handle,
}

enum Handle {
    Open(Database),
    ReadOnly(ReadOnlyDatabase),
    /// An error broke it; the next one who needs it opens it again.
    Broken,
}

impl Store {
    /// Whether a folder has a store.
    #[must_use]
    pub(crate) fn exists(folder: &Path) -> bool {
        folder.join(FILE).exists()
    }

    /// Opens the store of a folder, or makes both.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed then.
    pub(crate) fn open(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(FILE);
        let inaccessible = |error| StoreError::Folder { folder: folder.to_owned(), error };
        private::folder(folder).map_err(inaccessible)?;
        if !path.exists() {
            Self::make(folder, &path)?;
        }
        match OpenOptions::new().write(true).open(&path).and_then(|file| hide(&file)) {
            // redb would make a new one of it.
            Ok(file) if file.len() == 0 => {
                return Err(StoreError::Corrupt { path, detail: "the file is empty".to_owned() });
            }
            Ok(_) => {}
            Err(error) if is_read_only(&error) && path.exists() => return Self::open_read_only(path),
            Err(error) => return Err(inaccessible(error)),
        }
        let database = open_once_free(&path)?;
        let store = Self { path, handle: Handle::Open(database) };
        store.prepare()?;
        Ok(store)
    }

    /// Makes a new store. It gets its name when it is whole, so that one without content was lost, and is not new. Nobody but
    /// the agent's user reads secrets here.
    fn make(folder: &Path, path: &Path) -> Result<(), StoreError> {
        let inaccessible = |error| StoreError::Folder { folder: folder.to_owned(), error };
        let fresh = tempfile::Builder::new().prefix(".new-").tempfile_in(folder).map_err(inaccessible)?;
        let handle = Handle::Open(open_database(fresh.path())?);
        Self { path: fresh.path().to_owned(), handle }.prepare()?;
        match fresh.persist_noclobber(path) {
            Ok(_) => {}
            // Another agent was faster; which of them has it is seen when it is opened.
            Err(lost) if lost.error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(lost) => return Err(inaccessible(lost.error)),
        }
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(inaccessible)
    }

    fn open_read_only(path: PathBuf) -> Result<Self, StoreError> {
        let database = match Builder::new().set_cache_size(CACHE).open_read_only(&path) {
            Ok(database) => database,
            Err(DatabaseError::RepairAborted) => return Err(StoreError::NeedsRepair(path)),
            Err(error) => return Err(opening(&path, error)),
        };
        let store = Self { path, handle: Handle::ReadOnly(database) };
        match store.read()?.number(META_SCHEMA)? {
            Some(found) if found > SCHEMA => Err(StoreError::Newer { path: store.path, found }),
            _ => Ok(store),
        }
    }

    /// Makes the tables of a new store, or brings those of an older one up to date.
    fn prepare(&self) -> Result<(), StoreError> {
        let write = self.begin()?;
        let schema = write.number(META_SCHEMA)?;
        match schema {
            Some(SCHEMA) => return Ok(()),
            Some(found) if found > SCHEMA => {
                return Err(StoreError::Newer { path: self.path.clone(), found });
            }
            // Migrations from schema to schema would stand here; there is none yet.
            Some(_) | None => {}
        }
        for made in [
            write.transaction.open_table(META).map(drop),
            write.transaction.open_table(SESSIONS).map(drop),
            write.transaction.open_table(LISTS).map(drop),
            write.transaction.open_table(SECRETS).map(drop),
            write.transaction.open_table(fleet::PARTS).map(drop),
        ] {
            made.map_err(|error| write.failed(error))?;
        }
        write.set_number(META_SCHEMA, SCHEMA)?;
        if write.number(META_REVISION)?.is_none() {
            write.set_number(META_REVISION, 1)?;
        }
        write.commit()
    }

    /// Where it is.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether changes can be stored at all.
    #[must_use]
    pub(crate) fn is_writable(&self) -> bool {
        !matches!(self.handle, Handle::ReadOnly(_))
    }

    /// Whether an error broke the handle.
    #[must_use]
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self.handle, Handle::Broken)
    }

    /// Gives the handle up after an error: what it would say from then on is not reliable, even once there is room again.
    pub(crate) fn break_off(&mut self) {
        if let Handle::Open(_) = self.handle {
            self.handle = Handle::Broken;
        }
    }

    /// Opens a handle again that was given up.
    ///
    /// # Errors
    /// [`StoreError`]; it is still broken then.
    pub(crate) fn reopen(&mut self) -> Result<(), StoreError> {
        if self.is_broken() {
            self.handle = Handle::Open(open_database(&self.path)?);
        }
        Ok(())
    }

    /// Begins a change. Dropped without a commit it has changed nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn begin(&self) -> Result<Write<'_>, StoreError> {
        let database = match &self.handle {
            Handle::Open(database) => database,
            Handle::ReadOnly(_) => return Err(StoreError::ReadOnly(self.path.clone())),
            Handle::Broken => return Err(failed(&self.path, StorageError::PreviousIo.into())),
        };
        let transaction = database.begin_write().map_err(|error| failed(&self.path, error.into()))?;
        Ok(Write { path: &self.path, transaction })
    }

    /// Looks at the store as it is now, whatever changes meanwhile.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn read(&self) -> Result<Read, StoreError> {
        let transaction = match &self.handle {
            Handle::Open(database) => database.begin_read(),
            Handle::ReadOnly(database) => database.begin_read(),
            Handle::Broken => Err(TransactionError::Storage(StorageError::PreviousIo)),
        };
        let transaction = transaction.map_err(|error| failed(&self.path, error.into()))?;
        Ok(Read { path: self.path.clone(), transaction })
    }
}

/// Name, number, origin and content of a slot.
pub(crate) type SecretEntry = (Box<str>, u64, Origin, StoredSecret);

/// A secret as it is stored.
pub(crate) struct StoredSecret {
    /// When the slot ends, in unix seconds.
    pub(crate) until: Option<u64>,
    /// Whether another size than the usual one was asked for.
    pub(crate) any_size: bool,
    /// The key; none: the slot of the file does not count any more.
    pub(crate) key: Option<Zeroizing<Vec<u8>>>,
}

impl StoredSecret {
    /// `until` plus one (0 is none), flags, key.
    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(9 + self.key.as_ref().map_or(0, |key| key.len())));
        bytes.extend_from_slice(&self.until.map_or(0, |until| until.saturating_add(1)).to_le_bytes());
        bytes.push(u8::from(self.any_size) | u8::from(self.key.is_none()) << 1);
        bytes.extend_from_slice(self.key.as_ref().map_or(&[], |key| key));
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (until, rest) = bytes.split_first_chunk()?;
        let (flags, key) = rest.split_first()?;
        let gone = flags & 2 != 0;
        Some(Self {
            until: u64::from_le_bytes(*until).checked_sub(1),
            any_size: flags & 1 != 0,
            key: (!gone).then(|| Zeroizing::new(key.to_vec())),
        })
    }
}

/// The store at one moment.
pub(crate) struct Read {
    path: PathBuf,
    transaction: ReadTransaction,
}

impl Read {
    /// How many groups of changes were stored.
    pub(crate) fn revision(&self) -> Result<u64, StoreError> {
        Ok(self.number(META_REVISION)?.unwrap_or(0))
    }

    /// With which revision the configuration came in force.
    pub(crate) fn config_revision(&self) -> Result<u64, StoreError> {
        Ok(self.number(META_CONFIG)?.unwrap_or(0))
    }

    /// The configuration that was pushed.
    pub(crate) fn config(&self, origin: Origin) -> Result<Option<Zeroizing<String>>, StoreError> {
        let Some(bytes) = self.meta(origin.config_name())? else { return Ok(None) };
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Some(Zeroizing::new(text.to_owned()))),
            Err(_) => Err(self.corrupt("the pushed configuration is no text")),
        }
    }

    /// Calls `each` for the sessions of the days from `first` on, by day and name.
    pub(crate) fn sessions(
        &self,
        first: Day,
        each: &mut dyn FnMut(Day, &str, Flags),
    ) -> Result<(), StoreError> {
        let table = self.transaction.open_table(SESSIONS).map_err(|error| self.failed(error))?;
        sessions_from(&table, first, each).map_err(|error| self.failed(error))
    }

    /// Up to `count` sessions of a day that come after `after`.
    pub(crate) fn sessions_after(
        &self,
        day: Day,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<(Box<str>, Flags)>, StoreError> {
        use std::ops::Bound::{Excluded, Included};
        let table = self.transaction.open_table(SESSIONS).map_err(|error| self.failed(error))?;
        let start = after.map_or(Included((day.number(), "")), |after| Excluded((day.number(), after)));
        let end = Excluded((day.number().saturating_add(1), ""));
        let range = table.range::<(u32, &str)>((start, end)).map_err(|error| self.failed(error))?;
        let mut found = Vec::new();
        for entry in range.take(count) {
            let (key, flags) = entry.map_err(|error| self.failed(error))?;
            found.push((key.value().1.into(), Flags(flags.value())));
        }
        Ok(found)
    }

    /// The entries of all lists.
    pub(crate) fn lists(&self) -> Result<Vec<(List, Box<str>, Flags)>, StoreError> {
        let table = self.transaction.open_table(LISTS).map_err(|error| self.failed(error))?;
        let mut found = Vec::new();
        for entry in table.iter().map_err(|error| self.failed(error))? {
            let (key, flags) = entry.map_err(|error| self.failed(error))?;
            let (list, net) = key.value();
            let list = List::from_number(list).ok_or_else(|| self.corrupt("an unknown list"))?;
            found.push((list, net.into(), Flags(flags.value())));
        }
        Ok(found)
    }

    /// All secrets.
    pub(crate) fn secrets(&self) -> Result<Vec<SecretEntry>, StoreError> {
        let table = self.transaction.open_table(SECRETS).map_err(|error| self.failed(error))?;
        let mut found = Vec::new();
        for entry in table.iter().map_err(|error| self.failed(error))? {
            let (key, value) = entry.map_err(|error| self.failed(error))?;
            let (kid, slot, origin) = key.value();
            let origin = Origin::from_number(origin).ok_or_else(|| self.corrupt("an unknown origin"))?;
            let secret = StoredSecret::decode(value.value()).ok_or_else(|| self.corrupt("a short secret"))?;
            found.push((kid.into(), slot, origin, secret));
        }
        Ok(found)
    }

    fn number(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let Some(bytes) = self.meta(name)? else { return Ok(None) };
        let number = bytes.as_slice().try_into().map_err(|_| self.corrupt("a number of another size"))?;
        Ok(Some(u64::from_le_bytes(number)))
    }

    fn meta(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let table = match self.transaction.open_table(META) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(self.failed(error)),
        };
        let value = table.get(name).map_err(|error| self.failed(error))?;
        Ok(value.map(|value| Zeroizing::new(value.value().to_vec())))
    }

    fn corrupt(&self, detail: &str) -> StoreError {
        StoreError::Corrupt { path: self.path.clone(), detail: detail.to_owned() }
    }

    fn failed(&self, error: impl Into<redb::Error>) -> StoreError {
        failed(&self.path, error.into())
    }
}

/// A change that is not stored yet.
pub(crate) struct Write<'s> {
    path: &'s Path,
    transaction: WriteTransaction,
}

impl Write<'_> {
    /// The flags of a session in a day's list.
    pub(crate) fn session(&self, day: Day, sid: &str) -> Result<Flags, StoreError> {
        self.with_sessions(|table| {
            Ok(table.get((day.number(), sid))?.map_or(Flags::NONE, |flags| Flags(flags.value())))
        })
    }

    /// Changes many sessions. `change` is asked for the new flags of each, given those that it has.
    pub(crate) fn change_sessions<'e>(
        &self,
        edits: impl Iterator<Item = (Day, &'e str)>,
        mut change: impl FnMut(usize, Flags) -> Flags,
    ) -> Result<(), StoreError> {
        self.with_sessions(|table| {
            for (index, (day, sid)) in edits.enumerate() {
                let key = (day.number(), sid);
                let old = table.get(key)?.map_or(Flags::NONE, |flags| Flags(flags.value()));
                let new = change(index, old);
                if new == old {
                    continue;
                }
                if new == Flags::NONE {
                    table.remove(key)?;
                } else {
                    table.insert(key, new.0)?;
                }
            }
            Ok(())
        })
    }

    /// Likewise, where most of them are not there yet and will have the flags `usual`.
    pub(crate) fn add_sessions<'e>(
        &self,
        edits: impl Iterator<Item = (Day, &'e str)>,
        usual: Flags,
        mut change: impl FnMut(usize, Flags) -> Flags,
    ) -> Result<(), StoreError> {
        self.with_sessions(|table| {
            for (index, (day, sid)) in edits.enumerate() {
                let key = (day.number(), sid);
                let old = table.insert(key, usual.0)?.map_or(Flags::NONE, |flags| Flags(flags.value()));
                let new = change(index, old);
                if new != usual {
                    table.insert(key, new.0)?;
                }
            }
            Ok(())
        })
    }

    /// Calls `each` for the sessions of the days from `first` on, by day and name.
    pub(crate) fn sessions(
        &self,
        first: Day,
        each: &mut dyn FnMut(Day, &str, Flags),
    ) -> Result<(), StoreError> {
        self.with_sessions(|table| sessions_from(table, first, each))
    }

    /// The sessions of a day's list.
    pub(crate) fn day(&self, day: Day) -> Result<Vec<(Box<str>, Flags)>, StoreError> {
        self.with_sessions(|table| {
            let mut found = Vec::new();
            let range = (day.number(), "")..(day.number().saturating_add(1), "");
            for entry in table.range(range)? {
                let (key, flags) = entry?;
                found.push((key.value().1.into(), Flags(flags.value())));
            }
            Ok(found)
        })
    }

    /// Removes the lists of all days before one. Calls `each` for what was in them.
    pub(crate) fn forget_before(
        &self,
        first: Day,
        mut each: impl FnMut(Day, &str),
    ) -> Result<(), StoreError> {
        self.with_sessions(|table| {
            table.retain_in(..(first.number(), ""), |(day, sid), _| {
                each(Day::from_number(day), sid);
                false
            })?;
            Ok(())
        })
    }

    /// Sets an entry of a list.
    pub(crate) fn set_list(&self, list: List, net: &str, flags: Flags) -> Result<(), StoreError> {
        let mut table = self.transaction.open_table(LISTS).map_err(|error| self.failed(error))?;
        let key = (list.number(), net);
        let done = if flags == Flags::NONE {
            table.remove(key).map(drop)
        } else {
            table.insert(key, flags.0).map(drop)
        };
        done.map_err(|error| self.failed(error))
    }

    /// Sets or removes a secret.
    pub(crate) fn set_secret(
        &self,
        kid: &str,
        slot: u64,
        origin: Origin,
        secret: Option<&StoredSecret>,
    ) -> Result<(), StoreError> {
        let mut table = self.transaction.open_table(SECRETS).map_err(|error| self.failed(error))?;
        let key = (kid, slot, origin.number());
        let done = match secret {
            Some(secret) => table.insert(key, secret.encode().as_slice()).map(drop),
            None => table.remove(key).map(drop),
        };
        done.map_err(|error| self.failed(error))
    }

    /// Sets or removes a pushed configuration.
    pub(crate) fn set_config(&self, origin: Origin, text: Option<&str>) -> Result<(), StoreError> {
        self.set_meta(origin.config_name(), text.map(str::as_bytes))
    }

    /// Says how many groups of changes were stored, this one included.
    pub(crate) fn set_revision(&self, revision: u64) -> Result<(), StoreError> {
        self.set_number(META_REVISION, revision)
    }

    /// Says with which revision the configuration came in force.
    pub(crate) fn set_config_revision(&self, revision: u64) -> Result<(), StoreError> {
        self.set_number(META_CONFIG, revision)
    }

    /// Stores it. Once this returns, it outlives a crash at any moment.
    ///
    /// # Errors
    /// [`StoreError`]; whether it is stored has to be looked up after the store was opened again.
    pub(crate) fn commit(self) -> Result<(), StoreError> {
        let Self { path, transaction } = self;
        transaction.commit().map_err(|error: CommitError| failed(path, error.into()))
    }

    fn with_sessions<T>(
        &self,
        use_it: impl FnOnce(&mut redb::Table<'_, (u32, &'static str), u8>) -> Result<T, StorageError>,
    ) -> Result<T, StoreError> {
        let mut table = self.transaction.open_table(SESSIONS).map_err(|error| self.failed(error))?;
        use_it(&mut table).map_err(|error| self.failed(error))
    }

    fn number(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let table = self.transaction.open_table(META).map_err(|error| self.failed(error))?;
        let value = table.get(name).map_err(|error| self.failed(error))?;
        let Some(value) = value else { return Ok(None) };
        let number = value.value().try_into().map_err(|_| StoreError::Corrupt {
            path: self.path.to_owned(),
            detail: "a number of another size".to_owned(),
        })?;
        Ok(Some(u64::from_le_bytes(number)))
    }

    fn set_number(&self, name: &str, number: u64) -> Result<(), StoreError> {
        self.set_meta(name, Some(&number.to_le_bytes()))
    }

    fn set_meta(&self, name: &str, value: Option<&[u8]>) -> Result<(), StoreError> {
        let mut table = self.transaction.open_table(META).map_err(|error| self.failed(error))?;
        let done = match value {
            Some(value) => table.insert(name, value).map(drop),
            None => table.remove(name).map(drop),
        };
        done.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: impl Into<redb::Error>) -> StoreError {
        failed(self.path, error.into())
    }
}

/// A process that was killed holds its files until the last of its memory is freed, and whoever restarts it may be faster.
fn open_once_free(path: &Path) -> Result<Database, StoreError> {
    for _ in 0..PATIENCE.as_millis() / PAUSE.as_millis() {
        match open_database(path) {
            Err(StoreError::InUse(_)) => sleep(PAUSE),
            outcome => return outcome,
        }
    }
    open_database(path)
}

fn sessions_from(
    table: &impl ReadableTable<(u32, &'static str), u8>,
    first: Day,
    each: &mut dyn FnMut(Day, &str, Flags),
) -> Result<(), StorageError> {
    for entry in table.range((first.number(), "")..)? {
        let (key, flags) = entry?;
        let (day, sid) = key.value();
        each(Day::from_number(day), sid, Flags(flags.value()));
    }
    Ok(())
}

/// A file that was put back from a backup may have any mode, and it has secrets.
fn hide(file: &File) -> io::Result<std::fs::Metadata> {
    let found = file.metadata()?;
    if found.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(found)
}

fn open_database(path: &Path) -> Result<Database, StoreError> {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    builder.create(path).map_err(|error| opening(path, error))
}

fn opening(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path),
        DatabaseError::RepairAborted => StoreError::NeedsRepair(path),
        DatabaseError::UpgradeRequired(version) => {
            StoreError::Corrupt { path, detail: format!("file format {version}") }
        }
        other => failed(&path, other.into()),
    }
}

fn failed(path: &Path, error: redb::Error) -> StoreError {
    let path = path.to_owned();
    match error {
        redb::Error::Corrupted(detail) => StoreError::Corrupt { path, detail },
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            StoreError::Corrupt { path, detail: "it is not a store of this program".to_owned() }
        }
        redb::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            StoreError::Corrupt { path, detail: "it ends too early".to_owned() }
        }
        other => StoreError::Failed { path, detail: other.to_string() },
    }
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}
